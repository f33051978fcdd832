"""Reads declarations from the package's source files without importing them, so that help does not wait for PyTorch.

A name is resolved as Python would: an assignment is evaluated, an import within the package is followed. A class
becomes a `SourceClass`. Functions and names of other libraries become an `Unknown`, which answers any use with itself.
The standard library is imported.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator
from dataclasses import Field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from sdedit_pl.configuration.schema import REQUIRED, Key, Schema, argument_texts

PACKAGE = Path(__file__).parents[1]
IMPORTED = ("sdedit_pl.configuration", "sdedit_pl.configuration.schema")
"""Modules that are imported after all: they are cheap, and declare families."""


class SourceCommand(NamedTuple):
    """Stands in for `sdedit_pl.configuration.command_line.Command`."""

    usage: str
    arguments: SourceClass
    file: str | None = None
    first: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


class Unknown:
    """A value that the source alone does not give."""

    def __call__(self, *args: Any, **kwargs: Any) -> Unknown:
        return self

    def __getattr__(self, name: str) -> Unknown:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key: Any) -> Unknown:
        return self

    def keys(self) -> tuple[str, ...]:
        """No keys, so that `**value` adds nothing."""
        return ()

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class SourceClass(Unknown):
    def __init__(self, module: str, node: ast.ClassDef) -> None:
        self.module = module
        self.node = node
        self.__doc__ = ast.get_docstring(node)

    @property
    def lineage(self) -> list[SourceClass]:
        """The class and its bases within the package, the class first."""
        bases = [_value(self.module, base) for base in self.node.bases]
        return [self, *(each for base in bases if isinstance(base, SourceClass) for each in base.lineage)]

    def arguments(self) -> Iterator[tuple[str, ast.expr | None, Any]]:
        """Name, annotation and default, or REQUIRED, of each of the constructor's arguments."""
        for owner in self.lineage:
            for node in owner.node.body:
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    yield from _parameters(owner.module, node)
                    return
        fields: dict[str, tuple[str, ast.expr | None, Any]] = {}
        for owner in reversed(self.lineage):
            for node in owner.node.body:
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    default = REQUIRED if node.value is None else _value(owner.module, node.value)
                    fields[node.target.id] = (node.target.id, node.annotation, default)
        yield from fields.values()


def source_keys(cls: Any) -> dict[str, Key]:
    """The keys that `keys_of` gives for a class, without their types."""
    texts: dict[str, str] = {}
    for owner in reversed(cls.lineage):
        texts |= argument_texts(owner.__doc__ or "")
    return {name: Key(Any, default, texts.get(name, "")) for name, _, default in cls.arguments()}


def source_schema(cls: SourceClass) -> Schema:
    """The schema that `schema_of` gives for a dataclass, without types."""
    keys, sections, families = source_keys(cls), {}, {}
    for name, annotation, default in cls.arguments():
        declared = _value(cls.module, annotation) if isinstance(annotation, ast.Name) else None
        if isinstance(default, Field) and "family" in default.metadata:
            families[name] = default.metadata["family"]
        elif isinstance(declared, SourceClass):
            sections[name] = declared
    return Schema({name: key for name, key in keys.items() if name not in sections | families}, sections, families)


@cache
def evaluate(module: str, name: str) -> Any:
    """The value of a module's name.

    Raises:
        KeyError: the module does not bind it.
    """
    if (module, name) == ("sdedit_pl.configuration.command_line", "Command"):
        return SourceCommand
    if module in IMPORTED or module.partition(".")[0] in sys.stdlib_module_names:
        return getattr(import_module(module), name)
    if not module.startswith(PACKAGE.name):
        return Unknown()
    for node in reversed(_statements(module)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return SourceClass(module, node)
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return Unknown()
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _imported(node.module if isinstance(node, ast.ImportFrom) else None, alias.name)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                names = [ast.unparse(part) for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
                if name in names:
                    value = _value(module, node.value)
                    return value[names.index(name)] if isinstance(target, ast.Tuple) else value
    raise KeyError(name)


def _imported(module: str | None, name: str) -> Any:
    if module is not None:
        return evaluate(module, name)
    return import_module(name) if name in sys.stdlib_module_names else Unknown()


class _Names(dict[str, Any]):
    """The global names of a module, resolved when they are used."""

    def __init__(self, module: str) -> None:
        super().__init__(__builtins__=builtins)
        self.module = module

    def __missing__(self, name: str) -> Any:
        return evaluate(self.module, name)


def _value(module: str, node: ast.expr) -> Any:
    try:
        return eval(compile(ast.Expression(node), module, "eval"), _Names(module))
    except (TypeError, AttributeError):
        return Unknown()


def _parameters(module: str, node: ast.FunctionDef) -> Iterator[tuple[str, ast.expr | None, Any]]:
    positional = [*node.args.posonlyargs, *node.args.args][1:]
    defaults = [None] * (len(positional) - len(node.args.defaults)) + node.args.defaults + node.args.kw_defaults
    for argument, default in zip([*positional, *node.args.kwonlyargs], defaults, strict=True):
        yield argument.arg, argument.annotation, REQUIRED if default is None else _value(module, default)


@cache
def _statements(module: str) -> list[ast.stmt]:
    """The statements of a module, with those under `if TYPE_CHECKING:`."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(file.read_text(encoding="utf-8"), str(file)).body
    return [each for node in body for each in (node.body if isinstance(node, ast.If) else [node])]
