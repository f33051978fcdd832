"""YAML: the value of a piece of text, and files of `key: value` lines."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdedit_pl.configuration.schema import ConfigError


def parsed(text: str) -> Any:
    """The YAML value of a command line's text; interpolations stay text."""
    try:
        return OmegaConf.to_container(OmegaConf.create(f"value: {text}"), resolve=False)["value"]  # pyright: ignore
    except (OmegaConfBaseException, yaml.YAMLError):
        return text


def read_file(path: Path) -> dict[str, Any]:
    """The contents of a YAML file.

    Raises:
        ConfigError: there is no such file, or it is not a YAML mapping.
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
