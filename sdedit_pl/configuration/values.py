"""Conversion of values to the types of their keys, by pydantic in its strict JSON mode.

That mode converts only lists to tuples and integers to floats: no `true` for 1, no "10" for 10.
"""

from __future__ import annotations

import json
import math
import os
import typing
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sdedit_pl.configuration.schema import REQUIRED, ConfigError, Key, MissingKey, keys_of, nearest
from sdedit_pl.configuration.yaml_reading import decoded, encoded, in_each_text, yaml_value

_MOST, _LARGEST, _SMALLEST = 10**12, 1e30, 1e-30
_MOST_OF = {
    **dict.fromkeys(("n", "samples", "steps", "batch", "batch_size", "repeats", "resample", "levels"), 10**6),
    **dict.fromkeys(("count", "frames", "grow", "feather", "windows", "side", "memory_edits"), 10**5),
    **dict.fromkeys(("workers", "processes", "devices", "num_nodes", "blur", "accumulate_grad_batches"), 1000),
}
"""Upper bounds of keys that drive memory or time."""
_UNBOUNDED = ("seed", "max_pixels")


def converted(path: str, value: Any, key: Key, typed: str | None = None) -> Any:
    """`value`, as read from YAML, in the type of a key; lists become tuples, a leading `~` the home folder.

    `path` is the key's full name. Text stays as `typed` on the command line: 00012 is not YAML's octal 10. Raises
    ConfigError for a missing value, another type, or a number that is not finite or of absurd size.
    """
    if value is REQUIRED:
        raise MissingKey(f"{path} is required: {key.text or 'give it in the file or as ' + path + '=...'}")
    if key.kind is Any:
        return value
    if key.kind not in (str, str | None):
        _require_sensible(path, value)
    candidates = [_with_whole_numbers(value)]
    if typed is not None and value is not None:
        candidates.insert(0 if isinstance(value, str) else 1, typed)
    candidates.append(_with_lists(value))
    refusal: ValidationError | None = None
    for candidate in candidates:
        try:
            text = json.dumps(encoded(candidate), default=str)
            found = decoded(_adapter(key.kind).validate_json(text, strict=True))
            _require_sensible(path, found)
            return as_tuples(in_each_text(found, os.path.expanduser))
        except ValidationError as error:
            refusal = refusal or error
    assert refusal is not None
    raise ConfigError(_in_words(path, value, key.kind, refusal)) from refusal


def _require_sensible(path: str, value: Any) -> None:
    """Refuses numbers that are not finite or would exhaust time, memory or float32, at any depth."""
    name = path.rpartition(".")[2]
    most = _MOST_OF.get(name, _MOST)
    if isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            _require_sensible(path, item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path} must be a finite number, got {value}")
    elif isinstance(value, float) and value and not _SMALLEST <= abs(value) <= _LARGEST:
        raise ConfigError(f"{path} must be 0 or of a magnitude from {_SMALLEST:g} to {_LARGEST:g}, got {value}")
    elif isinstance(value, int | float) and abs(value) > most and name not in _UNBOUNDED:
        raise ConfigError(f"{path} must be at most {most:,}, got {value}")


@cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def as_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: as_tuples(entry) for name, entry in value.items()}
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def _with_whole_numbers(value: Any) -> Any:
    """Replaces floats without a fraction by integers: YAML's 1e3 is a float."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _with_whole_numbers(entry) for name, entry in value.items()}
    return [_with_whole_numbers(item) for item in value] if isinstance(value, list | tuple) else value


def _with_lists(value: Any) -> Any:
    """Replaces texts with commas by lists: `at=10,20` for [10, 20]."""
    if isinstance(value, dict):
        return {name: _with_lists(entry) for name, entry in value.items()}
    return [yaml_value(part) for part in value.split(",")] if isinstance(value, str) and "," in value else value


def _in_words(path: str, value: Any, kind: Any, refusal: ValidationError) -> str:
    """The expected types, from the errors that lie deepest in the value."""
    errors = refusal.errors(include_url=False, include_context=False)
    places = [_place(value, error["loc"]) for error in errors]
    deepest = max(places, key=len)
    for error in errors:
        if error["type"] == "value_error":
            return f"{path}: {error['msg'].removeprefix('Value error, ')}"
        if error["type"] == "unexpected_keyword_argument":
            known = keys_of(next(part for part in typing.get_args(kind) if is_dataclass(part)))  # pyright: ignore
            return f"unknown key {path}.{error['loc'][-1]}{nearest(str(error['loc'][-1]), known, f'{path}.')}"
    chosen = [error for error, place in zip(errors, places, strict=True) if place == deepest]
    expected = [
        "given" if error["type"] == "missing" else error["msg"].removeprefix("Input should be ") for error in chosen
    ]
    if not deepest and type(None) in typing.get_args(kind):
        expected.append("null")
    got = chosen[0]["input"] if deepest else value
    return f"{path}{''.join(deepest)} must be {' or '.join(dict.fromkeys(expected))}, got {got!r}"


def _place(value: Any, location: tuple[int | str, ...]) -> list[str]:
    """The place of an error in a value, without the options of a union that pydantic puts among indices and keys."""
    place = []
    for part in location:
        if isinstance(part, int):
            place.append(f"[{part}]")
            value = value[part] if isinstance(value, list | tuple) and part < len(value) else None
        elif isinstance(value, dict) and part in value:
            place.append(f".{part}")
            value = value[part]
    return place
