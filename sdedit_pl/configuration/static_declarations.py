"""Reads declarations from the package's source files without importing them, so that help does not wait for PyTorch.

Assignments are evaluated, and imports within the package are followed. A class becomes a `SourceClass`; functions and
other libraries become an `Unknown`, which answers any use with itself. Modules of the standard library are imported.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator
from dataclasses import Field
from functools import cache, partial
from importlib import import_module
from itertools import chain
from typing import Any, NamedTuple

from sdedit_pl.configuration.bundled_configs import PACKAGE
from sdedit_pl.configuration.schema import REQUIRED, Key, Schema, argument_texts

IMPORTED = ("sdedit_pl.configuration", "sdedit_pl.configuration.schema")
"""Modules that are imported because they are cheap and declare families and commands."""


class Unknown:
    """A value that the source alone does not give."""

    def __call__(self, *args: Any, **kwargs: Any) -> Unknown:
        return self

    def __getattr__(self, name: str) -> Unknown:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class Argument(NamedTuple):
    """An argument of a constructor; `default` may be REQUIRED; names in `annotation` belong to `module`."""

    name: str
    default: Any
    module: str
    annotation: ast.expr | None


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

    def arguments(self) -> Iterator[Argument]:
        for owner in self.lineage:
            for node in owner.node.body:
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    yield from _parameters(owner.module, node)
                    return
        fields: dict[str, Argument] = {}
        for owner in reversed(self.lineage):
            for node in owner.node.body:
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    default = REQUIRED if node.value is None else _value(owner.module, node.value)
                    fields[node.target.id] = Argument(node.target.id, default, owner.module, node.annotation)
        yield from fields.values()


def source_keys(cls: Any) -> dict[str, Key]:
    """`keys_of` for a class, without types."""
    texts: dict[str, str] = {}
    for owner in reversed(cls.lineage):
        texts |= argument_texts(owner.__doc__ or "")
    return {each.name: Key(Any, each.default, texts.get(each.name, "")) for each in cls.arguments()}


def source_schema(cls: SourceClass) -> Schema:
    """`schema_of` for a dataclass, without types."""
    keys, sections, families = source_keys(cls), {}, {}
    for name, default, module, annotation in cls.arguments():
        declared = _value(module, annotation) if isinstance(annotation, ast.Name) else None
        if isinstance(default, Field) and "family" in default.metadata:
            families[name] = default.metadata["family"]
        elif isinstance(declared, SourceClass):
            sections[name] = declared
    return Schema({name: key for name, key in keys.items() if name not in sections | families}, sections, families)


@cache
def evaluate(module: str, name: str) -> Any:
    """The value of a module's name; raises KeyError if the module does not bind it."""
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


def _value(module: str, node: ast.expr) -> Any:
    """The value of an expression of the forms that declarations need; an `Unknown` for any other."""
    value = partial(_value, module)
    try:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return getattr(builtins, node.id) if hasattr(builtins, node.id) else evaluate(module, node.id)
            case ast.Tuple() | ast.List():
                parts = (value(p.value) if isinstance(p, ast.Starred) else (value(p),) for p in node.elts)
                return tuple(chain.from_iterable(parts))
            case ast.Dict():
                return {value(key): value(item) for key, item in zip(node.keys, node.values, strict=True) if key}
            case ast.Attribute():
                return getattr(value(node.value), node.attr)
            case ast.Call():
                given = {keyword.arg: value(keyword.value) for keyword in node.keywords if keyword.arg}
                return value(node.func)(*map(value, node.args), **given)
            case ast.UnaryOp(op=ast.USub()):
                return -value(node.operand)
            case ast.BinOp(op=ast.Add()):
                return value(node.left) + value(node.right)
            case ast.JoinedStr():
                return "".join(map(value, node.values))
            case ast.FormattedValue():
                return str(value(node.value))
    except (TypeError, AttributeError):
        pass
    return Unknown()


def _parameters(module: str, node: ast.FunctionDef) -> Iterator[Argument]:
    positional = [*node.args.posonlyargs, *node.args.args][1:]
    defaults = [None] * (len(positional) - len(node.args.defaults)) + node.args.defaults + node.args.kw_defaults
    for argument, default in zip([*positional, *node.args.kwonlyargs], defaults, strict=True):
        value = REQUIRED if default is None else _value(module, default)
        yield Argument(argument.arg, value, module, argument.annotation)


@cache
def _statements(module: str) -> list[ast.stmt]:
    """The statements of a module, with those under `if TYPE_CHECKING:`."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    body = ast.parse(file.read_text(encoding="utf-8"), str(file)).body
    return [each for node in body for each in (node.body if isinstance(node, ast.If) else [node])]
