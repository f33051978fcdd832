"""The command line: `sdedit VERB key=value ...`."""

from __future__ import annotations

import io
import keyword
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise

VERBS: dict[str, str] = {
    "pack": "turn images into shards to train on",
    "train": "train a score model on a domain",
    "edit": "turn guides into images of a model's domain",
    "sample": "draw images of a model's domain from noise alone",
    "augment": "make more images of each class",
    "paint": "paint guides and masks in a browser and edit them",
    "calibrate": "find the t0 of a model on images of its domain",
    "evaluate": "measure a model's edits as the SDEdit paper does, and write a report",
    "detect": "map what is unlike a model's domain",
    "translate": "turn images of one model's domain into another's",
    "study": "ask people which of two methods' images they prefer",
    "demo": "edit the bundled guides with the bundled model",
    "info": "describe a checkpoint",
    "import": "turn another program's checkpoint into one for editing",
    "export": "write a model in another program's format",
    "publish": "share a model: weights and a model card, in a folder or on the Hugging Face Hub",
}
HELP = ("-h", "--help", "help")
EXAMPLES = (
    "sdedit demo",
    "sdedit edit ckpt=portraits64 guide=painting.png out=outputs/first",
    "sdedit train config=finetune64 data=photos/ out=runs/mine",
)

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}
"""Characters of file names that would steer a terminal, as escapes."""


def printable(text: str) -> str:
    """A text for a terminal, without passwords in URLs, and with control characters escaped."""
    from sdedit_pl.files import without_passwords

    return without_passwords(text).translate(_CONTROLS)


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code: 0, 2 after an error message of one line, or 130 after Ctrl-C.

    With SDEDIT_TRACEBACK=1 the error is raised instead of the message.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    open_streams()
    if arguments[1:] and arguments[0] in HELP and arguments[1] in VERBS:
        arguments = [arguments[1], arguments[0], *arguments[2:]]
    verb, rest = (arguments or ["help"])[0], arguments[1:]
    try:
        if verb in HELP:
            say(overview())
            return 0 if arguments else 2
        if verb == "--version":
            from importlib.metadata import version

            say(version("sdedit_pl"))
            return 0
        if verb not in VERBS:
            return fail(f"unknown verb {verb!r}; the verbs are {', '.join(VERBS)}")
        if wants_help(rest):
            say(help_of(module_of(verb), rest))
            return 0
        module = import_module(module_of(verb))
        with notices():
            module.run(rest)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        message = message_of(error)
        if message is None or os.environ.get("SDEDIT_TRACEBACK"):
            raise
        return fail(message)
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    return 0


def message_of(error: Exception) -> str | None:
    """The message of an error in a command's input or surroundings; None for a bug."""
    text = str(error)
    if isinstance(error, ValueError | OSError):
        from sdedit_pl.files import in_words

        return in_words(error)
    if re.search(r"\b(gloo|NCCL)\b", text):
        return f"another process of this run has ended; run the same command again: {text}"
    if re.search(r"\bshm\b", text):
        return "/dev/shm is full; set data.workers=0, or give the container more with --shm-size"
    if isinstance(error, MemoryError) or re.search(r"out of memory|allocate memory", text):
        return "out of memory; make images, windows or batches smaller"
    return None


def wants_help(words: Sequence[str]) -> bool:
    return any(word in HELP for word in words)


def help_of(module: str, words: Sequence[str]) -> str:
    """The help of a command, without importing it; of `study`, that of the step in the first word, or of all steps."""
    from sdedit_pl.configuration.help_text import explain
    from sdedit_pl.configuration.static_declarations import evaluate, source_keys, source_schema

    try:
        commands = evaluate(module, "COMMANDS")
    except KeyError:
        commands = {"": evaluate(module, "COMMAND")}
    chosen = [commands[words[0]]] if words[0] in commands else commands.values()
    after = [following for word, following in pairwise(words) if word in HELP]
    topic = "" if not after or "=" in after[0] else after[0]
    return "\n\n".join(explain(command, source_schema(command.arguments), source_keys, topic) for command in chosen)


def module_of(verb: str) -> str:
    """The module of a verb; that of a Python keyword ends in an underscore."""
    return f"sdedit_pl.cli.{verb}_" if keyword.iskeyword(verb) else f"sdedit_pl.cli.{verb}"


@contextmanager
def notices() -> Iterator[None]:
    """Sends log messages of this package to standard error, only in the first process of a distributed run.

    Torch's warning that there is no GPU to build extensions for is hidden: it comes with every compilation on a CPU.
    """
    extensions = logging.getLogger("torch.utils.cpp_extension")
    extensions.setLevel(logging.ERROR)
    package, handler = logging.getLogger("sdedit_pl"), logging.StreamHandler()
    level = package.level
    handler.addFilter(lambda record: is_first_process())
    handler.setFormatter(_Printable())
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # Pillow's, for large photographs
    package.setLevel(logging.INFO)
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        extensions.setLevel(logging.NOTSET)


def is_first_process() -> bool:
    """Whether this is the first process of a launcher (Lightning, torchrun, SLURM)."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def overview() -> str:
    from sdedit_pl.configuration.help_text import every_key, key_lines
    from sdedit_pl.configuration.static_declarations import evaluate, source_keys, source_schema

    lines = ["sdedit VERB key=value ...", "", *(f"  {verb:<10}{text}" for verb, text in VERBS.items()), ""]
    for verb in ("train", "edit"):
        command = evaluate(module_of(verb), "COMMAND")
        keys = every_key(command, source_schema(command.arguments), source_keys)
        shown = {name: keys[name].shortened for name in command.first[:6]}
        lines += [f"The first keys of sdedit {verb}:", *key_lines(shown), ""]
    lines += ["Examples:", *(f"  {example}" for example in EXAMPLES), ""]
    return "\n".join([*lines, "sdedit VERB --help lists the most important keys of a verb, --help all every key."])


def open_streams() -> None:
    """Makes standard streams escape characters that they cannot encode, and replaces closed ones by the null device."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def say(text: str) -> None:
    if is_first_process():
        try:
            sys.stdout.write(printable(text) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:  # the reader closed the pipe; the results are written
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(message: str, code: int = 2) -> int:
    """Writes an error message on one line, without the middle of a very long one, and returns the exit code."""
    line = printable("; ".join(filter(None, map(str.strip, message.splitlines()))))
    sys.stderr.write(f"error: {line if len(line) <= 3000 else f'{line[:1500]} ... {line[-1500:]}'}\n")
    return code
