"""Configuration: one typed object per command line, declared by dataclasses and by the constructors of components.

A plain field is a key, a field whose type is a dataclass is a section, and a field made by `family` is a component,
which names a class of a table and gives arguments of its constructor:

    sde: {name: vp, beta_max: 20}

Signatures and docstrings are the schema: a class in a table is configurable, checked and explained by `--help`.
"""

from sdedit_pl.configuration.schema import Component, ConfigError, alike, family, nearest, require_at_least

__all__ = ["Component", "ConfigError", "alike", "family", "nearest", "require_at_least"]
