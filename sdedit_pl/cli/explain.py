"""What `--help` shows: every key of a schema with its meaning and default."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from sdedit_pl.configuration.command_line import Command
from sdedit_pl.configuration.schema import REQUIRED, Key, keys_of, schema_of

WIDTH = 110


def explain(command: Command[Any]) -> str:
    """All keys of a command, as text."""
    schema = schema_of(command.arguments)
    extra = {} if command.file is None else {"config": Key(str, None, command.file)}
    lines = [command.usage, "", *key_lines({**extra, **schema.keys})]
    for section, declared in schema.sections.items():
        lines += ["", f"{section}: {summary(declared)}", *key_lines(keys_of(declared), f"{section}.")]
    for section, family in schema.families.items():
        lines += ["", f"{section} (one of {', '.join(family.table)}; default {family.default})"]
        shown = {} if family.shared is None else keys_of(family.shared)
        lines += key_lines({key: value for key, value in shown.items() if key not in family.supplied}, f"{section}.")
        for name, cls in family.table.items():
            lines.append(f"  {section}={name}: {summary(cls)}")
            own = {key: value for key, value in family.keys(name).items() if key not in shown}
            lines += key_lines(own, f"{section}.", indent=4)
    return "\n".join(lines)


def summary(cls: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def key_lines(keys: Mapping[str, Key], prefix: str = "", indent: int = 2) -> list[str]:
    """One entry a key: its name, meaning and default."""
    lines = []
    for name, key in keys.items():
        default = "required" if key.default is REQUIRED else f"default {shown(key.default)}"
        head = " " * indent + f"{prefix}{name}"
        body = f"{key.text} [{default}]"
        lines += textwrap.wrap(f"{head:<32}{'' if len(head) < 32 else '  '}{body}", WIDTH, subsequent_indent=" " * 34)
    return lines


def shown(value: Any) -> str:
    """A default as it would be typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return "[" + ",".join(shown(item) for item in value) + "]"
    return str(value)
