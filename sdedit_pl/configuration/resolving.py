"""Turns keys and values of files and command lines into a typed object, and the object into plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from sdedit_pl.configuration.schema import (
    Component,
    ConfigError,
    Family,
    Key,
    alike,
    construct,
    keys_of,
    nearest,
    schema_of,
)
from sdedit_pl.configuration.values import as_tuples, converted

T = TypeVar("T")


def resolve(
    cls: type[T], given: Mapping[str, Any], typed: Mapping[str, str] | None = None, taken: Iterable[str] = ()
) -> T:
    """An instance of a dataclass, from keys and values; raises ConfigError.

    Args:
        typed: values as typed on the command line, by their full keys.
        taken: keys already removed from `given`, which a misspelt one may resemble.
    """
    schema, typed = schema_of(cls), typed or {}
    _refuse_unknown(given, [*schema.keys, *schema.sections, *schema.families], "", also=taken)
    values = {
        key: converted(key, given.get(key, found.default), found, typed.get(key)) for key, found in schema.keys.items()
    }
    for section, declared in schema.sections.items():
        found = _resolved_section(section, _section(given, section), keys_of(declared), typed)
        values[section] = construct(section, declared, **found)
    for section, family in schema.families.items():
        values[section] = resolve_component(section, _section(given, section), family, typed)
    return construct("", cls, **values)


def resolve_component(
    section: str, given: Any, family: Family[T], typed: Mapping[str, str] | None = None
) -> Component[T]:
    given = _named(given, family)
    if not isinstance(given, Mapping):
        raise ConfigError(f"{section} must be a section (`{section}.name=...`), got {given!r}")
    name = given.get("name", family.default)
    if not isinstance(name, str) or name not in family.table:
        raise ConfigError(
            f"{section}.name must be one of {', '.join(family.table)}, got {name!r}{alike(str(name), family.table)}"
        )
    rest = {key: value for key, value in given.items() if key != "name"}
    keys, owner = family.keys(name), f" of {section}.name={name}"
    values = _resolved_section(section, rest, keys, typed or {}, owner)
    is_default = name == family.default and all(values[word] == as_tuples(key.default) for word, key in keys.items())
    return Component(section, name, family.table[name], values, is_default)


def merge(cls: type, base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `change` on top; a component that changes its name keeps the keys that the new one takes too."""
    families = schema_of(cls).families
    merged = {**base, **change}
    for key in base.keys() & change.keys():
        family = families.get(key)
        old, new = ((_named(side[key], family) if family else side[key]) for side in (base, change))
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            continue
        if family is not None:
            name = new.get("name", old.get("name", family.default))
            if name != old.get("name", family.default) and isinstance(name, str) and name in family.table:
                old = {kept: value for kept, value in old.items() if kept in family.keys(name)}
        merged[key] = {**old, **new}
    return merged


def as_data(value: Any) -> Any:
    if isinstance(value, Component):
        return {"name": value.name, **as_data(value.values)}
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: as_data(getattr(value, item.name)) for item in fields(value) if item.init}
    if isinstance(value, Mapping):
        return {key: as_data(item) for key, item in value.items()}
    return [as_data(item) for item in value] if isinstance(value, list | tuple) else value


def _section(given: Mapping[str, Any], section: str) -> Any:
    found = given.get(section)
    return {} if found is None else found


def _named(given: Any, family: Family[Any]) -> Any:
    return {family.short(given): given} if isinstance(given, str) else given


def _resolved_section(
    section: str, given: Any, keys: Mapping[str, Key], typed: Mapping[str, str], owner: str = ""
) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{section} must be a section (`{section}.key=...`), got {given!r}")
    _refuse_unknown(given, keys, f"{section}.", owner)
    return {
        key: converted(f"{section}.{key}", given.get(key, found.default), found, typed.get(f"{section}.{key}"))
        for key, found in keys.items()
    }


def _refuse_unknown(
    given: Mapping[str, Any], known: Iterable[str], prefix: str, owner: str = "", also: Iterable[str] = ()
) -> None:
    known = list(known)
    for key in given:
        if key not in known:
            raise ConfigError(f"unknown key {prefix}{key}{owner}{nearest(str(key), [*also, *known], prefix)}")
