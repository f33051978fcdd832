"""Plans: their columns, the columns that ablations share, and the recipes of images."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.oracles import GaussianDenoiser

from sdedit_pl.editing import SDEdit
from sdedit_pl.evaluation.ablations import AblationValues
from sdedit_pl.evaluation.evaluation_plan import EvaluationPlan, make_plan
from sdedit_pl.sde import SDES
from sdedit_pl.solvers import DDIM, Ancestral

IDENTITIES = {"ckpt": "a", "compare": "b"}


def planned(edit: SDEdit | None = None, **settings) -> EvaluationPlan:
    return make_plan(edit or SDEdit(), **settings)


def test_baselines_are_made_for_tasks_they_fit_and_samples_once() -> None:
    plan = planned()
    assert list(plan.columns) == [
        "stroke_synthesis/sdedit",
        "stroke_synthesis/ddim",
        "samples",
        "stroke_editing/sdedit",
        "stroke_editing/ddim",
        "compositing/sdedit",
        "compositing/ddim",
        "compositing/poisson",
        "compositing/laplacian",
    ]


def test_ablations_share_columns_with_the_tables() -> None:
    values = AblationValues(
        t0=(0.3, 0.5), repeats=(1, 2), steps=(20, 50), solver=("ancestral", "ddim"), colours=(6, 16)
    )
    shared = ["t0", "repeats", "steps", "solver", "colours"]
    plan = planned(
        SDEdit(steps=20, solver=Ancestral()), tasks=["stroke_synthesis"], baselines=[], ablations=shared, values=values
    )
    folders = {name: [folder for _, folder in variants] for name, variants in plan.ablations.items()}
    assert all("stroke_synthesis/sdedit" in found for found in folders.values())
    assert len(plan.columns) == 1 + 5
    assert plan.columns["stroke_synthesis_16_colours/sdedit"].method == plan.columns["stroke_synthesis/sdedit"].method


def test_two_models_edit_from_the_same_noise_levels() -> None:
    plan = planned(tasks=["stroke_synthesis"], ablations=["sde"], values=AblationValues(sde=(0.5, 2.0)))
    variants = [(variant.model, variant.edit.t0) for variant, _ in plan.ablations["sde"]]
    assert variants == [(name, level) for level in ("sigma:0.5", "sigma:2") for name in ("ckpt", "compare")]
    folders = [folder for _, folder in plan.ablations["sde"]]
    assert len(set(folders)) == 4 and all(plan.columns[folder].inputs == "stroke_synthesis" for folder in folders)


def test_an_ablation_needs_no_task() -> None:
    plan = planned(tasks=[], baselines=[], ablations=["t0"], values=AblationValues(t0=(0.3, "sigma:1.2")))
    assert list(plan.columns) == ["stroke_synthesis/sdedit_t0=0.3", "stroke_synthesis/sdedit_t0=sigma_1.2"]
    assert list(plan.inputs) == ["stroke_synthesis"] and not plan.tables


def test_recipes_hold_everything_that_images_depend_on() -> None:
    edit = SDEdit(steps=20)
    base = planned(edit).recipes(IDENTITIES, "groups")
    assert planned(SDEdit()).recipes(IDENTITIES, "groups") == planned(SDEdit(steps=SDEdit().step_count)).recipes(
        IDENTITIES, "groups"
    )

    def changed(recipes: dict[str, str]) -> set[str]:
        return {folder for folder in base if recipes[folder] != base[folder]}

    assert changed(planned(edit, seed=1).recipes(IDENTITIES, "groups")) == set(base)
    assert changed(planned(edit).recipes(IDENTITIES, "others")) == {"compositing/guide"}
    assert changed(planned(edit).recipes({"ckpt": "c"}, "groups")) == set(planned(edit).columns)
    edits = {"stroke_synthesis/sdedit", "stroke_editing/sdedit", "compositing/sdedit"}
    assert changed(planned(replace(edit, solver=DDIM())).recipes(IDENTITIES, "groups")) == edits


def test_a_column_that_cannot_be_made_is_named() -> None:
    denoiser = GaussianDenoiser(SDES["vp"]())
    denoiser.t_max = 0.6
    with pytest.raises(ValueError, match=r"samples: .* up to 0.6 cannot start from noise"):
        planned(tasks=["stroke_synthesis"]).check({"ckpt": denoiser})
    late = planned(tasks=["stroke_synthesis"], baselines=[], ablations=["t0"], values=AblationValues(t0=(0.8,)))
    with pytest.raises(ValueError, match=r"stroke_synthesis/sdedit_t0=0.8: .* trained only up to 0.6"):
        late.check({"ckpt": denoiser})
