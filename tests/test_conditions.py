"""Labels as vectors, and how a network takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.denoisers import random_denoiser
from support.tiny import tiny_config

from sdedit_pl import ScoreModule, SDEdit, conditions, load_denoiser, sample, save_denoiser
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.conditions import CONDITIONS, ClassCondition, ClassNumberCondition, Condition, NumberCondition
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing.guidance import guided
from sdedit_pl.editing.trajectories import RecordingDenoiser
from sdedit_pl.editing.windows import windowed

CLASSES = {"name": "class", "classes": ["cat", "dog"]}
BOTH = ClassNumberCondition(classes=("hat", "dress"), low=0.0, high=1.0, knots=2)


def pets(network: str = "ncsnpp", augmentation: int = 0) -> tuple[Denoiser, ModelConfig]:
    """A small denoiser with two classes, all of whose weights are random."""
    section = {"name": network, "channels": 64, "channel_multipliers": [1], "blocks_per_level": 1}
    data = tiny_config("data.path=unused").model.as_data() | {"network": {**section, "attention_levels": []}}
    model = ModelConfig.from_data({**data, "augmentation_labels": augmentation, "condition": CLASSES})
    return random_denoiser(model, 0.1), model


def test_vectors() -> None:
    assert ClassCondition(classes=("cat", "dog")).vectors(["dog", "cat"]).tolist() == [[0, 1], [1, 0]]
    number = NumberCondition(low=10.0, high=20.0, knots=3)
    found = number.vectors(["10", "12.5", "20"])
    torch.testing.assert_close(found, torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1.0]]))
    assert BOTH.vectors(["dress,0.25", "hat,1"]).tolist() == [[0, 1, 0.75, 0.25], [1, 0, 0, 1]]


def test_what_is_open_comes_from_the_training_images() -> None:
    assert ClassCondition().fitted(["dog", "10", "9", "dog"]).classes == ("9", "10", "dog")
    assert NumberCondition(low=0.0).fitted(["3", "1e1"]) == NumberCondition(low=0.0, high=10.0)
    both = ClassNumberCondition(knots=2).fitted(["hat,1", "big,dress,3"])
    assert both == ClassNumberCondition(classes=("big,dress", "hat"), low=1.0, high=3.0, knots=2)
    assert both.examples == ["big,dress,1", "big,dress,3", "hat,1", "hat,3"]
    assert BOTH.fitted([]) == BOTH, "a stream has no labels before training"


@pytest.mark.parametrize("high", [0.12345678, 1234567.0, 1e-7 / 3])
def test_examples_are_known_labels_with_any_number_of_digits(high: float) -> None:
    condition = NumberCondition(low=-high, high=high, knots=2)
    assert condition.vectors(condition.examples).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("condition", "label", "message"),
    [
        (ClassCondition(classes=("cat", "dog")), "dgo", "label=dgo is unknown; did you mean dog.* classes cat, dog"),
        (ClassCondition(classes=tuple(map(str, range(30)))), "x", "has the classes 0, 1, .* 19 and 10 more"),
        (ClassCondition(), "cat", "label=cat is for a model trained with labels"),
        (NumberCondition(low=3.0, high=80.0), "90", "label=90 is outside .* numbers from 3 to 80"),
        (NumberCondition(low=3.0, high=80.0), "cat", "label=cat is not a number"),
        (BOTH, "hat", "label=hat needs a class and a number.* classes hat, dress, each followed by .* from 0 to 1"),
        (BOTH, "hta,0.5", "label=hta is unknown; did you mean hat"),
        (BOTH, "hat,7", "label=7 is outside"),
    ],
)
def test_labels_that_a_model_does_not_know(condition: Condition, label: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        condition.vectors([label])


@pytest.mark.parametrize(("augmentation", "network"), [(0, "ncsnpp"), (9, "ddpm"), (0, "adm")])
def test_each_image_of_a_batch_has_its_label(network: str, augmentation: int) -> None:
    denoiser, _ = pets(network, augmentation)
    guides = torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)
    edit = SDEdit(steps=3)
    for at_once in (None, 1):
        denoiser.at_once = at_once
        mixed = edit(denoiser, guides, labels=["cat", "dog"], seeds=[0, 1])
        for place, label in enumerate(("cat", "dog")):
            alone = edit(denoiser.labelled(label), guides[place : place + 1], seeds=[place])
            torch.testing.assert_close(mixed[place : place + 1], alone)
    assert not torch.allclose(edit(denoiser, guides, seeds=[0, 1]), mixed, atol=1e-3)
    drawn = sample(denoiser, (3, 8, 8), [0, 1], steps=2, labels=denoiser.labels.vectors(["cat", "dog"]))
    torch.testing.assert_close(drawn[1:], sample(denoiser, (3, 8, 8), [1], steps=2, labels="dog"))
    with pytest.raises(ValueError, match="vectors of 2 numbers as labels, got 3"):
        edit(denoiser, guides, labels=torch.zeros(1, 3))


def test_labels_pass_through_windows_and_recordings() -> None:
    denoiser, _ = pets()
    x, t = torch.zeros(2, 3, 8, 8), torch.full((2,), 0.5)
    expected = denoiser.labelled(["cat", "dog"])(x, t)
    for wrapped in (windowed(denoiser, 8, 0), RecordingDenoiser(denoiser), windowed(denoiser.labelled("cat"), 8, 0)):
        torch.testing.assert_close(wrapped.labelled(["cat", "dog"])(x, t), expected)


@pytest.mark.parametrize("at_once", [None, 1])
def test_the_model_without_a_label_guides_itself(at_once: int | None) -> None:
    """Within the range of levels alone; images without a label are not guided."""
    denoiser, _ = pets()
    denoiser.at_once = at_once
    t = denoiser.sde.time_at_noise_level(torch.tensor([0.1, 1.0]))
    x = torch.linspace(-1, 1, 2 * 3 * 64).reshape(2, 3, 8, 8)
    plain, labelled = denoiser.score(x, t), denoiser.labelled("dog").score(x, t)
    both = guided(denoiser, None, 3.0, (0.5, 2.0))
    found = both.labelled("dog").score(x, t)
    torch.testing.assert_close(found[1], labelled[1] + 2 * (labelled[1] - plain[1]), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[0], labelled[0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(both.score(x, t), plain, rtol=1e-4, atol=1e-3)
    assert both.evaluations == 2
    for labels in (ClassCondition(), replace(denoiser.labels, drop=0.0)):
        with pytest.raises(ValueError, match="trained with labels and without"):
            guided(denoiser.changed(labels=labels), None, 3.0)


def test_a_checkpoint_keeps_the_names_of_the_classes(tmp_path: Path) -> None:
    denoiser, model = pets()
    save_denoiser(tmp_path / "pets.safetensors", denoiser, model)
    loaded = load_denoiser(tmp_path / "pets.safetensors")
    assert loaded.labels == ClassCondition(classes=("cat", "dog"))
    x, t = torch.zeros(1, 3, 8, 8), torch.tensor([0.5])
    torch.testing.assert_close(loaded.labelled("dog")(x, t), denoiser.labelled("dog")(x, t))
    other = ModelConfig.from_data({**model.as_data(), "condition": {"classes": ["cat", "cow"]}})
    with pytest.raises(ValueError, match=r"labels is .*'cow'"):
        save_denoiser(tmp_path / "other.safetensors", denoiser, other)


def test_the_documented_condition_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example in docs/training.md, which is one class and one line of the table."""
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    (example,) = [block for block in text.split("```python\n") if "AngleCondition" in block.partition("```")[0]]
    monkeypatch.setitem(CONDITIONS, "angle", ClassCondition)
    exec(example.partition("```")[0], vars(conditions).copy())
    config = tiny_config("data.path=unused", "condition=angle", "network.init_scale=1")
    module = ScoreModule(build_denoiser(config.model))
    images = torch.zeros(2, 3, 8, 8)
    module.training_step((images, module.denoiser.labels.vectors(["359", "90"])), 0).backward()
    assert module.denoiser.network.label_embedding.condition.weight.grad.any()
    torch.testing.assert_close(module.denoiser.labels.vectors(["270"]), torch.tensor([[0.0, -1.0]]))
    with pytest.raises(ValueError, match=r"\(images, labels\) with vectors of 2 numbers .* got a NoneType"):
        module.training_step(images, 0)


def test_a_user_loader_gives_numbers_of_classes() -> None:
    denoiser, _ = pets()
    module = ScoreModule(denoiser.requires_grad_(True))
    found = module.vectors_of((torch.zeros(2, 3, 8, 8), torch.tensor([1, 0])))
    assert found is not None and found.tolist() == [[0, 1], [1, 0]]
