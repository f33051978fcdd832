"""The help of a command: its first keys and examples, or every key with its meaning and default."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from sdedit_pl.configuration.schema import MAX_PIXELS, REQUIRED, Command, ConfigError, Family, Key, Schema, alike

HELP_WIDTH = 110

ALL = "all"


def explain(command: Command[Any], schema: Schema, keys_of: Callable[[Any], dict[str, Key]], topic: str = "") -> str:
    """The help of a command: its first keys and examples, or every key if it has no first ones or `topic` is "all".

    Any other `topic` is a section or a key, explained alone; raises ConfigError if there is none of this name.
    """
    sections = {
        section: [f"{section}: {first_paragraph(declared)}", *key_lines(keys_of(declared), f"{section}.")]
        for section, declared in schema.sections.items()
    }
    sections |= {section: family_lines(section, family, keys_of) for section, family in schema.families.items()}
    keys = every_key(command, schema, keys_of)
    if topic == ALL or not (topic or command.first):
        top = key_lines({name: key for name, key in keys.items() if "." not in name})
        return _paragraphs([command.usage], top, *sections.values())
    if topic in sections:
        return "\n".join(sections[topic])
    if topic in keys:
        return "\n".join(key_lines({topic: keys[topic]}))
    if topic:
        hint = alike(topic, [ALL, *sections, *keys]) or "; --help all lists every key"
        raise ConfigError(f"there is no help on {topic}{hint}")
    others = [name for name in keys if "." not in name and name not in command.first]
    more = f"--help all lists every key; --help NAME explains one key or one of: {', '.join(sections)}."
    return _paragraphs(
        [command.usage],
        key_lines({name: keys[name].shortened for name in command.first}),
        textwrap.wrap(f"Other keys: {', '.join(others)}.", HELP_WIDTH),
        ["Examples:", *(f"  {line}" for line in command.examples)],
        textwrap.wrap(more, HELP_WIDTH),
    )


def every_key(command: Command[Any], schema: Schema, keys_of: Callable[[Any], dict[str, Key]]) -> dict[str, Key]:
    """All keys of a command by their full names, required ones first; for a component, those of the default class."""
    keys = {} if command.file is None else {"config": Key(str, None, command.file)}
    keys |= dict(sorted(schema.keys.items(), key=lambda item: item[1].default is not REQUIRED))
    keys |= {"max_pixels": MAX_PIXELS}
    of_sections = {section: keys_of(declared) for section, declared in schema.sections.items()}
    for section, family in schema.families.items():
        found = ({} if family.shared is None else keys_of(family.shared)) | keys_of(family.table[family.default])
        of_sections[section] = {name: key for name, key in found.items() if name not in family.supplied}
        keys |= {section: found[family.place]} if family.place in found else {}
    return keys | {f"{section}.{name}": key for section, own in of_sections.items() for name, key in own.items()}


def _paragraphs(*blocks: list[str]) -> str:
    return "\n\n".join("\n".join(block) for block in blocks)


def family_lines(section: str, family: Family[Any], keys_of: Callable[[Any], dict[str, Key]]) -> list[str]:
    shared = {} if family.shared is None else keys_of(family.shared)
    lines = [f"{section} (one of {', '.join(family.table)}; default {family.default})"]
    lines += key_lines({name: key for name, key in shared.items() if name not in family.supplied}, f"{section}.")
    for name, cls in family.table.items():
        own = {word: key for word, key in keys_of(cls).items() if word not in (*shared, *family.supplied)}
        lines += [f"  {section}={name}: {first_paragraph(cls)}", *key_lines(own, f"{section}.", indent=4)]
    return lines


def first_paragraph(cls: Any) -> str:
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def key_lines(keys: Mapping[str, Key], prefix: str = "", indent: int = 2) -> list[str]:
    lines = []
    for name, key in keys.items():
        default = "required" if key.default is REQUIRED else f"default {shown(key.default)}"
        head = " " * indent + f"{prefix}{name}"
        body = f"{key.text} [{default}]"
        gap = "" if len(head) < 32 else "  "
        text = f"{head:<32}{gap}{body}"
        lines += textwrap.wrap(text, HELP_WIDTH, subsequent_indent=" " * 34, break_on_hyphens=False)
    return lines


def shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return "[" + ",".join(shown(item) for item in value) + "]"
    return str(value)
