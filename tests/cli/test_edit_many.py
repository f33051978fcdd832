"""`sdedit edit` with many guides: killed and resumed, in several processes, with guides that cannot be read."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import sys
import tarfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet
import pytest
import yaml
from PIL import Image
from support.chromium import until
from support.interruptions import contents
from support.killed_trainings import Kill
from support.shard_server import ShardServer

from sdedit_pl.cli import main
from sdedit_pl.edit_runs import edit_share
from sdedit_pl.edit_runs.processes import ProcessShare, share_of_environment
from sdedit_pl.picture_grid import MARGIN, SMALLEST_CELL, title_height

EDIT = ("edit", "ckpt=tiny.safetensors", "guide=guides", "mask=masks", "steps=3", "samples=2", "batch=4", "out=o")
UNFINISHED = "sdedit_pl.edit_runs.unfinished_edits:UnfinishedEdits"
PUBLISH = "sdedit_pl.result_folder:os.replace"
KILLS: dict[str, tuple[Kill, ...]] = {
    "before the settings are recorded": (Kill(f"{UNFINISHED}.begin", 1),),
    "halfway through the recorded settings": (Kill("sdedit_pl.files:_sync", 1, "settings.json", half=True),),
    "before the first sample": (Kill("pathlib:Path.write_bytes", 1, "_seed"),),
    "between two samples of a guide": (Kill("pathlib:Path.write_bytes", 8, "_seed"),),
    "between a guide's files and its line": (Kill(f"{UNFINISHED}.note", 6),),
    "after the last guide": (Kill("sdedit_pl.edit_runs.edit_run:finish", 1),),
    "in the sheet": (Kill("sdedit_pl.edit_runs.finishing:save_sheet", 1),),
    "halfway through edit.yaml": (Kill("sdedit_pl.files:_sync", 1, "edit.yaml", half=True),),
    "before the first file is published": (Kill(PUBLISH, 1, "_seed"),),
    "halfway through publishing": (Kill(PUBLISH, 9, "_seed"),),
    "before edit.yaml is published": (Kill(PUBLISH, 2, "edit.yaml"),),
    "before the working folder is removed": (Kill(f"{UNFINISHED}.tidy", 1),),
    "three times": (Kill(f"{UNFINISHED}.note", 2), Kill(f"{UNFINISHED}.note", 3), Kill(PUBLISH, 4, "_seed")),
}
ROOT = Path(__file__).parents[2]
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
    assert contents("o") == contents("expected")


@pytest.mark.slow
def test_two_processes_share_the_guides_and_may_be_killed(many: Path, command) -> None:
    assert command(*EDIT).code == 0
    os.rename("o", "expected")
    kill = Kill(f"{UNFINISHED}.note", 2)
    assert [ended(start(*EDIT, kill=kill, RANK=str(rank), WORLD_SIZE="2")) for rank in (0, 1)] == [-9, -9]
    assert len(list(Path("o/.sdedit.unfinished").glob("*.png"))) == 6
    processes = [start(*EDIT, RANK=str(rank), WORLD_SIZE="2") for rank in (0, 1)]
    assert [ended(process) for process in processes] == [0, 0]
    assert contents("o") == contents("expected")


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
    assert contents("o") == contents("expected")


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
    assert message.startswith("o was made with other settings: steps was 3, and is 4 now; resume it with its own")
    unfinished = Path("o/.sdedit.unfinished")
    os.truncate(unfinished / "4_seed1.png", 50)  # as a crash of the machine may leave it
    with open(unfinished / "0-of-1.jsonl", "a") as journal:
        journal.write('\n[5, {"samples": {"5_se')
    assert "resuming after 6 of 7 guides" in command(*EDIT).errors
    expected = contents("expected")
    assert contents("o").keys() == expected.keys()
    assert all(contents("o")[name] == content for name, content in expected.items() if name != "edit.yaml")
    assert command(*EDIT, "steps=4", "overwrite=true").code == 0
    assert contents("o")["0_seed0.png"] != expected["0_seed0.png"]


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


def test_results_come_in_shards_on_request(many: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(*EDIT, "out=files").code == 0
    assert command(*EDIT, "shards=2", "reduce=mean").output == "12 samples in o; see o/sheet.png\n"
    whole = contents("o")
    assert sorted(whole) == ["edit.yaml", *(f"edits-00000{number}.tar" for number in range(4)), "sheet.png"]
    assert whole["sheet.png"] == contents("files")["sheet.png"]
    with tarfile.open("o/edits-000001.tar") as archive:  # without guide 2, which is damaged
        assert archive.getnames() == [
            *("3_seed0.png", "3_seed0.json", "3_seed1.png", "3_seed1.json", "3_mean.png"),
        ]
        assert archive.extractfile("3_seed1.png").read() == contents("files")["3_seed1.png"]  # pyright: ignore
        assert json.load(archive.extractfile("3_seed1.json"))["guide"] == "guides/3.png"  # pyright: ignore
    assert command(*EDIT, "shards=2", "reduce=mean").output == "12 samples in o; see o/sheet.png\n"
    os.rename("o", "p")
    with monkeypatch.context() as patch:
        patch.setattr("sdedit_pl.edit_runs.edit_share.pack_results", Mock(side_effect=KeyboardInterrupt))
        assert command(*EDIT, "shards=2", "reduce=mean", "batch=1").code == 130
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert command(*EDIT, "shards=2", "reduce=mean").code == 0
    assert contents("o") == whole


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, ProcessShare(0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, ProcessShare(5, 8, 1)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, ProcessShare(0, 1, 0)),  # a batch script outside srun
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}, ProcessShare(3, 4, 1)),
        ({"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "4",
          "SLURM_ARRAY_TASK_COUNT": "3", "RANK": "1", "WORLD_SIZE": "2"}, ProcessShare(5, 6, 0)),
    ],
)  # fmt: skip
def test_the_share_comes_from_the_launcher(
    environment: dict[str, str], share: ProcessShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")] + ["RANK", "WORLD_SIZE", "LOCAL_RANK"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert share_of_environment() == share
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="WORLD_SIZE must be a number, got 'two'"):
        share_of_environment()


def rows(**columns: list) -> list[dict]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


ROWS = rows(guide=["0.png", "1.png", "0.png"], mask=["../masks/0.png", None, None], t0=[0.3, "sigma:1.2", None])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_has_own_masks_t0_and_seeds(kind: str, many: Path, command) -> None:
    table = [{**row, "seed": seed, "label": "x"} for row, seed in zip(ROWS, (7, None, 3), strict=True)]
    columns = {name: [None if row[name] is None else str(row[name]) for row in table] for name in table[0]}
    if kind == "csv":
        with open("guides/list.csv", "w", newline="") as file:
            csv.DictWriter(file, table[0]).writeheader()
            csv.DictWriter(file, table[0]).writerows(table)
    else:
        pyarrow.parquet.write_table(pyarrow.table(columns), "guides/list.parquet")
    code, _, errors = command(*EDIT, f"guide=guides/list.{kind}", "mask=null", "t0=0.6", "seed=5")
    assert code == 0 and errors == f"guides/list.{kind}: the columns label are ignored\n"
    samples = yaml.safe_load(Path("o/edit.yaml").read_text())["record"]["samples"]
    assert list(samples) == [
        *("0_t0_0.3_seed7.png", "0_t0_0.3_seed8.png", "1_t0_sigma1.2_seed5.png", "1_t0_sigma1.2_seed6.png"),
        *("0_seed3.png", "0_seed4.png"),
    ]
    alone = ("mask=null", "out=p", "overwrite=true")
    for words, name, same in (
        (("guide=guides/0.png", "mask=masks/0.png", "t0=0.3", "seed=7"), "0_t0_0.3_seed8.png", "0_seed8.png"),
        (("guide=guides/1.png", "t0=sigma:1.2", "seed=5"), "1_t0_sigma1.2_seed6.png", "1_seed6.png"),
        (("guide=guides/0.png", "t0=0.6", "seed=3"), "0_seed4.png", "0_seed4.png"),
    ):
        assert command(*EDIT, *alone, *words).code == 0
        assert contents("o")[name] == contents("p")[same]


def test_a_table_with_t0_for_some_guides_goes_with_several_t0(many: Path, command) -> None:
    Path("guides/list.csv").write_text("guide,t0,seed\n0.png,0.4,\n1.png,,9\n3.png,,\n")
    assert command(*EDIT, "guide=guides/list.csv", "mask=null", "t0=[0.3,0.5]", "samples=1").code == 0
    assert len(contents("o")) == 5 + 2
    step = SMALLEST_CELL + MARGIN
    sheet = Image.open("o/sheet.png")
    assert sheet.height == title_height(SMALLEST_CELL) + 5 * step + MARGIN
    left, top = sheet.width - step, title_height(SMALLEST_CELL)
    for row, name in enumerate(("0_t0_0.4_seed0", "1_t0_0.3_seed9", "1_t0_0.5_seed9", "3_t0_0.3_seed0")):
        sample = Image.open(f"o/{name}.png").resize((SMALLEST_CELL, SMALLEST_CELL), Image.Resampling.BICUBIC)
        assert sheet.crop((left, top + row * step, left + SMALLEST_CELL, top + row * step + SMALLEST_CELL)) == sample


def test_a_folder_of_masks_goes_with_tables_and_shards(many: Path, command, refused) -> None:
    Path("guides/list.csv").write_text("guide\n0.png\n1.png\n")
    with tarfile.open("a.tar", "w") as archive:
        for number in (0, 1):
            archive.add(f"guides/{number}.png", f"{number}.png")
    os.remove("masks/1.png")
    for out, guide in (("table", "guides/list.csv"), ("shards", "a.tar"), ("files", "guides/[01].png")):
        batch = "batch=1" if out == "files" else "batch=4"
        code, _, errors = command(*EDIT, f"guide={guide}", f"out={out}", "resample=1,2", batch)
        assert code == 0 and errors == "no mask for 1: edited everywhere\n"
    for number in (0, 1):
        name = f"{number}_seed0.png"
        assert contents("table")[name] == contents("shards")[name] == contents("files")[name]
    assert "there is no mask at absent" in refused(*EDIT, "guide=a.tar", "mask=absent", "out=new")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("guide,mask\n", "list.csv has no rows"),
        ("image\n0.png\n", "list.csv, row 1: there is no guide; the columns are guide, mask, t0, seed, got image"),
        ("guide,seed\n0.png,-1\n", "list.csv, row 1: seed must be a whole number of at least 0, got '-1'"),
        ("guide,t0\n0.png,1.5\n", "t0 must lie in (0, 1], got 1.5"),
        ("guide,t0\n0.png,0.3\n0.png,0.3\n", "several called 0 with the same t0 and seed"),
        ("guide,seed\n0.png,1\n0.png,9\n", "several called 0 with the same t0, for one std and trajectory"),
        ("guide,mask\n0.png,a.png\n", "list.csv names a mask for its guides, and so does mask=masks"),
        ("guide\n\xff\n", "list.csv is not a CSV file in UTF-8"),
        (None, "there is no table of guides at list.csv"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(text: str | None, message: str, many: Path, refused) -> None:
    if text is not None:
        Path("list.csv").write_bytes(text.encode("latin-1"))
    words = ("trajectory=true", "reduce=std") if "trajectory" in message else ()
    assert message in refused(*EDIT, "guide=list.csv", *words)


def test_guides_and_masks_come_from_shards(many: Path, command) -> None:
    Path("shards").mkdir()
    for shard in (0, 1):
        with tarfile.open(f"shards/a-{shard}.tar", "w") as archive:
            for number in (3 * shard, 3 * shard + 1, 3 * shard + 2):
                archive.add(f"guides/{number}.png", f"part/{number}.png")
                archive.add(f"masks/{number}.png", f"part/{number}.mask.png")
    code, _, errors = command(*EDIT, "guide=shards", "mask=null")
    assert code == 0 and "cannot read image shards/a-0.tar/2.png: image file is truncated" in errors
    record = yaml.safe_load(Path("o/edit.yaml").read_text())["record"]
    assert record["samples"]["4_seed1.png"] == {"guide": "shards/a-1.tar/4.png", "t0": 0.5, "seed": 1}
    os.rename("o", "p")
    assert command(*EDIT, "guide=shards/a-{0..1}.tar", "mask=null", "samples=1").code == 0
    assert command(*EDIT, "out=files").code == 0
    assert all(contents("files")[name] == contents("p")[name] for name in record["samples"])


def test_names_with_dots_in_shards_are_guides_of_their_own(many: Path, command, refused) -> None:
    with tarfile.open("a.tar", "w") as archive:
        for number in (3, 4):
            archive.add(f"guides/{number}.png", f"IMG_2024.{number}.png")
            archive.add(f"masks/{number}.png", f"IMG_2024.{number}.mask.png")
    assert command(*EDIT, "guide=a.tar", "mask=null").code == 0
    record = yaml.safe_load(Path("o/edit.yaml").read_text())["record"]
    assert {f"IMG_2024.{number}_seed1.png" for number in (3, 4)} <= record["samples"].keys()
    assert "a.tar/IMG_2024.4.mask.png" in record["sha256"]
    assert "a.tar.gz is compressed" in refused(*EDIT, "guide=a.tar.gz", "mask=null", "out=p")


def test_remote_shards_are_downloaded_once_and_resumed(
    many: Path,
    command,
    refused,
    shard_server: ShardServer,
    without_pauses: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for shard in (0, 1):
        with tarfile.open(shard_server.folder / f"a-{shard}.tar", "w") as archive:
            for number in (3 * shard, 3 * shard + 1):
                archive.add(f"guides/{number}.png", f"{number}.png")
                archive.add(f"masks/{number}.png", f"{number}.mask.png")
    edit = (*EDIT, f"guide={shard_server.url}/a-{{0..1}}.tar", "mask=null")
    assert command(*EDIT, "out=files").code == 0
    shard_server.status = 503
    assert "a-0.tar: " in refused(*edit) and not Path("o").exists()
    shard_server.status = None
    start(*edit, kill=Kill(f"{UNFINISHED}.note", 3)).join()
    assert len(list(Path("o/.sdedit.unfinished").glob("*.png"))) == 6
    code, _, errors = command(*edit)
    assert code == 0 and "left out" not in errors
    assert shard_server.fetched()[-2:] == ["/a-0.tar", "/a-1.tar"], "the copies are used again"
    record = yaml.safe_load(Path("o/edit.yaml").read_text())["record"]
    assert record["samples"]["4_seed1.png"]["guide"] == f"{shard_server.url}/a-1.tar/4.png"
    assert f"{shard_server.url}/a-1.tar/4.mask.png" in record["sha256"]
    assert all(contents("files")[name] == contents("o")[name] for name in record["samples"])
    assert "b.tar" in refused(*edit, f"guide={shard_server.url}/b.tar", "out=p")


@pytest.mark.slow
def test_devices_start_processes_of_this_machine(many: Path, command, refused, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(*EDIT, "device=cpu").code == 0
    os.rename("o", "expected")
    code, output, errors = command(*EDIT, "device=cpu", "devices=2")
    assert output == "12 samples in o; see o/sheet.png\n", errors
    assert contents("o") == contents("expected")
    os.rename("o", "p")
    Path("broken").write_text("#!/bin/sh\necho error: no memory >&2; exit 2")
    os.chmod("broken", 0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(many / "broken"))
        code, output, errors = command(*EDIT, "device=cpu", "devices=2")
    assert code == 2 and output == "" and "error: process 1 of 2 failed: no memory; run it again" in errors
    assert command(*EDIT, "device=cpu").code == 0
    assert contents("o") == contents("expected")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "devices=2 within torchrun or srun" in refused(*EDIT, "device=cpu", "devices=2", "out=q")


@pytest.mark.slow
def test_the_processes_of_a_killed_one_end(many: Path) -> None:
    first = start(*EDIT, "device=cpu", "devices=2", kill=Kill(f"{UNFINISHED}.note", 1))
    assert ended(first) == -signal.SIGKILL
    until(lambda: not list(Path("o").glob(".sdedit-1-of-2.lock")) or not alive("o/.sdedit-1-of-2.lock"), "its end")


def alive(lock: str) -> bool:
    return Path("/proc", Path(lock).read_text().split()[0]).is_dir()


@pytest.mark.slow
def test_the_example_for_ray_edits_like_the_command(many: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="the example of docs/editing.md is tested where ray[data] is installed")
    os.remove("guides/2.png")
    words = ("edit", "ckpt=portraits64", "guide=guides", "samples=1", "steps=2", "device=cpu", "out=o")
    for file in Path("guides").iterdir():
        Image.open(file).resize((64, 64)).save(file)
    assert command(*words).code == 0
    page = (ROOT / "docs/editing.md").read_text(encoding="utf-8")
    example = page.partition("```python\nimport ray")[2].partition("```")[0]
    example = f"import ray{example}".replace("t0=0.5", "t0=0.5, steps=2").replace("concurrency=2", "concurrency=1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        exec(compile(example, "docs/editing.md", "exec"), {"__name__": "example"})
        edits = ray.data.read_parquet("edits").take_all()
    finally:
        ray.shutdown()
    assert len(edits) == 6
    for edit in edits:
        expected = np.array(Image.open(f"o/{Path(edit['path']).stem}_seed0.png")).astype(int)
        assert abs(np.array(edit["image"]).astype(int) - expected).max() <= 1
