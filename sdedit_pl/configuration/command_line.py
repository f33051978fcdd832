"""Command lines: dot lists `key=value` of the keys that a `Command` declares."""

from __future__ import annotations

import logging
import os
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdedit_pl.configuration.resolving import merge, resolve
from sdedit_pl.configuration.schema import MAX_PIXELS, REQUIRED, Command, ConfigError, schema_of
from sdedit_pl.configuration.values import converted
from sdedit_pl.configuration.yaml_reading import in_each_text, read_file, yaml_value

T = TypeVar("T")
logger = logging.getLogger(__name__)

OLD_NAMES = (("init_from", "ckpt"), ("src", "ckpt"), ("src", "data"), ("run", "ckpt"))
"""Former and present names of keys; a former name is accepted by the commands that have the present one."""


def parse(command: Command[T], words: Iterable[str], read: Callable[[str], dict[str, Any]] | None = None) -> T:
    cls: Any = command.arguments
    given, typed = read_arguments(cls, words)
    file = None if command.file is None else take_file(given, typed)
    base = {} if file is None else read(file) if read else read_file(Path(file))
    refuse_commands(file, base, typed)
    rename_keys(cls, given, typed, base)
    taken = () if command.file is None else ("config",)
    merged = merge(cls, base, given)
    pixels = converted("max_pixels", merged.pop("max_pixels", None), MAX_PIXELS, typed.get("max_pixels"))
    if pixels is not None and pixels < 1:
        raise ConfigError(f"max_pixels must be at least 1, got {pixels}")
    if pixels is not None:
        os.environ["SDEDIT_MAX_PIXELS"] = str(pixels)  # for worker processes
    return resolve(cls, merged, typed, taken)


def refuse_commands(file: str | None, base: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Raises ConfigError if a file, perhaps someone else's, names a shell command that the command line does not."""

    def check(text: str) -> str:
        if text.startswith("pipe:") and not any(text in word for word in typed.values()):
            raise ConfigError(f"{file} would run {text!r}; give that on the command line if you trust it")
        return text

    in_each_text(base, check)


def read_arguments(cls: type, words: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The dot list `a.b=value ...` of a command line: nested YAML values, and texts as typed; raises ConfigError.

    `section=name` is short for `section.name=name` if the section names a class; see also `Family.short`.
    """
    words, families = list(words), schema_of(cls).families
    merged = OmegaConf.create({})
    typed: dict[str, str] = {}
    for number, word in enumerate(words):
        key, separator, text = word.partition("=")
        if not separator or not key or key.startswith("-"):
            raise ConfigError(f"arguments are key=value, got {word!r}; {_as_key(word, words[number + 1 :])}")
        if not text:  # an unset shell variable must not turn off a mask
            raise ConfigError(f"{word} has no value; give one, or {key}=null for none")
        key = f"{key}.{families[key].short(text)}" if key in families else key
        try:
            OmegaConf.update(merged, key, yaml_value(text), force_add=True)
        except (OmegaConfBaseException, AttributeError, TypeError) as error:
            raise ConfigError(f"{word!r} contradicts an earlier argument, or is not a key: {error}") from error
        typed[key] = text
    return typing.cast(dict[str, Any], OmegaConf.to_container(merged)), typed


def rename_keys(cls: type, *given: dict[str, Any]) -> None:
    """Gives keys of `OLD_NAMES` their present names, with one notice; raises ConfigError for both names of a key."""
    known = {item.name for item in fields(cls)}
    for old, new in OLD_NAMES:
        former = [keys for keys in given if old in keys and new in known]
        for keys in former:
            if new in keys:
                raise ConfigError(f"{old} is the former name of {new}; give only {new}")
            keys[new] = keys.pop(old)
        if former:
            logger.info("the key %s is now called %s", old, new)


def _as_key(word: str, rest: Sequence[str]) -> str:
    """The remedy for an argument that is not key=value: `--ckpt x` and `ckpt x` are meant as `ckpt=x`."""
    key, separator, value = word.lstrip("-").partition("=")
    key = key.replace("-", "_")
    follows = not separator and rest and "=" not in rest[0] and not rest[0].startswith("-")
    if not key.replace("_", "").replace(".", "").isalpha() or not (word.startswith("-") or follows):
        return "--help lists the keys"
    return f"write {key}={value if separator else rest[0] if follows else 'true'}"


def take_file(given: dict[str, Any], typed: Mapping[str, str]) -> str | None:
    """Removes `config=FILE` from the arguments and returns the file, or None; raises ConfigError for an empty name."""
    if given.pop("config", REQUIRED) is REQUIRED:
        return None
    if not typed.get("config"):
        raise ConfigError("config takes a file, config=FILE.yaml; give its keys without the prefix `config.`")
    return os.path.expanduser(typed["config"])
