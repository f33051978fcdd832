"""`sdedit edit` with many guides: killed and resumed, in several processes, with guides that cannot be read."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from PIL import Image
from support.killed_trainings import Kill

from sdedit_pl.cli import main
from sdedit_pl.edit_runs import edit_share
from sdedit_pl.edit_runs.processes import Share, share_of_environment

EDIT = ("edit", "ckpt=tiny.safetensors", "guide=guides", "mask=masks", "steps=3", "samples=2", "batch=4", "out=o")
UNFINISHED = "sdedit_pl.edit_runs.unfinished_edits:UnfinishedEdits"
PUBLISH = "sdedit_pl.result_folder:os.replace"
KILLS: dict[str, tuple[Kill, ...]] = {
    "before the settings are recorded": (Kill(f"{UNFINISHED}.begin", 1),),
    "halfway through the recorded settings": (Kill("sdedit_pl.files:_store", 1, "settings.json", half=True),),
    "before the first sample": (Kill("pathlib:Path.write_bytes", 1, "_seed"),),
    "between two samples of a guide": (Kill("pathlib:Path.write_bytes", 8, "_seed"),),
    "between a guide's files and its line": (Kill(f"{UNFINISHED}.note", 6),),
    "after the last guide": (Kill("sdedit_pl.edit_runs.edit_run:finish", 1),),
    "in the sheet": (Kill("sdedit_pl.edit_runs.finishing:save_sheet", 1),),
    "halfway through edit.yaml": (Kill("sdedit_pl.files:_store", 1, "edit.yaml", half=True),),
    "before the first file is published": (Kill(PUBLISH, 1, "_seed"),),
    "halfway through publishing": (Kill(PUBLISH, 9, "_seed"),),
    "before edit.yaml is published": (Kill(PUBLISH, 2, "edit.yaml"),),
    "before the working folder is removed": (Kill(f"{UNFINISHED}.tidy", 1),),
    "three times": (Kill(f"{UNFINISHED}.note", 2), Kill(f"{UNFINISHED}.note", 3), Kill(PUBLISH, 4, "_seed")),
}
SERVER = multiprocessing.get_context("forkserver")


@pytest.fixture
def many(desk: Path) -> Path:
    """Seven guides with masks; the third is damaged."""
    for name in ("guides", "masks"):
        Path(name).mkdir()
    for number in range(7):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"guides/{number}.png")
        Image.open("mask.png").save(f"masks/{number}.png")
    Path("guides/2.png").write_bytes(Path("cut.png").read_bytes())
    return desk


def results(folder: str = "o") -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(Path(folder).rglob("*"))}


def start(*words: str, kill: Kill | None = None, **environment: str) -> multiprocessing.Process:
    process = SERVER.Process(target=_child, args=(os.getcwd(), words, kill, environment))
    process.start()
    return process  # pyright: ignore[reportReturnType]


def ended(process: multiprocessing.Process) -> int | None:
    process.join(120)
    return process.exitcode


def _child(folder: str, words: tuple[str, ...], kill: Kill | None, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    if kill is not None:
        kill.arm()
    os._exit(main(words))


@pytest.mark.slow
@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_edit_is_resumed_and_equals_one_that_was_not(moment: str, many: Path, command) -> None:
    assert command(*EDIT).code == 0
    os.rename("o", "expected")
    for kill in KILLS[moment]:
        assert ended(start(*EDIT, kill=kill)) == -signal.SIGKILL
    assert command(*EDIT).code == 0
    assert results() == results("expected")


@pytest.mark.slow
def test_two_processes_share_the_guides_and_may_be_killed(many: Path, command) -> None:
    assert command(*EDIT).code == 0
    os.rename("o", "expected")
    kill = Kill(f"{UNFINISHED}.note", 2)
    assert [ended(start(*EDIT, kill=kill, RANK=str(rank), WORLD_SIZE="2")) for rank in (0, 1)] == [-9, -9]
    assert len(list(Path("o/.sdedit.unfinished").glob("*.png"))) == 2 * 2 * 2
    processes = [start(*EDIT, RANK=str(rank), WORLD_SIZE="2") for rank in (0, 1)]
    assert [ended(process) for process in processes] == [0, 0]
    assert results() == results("expected")


def test_the_last_process_publishes(many: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(*EDIT).code == 0
    os.rename("o", "expected")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    for task, left in (("2", 5), ("0", 2)):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        code, output, errors = command(*EDIT)
        assert code == 0 and f"{left} of 7 guides are left to other processes" in errors
        assert os.listdir("o") == [".sdedit.unfinished"] and "sheet" not in output
    monkeypatch.delenv("SLURM_ARRAY_TASK_COUNT")  # another number of processes may resume
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    code, _, errors = command(*EDIT)
    assert code == 0 and "resuming after 5 of 7 guides" in errors
    assert results() == results("expected")


def test_guides_that_cannot_be_read_are_listed_at_the_end(many: Path, command, refused) -> None:
    code, output, errors = command(*EDIT)
    assert (code, output) == (0, "12 samples in o; see o/sheet.png\n")
    assert "1 of 7 guides could not be edited:\ncannot read image guides/2.png: image file is truncated" in errors
    record = yaml.safe_load(Path("o/edit.yaml").read_text())["record"]
    assert record["bad"].keys() == {"guides/2.png"} and len(record["samples"]) == 12
    assert "guides/2.png" in refused(*EDIT, "out=p", "strict=true")
    Image.new("L", (9, 9), "white").save("white.png")
    assert "no guide can be edited; the first: a mask must have" in refused(*EDIT, "mask=white.png", "out=p")


def test_an_unfinished_edit_keeps_its_settings_and_whole_files(
    many: Path, command, refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(*EDIT, "out=expected").code == 0
    with monkeypatch.context() as patch:
        patch.setattr("sdedit_pl.edit_runs.finishing.save_sheet", Mock(side_effect=KeyboardInterrupt))
        code, _, errors = command(*EDIT)
    assert code == 130 and "6 finished guides are kept; the same command resumes" in errors
    message = refused(*EDIT, "steps=4")
    assert message.startswith("o was made with other settings: steps was 3, and is 4 now; resume it with these")
    unfinished = Path("o/.sdedit.unfinished")
    os.truncate(unfinished / "4_seed1.png", 50)  # as a crash of the machine may leave it
    with open(unfinished / "0-of-1.jsonl", "a") as journal:
        journal.write('\n[5, {"samples": {"5_se')
    assert "resuming after 6 of 7 guides" in command(*EDIT).errors
    expected = results("expected")
    assert results().keys() == expected.keys()
    assert all(results()[name] == content for name, content in expected.items() if name != "edit.yaml")
    assert command(*EDIT, "steps=4", "overwrite=true").code == 0 and results()["0_seed0.png"] != expected["0_seed0.png"]


def test_memory_holds_one_batch_of_guides(many: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    edit = edit_share.EditShare.edit
    monkeypatch.setattr(
        edit_share.EditShare,
        "edit",
        lambda self, inputs, *rest: held.append(len(inputs.guides)) or edit(self, inputs, *rest),
    )
    assert command(*EDIT, "batch=3").code == 0
    assert held == [2, 3, 1]


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, Share(0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Share(5, 8, 1)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, Share(0, 1, 0)),  # a batch script outside srun
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}, Share(3, 4, 1)),
        ({"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "4",
          "SLURM_ARRAY_TASK_COUNT": "3", "RANK": "1", "WORLD_SIZE": "2"}, Share(5, 6, 0)),
    ],
)  # fmt: skip
def test_the_share_comes_from_the_launcher(
    environment: dict[str, str], share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")] + ["RANK", "WORLD_SIZE", "LOCAL_RANK"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert share_of_environment() == share
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="WORLD_SIZE must be a number, got 'two'"):
        share_of_environment()
