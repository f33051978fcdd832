"""How dataclasses, families of classes, their signatures and their docstrings declare keys."""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any, Generic, TypeVar

T = TypeVar("T")

REQUIRED = object()
"""Stands for the default of a key that has none."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key, the expected type and the value."""


class MissingKey(ConfigError):
    """A required key was not given."""


@dataclass(frozen=True)
class Key:
    """Type annotation, default or REQUIRED, and description of a key."""

    kind: Any
    default: Any
    text: str

    @property
    def shortened(self) -> Key:
        """The key with the first clause of its description, and the clause on null if that is the default."""
        first, *others = re.split(r"[;.]\s(?![^(]*\))", self.text.rstrip("."))  # not within parentheses
        kept = [clause for clause in others if self.default is None and clause.startswith("null ")]
        return replace(self, text="; ".join([first, *kept]))


MAX_PIXELS = Key(int | None, None, "largest number of pixels of an image file; null for 178,956,970, Pillow's limit")
"""The key `max_pixels` of every command."""


@dataclass(frozen=True)
class Family(Generic[T]):
    """The classes that a component can name.

    Args:
        shared: a class whose constructor takes the section's other keys.
        supplied: constructor arguments that the program gives and no configuration can.
        place: key that `section=text` sets if no class is called `text`; by default `name`, which refuses other texts.
    """

    table: Mapping[str, Callable[..., T]]
    default: str
    shared: Callable[..., Any] | None = None
    supplied: tuple[str, ...] = ()
    place: str = "name"

    def short(self, text: str) -> str:
        """The key that `section=text` is short for."""
        return "name" if text in self.table else self.place

    def keys(self, name: str) -> dict[str, Key]:
        keys = {} if self.shared is None else keys_of(self.shared)
        keys |= keys_of(self.table[name])
        return {key: value for key, value in keys.items() if key not in self.supplied}


@dataclass(frozen=True)
class Component(Generic[T]):
    """A class of a family and the values of its section.

    Args:
        values: every key of the section but `name`, including those of `Family.shared`.
        is_default: whether the class and all values are the family's defaults.
    """

    section: str
    name: str
    cls: Callable[..., T]
    values: Mapping[str, Any] = field(hash=False)
    is_default: bool = False


def family(table: Mapping[str, Callable[..., Any]], default: str, **options: Any) -> Any:
    """A dataclass field that holds a `Component`; takes the arguments of `Family`."""
    return field(kw_only=True, metadata={"family": Family(table, default, **options)})


@dataclass(frozen=True)
class Command(Generic[T]):
    """A command of the command line: the first lines of its help, and the dataclass of its keys.

    `file` describes the key `config=FILE`, if the command has it. The short help shows the keys `first` and `examples`.
    """

    usage: str
    arguments: Callable[..., T]
    file: str | None = None
    first: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()

    def parse(self, words: Iterable[str], read: Callable[[str], dict[str, Any]] | None = None) -> T:
        """Parses the words after a command's name; raises ConfigError. `read` reads the file of `config=`."""
        from sdedit_pl.configuration.command_line import parse  # help does not wait for its libraries

        try:
            return parse(self, words, read)
        except MissingKey as error:
            example = f"; for example: {self.examples[0]}" if self.examples else ""
            raise ConfigError(f"{str(error).rstrip('.')}{example}") from error


@dataclass(frozen=True)
class Schema:
    """The keys of a dataclass outside of any section, each section's dataclass, and each component's family."""

    keys: Mapping[str, Key]
    sections: Mapping[str, Callable[..., Any]]
    families: Mapping[str, Family[Any]]


@cache
def schema_of(cls: type) -> Schema:
    families = {item.name: item.metadata["family"] for item in fields(cls) if "family" in item.metadata}
    keys = {name: key for name, key in keys_of(cls).items() if name not in families}
    sections = {name: key.kind for name, key in keys.items() if isinstance(key.kind, type) and is_dataclass(key.kind)}
    return Schema({name: key for name, key in keys.items() if name not in sections}, sections, families)


def keys_of(source: Callable[..., Any]) -> dict[str, Key]:
    """The arguments of a class, as keys: types from its annotations, texts from the `Args:` of its docstrings."""
    # A dataclass itself, because inherited fields are annotated with names of other modules.
    plain = inspect.isclass(source) and not hasattr(source, "__dataclass_fields__")
    hints = typing.get_type_hints(source.__init__ if plain else source)
    texts: dict[str, str] = {}
    for owner in reversed(inspect.getmro(source) if inspect.isclass(source) else (source,)):
        texts |= argument_texts(owner.__doc__ or "")
    keys = {}
    for name, parameter in inspect.signature(source).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = REQUIRED if parameter.default in (parameter.empty, MISSING) else parameter.default
        keys[name] = Key(hints.get(name, Any), default, texts.get(name, ""))
    return keys


def argument_texts(docstring: str) -> dict[str, str]:
    section = re.search(r"^Args:\n(.*?)(?:\n\S|\Z)", inspect.cleandoc(docstring), re.DOTALL | re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^    (\w+)(?: \([^)]*\))?: (.*?)(?=^    \w|\Z)", section.group(1), re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def construct(section: str, cls: Callable[..., T], **arguments: Any) -> T:
    """`cls(**arguments)`; turns a ValueError into a ConfigError that names the section."""
    try:
        return cls(**arguments)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{section}: {error}" if section else str(error)) from error


def require_at_least(settings: Any, **least: int) -> None:
    for key, smallest in least.items():
        value = getattr(settings, key)
        if value is not None and value < smallest:
            raise ValueError(f"{key} must be at least {smallest}, got {value}")


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """'; did you mean ...?' with the known word most like `word`, or the list of known words."""
    known = list(known)
    return alike(word, known, prefix) or f"; known: {', '.join(known) or 'none'}"


def alike(word: str, known: Iterable[str], prefix: str = "") -> str:
    """'; did you mean ...?' with the known word most like `word`, if there is one."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
