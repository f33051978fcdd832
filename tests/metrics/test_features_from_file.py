"""Features from files: their input, the output they must return, and the files that are refused."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from sdedit_pl.metrics.features import stream_features
from sdedit_pl.metrics.features_from_file import FeaturesError, FeaturesFile

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")

IMAGES = torch.rand(3, 3, 8, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Means(nn.Module):
    """The mean of each channel, times a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((2, 3)) * self.weight


def scripted(network: nn.Module, folder: Path) -> str:
    torch.jit.script(network).save(str(folder / "network.pt"))
    return str(folder / "network.pt")


def traced(network: Callable[[Tensor], object], folder: Path) -> str:
    torch.jit.trace(network, torch.zeros(2, 3, 8, 6)).save(str(folder / "network.pt"))
    return str(folder / "network.pt")


def exported(network: nn.Module, folder: Path, any_batch: bool = True) -> str:
    shapes = ({0: Dim("batch")},) if any_batch else None
    program = torch.export.export(network, (torch.zeros(2, 3, 8, 6),), dynamic_shapes=shapes)
    with (folder / "network.features").open("wb") as file:  # the suffix does not decide the kind of the file
        torch.export.save(program, file)
    return str(folder / "network.features")


@pytest.mark.parametrize("save", [scripted, exported])
def test_files_of_both_kinds(save: Callable[..., str], tmp_path: Path) -> None:
    extractor = FeaturesFile(save(Means(), tmp_path), trusted=True)
    torch.testing.assert_close(stream_features(extractor, IMAGES.split(2)), Means()(IMAGES))
    extractor.train(False)  # which exported networks refuse


class Writer(nn.Module):
    """Overwrites a file when it is opened."""

    def __init__(self, victim: str) -> None:
        super().__init__()
        self.victim = victim
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) * self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[str, Tensor]:
        return self.victim, self.weight

    @torch.jit.export
    def __setstate__(self, state: tuple[str, Tensor]) -> None:
        written = torch.from_file(state[0], shared=True, size=4, dtype=torch.uint8).fill_(65)
        self.victim = state[0]
        self.weight = state[1] * written.sum()
        self.training = False


@pytest.mark.parametrize("save", [scripted, exported])
def test_a_program_is_not_opened_unless_trusted(save: Callable[..., str], tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = save(Writer(str(victim)), tmp_path)
    with pytest.raises(FeaturesError, match=r"can run code .* trusted=true"):
        FeaturesFile(path)
    assert victim.read_text() == "mine"


def test_files_get_pixels_and_images_of_the_range_and_size_they_expect(tmp_path: Path) -> None:
    path = scripted(Means(), tmp_path)
    prepared = FeaturesFile(path, trusted=True, size=5).prepare(IMAGES)
    assert prepared.shape == (3, 3, 5, 5) and prepared.abs().max() <= 1
    extractor = FeaturesFile(path, trusted=True, pixels="uint8")
    blacks_and_whites = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 3, 4, 4)
    assert extractor.prepare(blacks_and_whites).dtype == torch.uint8
    torch.testing.assert_close(extractor(blacks_and_whites), torch.tensor([[0], [255]]) * Means().weight.detach())


def test_the_identity_differs_between_files_and_preparations(tmp_path: Path) -> None:
    path = scripted(Means(), tmp_path)
    found = {FeaturesFile(path, trusted=True, **given).identity for given in ({}, {"size": 4}, {"pixels": "unit"})}
    found.add(FeaturesFile(traced(torch.sqrt, tmp_path), trusted=True).identity)
    assert len(found) == 4


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda images: images * 2, r"shape \(3, D\), got float32 of shape \(3, 3, 8, 6\); let it end in pooling"),
        (lambda images: images.mean((0, 2, 3))[None], r"shape \(3, D\), got float32 of shape \(1, 3\)"),
        (lambda images: images.mean((2, 3)).argmax(1, keepdim=True), r"shape \(3, D\), got int64 of shape \(3, 1\)"),
        (lambda images: (images.mean((2, 3)), images.mean((2, 3))), r"shape \(3, D\), got a tuple of 2"),
        (lambda images: images.mean((2, 3)).sqrt(), "infinite or nan; .* pixels=signed"),
        (lambda images: images.mean((2, 3)).view(2, 3), r"refuses float32 of shape \(3, 3, 8, 6\): .*invalid"),
    ],
)
def test_files_with_other_results_are_refused(
    tmp_path: Path, network: Callable[[Tensor], object], message: str
) -> None:
    extractor = FeaturesFile(traced(network, tmp_path), trusted=True)
    with pytest.raises(FeaturesError, match=message):
        extractor(IMAGES - 0.5)


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    extractor = FeaturesFile(exported(Means(), tmp_path, any_batch=False), trusted=True)
    with pytest.raises(FeaturesError, match=r"refuses float32 of shape \(3, 3, 8, 6\): .* batches of any"):
        extractor(IMAGES)


def test_other_files_are_refused(tmp_path: Path) -> None:
    weights, text = tmp_path / "weights.pth", tmp_path / "text.pth"
    torch.save(Means().state_dict(), weights)
    text.write_text("no network")
    for file in (weights, text):
        with pytest.raises(FeaturesError, match=r"neither a TorchScript nor a torch.export file; make one with"):
            FeaturesFile(str(file))
    with pytest.raises(FeaturesError, match=r"missing.pt cannot be read: No such file"):
        FeaturesFile(str(tmp_path / "missing.pt"))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    for name in ("network/constants.pkl", "network/models/model.json"):
        with zipfile.ZipFile(tmp_path / "network.pt", "w") as archive:
            archive.writestr(name, b"")
        with pytest.raises(FeaturesError, match=r"network.pt cannot be opened: .* damaged"):
            FeaturesFile(str(tmp_path / "network.pt"), trusted=True)


def test_refuses_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match="pixels must be one of signed, unit, uint8, got 'float'"):
        FeaturesFile("network.pt", pixels="float")
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        FeaturesFile("network.pt", size=0)
