"""What the benchmarks of speed have in common as commands: arguments, the folder of results, errors in one line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from measuring import machine

from sdedit_pl.cli import wants_help
from sdedit_pl.cli.explain import explain
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.configuration.resolution import as_data
from sdedit_pl.result_folder import ResultFolder, refuse_used

Numbers = dict[str, Any]


def run_benchmark(
    arguments: list[str],
    command: Command[Any],
    measure: Callable[[Mapping[str, Any]], Numbers],
    report: Callable[[Numbers], str],
    plot: Callable[[Numbers, Path], None],
) -> int:
    """Runs a benchmark and returns the exit code.

    The folder `out` gets `results.json` (every number), `report.md` (the tables, also printed) and a picture of `plot`.

    Args:
        arguments: of the command line.
        command: its keys, among them `out`, `threads` and `overwrite`.
        measure: from the resolved keys to the numbers.
        report: from the numbers to Markdown.
        plot: draws the numbers into a folder.
    """

    def run(parsed: Any) -> str:
        config = as_data(parsed)
        refuse_used(Path(config["out"]), config["overwrite"])
        if config["threads"] is not None:
            torch.set_num_threads(config["threads"])
        settings = {key: value for key, value in config.items() if key not in ("out", "overwrite")}
        numbers = {"settings": settings, "machine": machine(), **measure(config)}
        with ResultFolder(Path(config["out"])) as folder:
            (folder / "results.json").write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
            (folder / "report.md").write_text(report(numbers), encoding="utf-8")
            plot(numbers, folder)
        return report(numbers)

    return run_command(arguments, command, run)


def run_command(arguments: list[str], command: Command[Any], run: Callable[[Any], str], **options: Any) -> int:
    """Runs a benchmark: prints its text, its help, or its error in one line, and returns the exit code.

    Args:
        arguments: of the command line.
        command: its keys.
        run: from the typed arguments to the text.
        options: of `Command.parse`.
    """
    if wants_help(arguments):
        print(explain(command))
        return 0
    try:
        text = run(command.parse(arguments, **options))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("SDEDIT_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


def refuse_unknown(key: str, names: tuple[str, ...], known: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Refuses a list with a name that is not known.

    Raises:
        ValueError: there is one.
    """
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{key} are of {', '.join(known)}, got {', '.join(unknown)}")
