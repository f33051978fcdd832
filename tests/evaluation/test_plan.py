"""What is planned, what it shares, and what an evaluation that goes on may change."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.oracles import GaussianDenoiser

from sdedit_pl.configuration import ConfigError
from sdedit_pl.editing import SDEdit
from sdedit_pl.evaluation import AblationValues, Settings, make_plan
from sdedit_pl.evaluation.groups import group_numbers, short_name
from sdedit_pl.evaluation.plan import Plan
from sdedit_pl.evaluation.store import RECORD_FILE, Record, check_place, forget
from sdedit_pl.sde import SDES
from sdedit_pl.settings_record import SettingsChanged

IDENTITIES = {"ckpt": "a", "compare": "b"}


def planned(edit: SDEdit | None = None, **settings) -> Plan:
    return make_plan(Settings(edit or SDEdit(), **settings))


def test_baselines_are_made_for_the_tasks_that_they_fit_and_samples_once() -> None:
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


def test_what_ablations_share_with_the_tables_is_one_column() -> None:
    values = AblationValues(
        t0=(0.3, 0.5), repeats=(1, 2), steps=(20, 50), solver=("ancestral", "ddim"), colours=(6, 16)
    )
    shared = ["t0", "repeats", "steps", "solver", "colours"]
    plan = planned(
        SDEdit(steps=20, solver="ancestral"), tasks=["stroke_synthesis"], baselines=[], ablations=shared, values=values
    )
    folders = {name: [folder for _, folder in variants] for name, variants in plan.ablations.items()}
    assert all("stroke_synthesis/sdedit" in found for found in folders.values())
    assert len(plan.columns) == 1 + 5
    assert plan.columns["stroke_synthesis_16_colours/sdedit"].way == plan.columns["stroke_synthesis/sdedit"].way


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


def test_what_images_depend_on_is_in_their_recipes() -> None:
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
    assert changed(planned(replace(edit, solver="ddim")).recipes(IDENTITIES, "groups")) == edits


def test_what_cannot_be_done_names_its_folder() -> None:
    denoiser = GaussianDenoiser(SDES["vp"]())
    denoiser.t_max = 0.6
    with pytest.raises(ValueError, match=r"samples: a model of the times up to 0.6 cannot start from noise"):
        planned(tasks=["stroke_synthesis"]).check({"ckpt": denoiser})
    late = planned(tasks=["stroke_synthesis"], baselines=[], ablations=["t0"], values=AblationValues(t0=(0.8,)))
    with pytest.raises(ValueError, match=r"stroke_synthesis/sdedit_t0=0.8: .* trained up to 0.6 only"):
        late.check({"ckpt": denoiser})


def test_a_record_keeps_what_others_made(tmp_path: Path) -> None:
    Record({"images": "4"}, {"a": "1", "b": "2"}).write(tmp_path)
    later = Record({"images": "4"}, {"b": "2", "c": "3"}).continuing(tmp_path)
    assert later.recipes == {"a": "1", "b": "2", "c": "3"}
    with pytest.raises(SettingsChanged, match="b was 2, and is 5 now"):
        Record({"images": "4"}, {"b": "5"}).continuing(tmp_path)
    with pytest.raises(SettingsChanged, match="images was 4, and is 3 now"):
        Record({"images": "3"}, {"b": "2"}).continuing(tmp_path)


def test_a_record_of_another_version_is_not_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_text(json.dumps({"format": "other"}))
    with pytest.raises(ValueError, match=r"evaluation.json has the format 'other'"):
        Record({}, {}).continuing(tmp_path)


def test_beginning_anew_removes_all_images_and_stays_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Record({}, {}).write(tmp_path)
    forget(tmp_path)
    (tmp_path / "images" / "original").mkdir(parents=True)
    (tmp_path / "report.html").touch()
    with monkeypatch.context() as patched, pytest.raises(PermissionError):

        def forbidden(*_: object, **__: object) -> None:
            raise PermissionError

        patched.setattr(os, "rmdir", forbidden)
        forget(tmp_path)
    forget(tmp_path)
    assert not (tmp_path / "images").exists()
    check_place(tmp_path)


def test_what_is_being_written_is_no_foreign_file(tmp_path: Path) -> None:
    (tmp_path / ".o.tmp").mkdir()
    check_place(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="already holds files, and no evaluation"):
        check_place(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/b/c.PNG", "c"), ("shards/val-0.tar:some/key.v2", "key.v2"), ("CIFAR10 image 7", "CIFAR10 image 7")],
)
def test_images_are_known_without_folder_and_suffix(name: str, expected: str) -> None:
    assert short_name(name) == expected


def test_groups_are_numbered_as_they_come() -> None:
    assert group_numbers(["x", "y", "z"], {"y": "b", "x": "a", "z": "a", "more": "c"}) == [0, 1, 0]
    assert group_numbers(["x", "y"], None) == [0, 1]
