"""Published folders and repositories, of a run and of a bundled checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.hub_server import HubServer

from sdedit_pl import load_denoiser
from sdedit_pl.calibration.t0_sidecar import calibrated_t0, write_calibration
from sdedit_pl.checkpoints import describe
from sdedit_pl.cli import main

ROOT = Path(__file__).parent.parent
WORDS = ["domain=teapots", "images=500 photographs of mine", "licence=cc-by-4.0"]


@pytest.fixture
def run(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A run's folder with all that the card uses."""
    run = tmp_path / "private" / "run"
    (run / "previews").mkdir(parents=True)
    for name in ("model", "model-early"):
        shutil.copy(tiny_checkpoint, run / f"{name}.safetensors")
    write_calibration(run / "model.safetensors.t0.yaml", run / "model.safetensors", 0.4, {"images": 8})
    (run / "config.yaml").write_text(
        f"out: {run}\ndata:\n  path: {tmp_path / 'mine'}\nseed: 3\nckpt: https://me:secret@host/a.pt\n"
    )
    (run / "metrics.csv").write_text("step,train/loss,val/loss,val/memory/ratio\n10,1,,\n20,,0.5,0.9\n40,,0.25,0.31\n")
    for step in (20, 40):
        Image.new("RGB", (8, 8), (step, 0, 0)).save(run / "previews" / f"step-{step:08d}.png")
    return run


def test_a_run_becomes_a_folder_without_paths_of_its_machine(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "published"
    assert main(["publish", f"run={run}", f"to={out}", *WORDS]) == 0
    weights = ["model-early.safetensors", "model.safetensors", "model.safetensors.t0.yaml"]
    names = ["README.md", "config.yaml", "curves.png", *weights, "previews.png"]
    assert sorted(file.name for file in out.iterdir()) == names
    card = (out / "README.md").read_text(encoding="utf-8")
    for text in ("license: cc-by-4.0", "# teapots", "500 photographs of mine", "![curves](curves.png)", "steps: 7000"):
        assert text in card
    assert "0.31 times as far" in card and "closely repeats many training images" in card
    assert Image.open(out / "previews.png").getpixel((0, 0)) == (40, 0, 0)
    assert not [file for file in out.iterdir() if str(tmp_path).encode() in file.read_bytes()]
    assert "ckpt: https://host/a.pt" in (out / "config.yaml").read_text()
    ours, theirs = load_denoiser(run).state_dict(), load_denoiser(out).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert calibrated_t0(out / "model.safetensors") == 0.4
    assert main(["publish", f"run={run}", f"to={out}", *WORDS]) == 0, "the same, once more"
    assert main(["publish", f"run={run}", f"to={out}", *WORDS, "memory=-1"]) == 2
    (out / "README.md").write_text("mine")
    assert main(["publish", f"run={run}", f"to={out}", *WORDS]) == 2
    (run / "metrics.csv").write_text("epoch;loss\n1;2\n")
    assert main(["publish", f"run={run}", f"to={out}2", *WORDS]) == 2


def test_a_published_repository_is_read_back(
    hub_server: HubServer, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["publish", f"ckpt={run}", "to=hf:me/teapots", *WORDS, "memory=1.02"]
    assert main(command) == 2
    assert "log in with `hf auth login` or set HF_TOKEN" in capsys.readouterr().err and not hub_server.repositories
    monkeypatch.setenv("HF_TOKEN", hub_server.token)
    assert main(command) == 0 and f"{hub_server.url}/me/teapots" in capsys.readouterr().out
    assert b'load_denoiser("hf:me/teapots")' in hub_server.repositories["me/teapots"]["README.md"]
    assert b"nearly as new" in hub_server.repositories["me/teapots"]["README.md"]
    description = describe("hf:me/teapots")
    assert description.parameters == describe(run).parameters and calibrated_t0(description.path) == 0.4
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: hf:me/teapots cannot be used: ") and error.count("\n") == 1


def test_a_bundled_checkpoint_has_a_card_with_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    out, report = tmp_path / "published", tmp_path / "evaluation"
    shutil.copytree("benchmarks/results/evaluation", report)
    numbers = json.loads((report / "metrics.json").read_text())
    numbers["command"] = "sdedit evaluate ckpt=portraits64 'data=/home/me/my photos' tasks=[stroke_synthesis]"
    (report / "metrics.json").write_text(json.dumps(numbers))
    words = [*WORDS, f"evaluation={report}", "pictures=[docs/demo.png]"]
    assert main(["publish", "ckpt=portraits64", f"to={out}", *words]) == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    kid = numbers["tasks"]["stroke_synthesis"]["sdedit"]["kid"]
    assert "Command: `sdedit evaluate ckpt=portraits64 'data=my photos' 'tasks=[stroke_synthesis]'`" in card
    assert f"| SDEdit | {kid:.4f}" in card and "![demo](demo.png)" in card and "images_seen: 603200" in card
    assert "Not measured: how close" in card and (out / "stroke_synthesis.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["licence="], "licence"),
        (["to=TMP/private"], "already exists; give a new folder"),
        (["to=hf:me/teapots/file"], "must be hf:owner/name, without a file or revision"),
        (["evaluation=TMP/private"], "is not a report of `sdedit evaluate`"),
        ([f"evaluation={ROOT}/benchmarks/results/evaluation"], "not the weights of"),
        (["pictures=[TMP/absent.png]"], "absent.png: No such file"),
        (["pictures=[a/one.png,b/one.jpg]"], "each picture of pictures= needs its own name"),
        (["pictures=[curves.png]"], "needs its own name, not curves"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    words: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        f"ckpt={run}",
        f"to={tmp_path / 'published'}",
        *WORDS,
        *(word.replace("TMP", str(tmp_path)) for word in words),
    ]
    assert main(["publish", *given]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "published").exists()
