"""Fixtures that the whole suite shares."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from support import annotations
from support.hub_server import HubServer
from support.shard_server import ShardServer

os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks of 8 px are slower on several threads, in every process
jaxtyping.jaxtyped = annotations.jaxtyped


def pytest_collection_finish() -> None:
    """Exempts the libraries' millions of objects from garbage collection, which takes half a second with them."""
    gc.freeze()


def pytest_runtest_setup() -> None:
    annotations.calls.clear()


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of the parity data: inputs and outputs of the published implementations."""
    return Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An editing checkpoint of a small NCSN++ for 16 px, none of whose weights is zero; not to be changed."""
    # Imported here, because the hook that checks annotations is not installed yet when this file is read.
    from support.denoisers import random_denoiser

    from sdedit_pl import save_denoiser
    from sdedit_pl.configuration.resolving import resolve
    from sdedit_pl.configuration.training_config import TrainingConfig

    shape = {"channels": 8, "channel_multipliers": [1, 2], "blocks_per_level": 1, "attention_levels": [1]}
    model = resolve(TrainingConfig, {"data": {"path": "unused", "size": 16}, "network": shape}).model
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.safetensors"
    save_denoiser(path, random_denoiser(model, 0.03), model, {"steps": 7000, "images_seen": 28})
    return path


@pytest.fixture
def shard_server(tmp_path: Path) -> Iterator[ShardServer]:
    """Serves the folder `served` of the test."""
    folder = tmp_path / "served"
    folder.mkdir(exist_ok=True)
    server = ShardServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats downloads at once."""
    monkeypatch.setattr("sdedit_pl.downloads.PAUSE", 0.0)


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The Hub, empty, for a client with an empty cache and no token."""
    from huggingface_hub import constants

    from sdedit_pl.checkpoints import hub

    server = HubServer()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub.fetched_repository.cache_clear()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def offline_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B in offline mode, with caches in the test's folder and without prompts."""
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_ENTITY", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))
    yield
    wandb.teardown()
