"""What an installation gives: the wheel's contents, its requirements, and the same commands by every road."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder), cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's contents, unpacked outside the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Runs `command`, which has to succeed, and returns its standard output."""
    result = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def requirements() -> list[Requirement]:
    return [Requirement(line) for line in metadata.requires("sdedit-pl") or []]


def test_requirements_have_lower_bounds_only_except_lightning():
    for requirement in requirements():
        if requirement.name not in ("sdedit-pl", "lightning"):
            operators = [specifier.operator for specifier in requirement.specifier]
            assert operators == [">="], f"{requirement} should read {requirement.name}>=VERSION"


def test_lightning_is_limited_to_releases_whose_internals_were_tested():
    (lightning,) = (requirement for requirement in requirements() if requirement.name == "lightning")
    admitted = {number: lightning.specifier.contains(number) for number in ("2.6.2", "2.6.3", "2.6.4", "2.6.99", "2.7")}
    assert admitted == {"2.6.2": False, "2.6.3": False, "2.6.4": True, "2.6.99": True, "2.7": False}


def test_tested_versions_satisfy_the_requirements_and_cover_them():
    lines = (ROOT / "requirements" / "tested.txt").read_text(encoding="utf-8").splitlines()
    pins: dict[str, list[Requirement]] = {}
    for line in lines:
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(pin.name, []).append(pin)
    for requirement in requirements():
        if requirement.name == "sdedit-pl":
            continue
        assert requirement.name in pins, f"requirements/tested.txt does not name {requirement.name}"
        for pin in pins[requirement.name]:
            (specifier,) = pin.specifier
            assert specifier.operator == "==", pin
            assert requirement.specifier.contains(Version(specifier.version)), f"{pin} is not {requirement}"


def test_wheel_holds_the_package_the_configs_the_checkpoints_and_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert CONFIGS, "there should be configs to ship"
    assert {f"sdedit_pl/configs/{name}" for name in CONFIGS} <= names
    assert {"sdedit_pl/bundled_checkpoints/portraits64.safetensors", "sdedit_pl/bundled_checkpoints/README.md"} <= names
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "sdedit_pl").rglob("*.py")}
    assert modules <= names
    assert {name.partition("/")[0] for name in names} == {"sdedit_pl", "sdedit_pl-0.1.0.dist-info"}


def test_wheel_declares_the_command_and_the_licence(installed: Path):
    information = installed / "sdedit_pl-0.1.0.dist-info"
    assert "sdedit = sdedit_pl.cli:main" in (information / "entry_points.txt").read_text(encoding="utf-8")
    assert (information / "licenses" / "LICENSE").is_file()


def test_installed_package_runs_outside_a_checkout(installed: Path, tmp_path: Path):
    code = (
        "import sys, sdedit_pl.cli; sys.stdout.write(sdedit_pl.__file__); "
        "raise SystemExit(sdedit_pl.cli.main(['--help']))"
    )
    output = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert output.startswith(str(installed))
    assert not list(tmp_path.iterdir()), "asking for help should write nothing"


@pytest.mark.parametrize("name", ["portraits64", "checkpoints/portraits64.safetensors"])
def test_installed_package_finds_its_checkpoints_outside_a_checkout(name: str, installed: Path, tmp_path: Path):
    code = f"import sys, sdedit_pl.checkpoints; sys.stdout.write(str(sdedit_pl.checkpoints.find_checkpoint({name!r})))"
    found = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert found == str(installed / "sdedit_pl" / "bundled_checkpoints" / "portraits64.safetensors")


@pytest.mark.parametrize("verb", ["train", "edit"])
def test_the_script_is_the_verb(verb: str, tmp_path: Path):
    script = run(sys.executable, str(ROOT / f"{verb}.py"), "--help", cwd=tmp_path)
    module = run(sys.executable, "-m", "sdedit_pl", verb, "--help", cwd=tmp_path)
    command = run(str(Path(sys.executable).with_name("sdedit")), verb, "--help", cwd=tmp_path)
    assert script
    assert script == module == command


def test_failure_is_an_exit_code():
    result = subprocess.run(
        [sys.executable, "-m", "sdedit_pl", "pant"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode not in (0, None)
    assert "Traceback" not in result.stderr
    assert "paint" in result.stderr
