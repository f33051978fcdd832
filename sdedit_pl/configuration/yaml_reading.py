"""YAML: the value of a piece of text, and files of `key: value` lines.

Python represents bytes of file names that are not UTF-8 by surrogates, which YAML and JSON cannot hold; files have
private-use characters in their place.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdedit_pl.configuration.schema import ConfigError

logger = logging.getLogger(__name__)
_PRIVATE = {0xDC00 + byte: 0x10FE00 + byte for byte in range(0x80, 0x100)}
_DOLLAR = 0x10FD24
_TEXT_OF = {**{private: surrogate for surrogate, private in _PRIVATE.items()}, _DOLLAR: "$"}
_LEAST_LIMIT = 10_000
"""Number of YAML nodes that any file may have. Without aliases, a longer file has at most one node a byte."""
_TAG_ERRORS = (AttributeError, LookupError, TypeError)
"""PyYAML's errors, besides ValueError, for a value that its tag does not allow, such as `!!timestamp x`."""


def in_each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Changes a value's strings at any depth; tuples become lists."""
    if isinstance(value, Mapping):
        return {in_each_text(name, change): in_each_text(entry, change) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [in_each_text(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def encoded(value: Any) -> Any:
    return in_each_text(value, lambda text: text.translate(_PRIVATE))


def decoded(value: Any) -> Any:
    return in_each_text(value, lambda text: text.translate(_TEXT_OF))


def yaml_text(data: Mapping[str, Any], **style: Any) -> str:
    """Plain data as YAML that `read_file` reads back; `style` are options of yaml.safe_dump."""
    return yaml.safe_dump(encoded(data), sort_keys=False, **style)


def yaml_value(text: str) -> Any:
    """The YAML value of a command line's text; interpolations stay text."""
    try:
        return OmegaConf.to_container(OmegaConf.create(f"value: {text}"), resolve=False)["value"]  # pyright: ignore
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, *_TAG_ERRORS):
        return text  # such as a file name with bytes that are not UTF-8


def read_file(path: Path) -> dict[str, Any]:
    """The contents of a YAML file, without interpolations: others' files must not read this user's environment.

    Raises ConfigError if there is no such file, or it is not a YAML mapping.
    """
    if not path.is_file():
        raise ConfigError(f"there is no configuration file {path}; give a YAML file of `key: value` lines")
    try:
        nodes = max(_LEAST_LIMIT, path.stat().st_size)
        text = path.read_text(encoding="utf-8")
        if "${" in text:
            logger.warning("%s: ${...} is taken literally, and not replaced by a value", path)
        stream = io.StringIO(text.replace("$", chr(_DOLLAR)))
        loaded = OmegaConf.to_container(OmegaConf.load(stream, max_yaml_expanded_nodes=nodes))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
        raise ConfigError(f"{path} is not a readable YAML file of `key: value` lines: {error}") from error
    except _TAG_ERRORS as error:
        reason = "a value does not fit its tag, such as !!int or !!timestamp"
        raise ConfigError(f"{path} is not a readable YAML file of `key: value` lines: {reason}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, got {type(loaded).__name__}")
    return decoded(loaded)
