"""Artifacts of Weights & Biases, without its server: the folder that its client keeps, and a scripted client."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from sdedit_pl.checkpoints import CheckpointError, describe, remote
from sdedit_pl.checkpoints.remote import local_checkpoint
from sdedit_pl.cli import main


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of artifacts, empty, of a client that is offline."""
    monkeypatch.setenv("WANDB_ARTIFACT_DIR", str(tmp_path / "artifacts"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    remote._fetched.cache_clear()
    return tmp_path / "artifacts"


def put(checkpoint: Path, folder: Path, name: str = "model.safetensors") -> Path:
    """An artifact's folder with a checkpoint in it."""
    folder.mkdir(parents=True)
    shutil.copy(checkpoint, folder / name)
    return folder / name


class ScriptedClient:
    """What this package uses of wandb's Api: artifact names to versions, of which each holds one file."""

    def __init__(self, checkpoint: Path, versions: dict[str, str]) -> None:
        self.checkpoint = checkpoint
        self.versions = versions
        self.asked: list[str] = []

    def __call__(self, timeout: int) -> ScriptedClient:
        return self

    def artifact(self, name: str) -> SimpleNamespace:
        self.asked.append(name)
        if name not in self.versions:
            raise ValueError(f"artifact {name} not found\nmore")
        return SimpleNamespace(version=self.versions[name], download=self.download)

    def download(self, root: str) -> str:
        put(self.checkpoint, Path(root))
        return root


@pytest.fixture
def client(root: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedClient:
    """A client that is online and knows an artifact."""
    scripted = ScriptedClient(tiny_checkpoint, {"me/faces/net:latest": "v3", "me/faces/net:v2": "v2"})
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("wandb.Api", scripted)
    return scripted


@pytest.mark.parametrize("folder", ["me/faces/net:v2", "net:v2"], ids=["ours", "of wandb artifact get"])
def test_an_artifact_on_this_machine(folder: str, root: Path, tiny_checkpoint: Path) -> None:
    file = put(tiny_checkpoint, root / folder)
    assert local_checkpoint("wandb:me/faces/net:v2") == file
    assert describe("wandb:me/faces/net:v2").path == file


def test_every_verb_takes_an_artifact(root: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tiny_checkpoint, root / "me/faces/net:best")
    assert main(["info", "ckpt=wandb:me/faces/net:best"]) == 0
    assert "ncsnpp" in capsys.readouterr().out


def test_the_only_file_counts_whatever_its_name_and_a_folder_of_several_is_a_run(
    root: Path, tiny_checkpoint: Path
) -> None:
    file = put(tiny_checkpoint, root / "me/a/net:v0", "epoch=1.safetensors")
    assert local_checkpoint("wandb:me/a/net:v0") == file
    folder = put(tiny_checkpoint, root / "me/b/net:v0").parent
    (folder / "config.yaml").touch()
    assert local_checkpoint("wandb:me/b/net:v0") == folder
    assert describe("wandb:me/b/net:v0").path == folder / "model.safetensors"


def test_an_alias_is_asked_for_and_its_version_kept(client: ScriptedClient, root: Path) -> None:
    file = local_checkpoint("wandb:me/faces/net:latest")
    assert file == root / "me/faces/net:v3/model.safetensors" and file.is_file()
    assert local_checkpoint("wandb:me/faces/net:latest") == file
    assert client.asked == ["me/faces/net:latest"], "within a command an alias stays what it was"
    remote._fetched.cache_clear()
    local_checkpoint("wandb:me/faces/net:v3")
    assert len(client.asked) == 1, "a version that is here is not asked for"
    assert [path.name for path in (root / "me/faces").iterdir()] == ["net:v3"]


def test_an_artifact_of_the_same_name_elsewhere_is_not_taken_while_there_is_a_network(
    client: ScriptedClient, root: Path, tiny_checkpoint: Path
) -> None:
    put(tiny_checkpoint, root / "net:v2", "of_another_project.safetensors")
    assert local_checkpoint("wandb:me/faces/net:v2") == root / "me/faces/net:v2/model.safetensors"


def test_what_is_not_to_be_had(client: ScriptedClient, root: Path, tiny_checkpoint: Path) -> None:
    put(tiny_checkpoint, root / "me/faces/net:v1")
    with pytest.raises(
        CheckpointError,
        match=r"wandb:me/faces/net:best cannot be fetched \(artifact me/faces/net:best not found\) and is not in "
        r".*artifacts; its versions v1 are; log in with `wandb login`",
    ):
        local_checkpoint("wandb:me/faces/net:best")


def test_offline_nothing_is_asked(client: ScriptedClient, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(CheckpointError, match=r"cannot be fetched \(WANDB_MODE=offline\).*put its files into"):
        local_checkpoint("wandb:me/faces/net:latest")
    assert client.asked == []


def test_an_empty_folder_is_no_artifact(root: Path) -> None:
    (root / "me/faces/net:v2").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="is empty; remove it to fetch the artifact again"):
        local_checkpoint("wandb:me/faces/net:v2")


@pytest.mark.parametrize("name", ["wandb:net:v2", "wandb:faces/net:v2", "wandb:me/faces/net", "wandb:me/../net:v2"])
def test_names_that_are_none(name: str, root: Path) -> None:
    with pytest.raises(CheckpointError, match="is wandb:entity/project/name:alias, got 'wandb:"):
        local_checkpoint(name)


def test_a_path_stays_a_path(tmp_path: Path) -> None:
    assert local_checkpoint("some/where.safetensors") == Path("some/where.safetensors")
    assert local_checkpoint(tmp_path) == tmp_path
