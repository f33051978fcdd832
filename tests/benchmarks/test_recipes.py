"""The comparison of recipes: runs at toy size, goes on where it was, and refuses what cannot be compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from support.tiny import tiny_config, write_images

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import recipes

from sdedit_pl import save_denoiser
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.configuration.resolution import as_data


def colour(images: torch.Tensor) -> torch.Tensor:
    """Features that cost nothing: mean and deviation of each channel."""
    return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setitem(recipes.FEATURES, "colour", lambda: colour)
    config = tiny_config("data.path=unused")
    save_denoiser(tmp_path / "start.safetensors", build_denoiser(config.model), config.model, {})
    given = {
        "data": write_images(tmp_path / "images", count=60),
        "out": tmp_path / "out",
        "init_from": tmp_path / "start.safetensors",
        "size": 8,
        "batch": 4,
        "steps": 2,
        "budgets": "[8]",
        "rates": "[1e-3,2e-3]",
        "features": "colour",
        "precision": "32-true",
    }
    return [f"{key}={value}" for key, value in given.items()]


def results_in(folder: Path) -> dict:
    return json.loads((folder / "out" / "results.json").read_text())


@pytest.mark.slow
def test_every_recipe_is_trained_on_as_many_images_and_measured(arguments: list[str], tmp_path: Path) -> None:
    assert recipes.main(arguments) == 0
    found = results_in(tmp_path)
    names = [run["recipe"] for run in found["runs"].values()]
    assert sorted(names) == ["ddpm", "default", "default", "fine_tuned", "fine_tuned", "t_max"]
    assert all(run["images_seen"] == 8 and len(run["edits"]) == 2 for run in found["runs"].values())
    assert all(0 < error < 100 for run in found["runs"].values() for error in run["errors"].values())
    ranges = {run["recipe"]: set(run["errors"]) for run in found["runs"].values()}
    assert ranges["t_max"] < ranges["default"] == ranges["ddpm"] == ranges["fine_tuned"]
    assert (tmp_path / "out" / "kid.png").is_file() and (tmp_path / "out" / "error.png").is_file()
    assert "| fine_tuned |" in (tmp_path / "out" / "report.md").read_text()


def test_it_goes_on_where_it_was(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [*arguments, "recipes=[default]", "rates=[1e-3]"]
    assert recipes.main(few) == 0
    before = results_in(tmp_path)

    def refuse(*given: object) -> None:
        raise AssertionError("trained again")

    with monkeypatch.context() as patched:
        patched.setattr(recipes, "fit", refuse)
        assert recipes.main(few) == 0
    assert results_in(tmp_path) == before
    assert recipes.main([*few, "rates=[1e-3,3e-3]"]) == 0
    assert len(results_in(tmp_path)["runs"]) == 2
    assert recipes.main([*few, "steps=3"]) == 2
    assert "was measured with another steps; give another out=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipes=[edm]", "recipes are ddpm, default, t_max, fine_tuned, got edm"),
        ("recipes=[t_max]", "t_max and fine_tuned take the best rate of default"),
        ("patch=2", "fine_tuned needs the network of init_from, not patch=2; leave one out"),
        ("budgets=[2]", "budgets of at least one batch"),
        ("features=resnet", "features are of inception"),
        ("data=nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    change: str, message: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipes.main([*arguments, change]) == 2
    assert message in capsys.readouterr().err


def test_recipes_differ_in_what_they_are_about_and_nothing_else(arguments: list[str]) -> None:
    settings = as_data(recipes.COMMAND.parse(arguments))
    configs = {
        name: recipes.training_config(recipes.Run(name, 1e-3, 400), settings).as_data()
        for name in ("default", "t_max", "ddpm")
    }
    differing = {key for key, value in configs["default"].items() if configs["t_max"][key] != value}
    assert differing == {"out", "times"}
    assert 0.3 < configs["t_max"]["times"]["t_max"] < 0.5 and configs["default"]["times"]["t_max"] == 1
    assert all(configs["ddpm"][key] == configs["default"][key] for key in ("data", "network", "trainer", "seed"))
