"""The help of a command: every key with its meaning and default."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from sdedit_pl.configuration.schema import REQUIRED, Family, Key, Schema

WIDTH = 110


def explain(usage: str, schema: Schema, keys_of: Callable[[Any], dict[str, Key]], file: str | None = None) -> str:
    """All keys of a command, as text, the required ones first.

    Args:
        usage: the first lines.
        keys_of: gives the keys of a class in the schema.
        file: description of the key `config`; None for a command without it.
    """
    extra = {} if file is None else {"config": Key(str, None, file)}
    keys = dict(sorted(schema.keys.items(), key=lambda item: item[1].default is not REQUIRED))
    lines = [usage, "", *key_lines({**extra, **keys})]
    for section, declared in schema.sections.items():
        lines += ["", f"{section}: {summary(declared)}", *key_lines(keys_of(declared), f"{section}.")]
    for section, family in schema.families.items():
        lines += ["", *family_lines(section, family, keys_of)]
    return "\n".join(lines)


def family_lines(section: str, family: Family[Any], keys_of: Callable[[Any], dict[str, Key]]) -> list[str]:
    shared = {} if family.shared is None else keys_of(family.shared)
    lines = [f"{section} (one of {', '.join(family.table)}; default {family.default})"]
    lines += key_lines({name: key for name, key in shared.items() if name not in family.supplied}, f"{section}.")
    for name, cls in family.table.items():
        own = {word: key for word, key in keys_of(cls).items() if word not in (*shared, *family.supplied)}
        lines += [f"  {section}={name}: {summary(cls)}", *key_lines(own, f"{section}.", indent=4)]
    return lines


def summary(cls: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def key_lines(keys: Mapping[str, Key], prefix: str = "", indent: int = 2) -> list[str]:
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
