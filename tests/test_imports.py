"""The architecture, read from the source: who may import whom, and the constructs that it rules out."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from sdedit_pl.typing import over_images

PACKAGE = Path(__file__).parents[1] / "sdedit_pl"

LAYERS = (  # lowest first; a part may import itself and the layers below its own, nothing else
    ("typing", "files", "machine", "lazy_names"),
    ("conditions", "downloads", "settings_record", "web"),
    ("noise", "sde", "networks", "data", "plots"),
    ("parameterisations", "grids", "metrics", "picture_grid"),
    ("denoiser",),
    ("losses", "solvers", "guides"),
    ("sampling",),
    ("editing",),
    ("study",),
    ("training",),
    ("configuration",),
    ("result_folder",),
    ("build",),
    ("checkpoints",),
    ("calibration", "evaluation"),
    ("training_runs", "edit_runs"),
    ("paint", "publishing"),
    ("cli",),
    ("__init__", "__main__"),
)

RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
MODULES = sorted(PACKAGE.rglob("*.py"))


@cache
def syntax(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"), filename=str(module))


def part(module: Path) -> str:
    """Name of the part of the package that the file `module` belongs to: `solvers` for solvers/heun.py."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and name of everything imported anywhere in `tree`; a relative import begins with its dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def upward_imports(tree: ast.Module, importer: str) -> list[str]:
    """The imports in `tree`, a file of the part `importer`, that do not go down the layers."""
    wrong = []
    for line, name in imports(tree):
        if name.startswith("."):
            wrong.append(f"line {line}: {name} is relative; write it in full")
            continue
        package, _, rest = name.partition(".")
        imported = rest.partition(".")[0] or "__init__"
        if package != PACKAGE.name or imported == importer:
            continue
        if RANK.get(imported, RANK["__init__"]) >= RANK[importer]:
            wrong.append(f"line {line}: {importer} imports {name}")
    return wrong


def names(node: ast.AST) -> set[str]:
    """The last component of every name in `node`: {"VPSDE", "Heun"} for (sde.VPSDE, Heun)."""
    found = {leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name)}
    return found | {leaf.attr for leaf in ast.walk(node) if isinstance(leaf, ast.Attribute)}


def descendants(roots: set[str], trees: list[ast.Module]) -> set[str]:
    """Names of `roots` and of all classes in `trees` that derive from them."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    family = set(roots)
    while True:
        grown = family | {node.name for node in classes if any(names(base) & family for base in node.bases)}
        if grown == family:
            return family
        family = grown


@cache
def sdes_and_solvers() -> set[str]:
    return descendants({"SDE", "Solver"}, [syntax(module) for module in MODULES])


def type_switches(tree: ast.Module, family: set[str]) -> list[str]:
    """Places in `tree` that ask which class of `family` an object is: isinstance, issubclass or match."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and names(node.func) & {"isinstance", "issubclass"}:
            asked = names(node.args[1])
        elif isinstance(node, ast.MatchClass):
            asked = names(node.cls)
        else:
            continue
        found += [f"line {node.lineno}: {name}" for name in sorted(asked & family)]
    return found


