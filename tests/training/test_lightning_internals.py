"""Private attributes of Lightning: used in one file only, and still there."""

from __future__ import annotations

import ast
import logging
import warnings
from datetime import timedelta
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import WeightAveraging
from support.one_weight import OneWeight, quiet_trainer

import sdedit_pl
from sdedit_pl.training.lightning_internals import (
    AccessibleWeightAveraging,
    configure_ddp,
    ignore_signals,
    without_notices,
)

PACKAGE = Path(sdedit_pl.__file__).parent
INTERNALS = PACKAGE / "training" / "lightning_internals.py"
USERS = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != INTERNALS and "lightning" in path.read_text(encoding="utf-8")
]
LOOPS = {"fit_loop", "epoch_loop", "val_loop", "validate_loop", "batch_progress"}


def foreign_private_attributes(tree: ast.Module) -> list[str]:
    """Private attributes that the module uses without defining them, and attributes for Lightning's loops."""
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in attributes:
        if isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            defined.add(node.attr)

    def is_foreign(node: ast.Attribute) -> bool:
        private = node.attr.startswith("_") and not node.attr.startswith("__") and node.attr not in defined
        return node.attr in LOOPS or (private and ast.unparse(node.value) != "torch")

    return sorted(ast.unparse(node) for node in attributes if is_foreign(node))


@pytest.mark.parametrize("path", USERS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_one_file_uses_private_attributes_of_lightning(path: Path) -> None:
    assert foreign_private_attributes(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_private_attributes_are_found() -> None:
    source = "def f(self, trainer):\n self._own = 1\n return self._own, self._other, trainer._secret, trainer.fit_loop"
    assert foreign_private_attributes(ast.parse(source)) == ["self._other", "trainer._secret", "trainer.fit_loop"]


def test_the_methods_that_are_replaced_exist() -> None:
    trainer = quiet_trainer(1, [])
    replaced = [
        (trainer._signal_connector, "register_signal_handlers"),
        (trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor"),
    ]
    assert all(callable(getattr(owner, name)) and name not in vars(owner) for owner, name in replaced)
    ignore_signals(trainer)
    assert all(name in vars(owner) for owner, name in replaced)
    assert callable(WeightAveraging._swap_models)


def test_the_count_of_updates_stays_on_the_cpu() -> None:
    averaging = AccessibleWeightAveraging()
    module = OneWeight()
    module._device = torch.device("meta")  # as the trainer does before it calls `setup`
    averaging.setup(quiet_trainer(1, []), module, "fit")
    averaging.updates = 3
    assert averaging.average is not None and {weight.device.type for weight in averaging.average.parameters()} == {
        "meta"
    }
    assert averaging.updates == 3


def test_notices_and_one_deprecation_are_hidden(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with without_notices():
            lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, precision="bf16-mixed")
            warnings.warn("`isinstance(treespec, LeafSpec)` is deprecated", FutureWarning, stacklevel=1)
            warnings.warn("It is recommended to use `self.log('a', ..., sync_dist=True)`", UserWarning, stacklevel=1)
            warnings.warn("Total length of `list` across ranks is zero.", UserWarning, stacklevel=1)
            warnings.warn("another warning", UserWarning, stacklevel=1)
    assert caplog.text == ""
    assert [str(warning.message) for warning in caught] == ["another warning"]


def test_distributed_settings_reach_ddp_and_no_other_strategy() -> None:
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    two = lightning.Trainer(devices=2, **quiet)
    configure_ddp(two, timeout=timedelta(minutes=7), static_graph=True)
    assert two.strategy._timeout == timedelta(minutes=7)
    assert two.strategy._ddp_kwargs == {"gradient_as_bucket_view": True, "static_graph": True}
    one = lightning.Trainer(devices=1, **quiet)
    before = dict(vars(one.strategy))
    configure_ddp(one, timeout=timedelta(minutes=7), static_graph=True)
    assert vars(one.strategy) == before
