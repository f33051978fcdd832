"""Configurations: how keys are declared, read, merged and checked.

A configuration is plain data (dictionaries, lists, numbers, strings). Its sections are either settings, declared by a
dataclass, or components, which name a class of one family's table and give arguments of its constructor:

    sde: {name: vp, beta_max: 20}

The constructors' own signatures and docstrings are the schema, so that a new class is configurable, checked and
explained by `--help` without another line.
"""

from __future__ import annotations

import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

REQUIRED = object()
"""Default of a key that has none."""


class ConfigError(ValueError):
    """A configuration that cannot be used; its message says which key, what was expected and what came."""


@dataclass(frozen=True)
class Key:
    """One key of a section.

    Args:
        kind: its type annotation.
        default: its default, or REQUIRED.
        text: what it means.
    """

    kind: Any
    default: Any
    text: str


@dataclass(frozen=True)
class Family:
    """A section that names a class.

    Args:
        table: name -> class.
        default: the name taken where none is given.
        shared: a class whose constructor takes the section's other keys.
        supplied: constructor arguments that the program gives and no configuration can.
    """

    table: Mapping[str, Callable[..., Any]]
    default: str
    shared: Callable[..., Any] | None = None
    supplied: tuple[str, ...] = ()

    def keys(self, name: str) -> dict[str, Key]:
        """The keys that go with the class `name`."""
        keys = {} if self.shared is None else keys_of(self.shared)
        keys |= keys_of(self.table[name])
        return {key: value for key, value in keys.items() if key not in self.supplied}