def hand_made_broadcasts(tree: ast.Module) -> list[str]:
    """Places in `tree` that append three or more axes, as [:, None, None, None] or .view(-1, 1, 1, 1)."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
            axes, sought = node.slice.elts, None
        elif isinstance(node, ast.Call) and names(node.func) & {"view", "reshape"}:
            axes, sought = node.args, 1
        else:
            continue
        last = axes[-3:]
        if len(last) == 3 and all(isinstance(axis, ast.Constant) and axis.value == sought for axis in last):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(PACKAGE)))
class TestModule:
    def test_imports_go_down_the_layers(self, module: Path):
        assert part(module) in RANK, f"say in LAYERS where {part(module)} stands"
        assert not upward_imports(syntax(module), part(module))

    def test_broadcasts_over_images_through_the_one_helper(self, module: Path):
        if part(module) != "typing":
            assert not hand_made_broadcasts(syntax(module)), "use sdedit_pl.typing.over_images"

    def test_never_asks_for_the_class_of_an_sde_or_solver(self, module: Path):
        assert not type_switches(syntax(module), sdes_and_solvers()), "make the difference a method"

    def test_has_a_name_that_says_something(self, module: Path):
        vague = {"utils", "util", "helpers", "helper", "common", "misc"}
        assert not vague & set(module.relative_to(PACKAGE).with_suffix("").parts)

    def test_opens_with_a_docstring(self, module: Path):
        if module.read_text(encoding="utf-8").strip():
            assert ast.get_docstring(syntax(module)), "say what the module models"


def modules_of(requirement: str) -> set[str]:
    """Top-level modules that the distribution of a requirement installs; none where it is not installed.

    Read from the list of its files, which Python 3.10's `packages_distributions` does not do.
    """
    try:
        files = metadata.files(Requirement(requirement).name) or []
    except metadata.PackageNotFoundError:
        return set()
    return {file.parts[0].removesuffix(".py") for file in files if file.suffix == ".py"}


def test_every_library_imported_is_a_declared_requirement():
    provided = set().union(*map(modules_of, metadata.requires("sdedit-pl") or []))
    for module in MODULES:
        for line, name in imports(syntax(module)):
            library = name.partition(".")[0]
            if library == PACKAGE.name or library in sys.stdlib_module_names:
                continue
            assert library in provided, f"{module}, line {line}: {library} is not in pyproject.toml"


def test_a_public_name_has_one_meaning():
    """But for the uniform parts of verbs and checkpoint formats, and type variables."""
    alike = {"logger", "T", "network_sources", "model_of"}
    meanings: dict[str, set[str]] = {}
    for module in MODULES:
        if part(module) != "cli":
            for node in syntax(module).body:
                for name in defined_names(node):
                    meanings.setdefault(name, set()).add(str(module.relative_to(PACKAGE)))
    twice = {name: where for name, where in meanings.items() if len(where) > 1 and name[0] != "_" and name not in alike}
    assert not twice, "one concept, one name"


def defined_names(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return {statement.name}
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    targets += [statement.target] if isinstance(statement, ast.AnnAssign) else []
    return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}


def part_imports() -> dict[str, set[str]]:
    """Room -> the rooms that it imports, but for those that every room may import."""
    found: dict[str, set[str]] = {room: set() for room in RANK if room not in (*LAYERS[0], *LAYERS[-1])}
    for module in MODULES:
        for _, name in imports(syntax(module)):
            imported = name.partition(".")[2].partition(".")[0]
            if (
                part(module) in found
                and imported in found
                and name.startswith(PACKAGE.name)
                and imported != part(module)
            ):
                found[part(module)].add(imported)
    return found


def essential(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The edges of a graph without cycles that do not follow from others."""

    @cache
    def below(room: str) -> frozenset[str]:
        return frozenset(graph[room]).union(*(below(other) for other in graph[room]))

    return {
        (room, other)
        for room, others in graph.items()
        for other in others
        if not any(other in below(between) for between in others)
    }


class TestContributing:
    TEXT = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")

    def test_the_picture_shows_the_imports(self):
        picture = re.search(r"```mermaid\n(.*?)```", self.TEXT, re.DOTALL)
        assert picture is not None
        drawn = re.findall(r"(\w+) --> (\w+)", picture.group(1))
        imported = essential(part_imports())
        lines = "\n".join(f"    {room} --> {other}" for room, other in sorted(imported))
        assert set(drawn) == imported, f"the picture in CONTRIBUTING.md should be\n{lines}"

    def test_the_files_that_it_names_exist(self):
        named = re.findall(r"`((?:sdedit_pl|tests)/[\w/.]+)`", self.TEXT)
        assert len(named) > 30
        assert not [name for name in named if not (PACKAGE.parent / name).exists()]


class TestTheChecksThemselves:
    @pytest.mark.parametrize(
        ("importer", "statement", "allowed"),
        [
            ("solvers", "from sdedit_pl.denoiser import Denoiser", True),
            ("solvers", "from sdedit_pl.solvers.base import Solver", True),
            ("solvers", "import torch, math", True),
            ("solvers", "from sdedit_pl.sampling import integrate", False),
            ("solvers", "from sdedit_pl import sampling", False),
            ("solvers", "from sdedit_pl import load_denoiser", False),
            ("solvers", "from .base import Solver", False),
            ("networks", "from sdedit_pl.typing import Images", True),
            ("networks", "def late():\n    import sdedit_pl.sde", False),
            ("sde", "from sdedit_pl.networks import layers", False),
            ("training", "from sdedit_pl.configuration import ConfigError", False),
            ("cli", "from sdedit_pl.build.model import build_denoiser", True),
        ],
    )
    def test_direction(self, importer: str, statement: str, allowed: bool):
        assert (not upward_imports(ast.parse(statement), importer)) is allowed

    def test_type_switches_are_found_through_inheritance(self):
        tree = ast.parse(
            "class Odd(sde.VPSDE): ...\n"
            "isinstance(x, Odd)\n"
            "isinstance(x, (int, solvers.Heun))\n"
            "match x:\n    case VPSDE(): ...\n"
            "isinstance(x, float)\n"
        )
        family = descendants({"VPSDE", "Heun"}, [tree])
        assert type_switches(tree, family) == ["line 2: Odd", "line 3: Heun", "line 5: VPSDE"]

    def test_broadcasts_are_found(self):
        tree = ast.parse("a[:, None, None, None]\nb.view(-1, 1, 1, 1)\nc[:, None]\nd.view(1, 1)")
        assert hand_made_broadcasts(tree) == ["line 1: a[:, None, None, None]", "line 2: b.view(-1, 1, 1, 1)"]

    def test_shapes_are_checked_in_this_run(self):
        with pytest.raises(TypeError, match="values"):
            over_images(torch.zeros(2, 3))
