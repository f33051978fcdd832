"""The command line of a benchmark: typed arguments, a folder of results, and errors in one line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from measuring import machine

from sdedit_pl.cli import wants_help
from sdedit_pl.configuration.help_text import explain
from sdedit_pl.configuration.resolving import as_data
from sdedit_pl.configuration.schema import Command, keys_of, schema_of
from sdedit_pl.result_folder import refuse_used, result_folder

T = TypeVar("T")
Numbers = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Results:
    """The keys of a benchmark that writes a folder of results.

    Args:
        out: folder of the results.
        threads: number of threads of torch; null for its default.
        overwrite: replace earlier results.
    """

    out: str
    threads: int | None = None
    overwrite: bool = False


def run_benchmark(
    words: list[str], command: Command[Any], measure: Callable[[Any], Numbers], report: Callable[[Numbers], str]
) -> int:
    """Runs a benchmark, writes `results.json` and `report.md` into `out`, prints the report, returns the exit code.

    Args:
        command: the keys, a subclass of `Results`.
        measure: from the arguments to the numbers; their entry `pictures`, name -> picture, is written as PNG files.
        report: from the numbers to Markdown.
    """

    def run(arguments: Any) -> str:
        out = Path(arguments.out)
        refuse_used(out, arguments.overwrite)
        if arguments.threads is not None:
            torch.set_num_threads(arguments.threads)
        settings = {key: value for key, value in as_data(arguments).items() if key not in ("out", "overwrite")}
        numbers = {"settings": settings, "machine": machine(), **measure(arguments)}
        pictures = numbers.pop("pictures", {})
        text = report(numbers)
        replaced = {"results.json", "report.md", *(f"{name}.png" for name in pictures)}
        with result_folder(out, replaced=replaced) as folder:
            (folder / "results.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
            (folder / "report.md").write_text(text, encoding="utf-8")
            for name, picture in pictures.items():
                picture.save(folder / f"{name}.png")
        return text

    return run_command(words, command, run)


def run_command(words: list[str], command: Command[T], run: Callable[[T], str], **options: Any) -> int:
    """Prints the text returned by `run`, the help, or an error in one line; returns the exit code.

    `options` are those of `Command.parse`.
    """
    if wants_help(words):
        print(explain(command, schema_of(command.arguments), keys_of))
        return 0
    try:
        text = run(command.parse(words, **options))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("SDEDIT_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


def refuse_unknown(key: str, names: tuple[str, ...], known: Mapping[str, Any] | tuple[str, ...]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{key} must be some of {', '.join(known)}, got {', '.join(unknown)}")
