"""The command line: `sdedit VERB key=value ...`."""

from __future__ import annotations

import keyword
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

VERBS: dict[str, str] = {
    "pack": "turn images into shards to train on",
    "train": "train a score model on a domain",
    "edit": "turn guides into images of a model's domain",
    "paint": "paint guides and masks in a browser and edit them",
    "calibrate": "find the t0 of a model on images of its domain",
    "evaluate": "measure a model's edits as the paper does, and write a report",
    "study": "ask people which of two methods' images they prefer",
    "demo": "edit the bundled guides with the bundled model",
    "info": "describe a checkpoint",
    "import": "turn another program's checkpoint into one for editing",
    "export": "write a model in another program's format",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb and returns the exit code: 0, or 2 after an error message of one line.

    With SDEDIT_TRACEBACK=1 the error is raised instead.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        say(overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        say(version("sdedit_pl"))
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        return fail(f"unknown verb {verb!r}; the verbs are {', '.join(VERBS)}")
    if wants_help(rest):
        say(help_of(module_of(verb), rest))
        return 0
    module = import_module(module_of(verb))
    try:
        with notices():
            module.run(rest)
    except (ValueError, OSError) as error:
        if os.environ.get("SDEDIT_TRACEBACK"):
            raise
        return fail(in_words(error))
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    return 0


def wants_help(words: Sequence[str]) -> bool:
    return any(word in ("-h", "--help", "help") for word in words)


def help_of(module: str, words: Sequence[str]) -> str:
    """The help of a verb, or of each of its steps unless the first word names one; read without importing the verb."""
    from sdedit_pl.configuration.help_text import explain
    from sdedit_pl.configuration.static_declarations import evaluate, source_keys, source_schema

    try:
        commands = evaluate(module, "COMMANDS")
    except KeyError:
        commands = {"": evaluate(module, "COMMAND")}
    chosen = [commands[words[0]]] if words[0] in commands else commands.values()
    return "\n\n".join(
        explain(command.usage, source_schema(command.arguments), source_keys, command.file) for command in chosen
    )


def module_of(verb: str) -> str:
    """The module of a verb; that of a Python keyword ends in an underscore."""
    return f"sdedit_pl.cli.{verb}_" if keyword.iskeyword(verb) else f"sdedit_pl.cli.{verb}"


@contextmanager
def notices() -> Iterator[None]:
    """Sends log messages of this package to standard error, in the first process of a distributed run only."""
    package, handler = logging.getLogger("sdedit_pl"), logging.StreamHandler()
    handler.addFilter(lambda record: speaks())
    package.setLevel(logging.INFO)
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)


def speaks() -> bool:
    """Whether this is the first process of a launcher (Lightning, torchrun, SLURM)."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def overview() -> str:
    lines = [f"  {verb:<10}{text}" for verb, text in VERBS.items()]
    return "\n".join(["sdedit VERB key=value ...", "", *lines, "", "sdedit VERB --help lists the keys of a verb."])


def in_words(error: Exception) -> str:
    """The message of an error, without the number of an operating-system error."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def say(text: str) -> None:
    """Writes a line to standard output, in the first process only."""
    if speaks():
        sys.stdout.write(text + "\n")


def fail(message: str, code: int = 2) -> int:
    """Writes an error message on one line and returns the exit code."""
    sys.stderr.write(f"error: {'; '.join(line.strip() for line in message.splitlines() if line.strip())}\n")
    return code
