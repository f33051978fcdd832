"""The comparison of solvers: runs at toy size, counts what it costs, goes on where it was, and tells winners."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.tiny import tiny_config, write_images

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import solvers
import solvers_plan
import solvers_report

from sdedit_pl import save_denoiser
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.configuration.resolution import as_data
from sdedit_pl.sde import VPSDE


def colour(images: torch.Tensor) -> torch.Tensor:
    """Features that cost nothing: mean and deviation of each channel."""
    return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setitem(solvers.FEATURES, "colour", lambda: colour)
    model = tiny_config("data.path=unused").model
    torch.manual_seed(0)
    save_denoiser(tmp_path / "tiny.safetensors", build_denoiser(model), model, {"steps": 7})
    write_images(tmp_path / "images" / "train", 1)
    for kind in "abcd":
        write_images(tmp_path / "images" / "val" / kind, 3)
    given = {
        "ckpt": tmp_path / "tiny.safetensors",
        "out": tmp_path / "out",
        "data": tmp_path / "images",
        "groups": "folder",
        "features": "colour",
        "t0": "[0.45]",
        "colours": "[3]",
        "solvers": "[sde_dpm_solver_2m,edm_heun]",
        "grids": "[uniform,karras]",
        "evaluations": "[2,4]",
        "reference_steps": "8",
        "batch": "5",
    }
    return [f"{key}={value}" for key, value in given.items()]


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "draw", lambda *given: None)


def results_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("without_pictures")
def test_measures_every_cell_and_counts_its_evaluations(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert solvers.main(arguments) == 0
    found = results_in(tmp_path)
    assert found["images"] == {"images": 12, "groups": 4} and found["guides"].keys() == {"3"}
    cells = list(found["cells"].values())
    assert [cell["solver"] for cell in cells if cell["reference"]] == ["ancestral", "paper"]
    assert {cell["evaluations"] for cell in cells if cell["reference"]} == {8}
    assert {cell["allowed"]: cell["evaluations"] for cell in cells if cell["solver"] == "edm_heun"} == {2: 1, 4: 3}
    assert len(cells) == 2 + 2 * 2 * 2
    for cell in cells:
        versus, kid = cell["versus"], cell["kid"]
        assert versus.keys() == {"paper", "ancestral"} - ({cell["solver"]} if cell["reference"] else set())
        for reference, difference in versus.items():
            other = next(one for one in cells if one["reference"] and one["solver"] == reference)
            assert difference["kid"]["value"] == pytest.approx(kid["value"] - other["kid"]["value"], abs=1e-12)
            assert difference["l2"]["value"] == pytest.approx(cell["l2"]["value"] / other["l2"]["value"] - 1, abs=1e-9)
            assert difference["kid"]["low"] <= difference["kid"]["high"]
    printed = capsys.readouterr().out
    # references 16; each grid: 2 + 4 of the multistep solver, 1 + 3 of Heun's
    assert "10 cells to measure, 36 evaluations of the network for each of 12 edits" in printed
    assert (tmp_path / "out" / "report.md").read_text(encoding="utf-8") in printed


def test_draws_sheets_and_plots(arguments: list[str], tmp_path: Path) -> None:
    assert solvers.main([*arguments, "solvers=[ddim,euler_maruyama]"]) == 0
    names = {file.name for file in (tmp_path / "out").iterdir()}
    block = "t0_0.45_colours_3"
    plots = {f"{what}_{block}_{kind}.png" for what in ("kid", "l2") for kind in ("sde", "ode")}
    assert names == {"cells", "results.json", "report.md", f"edits_{block}.png", *plots}


@pytest.mark.usefixtures("without_pictures")
def test_it_goes_on_where_it_was(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [*arguments, "solvers=[ddim]", "grids=[uniform]", "references=[ancestral]"]
    assert solvers.main(few) == 0
    before = results_in(tmp_path)["cells"]

    def refuse(*given: object) -> None:
        raise AssertionError("edited again")

    with monkeypatch.context() as patched:
        patched.setattr(solvers, "edited", refuse)
        assert solvers.main(few) == 0
    assert results_in(tmp_path)["cells"] == before
    assert solvers.main([*few, "references=[paper]", "colours=[3,6]", "t0=['sigma:0.5',0.45]"]) == 0
    after = results_in(tmp_path)["cells"]
    # of four blocks, the first had an ancestral run and two cells; each now has another run, and the new ones two cells
    assert len(after) == 3 + 1 + 3 * 3
    assert all(after[name]["kid"] == cell["kid"] for name, cell in before.items())
    assert all("paper" in cell["versus"] for cell in after.values() if cell["solver"] != "paper")
    capsys.readouterr()
    for change, what in (("precision=float32", "precision"), ("reference_steps=9", "reference_steps")):
        assert solvers.main([*few, change]) == 2
        assert f"was measured with another {what}; give another out=" in capsys.readouterr().err


def test_other_weights_are_other_results(arguments: list[str], tmp_path: Path, capsys) -> None:
    few = [*arguments, "solvers=[]", "references=[ancestral]"]
    assert solvers.main(few) == 0
    model = tiny_config("data.path=unused").model
    torch.manual_seed(1)
    save_denoiser(tmp_path / "tiny.safetensors", build_denoiser(model), model, {})
    assert solvers.main(few) == 2
    assert "was measured with other weights" in capsys.readouterr().err


@pytest.mark.usefixtures("without_pictures")
def test_edits_do_not_depend_on_which_cells_are_asked_for(arguments: list[str], tmp_path: Path) -> None:
    assert solvers.main([*arguments, "grids=[uniform]"]) == 0
    assert solvers.main([*arguments, f"out={tmp_path / 'b' / 'out'}", "solvers=[edm_heun]", "grids=[uniform]"]) == 0
    first, second = results_in(tmp_path)["cells"], results_in(tmp_path / "b")["cells"]
    assert second.keys() < first.keys()
    assert all(first[name]["kid"] == cell["kid"] and first[name]["l2"] == cell["l2"] for name, cell in second.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("solvers=[edm]", "solvers are of ancestral, "),
        ("grids=[even]", "grids are of uniform, "),
        ("references=[reference]", "references are of ancestral, paper, got reference"),
        ("features=vgg", "features.name must be one of "),
        ("evaluations=[4,8]", "evaluations lie in 1 to reference_steps - 1 = 7, got (4, 8)"),
        ("t0=[1.5]", "t0 must lie in (0, 1], got 1.5"),
        ("images=2", "images must be at least 3, got 2"),
        ("groups=design", "take groups=folder or groups=image"),
        ("ckpt=nowhere.safetensors", "no checkpoint at nowhere.safetensors"),
        ("data=nowhere", "data folder nowhere does not exist"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    change: str, message: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert solvers.main([*arguments, change]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_of_grey_images_is_refused(arguments: list[str], tmp_path: Path, capsys) -> None:
    model = tiny_config("data.path=unused", "data.channels=1").model
    save_denoiser(tmp_path / "grey.safetensors", build_denoiser(model), model, {})
    assert solvers.main([*arguments, f"ckpt={tmp_path / 'grey.safetensors'}"]) == 2
    assert "features are taken of RGB images" in capsys.readouterr().err


def test_too_few_images_are_refused(arguments: list[str], tmp_path: Path, capsys) -> None:
    for kind in "bcd":
        for file in (tmp_path / "images" / "val" / kind).iterdir():
            file.unlink()
    (tmp_path / "images" / "val" / "a" / "000.png").unlink()
    assert solvers.main(arguments) == 2
    assert "has 2 validation images; KID needs at least 3" in capsys.readouterr().err


def test_samples_of_a_guide_are_edits_of_their_own(arguments: list[str], tmp_path: Path) -> None:
    few = [*arguments, "solvers=[]", "references=[ancestral]", "precision=float32", "batch=12"]
    assert solvers.main(few) == 0
    assert solvers.main([*few, "samples=2", f"out={tmp_path / 'b' / 'out'}"]) == 0
    file = "t0_0.45-3_colours-ancestral-uniform-8"
    values, shown = [], []
    for folder in (tmp_path, tmp_path / "b"):
        (cell,) = results_in(folder)["cells"].values()
        assert cell["evaluations"] == 8
        values.append(cell["l2"]["value"])
        shown.append(load_file(folder / "out" / "cells" / f"{file}.safetensors")["shown"])
    assert torch.equal(*shown)  # the first of each, from the same seeds
    assert values[0] != values[1] and values[1] == pytest.approx(values[0], rel=0.3)


def settings_with(**changes: Any) -> dict[str, Any]:
    return {**as_data(solvers.COMMAND.parse(["ckpt=c", "out=o"])), **changes}


def test_references_and_promising_cells_come_first() -> None:
    plan = solvers.planned(settings_with(), VPSDE())
    assert len(plan) == len(set(plan)) == 3 * 2 * (2 + 8 * 3 * 7)
    assert [(cell.t0, cell.colours, cell.solver, cell.allowed) for cell in plan[:2]] == [
        (0.45, 6, "ancestral", 500),
        (0.45, 6, "paper", 500),
    ]
    early = 2 + len(solvers_plan.EARLY_SOLVERS) * len(solvers_plan.EARLY_EVALUATIONS)
    assert {cell.block for cell in plan[:early]} == {"t0 0.45, 6 colours"}
    assert all(cell.early for cell in plan[2:early]) and {cell.grid for cell in plan[:early]} == {"uniform"}
    assert not any(cell.early for cell in plan[6 * early :])


def test_cells_that_a_grid_refuses_are_left_out_and_repeated_ones_measured_once() -> None:
    wanted = settings_with(t0=[0.3, 0.3], colours=[6], grids=["restart", "uniform"], evaluations=[4], references=[])
    (cell,) = solvers.planned({**wanted, "solvers": ["ddim"]}, VPSDE())
    assert (cell.solver, cell.grid, solvers_plan.evaluations_of(cell, VPSDE())) == ("ddim", "uniform", 4)


def record(solver: str, allowed: int, kid: float, meets: bool, used: str = "uniform") -> dict[str, Any]:
    versus = {"paper": {"meets_goal": meets, "kid": {"value": kid - 1}}}
    reference = solver == "paper"
    return {
        "t0": 0.3,
        "colours": 6,
        "solver": solver,
        "grid": used,
        "allowed": allowed,
        "reference": reference,
        "stochastic": solver != "ddim",
        "kid": {"value": kid},
        "versus": {} if reference else versus,
    }


def block_of(*records: dict[str, Any]) -> solvers_report.Block:
    cells = {str(number): one for number, one in enumerate(records)}
    (found,) = solvers_report.blocks({"cells": cells}).values()
    return solvers_report.Block(found)


def test_the_best_has_the_least_kid_of_those_that_meet_the_goal() -> None:
    block = block_of(
        record("ddim", 10, 0.8, False),
        record("er_sde", 10, 1.1, True),
        record("unipc", 10, 1.0, True),
        record("ddim", 20, 1.3, False),
        record("er_sde", 20, 1.2, False),
        record("paper", 500, 1.0, True),
    )
    assert block.goal is not None and block.goal["solver"] == "paper" and block.counts == [10, 20]
    assert [one["solver"] for one in block.at(10)] == ["unipc", "er_sde", "ddim"]
    assert [one["solver"] for one in block.at(20)] == ["er_sde", "ddim"]


def test_recommended_is_what_goes_on_to_meet_the_goal() -> None:
    lucky = [record("ddim", 5, 1.0, True), record("ddim", 10, 1.2, False), record("ddim", 20, 1.0, True)]
    steady = [record("er_sde", 5, 1.4, False), record("er_sde", 10, 1.1, True), record("er_sde", 20, 1.0, True)]
    never = [record("unipc", 5, 1.0, True), record("unipc", 10, 1.0, True), record("unipc", 20, 1.5, False)]
    paper = record("paper", 500, 1.0, True)
    take = block_of(paper, *lucky, *steady, *never).recommended()
    assert take is not None and (take["solver"], take["allowed"]) == ("er_sde", 10)
    assert block_of(paper, *never).recommended() is None
    assert block_of(*lucky).recommended() is None


def test_a_plot_shows_each_solver_on_its_best_grid_of_those_measured_furthest() -> None:
    block = block_of(
        record("paper", 500, 1.0, True),
        record("er_sde", 10, 1.2, True),
        record("er_sde", 20, 1.1, True),
        record("er_sde", 10, 1.1, True, "karras"),
        record("er_sde", 20, 1.1, True, "karras"),
        record("er_sde", 20, 0.9, True, "log_snr"),
        record("ddim", 10, 1.0, True),
    )
    assert list(solvers_report.best_ladders(block, stochastic=True)) == ["er_sde, karras"]
    assert list(solvers_report.best_ladders(block, stochastic=False)) == ["ddim, uniform"]
