"""The README and the docs are true: their commands name real keys, files and targets, and the README's Python runs."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from sdedit_pl.cli import module_of
from sdedit_pl.cli.edit import COMMAND as EDITING
from sdedit_pl.configuration.bundled_configs import find_config
from sdedit_pl.configuration.command_line import read_arguments
from sdedit_pl.configuration.resolving import merge, resolve
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.configuration.yaml_reading import read_file
from sdedit_pl.edit_runs.edit_plan import build_edits
from sdedit_pl.grids import GRIDS
from sdedit_pl.solvers import SOLVERS

ROOT = Path(__file__).parent.parent
PAGES = {page: page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
TEXT = "\n".join(PAGES.values())
BLOCKS = re.findall(r"```([\w{}-]*)\n(.*?)```", TEXT, re.DOTALL)
SNIPPETS = [body for language, body in BLOCKS if language == "python"]
COMMANDS = [
    shlex.split(line, comments=True)
    for line in [
        *(line for language, body in BLOCKS if language == "" for line in body.replace("\\\n", " ").splitlines()),
        *re.findall(r"`(python (?:train|edit)\.py [^`]*=[^`]*)`", TEXT),
    ]
    if line.strip()
]
VERB_COMMANDS = [
    words[words.index("sdedit_pl") + 1 :] if words[0] == "python" else words[1:]
    for words in COMMANDS
    if words[:3] == ["python", "-m", "sdedit_pl"] or (words[0] == "sdedit" and words[1] not in ("train", "edit"))
]


def named(program: str) -> list[list[str]]:
    """The arguments of the commands that run `program`."""
    return [words[2:] for words in COMMANDS if words[:2] == ["python", program]]


def test_the_readme_is_short() -> None:
    assert len(PAGES[ROOT / "README.md"].splitlines()) < 120


def test_the_readme_has_commands_of_every_kind() -> None:
    assert len(named("train.py")) >= 3 and len(named("edit.py")) >= 3 and len(SNIPPETS) >= 2


@pytest.mark.parametrize("arguments", named("train.py"), ids=" ".join)
def test_training_commands_resolve(arguments: list[str]) -> None:
    given, typed = read_arguments(TrainingConfig, arguments)
    base = read_file(find_config(given.pop("config")))
    config = resolve(TrainingConfig, merge(TrainingConfig, base, given), typed)
    assert config.out.startswith("runs/")


@pytest.mark.parametrize("arguments", named("edit.py"), ids=" ".join)
def test_editing_commands_resolve_and_name_files_that_are_there(arguments: list[str]) -> None:
    if any(word.startswith("config=") for word in arguments):
        return
    parsed = EDITING.parse(arguments)
    build_edits(parsed)
    paths = [parsed.ckpt, parsed.guide, parsed.mask]
    for path in paths:
        if path is not None and path.startswith(("checkpoints/", "data/")):
            assert (ROOT / path).is_file()


@pytest.mark.parametrize("words", VERB_COMMANDS, ids=" ".join)
def test_commands_of_other_verbs_parse(words: list[str]) -> None:
    module = import_module(module_of(words[0]))
    commands = getattr(module, "COMMANDS", {})
    command, arguments = (commands[words[1]], words[2:]) if commands else (module.COMMAND, words[1:])
    command.parse(arguments)


@pytest.mark.slow
def test_the_site_is_built_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'id="sdedit_pl.SDEdit"' in (tmp_path / "api.html").read_text(encoding="utf-8")
    tutorials = {page.stem for page in PAGES if page.parent.name == "docs"}
    assert tutorials <= {page.stem for page in tmp_path.glob("*.html")}


def test_make_targets_are_there() -> None:
    targets = re.findall(r"^(\w+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    used = [words[1] for words in COMMANDS if words[0] == "make"]
    assert used and set(used) <= set(targets)


def test_relative_links_and_pictures_are_there() -> None:
    links = [(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\(((?!https?:)[^)#]+)\)", text)]
    assert links
    assert not [(page.name, link) for page, link in links if not (page.parent / link).exists()]


def test_the_python_example_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    guide = torch.zeros(1, 3, 64, 64)
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., :32, :] = True
    snippet = next(body for body in SNIPPETS if "load_denoiser" in body)
    names: dict[str, object] = {"guide": guide, "mask": mask}
    exec(compile(snippet.replace("t0=0.5", "t0=0.5, steps=3"), "README.md", "exec"), names)
    images = names["images"]
    assert isinstance(images, torch.Tensor) and images.shape == (2, 3, 64, 64)
    assert torch.equal(images[:, :, 32:], guide[:, :, 32:].expand(2, -1, -1, -1))
    assert not torch.equal(images[0], images[1])


def test_the_example_of_a_new_solver_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOLVERS, "jump", SOLVERS["ancestral"])  # so that it is removed afterwards
    names: dict[str, object] = {"__name__": "readme_example"}
    snippet = next(body for body in SNIPPETS if 'SOLVERS["jump"]' in body)
    exec(compile(snippet, "README.md", "exec"), names)
    from sdedit_pl import SDEdit, load_denoiser

    denoiser = load_denoiser("portraits64")
    edited = SDEdit(t0=0.5, steps=2, solver=SOLVERS["jump"](), grid=GRIDS["log_snr"]())(
        denoiser, torch.zeros(1, 3, 64, 64), seeds=[0]
    )
    assert torch.isfinite(edited).all()


def test_the_notebook_of_the_first_domain_runs_from_images_to_edits(tmp_path: Path, monkeypatch) -> None:
    notebook = json.loads((ROOT / "notebooks/first_domain.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    monkeypatch.chdir(ROOT / "notebooks")
    training = ["trainer.max_steps=2", "trainer.accelerator=cpu", "trainer.limit_val_batches=1", "data.batch_size=2"]
    training += ["data.workers=0", "preview.count=1", "preview.steps=2", "validation.memory_images=0"]
    files = {name: tmp_path / name for name in ("photos", "run", "outputs")}
    shown, names = [], {}
    exec(cells[0], names)
    names |= {**files, "shards": 1, "steps": 2, "training": training}
    for cell in cells[1:]:
        *body, last = ast.parse(cell).body  # the last line is the picture that a notebook shows
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    examples, trained, preview, before, after = shown
    assert trained == 0 and examples.size == (512, 64) and len(set(examples.tobytes())) > 99
    assert preview.height > 64 and before.size == after.size
    recorded = (tmp_path / "outputs/after/edit.yaml").read_text(encoding="utf-8")
    assert f"ckpt: {files['run']}" in recorded
