"""What holds for every verb that writes files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.colour_features import ColourFeatures
from support.full_disk import full_disk
from support.interruptions import contents
from support.tiny import write_images

from sdedit_pl.metrics.extractor_table import FEATURES

CKPT = "ckpt=tiny.safetensors"
GUIDE = "guide=guides/hats"
VERBS = {
    "edit": (GUIDE, "samples=2", "reduce=mean,std", "trajectory=true", "steps=2"),
    "edit to shards": (GUIDE, "shards=2", "steps=2"),
    "augment": ("data=guides", "n=3", "steps=2"),
    "translate": ("source_ckpt=tiny.safetensors", GUIDE, "features=colour", "steps=2"),
    "detect": ("data=guides", "steps=2"),
    "sample": ("n=2", "steps=2"),
    "calibrate": ("data=photos", "split=all", "features=colour", "steps=2", "t0=[0.6,0.3,0.1]"),
    "evaluate": (
        "data=photos",
        "split=all",
        "tasks=[stroke_synthesis]",
        "baselines=[ddim]",
        "features=colour",
        "steps=2",
    ),
    "export": ("format=torch_export",),
}


@pytest.fixture(autouse=True)
def guides(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FEATURES, "colour", ColourFeatures)
    write_images(desk / "photos", 8, 16)
    Path("guides/hats").mkdir(parents=True)
    for name in ("a", "b" * 246):
        shutil.copy("guide.png", f"guides/hats/{name}.png")


@pytest.mark.parametrize("verb", ["edit", "edit to shards", "augment", "translate", "detect"])
def test_the_longest_file_name_is_edited(verb: str, command) -> None:
    assert command(verb.split()[0], CKPT, *VERBS[verb], "out=o").code == 0
    names = [file.name for file in Path("o").rglob("*") if file.is_file()]
    assert verb == "edit to shards" or any("bbb" in name for name in names)


def test_the_longest_name_of_a_checkpoint_has_its_t0(command) -> None:
    long = f"{'c' * 243}.safetensors"
    shutil.copy("tiny.safetensors", long)
    assert command("calibrate", f"ckpt={long}", *VERBS["calibrate"]).code == 0
    assert len([*Path.cwd().glob("ccc*.t0.yaml")]) == 1
    assert command("edit", f"ckpt={long}", *VERBS["edit"], "out=o").code == 0


@pytest.mark.parametrize("verb", ["edit", "augment", "translate", "detect", "sample", "calibrate"])
def test_a_finished_run_is_repeated_without_work(verb: str, command, monkeypatch) -> None:
    words = (verb, CKPT, *VERBS[verb])
    assert command(*words, "out=o").code == 0
    before = contents("o")
    with monkeypatch.context() as patch:
        patch.setattr("sdedit_pl.denoiser.Denoiser.forward", None)
        code, _, errors = command(*words, "out=o")
    assert code == 0 and "already there" in errors and contents("o") == before
    code, _, errors = command(*words, "out=o", "seed=9")
    assert code == 2 and "give another out=" in errors and contents("o") == before


@pytest.mark.parametrize(
    ("verb", "key", "changed"),
    [
        ("translate", (), "guides/hats/a.png"),
        ("translate", ("pairs=guides/others",), "guides/others/a.png"),
        ("translate", ("target=photos",), "photos/000.png"),
        ("detect", (), "guides/hats/a.png"),
        ("calibrate", (), "photos/000.png"),
    ],
)
def test_changed_inputs_are_not_finished(verb: str, key: tuple[str, ...], changed: str, command) -> None:
    shutil.copy("guide.png", "guides/hats/a2.png")  # KID takes three images
    shutil.copytree("guides/hats", "guides/others")
    words = (verb, CKPT, *VERBS[verb], *key, "out=o")
    assert command(*words).code == 0
    shutil.copy("black.png", changed)
    assert "was made with other settings" in command(*words).errors


@pytest.mark.parametrize("verb", sorted(VERBS.keys() - {"augment", "export"}))  # these move no file, or one
def test_results_whose_move_was_interrupted_are_completed(verb: str, command, monkeypatch) -> None:
    words = (verb.split()[0], CKPT, *VERBS[verb])
    assert command(*words, "out=whole").code == 0
    replace, moved = os.replace, []

    def interrupted(source: Path, target: Path) -> None:
        if source.name == target.name:  # otherwise a file is being written
            if moved:
                raise KeyboardInterrupt
            moved.append(source)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        assert command(*words, "out=o").code == 130
    code, _, errors = command(*words, "out=o")
    assert code == 0 and contents("o").keys() == contents("whole").keys(), errors


@pytest.mark.parametrize(("verb", "key"), [("edit", "mask"), ("translate", "pairs"), ("detect", "truth")])
def test_accents_may_be_decomposed(verb: str, key: str, command) -> None:
    for folder, name in (
        ("inputs", "\u00e9.png"),
        ("others", "e\u0301.png"),
        ("inputs", "o\u0308.png"),
        ("others", "\u00f6.png"),
    ):
        Path(folder).mkdir(exist_ok=True)
        shutil.copy("mask.png", f"{folder}/{name}")
    words = [word for word in VERBS[verb] if not word.startswith(("guide=", "data="))]
    inputs = f"{'data' if verb == 'detect' else 'guide'}=inputs"
    code, _, errors = command(verb, CKPT, *words, inputs, f"{key}=others", "out=o")
    assert code == 0 and "no mask for" not in errors


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_named_with_the_remedy(verb: str, command) -> None:
    with full_disk(600):
        code, _, errors = command(verb.split()[0], CKPT, *VERBS[verb], "out=place/o")
    line = errors.splitlines()[-1]
    assert code == 2 and "place" in line
    assert line.endswith("File too large; ulimit -f limits the size of files: raise it")
