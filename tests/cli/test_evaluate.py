"""`sdedit evaluate` from its command line: the report, interruptions, refusals, and several processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.colour_features import ColourFeatures

from sdedit_pl.checkpoints import find_checkpoint
from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.cli import main
from sdedit_pl.evaluation import report_sections
from sdedit_pl.evaluation.image_maker import ImageMaker
from sdedit_pl.files import claimed
from sdedit_pl.metrics.checked_weights import WeightsUnavailable
from sdedit_pl.metrics.extractor_table import FEATURES
from sdedit_pl.metrics.masked_lpips import MaskedLPIPS

EVALUATE = (
    "evaluate", "ckpt=tiny.safetensors", "data=photos", "split=all", "steps=2", "out=o", "accelerator=cpu", "devices=1",
    "features=colour",
)  # fmt: skip
SMALL = (*EVALUATE, "tasks=[stroke_synthesis]", "baselines=[ddim]", "ablations=[]")
COUNT = 7


@pytest.fixture(scope="module", autouse=True)
def cheap_measures() -> Iterator[None]:
    """Makes features that cost nothing available to the command, and its figures small."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(FEATURES, "colour", ColourFeatures)
        patched.setattr(report_sections, "CELL", 16)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A folder with seven images of 16 px in `photos`, and the evaluation `SMALL` of them in `o`; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.safetensors").symlink_to(tiny_checkpoint)
    (folder / "photos").mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (COUNT, 4, 4, 3), dtype=np.uint8)):
        Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC).save(folder / "photos" / f"{number}.png")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        assert main(SMALL) == 0
    return folder


@pytest.fixture
def photos(desk: Path, finished: Path) -> Path:
    """The images."""
    return shutil.copytree(finished / "photos", desk / "photos")


@pytest.fixture
def first(photos: Path, finished: Path) -> dict[str, Any]:
    """The numbers of the evaluation `SMALL`, which is in the folder `o`."""
    shutil.copytree(finished / "o", "o")
    return numbers_in("o")


@pytest.fixture
def evaluated(photos: Path, command) -> Callable[..., dict[str, Any]]:
    """Runs an evaluation that has to succeed, and returns its numbers."""

    def evaluate(*arguments: str) -> dict[str, Any]:
        code, _, errors = command(*arguments)
        assert code == 0, errors
        return numbers_in(next(word for word in reversed(arguments) if word.startswith("out=")).removeprefix("out="))

    return evaluate


def numbers_in(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder, "metrics.json").read_text())