@dataclass(frozen=True)
class Schema:
    """All keys of a configuration.

    Args:
        top: a class whose constructor's arguments are the keys outside of any section.
        settings: section -> class whose constructor's arguments are the section's keys.
        families: section -> the classes that it can name.
    """

    top: Callable[..., Any]
    settings: Mapping[str, Callable[..., Any]]
    families: Mapping[str, Family]

    def resolve(
        self, config: Mapping[str, Any], typed: Mapping[str, str] | None = None, taken: Iterable[str] = ()
    ) -> dict[str, Any]:
        """The configuration with every key present and of its type.

        Args:
            config: keys and values, as read.
            typed: values of the command line as they were typed, for keys whose type is a string.
            taken: keys that the program has taken out before; a mistyped one may be near to them.

        Raises:
            ConfigError: on an unknown key or name (with the nearest known one), a wrong type, a missing value, or a
                value that the class of its settings refuses.
        """
        typed = typed or {}
        top = keys_of(self.top)
        refuse_unknown(config, [*top, *self.settings, *self.families], "", also=taken)
        resolved = {key: checked(key, config.get(key, found.default), found, typed) for key, found in top.items()}
        construct("", self.top, **resolved)
        for section, declared in self.settings.items():
            resolved[section] = resolve_section(section, section_of(config, section), keys_of(declared), typed)
            construct(section, declared, **resolved[section])
        for section, family in self.families.items():
            resolved[section] = resolve_component(section, section_of(config, section), family, typed)
        return resolved

    def read_arguments(self, arguments: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
        """The dot list `a.b=value ...` of a command line, parsed as YAML values and as it was typed.

        `section=name` is short for `section.name=name` where the section names a class.

        Raises:
            ConfigError: on an argument that is not `key=value`.
        """
        merged = OmegaConf.create({})
        typed: dict[str, str] = {}
        for argument in arguments:
            key, separator, text = argument.partition("=")
            if not separator or not key or key.startswith("-"):
                raise ConfigError(f"arguments are key=value, got {argument!r}; --help lists the keys")
            key = f"{key}.name" if key in self.families else key
            try:
                OmegaConf.update(merged, key, parsed(text), force_add=True)
            except (OmegaConfBaseException, AttributeError, TypeError) as error:
                raise ConfigError(f"{argument!r} contradicts an argument before it, or is no key: {error}") from error
            typed[key] = text
        return typing.cast(dict[str, Any], OmegaConf.to_container(merged)), typed

    def merge(self, base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
        """`base` with `change` on top; a component that changes its name keeps the keys that the new one takes too."""
        merged = {**base, **change}
        for key in base.keys() & change.keys():
            family = self.families.get(key)
            old, new = ((named(side[key]) if family else side[key]) for side in (base, change))
            if not isinstance(old, Mapping) or not isinstance(new, Mapping):
                continue
            if family is not None:
                name = new.get("name", old.get("name", family.default))
                if name != old.get("name", family.default) and isinstance(name, str) and name in family.table:
                    old = {kept: value for kept, value in old.items() if kept in family.keys(name)}
            merged[key] = {**old, **new}
        return merged


def construct(section: str, cls: Callable[..., Any], **arguments: Any) -> Any:
    """`cls(**arguments)`, whose refusal names the section of the configuration.

    Raises:
        ConfigError: if the class raises ValueError.
    """
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    try:
        return cls(**arguments)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{section}: {error}" if section else str(error)) from error


def require_at_least(settings: Any, **least: int) -> None:
    """Raises ValueError if an attribute of `settings` that is not None is below the least that makes sense."""
    for key, smallest in least.items():
        value = getattr(settings, key)
        if value is not None and value < smallest:
            raise ValueError(f"{key} must be at least {smallest}, got {value}")


def section_of(config: Mapping[str, Any], section: str) -> Any:
    """What a configuration gives for a section; one left empty is as one left out."""
    given = config.get(section)
    return {} if given is None else given


def named(given: Any) -> Any:
    """A component's section, for which a file may give its name alone."""
    return {"name": given} if isinstance(given, str) else given


def take_file(given: dict[str, Any], typed: Mapping[str, str]) -> str | None:
    """Takes `config=FILE` out of a command line's arguments; None where it is not there.

    Raises:
        ConfigError: if it is empty, or `config` is used as a section.
    """
    if given.pop("config", REQUIRED) is REQUIRED:
        return None
    if not typed.get("config"):
        raise ConfigError("config must be a file, config=FILE.yaml, got no name; its keys are given without `config.`")
    return typed["config"]


def parsed(text: str) -> Any:
    """The YAML value of a command line's text; interpolations stay text."""
    try:
        return OmegaConf.to_container(OmegaConf.create(f"value: {text}"), resolve=False)["value"]  # pyright: ignore
    except (OmegaConfBaseException, yaml.YAMLError):
        return text


def keys_of(source: Callable[..., Any]) -> dict[str, Key]:
    """The arguments of a class, as keys: types from its annotations, texts from the `Args:` of its docstrings."""
    function = source.__init__ if inspect.isclass(source) else source
    hints = typing.get_type_hints(function)
    texts: dict[str, str] = {}
    for owner in reversed(inspect.getmro(source) if inspect.isclass(source) else (source,)):
        texts |= argument_texts(owner.__doc__ or "")
    keys = {}
    for name, parameter in inspect.signature(source).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = REQUIRED if parameter.default is parameter.empty else parameter.default
        keys[name] = Key(hints.get(name, Any), default, texts.get(name, ""))
    return keys


def argument_texts(docstring: str) -> dict[str, str]:
    """The entries `name: text` of a docstring's `Args:` section."""
    section = re.search(r"^Args:\n(.*?)(?:\n\S|\Z)", inspect.cleandoc(docstring), re.DOTALL | re.MULTILINE)
    if section is None:
        return {}
    entries = re.findall(r"^    (\w+)(?: \([^)]*\))?: (.*?)(?=^    \w|\Z)", section.group(1), re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def read_file(path: Path) -> dict[str, Any]:
    """The contents of a YAML file.

    Raises:
        ConfigError: if there is no such file, or it is not a YAML mapping.
    """
    if not path.is_file():
        raise ConfigError(f"there is no configuration file {path}; give a YAML file of `key: value` lines")
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not a readable YAML file of `key: value` lines: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, got {type(loaded).__name__}")
    return typing.cast(dict[str, Any], loaded)


def resolve_component(
    section: str, given: Any, family: Family, typed: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A component's section with every key of its class present; see `resolve`."""
    given = named(given)
    if not isinstance(given, Mapping):
        raise ConfigError(f"{section} must be a section (`{section}.name=...`), got {given!r}")
    name = given.get("name", family.default)
    if not isinstance(name, str) or name not in family.table:
        raise ConfigError(
            f"{section}.name must be one of {', '.join(family.table)}, got {name!r}{nearest(str(name), family.table)}"
        )
    rest = {key: value for key, value in given.items() if key != "name"}
    return {
        "name": name,
        **resolve_section(section, rest, family.keys(name), typed or {}, f" of {section}.name={name}"),
    }


def resolve_section(
    section: str, given: Any, keys: Mapping[str, Key], typed: Mapping[str, str], owner: str = ""
) -> dict[str, Any]:
    """A section with every key present; see `resolve`."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"{section} must be a section (`{section}.key=...`), got {given!r}")
    refuse_unknown(given, keys, f"{section}.", owner)
    return {
        key: checked(f"{section}.{key}", given.get(key, found.default), found, typed) for key, found in keys.items()
    }


def refuse_unknown(
    given: Mapping[str, Any], known: Iterable[str], prefix: str, owner: str = "", also: Iterable[str] = ()
) -> None:
    """Raises ConfigError if `given` has a key that is not `known`; `also` names keys known elsewhere."""
    known = list(known)
    for key in given:
        if key not in known:
            raise ConfigError(f"unknown key {prefix}{key}{owner}{nearest(str(key), [*also, *known], prefix)}")


def nearest(word: str, known: Iterable[str], prefix: str = "") -> str:
    """'; did you mean ...?' for the known word that is most like `word`, or the list of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; known: {', '.join(known)}"


def checked(path: str, value: Any, key: Key, typed: Mapping[str, str]) -> Any:
    """`value` as plain data of the key's type.

    Raises:
        ConfigError: if it is not of that type, or missing.
    """
    if value is REQUIRED:
        raise ConfigError(f"{path} is required: {key.text or 'give it in the file or as ' + path + '=...'}")
    fitted = fit(value, key.kind, typed.get(path))
    if isinstance(fitted, _Misfit):
        raise ConfigError(f"{path} must be {describe(key.kind)}, got {fitted.value!r}")
    return fitted


@dataclass(frozen=True)
class _Misfit:
    """A value that is not of the type asked for."""

    value: Any


def fit(value: Any, kind: Any, text: str | None) -> Any:
    """`value` converted to plain data of the type `kind` where that loses nothing, or a _Misfit.

    `text` is the value as typed, which a string takes in place of what YAML made of it (00012 is not 10).
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for option in sorted(arguments, key=lambda option: option is str):
            fitted = fit(value, option, text)
            if not isinstance(fitted, _Misfit):
                return fitted
        return _Misfit(value)
    if origin is Literal:
        return value if value in arguments else _Misfit(value)
    if kind is type(None):
        return None if value is None else _Misfit(value)
    if kind is bool:
        return value if isinstance(value, bool) else _Misfit(value)
    if kind is int:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        return whole if isinstance(whole, int) and not isinstance(whole, bool) else _Misfit(value)
    if kind is float:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else _Misfit(value)
    if kind is str:
        if text is not None and value is not None:
            return text
        return str(value) if isinstance(value, str | Path) else _Misfit(value)
    if kind is Path:
        return fit(value, str, text)
    if origin is tuple and isinstance(value, str) and "," in value and not {str, Any} & set(arguments):
        value = [parsed(part) for part in value.split(",")]  # `at=10,20` for [10, 20]
    if origin in (list, tuple, Sequence) and isinstance(value, list | tuple):
        return fit_items(value, origin, arguments)
    if origin is dict and isinstance(value, Mapping):
        return fit_entries(value, arguments[1])
    return _Misfit(value)


def fit_items(value: Sequence[Any], origin: Any, arguments: tuple[Any, ...]) -> Any:
    """A list whose items are of the types that a list, tuple or sequence annotation asks for, or a _Misfit."""
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        kinds = list(arguments)
    else:
        kinds = [arguments[0] if arguments else Any] * len(value)
    if len(kinds) != len(value):
        return _Misfit(value)
    items = [fit(item, kind, None) for item, kind in zip(value, kinds, strict=True)]
    return _Misfit(value) if any(isinstance(item, _Misfit) for item in items) else items


def fit_entries(value: Mapping[Any, Any], kind: Any) -> Any:
    """A section of any names whose values are of the type `kind`, or a _Misfit."""
    entries = {str(name): fit(entry, kind, None) for name, entry in value.items()}
    return _Misfit(dict(value)) if any(isinstance(entry, _Misfit) for entry in entries.values()) else entries


def describe(kind: Any) -> str:
    """A type in a user's words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in arguments)
    if origin in (list, tuple, Sequence):
        fixed = origin is tuple and Ellipsis not in arguments
        items = [describe(item) for item in arguments if item is not Ellipsis] + ([] if fixed else ["..."])
        return f"a list [{', '.join(items)}]"
    if origin is dict:
        return f"a section of names, each with {describe(arguments[1])} (.NAME=...)"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return "null" if kind is type(None) else words.get(kind, str(kind))
