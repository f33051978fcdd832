"""This project's training checkpoints: Lightning's `.ckpt`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sdedit_pl.checkpoints.importers.checkpoint_format import CheckpointFormat, Imported, origin_of
from sdedit_pl.checkpoints.safe_reading import CheckpointError, read_plain, tensor_names_in
from sdedit_pl.configuration import ConfigError
from sdedit_pl.configuration.model_config import model_of_run

CONFIG_KEY = "sdedit_config"
NETWORK_PREFIX = "denoiser.network."
STATES = {"ema": "state_dict", "raw": "current_model_state"}
"""Kind of weights -> key of Lightning's averaging callback."""


class LightningFormat(CheckpointFormat):
    def recognises(self, path: Path) -> bool:
        return CONFIG_KEY in tensor_names_in(path)

    def _read(self, path: Path, weights: str, preset: str | None, config: Mapping[str, Any] | None) -> Imported:
        if preset is not None or config is not None:
            raise CheckpointError(f"{path} carries its own configuration: leave preset and config out")
        facts = read_plain(path)
        facts = facts if isinstance(facts, dict) else {}
        run, state = facts.get(CONFIG_KEY), facts.get(STATES[weights])
        if not isinstance(run, dict) or not isinstance(state, dict):
            raise CheckpointError(
                f"{path} is not a complete checkpoint of this project's training: it lacks {CONFIG_KEY} or "
                f"{STATES[weights]}; use another checkpoint of the run"
            )
        try:
            model = model_of_run(run)
        except (ConfigError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"the configuration in {path} cannot be read ({error}); use another checkpoint of the run"
            ) from error
        used = {
            name.removeprefix(NETWORK_PREFIX): (name,)
            for name, tensor in state.items()
            if isinstance(tensor, Tensor) and str(name).startswith(NETWORK_PREFIX)
        }
        others = {name: "not a tensor of the network" for name in state.keys() - {name for (name,) in used.values()}}
        return Imported(
            model=model,
            weights={ours: state[name] for ours, (name,) in used.items()},
            origin=origin_of(
                path,
                "lightning",
                weights=weights,
                training={"steps": facts.get("global_step"), "config": run},
            ),
            used=used,
            ignored=others,
        )