def images_in(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*.png"))}


class Sources(HTMLParser):
    """The addresses that a page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def test_guidance_is_another_evaluation(first: dict[str, Any], command) -> None:
    assert "overwrite=true" in command(*SMALL, "guidance=2", "guide_ckpt=tiny.safetensors").errors
    assert command(*SMALL, "guidance=2", "guide_ckpt=tiny.safetensors", "out=guided").code == 0
    numbers = numbers_in("guided")
    assert numbers["settings"]["guidance"] == 2
    # The guiding model is the model itself, which moves nothing.
    assert numbers["tasks"]["stroke_synthesis"]["sdedit"] == first["tasks"]["stroke_synthesis"]["sdedit"]


def test_everything_is_made_measured_and_reported(evaluated, photos: Path) -> None:
    shutil.copy(find_checkpoint("tiny.safetensors"), "other.safetensors")
    ablations = ("t0=[0.3,0.5]", "colours=[3,6]", "sde=[0.5,2]")
    numbers = evaluated(
        *EVALUATE,
        "compare=other.safetensors",
        "ablations=[t0,colours,sde]",
        *(f"ablation.{values}" for values in ablations),
        "kid_subset=4",
    )
    tables = {task: list(methods) for task, methods in numbers["tasks"].items()}
    assert tables == {
        "stroke_synthesis": ["guide", "sdedit", "ddim", "nearest_sample"],
        "stroke_editing": ["guide", "sdedit", "ddim", "nearest_sample"],
        "compositing": ["guide", "sdedit", "ddim", "poisson", "laplacian", "nearest_sample"],
    }
    names = {"kid", "kid_error", "kid_low", "kid_high", "kid_subsets", "fid", "squared_l2", "rms", "precision"}
    for methods in numbers["tasks"].values():
        assert methods["guide"]["squared_l2"] == 0
        assert all(names <= set(found) for found in methods.values())
    # edits that ablations share with the tables are made once
    found = {name: [row["images"] for row in rows] for name, rows in numbers["ablations"].items()}
    assert found["t0"] == ["stroke_synthesis/sdedit_t0=0.3", "stroke_synthesis/sdedit"]
    assert found["colours"] == ["stroke_synthesis_3_colours/sdedit", "stroke_synthesis/sdedit"]
    assert [row["model"] for row in numbers["ablations"]["sde"]] == ["ckpt", "compare"] * 2
    sde = [row["squared_l2"] for row in numbers["ablations"]["sde"]]
    assert sde[0] == sde[1] and sde[2] == sde[3] != sde[0], "a copy of the model makes the same edits"
    # the report refers to nothing outside
    page = Path("o/report.html").read_text()
    sources = Sources(page).found
    assert all(source.startswith(("data:image/png;base64,", "#section-")) for source in sources)
    assert sum(source.startswith("data:") for source in sources) == 3 + 2 * 3 == len(list(Path("o/figures").iterdir()))
    linked = re.findall(r"\]\((.*?)\)", Path("o/report.md").read_text())
    assert len(linked) == 9 and all(Path("o", link).is_file() for link in linked)
    assert "needs images of at least 32 px" in page
    assert len(images_in("o/images/compositing/poisson")) == COUNT


def test_an_interrupted_evaluation_is_completed(
    evaluated, first, command, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    Path("o").rename("whole")
    make, made = ImageMaker.make_batch, []

    def interrupted(self: ImageMaker, *given: Any) -> None:
        if len(made) == 3:
            raise OSError(28, "No space left on device", "o/images")
        made.append(given)
        make(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(ImageMaker, "make_batch", interrupted)
        code, _, errors = command(*SMALL, "batch=2")
    assert code == 2 and "error: o/images: No space left on device; the disk is full" in errors.splitlines()[-1]
    before = {path: path.stat().st_mtime_ns for path in Path("o/images").rglob("*.png")}
    assert sum(path.parent.name in ("sdedit", "ddim") for path in before) == 6
    assert not Path("o/report.html").exists()
    # the batch size may change
    assert evaluated(*SMALL, "batch=3") == first
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert images_in("o/images") == images_in("whole/images")
    assert "already there" not in caplog.text
    assert evaluated(*SMALL) == first and "the images were already there" in caplog.text


def test_tasks_and_ablations_can_be_added_and_left_out(evaluated, first) -> None:
    before = images_in("o/images")
    more = evaluated(
        *SMALL, "baselines=[]", "tasks=[stroke_synthesis,stroke_editing]", "ablations=[t0]", "ablation.t0=[0.4]"
    )
    assert more["tasks"]["stroke_synthesis"]["sdedit"] == first["tasks"]["stroke_synthesis"]["sdedit"]
    assert before.items() < images_in("o/images").items()
    assert evaluated(*SMALL) == first


def test_changed_settings_are_refused_unless_overwriting(evaluated, first, refused, photos: Path) -> None:
    message = refused(*SMALL, "t0=0.4")
    assert "o was made with other settings: stroke_synthesis/sdedit was SDEditMethod(edit=SDEdit(t0=0.5" in message
    assert "is SDEditMethod(edit=SDEdit(t0=0.4" in message and "overwrite=true" in message
    assert "stroke_synthesis/guide was StrokeSynthesis(colours=6), seed=0" in refused(*SMALL, "seed=1")
    assert "images was 7 with names" in refused(*SMALL, "images=6")
    mine = Path("o/images/mine/000000.png")
    mine.parent.mkdir()
    mine.write_text("mine")
    with Path("o/report.md").open("a") as report:
        report.write("my words")
    assert "o holds report.md: not written by this program, changed since" in refused(*SMALL, "overwrite=true")
    Path("o/report.md").rename("mine.md")
    with claimed(Path("o")):
        assert "is writing o; wait until it ends" in refused(*SMALL, "overwrite=true")
    second = evaluated(*SMALL, "baselines=[]", "t0=0.4", "overwrite=true")
    assert mine.read_text() == "mine"
    assert second["tasks"]["stroke_synthesis"]["sdedit"] != first["tasks"]["stroke_synthesis"]["sdedit"]
    # another image with the same name
    shutil.copy(photos / "1.png", photos / "0.png")
    message = refused(*SMALL, "baselines=[]", "t0=0.4")
    assert "0.png has changed: it is not the image that this evaluation started with" in message
    Path("o/evaluation.json").write_text("{")
    assert "o/evaluation.json cannot be read as a record" in refused(*SMALL)


def test_overwriting_chooses_the_nearest_samples_again(evaluated) -> None:
    nearest = (*SMALL, "baselines=[nearest_sample]")
    first = evaluated(*nearest)
    again = evaluated(*nearest, "seed=1", "overwrite=true")["tasks"]
    assert again != first["tasks"] and again == evaluated(*nearest, "seed=1", "out=new")["tasks"]


def test_outputs_of_other_systems_get_columns(evaluated, first, refused) -> None:
    Path("theirs").mkdir()
    for number in range(COUNT):
        guide = Image.open(f"o/images/stroke_synthesis/guide/{number:06d}.png")
        guide.save(f"theirs/{number:06d}.webp", lossless=True)
    shutil.copytree("o/images/stroke_synthesis/sdedit", "ours/stroke_synthesis")
    tables = evaluated(*SMALL, "outputs.theirs=theirs", "outputs.ours=ours")["tasks"]["stroke_synthesis"]
    assert list(tables) == ["guide", "sdedit", "ddim", "theirs", "ours"]
    assert tables["theirs"] == tables["guide"] and tables["ours"] == tables["sdedit"]

    Image.open("wide.png").save("theirs/000003.webp")
    assert "theirs/000003.webp is 20x12, expected 16x16" in refused(*SMALL, "outputs.theirs=theirs")
    os.rename("theirs/000003.webp", "theirs/extra.webp")
    message = refused(*SMALL, "outputs.theirs=theirs")
    assert "outputs.theirs: the images in theirs do not pair up with the 7 inputs" in message
    assert "missing 000003.png; without an input extra.webp" in message
    shutil.copy("theirs/000001.webp", "theirs/000001.png")
    assert "holds 000001.png and 000001.webp" in refused(*SMALL, "outputs.theirs=theirs")
    both = (*SMALL, "tasks=[stroke_synthesis,stroke_editing]", "outputs.theirs=theirs")
    assert "must hold a folder for each task with outputs (stroke_synthesis, stroke_editing)" in refused(*both)


def test_images_of_one_group_do_not_count_as_independent(evaluated, first, refused) -> None:
    Path("groups.csv").write_text("".join(f"{number}.png,{number // 2}\n" for number in range(COUNT)))
    numbers = evaluated(*SMALL, "groups=groups.csv")
    assert numbers["images"]["groups"] == 4
    other = first["tasks"]["stroke_synthesis"]["sdedit"]
    grouped = numbers["tasks"]["stroke_synthesis"]["sdedit"]
    assert grouped["kid"] != other["kid"] and grouped["fid"] == other["fid"]
    everything = [argument for argument in EVALUATE if argument != "out=o"]
    message = refused(*everything, "out=q", "groups=groups.csv")
    assert "at least 3 pairs of groups that are pasted on each other, and the 7 images have 2" in message
    Path("groups.csv").write_text("0,a\n1\n")
    assert "must hold lines `name,group`; line 2 does not" in refused(*SMALL, "out=q", "groups=groups.csv")
    Path("groups.csv").write_text("x/0.png,a\ny/0.jpg,b\n")
    assert "has two groups for 0, a and b" in refused(*SMALL, "out=q", "groups=groups.csv")
    Path("groups.csv").write_text("\ufeff0,a\n1,b\n")
    assert "no group for 5 of 7 images, the first is 2" in refused(*SMALL, "out=q", "groups=groups.csv")


BAD = {
    "images=5": ("images must be at least 6, got 5",),
    "kid_subset=8": ("kid_subset needs at least 8 images, got 7", "a smaller kid_subset"),
    "tasks=[painting]": ("tasks must be some of stroke_synthesis, stroke_editing, compositing, got 'painting'",),
    "baselines=[ddim,ddim]": ("baselines names an entry twice: ddim, ddim",),
    "ablations=[sde]": ("compare=CHECKPOINT and ablations=[sde] need each other",),
    "compare=tiny.safetensors": ("compare=CHECKPOINT and ablations=[sde] need each other",),
    "ablation.t0=[0.5,1.5]": ("ablation: t0 must lie in (0, 1], got 1.5",),
    "ablation.t0=[0.5,0.5]": ("ablation: t0 holds a value twice",),
    "ablation.colours=[1]": ("ablation: a stroke painting has 2 to 256 colours, got 1",),
    "ablation.solver=[]": ("ablation: solver needs at least one value",),
    "ablation.solver=[magic]": ("ablation: solver must be one of ancestral", "'magic'"),
    "ablation.stesp=[3]": ("unknown key ablation.stesp; did you mean ablation.steps?",),
    "tasks=[]": ("there is nothing to evaluate",),
    "t0=sigma:1e9": ("noise levels above", "sigma:1e9"),
    "steps=1": ("stroke_synthesis/ddim: DDIM encoding needs at least 2 steps, got 1",),
    "outputs.SDEdit=photos": ("outputs.SDEdit: another system needs a name",),
    "outputs.original=photos": ("outputs.original: another system needs a name",),
    "outputs.other=nowhere": ("outputs.other=nowhere is not a folder",),
    "groups=missing.csv": ("groups=missing.csv cannot be read",),
    "data=nowhere": ("no data=nowhere",),
    "ckpt=text.png": ("text.png",),
    "out=guide.png": ("out=guide.png is a file",),
    "out=elsewhere": ("elsewhere already holds files, but no evaluation",),
    "out=guide.png/below": ("out=guide.png/below cannot be written",),
    "devices=999": ("devices=999, but this machine has room for",),
    "accelerator=quantum": ("accelerator=quantum devices=1:",),
    "accelerator=tpu": ("accelerator=tpu devices=1:", "torch_xla"),
    "features.name=file": ("features.path is required",),
}


@pytest.mark.parametrize("argument", BAD)
def test_bad_arguments_are_refused(argument: str, photos: Path, refused) -> None:
    message = refused(*SMALL, argument)
    assert all(words in message for words in BAD[argument]), message
    assert "split=all" not in message  # which is given


def test_a_missing_package_is_named_before_editing(photos: Path, refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert refused(*SMALL) == "the report needs matplotlib; pip install 'sdedit-pl[evaluation]'"


def test_an_unreadable_image_is_an_error(photos: Path, command) -> None:
    (photos / "3.png").write_text("text")
    code, _, errors = command(*SMALL)
    assert (code, errors) == (2, "error: cannot read image photos/3.png: it is not an image\n")
    assert len(images_in("o/images")) < COUNT and not Path("o/report.html").exists()


def test_models_of_other_sizes_cannot_be_compared(photos: Path, refused) -> None:
    checkpoint = Path(__file__).parents[2] / "checkpoints" / "portraits64.safetensors"
    message = refused(*SMALL, f"compare={checkpoint}", "ablations=[sde]")
    assert "images of one size, got 3 channels, 16 px and 3 channels, 64 px" in message


def test_without_lpips_weights_everything_else_is_reported(
    evaluated, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(self: MaskedLPIPS, network: str, weights: str | None) -> None:
        raise WeightsUnavailable("the weights of alex cannot be fetched")

    monkeypatch.setattr(MaskedLPIPS, "__init__", unavailable)
    monkeypatch.setattr("sdedit_pl.evaluation.run_evaluation.SMALLEST", 16)
    numbers = evaluated(*SMALL, "tasks=[stroke_editing]", "baselines=[]")
    assert numbers["notes"] == ["There is no masked LPIPS: the weights of alex cannot be fetched."]
    assert "masked_lpips" not in numbers["tasks"]["stroke_editing"]["sdedit"]
    assert "the weights of alex cannot be fetched" in Path("o/report.html").read_text()


@pytest.mark.usefixtures("offline_wandb")
def test_the_report_goes_to_wandb_as_tables_and_images(evaluated, first) -> None:
    import wandb

    evaluated(*SMALL, "wandb=paintings")
    wandb.teardown()
    (run,) = Path("o/wandb").glob("offline-run-*")
    assert list(run.glob("files/media/images/figures/stroke_synthesis_*.png"))
    assert list(run.glob("files/media/table/tables/*.table.json"))


def test_a_refusal_of_wandb_does_not_lose_the_report(command, first, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb
    from wandb.errors import CommError

    def refusing(**_: Any) -> None:
        raise CommError("entity nobody not found\nmore")

    monkeypatch.setattr(wandb, "init", refusing)
    Path("o/report.html").unlink()
    code, _, errors = command(*SMALL, "wandb=paintings")
    expected = (
        "error: the report is in o/report.html, but not in wandb=paintings (entity nobody not found); log in with"
    )
    assert code == 2 and errors.splitlines()[-1].startswith(expected)
    assert Path("o/report.html").is_file()


@pytest.mark.parametrize("option", ["precision=bfloat16", "compile=true"])
def test_other_arithmetic_is_refused_unless_overwriting(
    evaluated, first, refused, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    exact = first["tasks"]["stroke_synthesis"]["sdedit"]
    made_by = f"model={fingerprint(find_checkpoint('tiny.safetensors'))}, {option}"
    assert made_by.lower() in refused(*SMALL, option).lower()
    other = evaluated(*SMALL, "baselines=[]", option, "overwrite=true")["tasks"]["stroke_synthesis"]["sdedit"]
    assert len(compiled) == (option == "compile=true")
    # the rounding to 8 bits is far below this tolerance
    assert other["squared_l2"] == pytest.approx(exact["squared_l2"], rel=0.05)
    assert option == "compile=true" or other != exact


@pytest.mark.slow
def test_two_processes_give_the_report_of_one(photos: Path) -> None:
    reports = []
    for devices in (1, 2):
        options = ("features=efficientnet_lite0", f"devices={devices}", f"out=o{devices}", "batch=2")
        command = [sys.executable, "-m", "sdedit_pl", *SMALL, *options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        root = str(Path(__file__).parents[2])
        ended = subprocess.run(
            command, env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}, capture_output=True, timeout=300
        )
        assert ended.returncode == 0, ended.stderr
        reports.append(Path(f"o{devices}"))
        assert ended.stdout.decode().count("the report:") == 1
    one, two = reports
    for name in ("metrics.json", "report.md", "report.html"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert images_in("o1/images") == images_in("o2/images")
