"""A verb's arguments: its help, its configuration file and its `key=value` list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sdedit_pl.cli import say
from sdedit_pl.cli.explain import explain, wants_help
from sdedit_pl.config import Key, Schema, take_file


def configuration(
    arguments: list[str],
    schema: Schema,
    usage: str,
    *,
    file_key: Key | None = None,
    read: Callable[[str], dict[str, Any]] | None = None,
) -> dict[str, Any] | None:
    """The resolved configuration of a verb; None where its help was asked for and shown.

    Args:
        arguments: the command line behind the verb.
        schema: the verb's keys.
        usage: the first lines of its help.
        file_key: what `config=` means to the verb, and
        read: what reads the file that it names; both None for a verb that takes no file.

    Raises:
        ConfigError: on arguments or a file that the schema refuses.
    """
    extra = {} if file_key is None else {"config": file_key}
    if wants_help(arguments):
        say(explain(schema, usage, extra))
        return None
    given, typed = schema.read_arguments(arguments)
    file = None if read is None else take_file(given, typed)
    base = {} if read is None or file is None else read(file)
    return schema.resolve(schema.merge(base, given), typed, taken=extra)
