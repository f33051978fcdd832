"""The verbs, their help, and how errors reach the console."""

from __future__ import annotations

import errno
import logging
import sys
from importlib import import_module
from pathlib import Path

import pytest

from sdedit_pl.cli import VERBS, main, module_of
from sdedit_pl.configuration.schema import Key, keys_of, schema_of

MODULES = {verb: import_module(module_of(verb)) for verb in VERBS}
COMMANDS = {verb: module.COMMANDS["build"] if verb == "study" else module.COMMAND for verb, module in MODULES.items()}


def every_key(cls: type) -> dict[str, Key]:
    """The keys of all sections, `section=name.key` for those that go with a name."""
    schema = schema_of(cls)
    keys = dict(schema.keys)
    for section, declared in schema.sections.items():
        keys |= {f"{section}.{key}": value for key, value in keys_of(declared).items()}
    for section, family in schema.families.items():
        for name in family.table:
            keys |= {f"{section}={name}.{key}": value for key, value in family.keys(name).items()}
    return keys


@pytest.mark.parametrize("verb", VERBS)
def test_help_lists_every_key_with_its_meaning_and_default(verb: str, command) -> None:
    code, output, errors = command(verb, "--help", "all")
    assert (code, errors) == (0, "")
    lines = [line.strip() for line in output.splitlines()]
    for name, key in every_key(COMMANDS[verb].arguments).items():
        section, _, rest = name.partition("=")
        shown = f"{section}.{rest.partition('.')[2]}" if rest else name
        assert any(line.split()[:1] == [shown] for line in lines), f"{shown} is not in the help"
        assert len(key.text) > 5 and not key.text.startswith("see "), f"{name} needs an entry under Args:"
        assert "`" not in key.text or "see `" not in key.text, f"{name}: a user of the command line cannot look there"
    assert " object at 0x" not in output and "<" not in output
    assert output.count("[default ") + output.count("[required]") + output.count("[default\n") > 0


@pytest.mark.parametrize("verb", [verb for verb, command in COMMANDS.items() if command.first])
def test_short_help_has_at_most_twelve_keys_and_three_examples(verb: str, command) -> None:
    lines = command(verb, "--help").output.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] not in " s"] == [
        key for key in COMMANDS[verb].first if key[0] != "s"
    ]
    assert len(COMMANDS[verb].first) <= 12 and len(lines) < 55
    assert any(line.startswith("Other keys: ") for line in lines) and lines[-1].strip()
    assert [line.strip() for line in lines if line.startswith(f"  sdedit {verb} ")] == list(COMMANDS[verb].examples)


def test_help_on_a_topic(command) -> None:
    assert "or else 0.5 [default null]" in command("edit", "--help").output
    assert command("edit", "--help", "t0").output.count("[default") == 1
    assert "solver.eta" in command("edit", "help", "solver").output
    assert command("help", "edit") == command("edit", "--help")
    assert "t0" in command("help").output and "sdedit edit ckpt=" in command("help").output
    code, output, errors = command("edit", "--help", "solvr")
    assert (code, output, errors) == (2, "", "error: there is no help on solvr; did you mean solver?\n")


@pytest.mark.parametrize("word", ["-h", "help", "--help"])
def test_help_is_given_whatever_else_is_asked(word: str, command) -> None:
    assert command("edit", "no such=argument", word).code == 0
    code, output, errors = command(word)
    assert (code, errors) == (0, "")
    for verb, text in VERBS.items():
        assert verb in output and text in output


def test_without_arguments_the_overview_is_an_error(command) -> None:
    assert command().code == 2 and command().output == command("help").output


def test_the_version_is_the_packages(command) -> None:
    from sdedit_pl import __version__

    assert command("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["edit", "--help"]], ids=" ".join)
def test_output_to_a_full_disk_is_one_line(words: list[str], command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys.stdout, "write", fails)
    code, _, errors = command(*words)
    assert code == 2 and errors.count("\n") == 1 and "the disk is full" in errors


def test_an_unknown_verb_is_refused(refused) -> None:
    assert refused("dream") == f"unknown verb 'dream'; the verbs are {', '.join(VERBS)}"
    assert "unknown verb" in refused("ckpt=tiny.safetensors")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\n   second\n\nthird"), "first; second; third"),
        (FileNotFoundError(2, "No such file or directory", "a/b"), "a/b: No such file or directory"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError(30, "Read-only file system", "o"), "o: Read-only file system; choose a writable location"),
        (OSError("disk on fire"), "disk on fire"),
        (ValueError("no https://me:secret@host/a.tar"), "no https://host/a.tar"),
        (ValueError("no \x1b[31mred.png"), r"no \x1b[31mred.png"),
        (ValueError("a" * 1500 + "b" * 10**6 + "c" * 1500), "a" * 1500 + " ... " + "c" * 1500),
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_1>"),
            "/dev/shm is full; set data.workers=0, or give the container more with --shm-size",
        ),
        (
            RuntimeError("[/a/gloo/pair.cc:5] closed"),
            "another process of this run has ended; run the same command again: [/a/gloo/pair.cc:5] closed",
        ),
        (RuntimeError("can't allocate memory"), "out of memory; make images, windows or batches smaller"),
    ],
)
def test_errors_are_one_line(error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, refused) -> None:
    def run(arguments: list[str]) -> None:
        raise error

    monkeypatch.setattr(MODULES["info"], "run", run)
    assert refused("info") == line


def test_an_interrupt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, command) -> None:
    def run(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MODULES["info"], "run", run)
    assert command("info") == (130, "", "error: interrupted\n")


def test_a_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch, desk: Path) -> None:
    monkeypatch.setenv("SDEDIT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="ckpt is required"):
        main(["info"])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_a_traceback_can_be_asked_for_when_memory_runs_out(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: list[str]) -> None:
        raise error

    monkeypatch.setattr(MODULES["info"], "run", run)
    monkeypatch.setenv("SDEDIT_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["info"])


def test_a_bug_is_not_dressed_up_as_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: list[str]) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(MODULES["info"], "run", run)
    with pytest.raises(ZeroDivisionError):
        main(["info"])


def test_notices_end_with_the_command(command) -> None:
    """A program that calls `main` keeps its own levels of logging."""
    package = logging.getLogger("sdedit_pl")
    before = package.level, list(package.handlers)
    assert command("--version").code == 0 and command("info").code == 2
    assert (package.level, list(package.handlers)) == before
