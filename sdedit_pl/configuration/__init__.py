"""Configuration: one typed object per command line, declared by dataclasses and by the constructors of components.

A dataclass declares the keys: its plain fields are keys, a field whose type is a dataclass is a section, and a field
made by `family` is a component, which names a class of a table and gives arguments of its constructor:

    sde: {name: vp, beta_max: 20}

Signatures and docstrings are the schema, so a new class is configurable, checked and explained by `--help` as soon as
it is in its table. `resolve` turns a file and a command line into an instance of the dataclass, once.
"""

from sdedit_pl.configuration.schema import Component, ConfigError, family, nearest, require_at_least

__all__ = ["Component", "ConfigError", "family", "nearest", "require_at_least"]
