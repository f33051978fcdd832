"""Builds the object that a component describes."""

from __future__ import annotations

from typing import Any, TypeVar

from sdedit_pl.configuration.schema import Component, ConfigError, construct, keys_of

T = TypeVar("T")


def build_component(component: Component[T], **supplied: Any) -> T:
    """Constructs a component; `supplied` are the arguments that no configuration can give. Raises ConfigError."""
    arguments = {key: value for key, value in component.values.items() if key in keys_of(component.cls)}
    try:
        return construct(component.section, component.cls, **arguments, **supplied)
    except ModuleNotFoundError as error:
        raise ConfigError(str(error)) from error


def build_unless_default(component: Component[T]) -> T | None:
    """None if the class and all its values are the family's defaults."""
    return None if component.is_default else build_component(component)
