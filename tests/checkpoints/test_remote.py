"""Checkpoints by address, from a server on this machine, and artifacts of W&B, with a scripted client."""

from __future__ import annotations

import hashlib
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.shard_server import ShardServer

from sdedit_pl.checkpoints import CheckpointError, describe, load_denoiser, remote
from sdedit_pl.checkpoints.remote import local_checkpoint
from sdedit_pl.cli import main

CONTENT = bytes(range(256)) * 64
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of artifacts, empty, of a client that is offline."""
    monkeypatch.setenv("WANDB_ARTIFACT_DIR", str(tmp_path / "artifacts"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    remote._fetched_artifact.cache_clear()
    return tmp_path / "artifacts"


@pytest.fixture
def server(
    shard_server: ShardServer, without_pauses: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ShardServer:
    """A server of model.pth, and an empty cache."""
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path / "cache"))
    remote._fetched_address.cache_clear()
    (shard_server.folder / "model.pth").write_bytes(CONTENT)
    return shard_server


def put(checkpoint: Path, folder: Path, name: str = "model.safetensors") -> Path:
    """An artifact's folder with a checkpoint in it."""
    folder.mkdir(parents=True)
    shutil.copy(checkpoint, folder / name)
    return folder / name


class ScriptedClient:
    """The part of wandb's Api that the package uses: names of artifacts -> versions of one file each."""

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


def test_an_alias_is_resolved_and_its_version_kept(client: ScriptedClient, root: Path) -> None:
    file = local_checkpoint("wandb:me/faces/net:latest")
    assert file == root / "me/faces/net:v3/model.safetensors" and file.is_file()
    assert local_checkpoint("wandb:me/faces/net:latest") == file
    assert client.asked == ["me/faces/net:latest"], "within a command an alias stays what it was"
    remote._fetched_artifact.cache_clear()
    local_checkpoint("wandb:me/faces/net:v3")
    assert len(client.asked) == 1, "a version that is here is not asked for"
    assert [path.name for path in (root / "me/faces").iterdir()] == ["net:v3"]


def test_an_artifact_of_the_same_name_elsewhere_is_not_taken_while_there_is_a_network(
    client: ScriptedClient, root: Path, tiny_checkpoint: Path
) -> None:
    put(tiny_checkpoint, root / "net:v2", "of_another_project.safetensors")
    assert local_checkpoint("wandb:me/faces/net:v2") == root / "me/faces/net:v2/model.safetensors"


def test_an_absent_artifact(client: ScriptedClient, root: Path, tiny_checkpoint: Path) -> None:
    put(tiny_checkpoint, root / "me/faces/net:v1")
    with pytest.raises(
        CheckpointError,
        match=r"wandb:me/faces/net:best cannot be fetched .*which holds its versions v1; log in with `wandb login`",
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
def test_malformed_artifacts(name: str, root: Path) -> None:
    with pytest.raises(CheckpointError, match="is wandb:entity/project/name:alias, got 'wandb:"):
        local_checkpoint(name)


def test_a_path_stays_a_path(tmp_path: Path) -> None:
    assert local_checkpoint("some/where.safetensors") == Path("some/where.safetensors")
    assert local_checkpoint(tmp_path) == tmp_path


class TestAddress:
    def test_a_file_is_downloaded_once_and_its_hash_remembered(self, server: ShardServer) -> None:
        file = local_checkpoint(f"{server.url}/model.pth?key=secret#sha256={SHA256.upper()}")
        assert file.read_bytes() == CONTENT and file.name == "model.pth"
        remote._fetched_address.cache_clear()
        assert local_checkpoint(f"{server.url}/model.pth?key=secret") == file
        assert len(server.fetched()) == 1

    def test_a_new_address_needs_a_hash(self, server: ShardServer) -> None:
        with pytest.raises(CheckpointError, match=r"model.pth has not been fetched before.*add #sha256=") as raised:
            local_checkpoint(f"{server.url}/model.pth?key=secret")
        assert server.requests == [] and "secret" not in str(raised.value)

    def test_a_wrong_file_is_removed_and_its_hash_not_remembered(self, server: ShardServer, tmp_path: Path) -> None:
        wrong = "0" * 64
        with pytest.raises(CheckpointError, match=rf"its sha256 is {SHA256}, expected {wrong}; it was removed"):
            local_checkpoint(f"{server.url}/model.pth#sha256={wrong}")
        assert not list(tmp_path.rglob("cache/**/model.pth"))
        with pytest.raises(CheckpointError, match="has not been fetched before"):
            local_checkpoint(f"{server.url}/model.pth")

    def test_a_file_damaged_in_the_cache_is_downloaded_again(self, server: ShardServer) -> None:
        address = f"{server.url}/model.pth#sha256={SHA256}"
        local_checkpoint(address).write_bytes(CONTENT[:-1])
        remote._fetched_address.cache_clear()
        assert local_checkpoint(address).read_bytes() == CONTENT and len(server.fetched()) == 2

    def test_an_interrupted_download_leaves_nothing(self, server: ShardServer, tmp_path: Path) -> None:
        address = f"{server.url}/model.pth#sha256={SHA256}"
        server.breaks = 3
        with pytest.raises(CheckpointError, match=r"cannot be fetched .*3 times"):
            local_checkpoint(address)
        assert not list(tmp_path.rglob("cache/**/model.pth"))
        assert local_checkpoint(address).read_bytes() == CONTENT

    def test_an_absent_file_and_no_network(self, server: ShardServer) -> None:
        with pytest.raises(CheckpointError, match=r"absent.pth cannot be fetched \(there is no such file\)") as raised:
            local_checkpoint(f"{server.url}/absent.pth?key=secret#sha256={SHA256}")
        assert "secret" not in str(raised.value)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        with pytest.raises(CheckpointError, match="copy the file here by other means"):
            local_checkpoint(f"http://127.0.0.1:{port}/model.pth#sha256={SHA256}")

    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("http://example.org/model.pth", "over https, got http://example.org/model.pth"),
            ("https:///model.pth", "over https"),
            ("https://example.org/model.pth#sha256=12", "#sha256=<64 hexadecimal digits>, got #sha256=12"),
            ("https://example.org/model.pth#md5=12", "got #md5=12"),
        ],
    )
    def test_malformed_addresses(self, address: str, message: str, server: ShardServer) -> None:
        with pytest.raises(CheckpointError, match=message):
            local_checkpoint(address)

    def test_names_cannot_leave_the_cache(self, server: ShardServer, tmp_path: Path) -> None:
        (server.folder / "%2e%2e%2fmodel.pth").write_bytes(CONTENT)
        file = local_checkpoint(f"{server.url}/%2e%2e%2fmodel.pth#sha256={SHA256}")
        assert file.parent.parent == tmp_path / "cache"

    def test_every_verb_takes_an_address(
        self, server: ShardServer, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        content = tiny_checkpoint.read_bytes()
        (server.folder / "model.safetensors").write_bytes(content)
        address = f"{server.url}/model.safetensors#sha256={hashlib.sha256(content).hexdigest()}"
        assert describe(address).parameters == describe(tiny_checkpoint).parameters
        assert load_denoiser(address).sde == load_denoiser(tiny_checkpoint).sde
        assert main(["info", f"ckpt={address}"]) == 0 and "ncsnpp" in capsys.readouterr().out
        assert main(["info", f"ckpt={server.url}/other.safetensors"]) == 2
        assert "has not been fetched before" in capsys.readouterr().err
        assert len(server.fetched()) == 1
