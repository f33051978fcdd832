"""The benchmarks run at tiny sizes, count operations and memory exactly, and confirm the networks' small memory."""

from __future__ import annotations

import json
import shutil
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import any_image  # noqa: E402
import ceiling  # noqa: E402
import compared_networks as compared  # noqa: E402
import measuring  # noqa: E402
import photographs  # noqa: E402
import write_second_judge  # noqa: E402

from sdedit_pl.cli import main as sdedit  # noqa: E402
from sdedit_pl.networks import DDPM  # noqa: E402

MIB = 2**20
TINY_NETWORKS = "libraries=[sdedit_pl] cases=[ddpm] rounds=1"
TINY_TRAINING = (
    "{'data': {'path': 'photos', 'size': 8, 'batch_size': 2}, 'network': {'name': 'ncsnpp', 'channels': 8, "
    "'channel_multipliers': [1], 'attention_levels': [], 'blocks_per_level': 1}}"
)
RUNS = {
    "network": f"{TINY_NETWORKS} steps=2",
    "training": f"{TINY_NETWORKS} parts=[loop,checkpointing] config=tiny.yaml loop_steps=1",
    "features": "images=4 batch=2 size=16 rounds=1",
    "image_decoding": "data=photos sizes=[8,16] encodings=[png] images=8 batch=4 rounds=2",
    "mixture": "t0=[0.5] evaluations=[3] guides=1 samples=8 directions=4 modes=2",
}


def script(name: str) -> ModuleType:
    """A benchmark; `peak_memory`, which starts a process, returns a constant in it."""
    module = import_module(name)
    if hasattr(module, "peak_memory"):
        vars(module)["peak_memory"] = lambda prepare, *arguments: 10**6
    return module


def tiny_network(channels: int, size: int) -> nn.Module:
    return DDPM(channels=channels, channel_multipliers=(1,), blocks_per_level=1, attention_levels=())


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and a training configuration in the working directory, and a tiny network to compare."""
    monkeypatch.setitem(compared.CASES, "ddpm", compared.Case("tiny", {compared.OURS: tiny_network}, 8, 8, 1))
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{number}.png")
    Path("tiny.yaml").write_text(TINY_TRAINING)


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("name", [*RUNS, "training_cost"])
def test_scripts_run_and_refuse_unknown_keys(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = script(name).main
    if name == "training_cost":
        for size in ("8", "[12,8]"):
            assert main(["config=tiny.yaml", "trainer.max_steps=10", f"data.size={size}"]) == 0
            assert "RTX 4090" in capsys.readouterr().out
    else:
        assert main([*RUNS[name].split(), "out=out"]) == 0, capsys.readouterr().err
        assert json.loads(Path("out/results.json").read_text())["machine"]
        assert Path("out/report.md").read_text().strip() in capsys.readouterr().out
        assert main([*RUNS[name].split(), "out=out"]) == 2 and "overwrite=true" in capsys.readouterr().err
    assert main([*RUNS.get(name, "config=tiny.yaml").split(), "out=new", "sed=1"]) == 2
    assert "unknown key sed" in capsys.readouterr().err and not Path("new").exists()


@pytest.mark.usefixtures("photos")
def test_an_error_is_stored_beside_unchanged_tensors(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(tiny_checkpoint, "a.safetensors")
    before = load_file("a.safetensors")
    assert script("add_denoising_error").main(["ckpt=a.safetensors", "data=photos", "split=all"]) == 0, (
        capsys.readouterr().err
    )
    after = load_file("a.safetensors")
    assert {name: tensor.numpy().tobytes() for name, tensor in after.items()} == {
        name: tensor.numpy().tobytes() for name, tensor in before.items()
    }
    monkeypatch.setattr("sdedit_pl.edit_runs.edit_warnings.FAR", 0.1)
    assert sdedit(["edit", "ckpt=a.safetensors", "guide=photos/0.png", "steps=1", "samples=1"]) == 0
    assert "0.png is unlike the images" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
def test_photographs_are_compared_at_equal_distance_to_the_strokes(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    monkeypatch.setattr(photographs, "sdedit", lambda *words: commands.append(words) or sdedit(words))
    for folder, numbers in (("train", range(4)), ("val", range(4, 10))):
        Path(f"photos/{folder}").mkdir()
        for number in numbers:
            Path(f"photos/{number}.png").rename(f"photos/{folder}/{number}.png")
    words = "data=photos budget=6 t0=[sigma:0.8,sigma:3.2] l2=[1,1e6] steps=1 precision=float32 compile=false"
    assert photographs.main([*words.split(), "out=a", "models.a=config=tiny.yaml"]) == 0
    assert photographs.main([*words.split(), "out=b", "models.b=ckpt=runs/photographs/a-6-seed0"]) == 0
    assert [command[0] for command in commands] == ["train", "evaluate"]
    assert Path("a/sheet.png").is_file()
    a, b = (json.loads(Path(name, "results.json").read_text())["models"][name] for name in "ab")
    assert str(a["ratios"]) == str(b["ratios"])
    (run,) = a["runs"]
    (metrics,) = Path("runs/photographs/edits").glob("*/metrics.json")
    measured = json.loads(metrics.read_text())
    expected = [measured["guides"]["stroke_synthesis"], *measured["ablations"]["t0"]]
    assert run["efficientnet_lite0"] == pytest.approx([found["kid"] for found in expected], rel=1e-4)
    assert run["l2"] == pytest.approx([found["squared_l2"] for found in expected], rel=1e-4)
    near, far = a["ratios"].values()
    strokes, first = run["efficientnet_lite0"][:2]
    assert near[0] == pytest.approx(1 + (first / strokes - 1) / run["l2"][1], rel=1e-4)
    assert np.isnan(far).all() and list(run["errors"]) == [f"{level:g}" for level in photographs.LEVELS]
    assert len(run["nearest"]) == 2 and min(run["nearest"]) > 0


@pytest.mark.slow
def test_edits_of_any_image_keep_type_and_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(any_image, "sdedit", lambda *words: sdedit(words))
    numbers = any_image.measure(any_image.Arguments(images=20, steps=1, guides=1, runs=str(tmp_path)))
    assert set(numbers["pictures"]) == set(any_image.DOMAINS) and "# Rectangles" in any_image.report(
        {**numbers, "settings": {"images": 20}}
    )
    for name, expected in {"phantoms": "uint16", "fields": "float32", "shapes": "uint8"}.items():
        domain, guide, *edits = numbers["domains"][name]["files"].values()
        assert len(edits) == len(any_image.DOMAINS[name].labels)
        for edit in edits:
            assert (edit[0], edit[1], edit[4]) == (guide[0], expected, guide[4]) == (domain[0], domain[1], domain[4])


def test_kid_at_a_distance_lies_on_the_line_between_two_t0() -> None:
    distances, kids = ([torch.tensor([value]) for value in values] for values in ((0.0, 10.0, 30.0), (1.0, 0.5, 0.7)))
    found = [photographs.at_distance(l2, distances, kids).item() for l2 in (0, 5, 10, 20, 31)]
    assert found == pytest.approx([1.0, 0.75, 0.5, 0.6, float("nan")], nan_ok=True)


def test_the_second_judge_computes_its_graph(tmp_path: Path) -> None:
    node, generator = onnx.helper.make_node, np.random.default_rng(0)
    weights = {"w": generator.normal(size=(4, 3, 3, 3)), "b": generator.normal(size=4)}
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w", "b"], ["c"], pads=[1, 0, 0, 1], strides=[2, 2], kernel_shape=[3, 3]),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["m"], pads=[0, 0, 1, 1], strides=[2, 2], kernel_shape=[3, 3]),
        node("Add", ["m", "m"], ["a"]),
        node("AveragePool", ["a"], ["p"], kernel_shape=[56, 56]),
    ]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "p")]
    initial = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(nodes, "judge", values[:1], values[1:], initial)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(tmp_path / "judge.onnx"))
    images = torch.rand(2, 3, 224, 224) * 2 - 1
    prepared = (images.flip(1) + 1) * 127.5 - torch.tensor(write_second_judge.BGR_MEAN)[:, None, None]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = session.run(None, {"x": prepared.permute(0, 2, 3, 1).numpy()})[0].reshape(2, 4)
    found = write_second_judge.OnnxFeatures(tmp_path / "judge.onnx")(images)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-4, atol=1e-3)


def test_operations_and_tensors_are_counted_exactly() -> None:
    weight, x = torch.randn(5, 4, 3, 3), torch.randn(2, 4, 8, 8)
    query, ones = torch.randn(1, 1, 6, 10), torch.zeros(MIB // 4)
    assert measuring.counted(lambda: F.conv2d(x, weight, padding=1)).flops == 2 * 2 * 64 * 5 * 4 * 9
    assert measuring.counted(lambda: F.scaled_dot_product_attention(query, query, query)).flops == 2 * 2 * 6 * 6 * 10

    def run() -> None:
        y = ones + 1
        z = y.view(2, -1) * 2
        del y
        z.add_(1)
        (z + 1).reshape(-1)

    assert measuring.counted(run).tensors == 2 * MIB
    assert measuring.counted(lambda: ones.add_(1)).tensors == 0
    network = compared.CASES["ddpm"].networks[compared.OURS](8, 8)
    alone = ceiling.ConvolutionsAlone(ceiling.convolutions_of(network, torch.zeros(2, 3, 8, 8), torch.zeros(2)))
    assert alone.flops == measuring.counted(alone.forward).flops
    assert 3 * alone.flops == measuring.counted(alone.forward_and_backward).flops


@pytest.mark.parametrize("name", compared.CASES)
def test_a_forward_pass_needs_at_most_four_fifths_of_the_memory_of_diffusers(name: str) -> None:
    """And parameters agree within 2 % at published sizes."""
    published = {"ncsnpp": 62.8e6, "ddpm": 35.7e6, "ddpm256": 113.7e6}[name]
    assert compared.CASES[name].parameters(compared.OURS) == pytest.approx(published, rel=2e-3)
    assert compared.CASES[name].parameters(compared.DIFFUSERS) == pytest.approx(published, rel=0.02)
    assert tensors(name, compared.OURS, 64, 1) <= 0.8 * tensors(name, compared.DIFFUSERS, 64, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ncsnpp", "ddpm"])
def test_a_training_step_needs_no_more_memory_than_that_of_diffusers(name: str) -> None:
    ours, theirs = (tensors(name, library, 32, 2, train=True) for library in (compared.OURS, compared.DIFFUSERS))
    assert ours <= theirs


def tensors(name: str, library: str, size: int, batch: int, train: bool = False) -> int:
    """Peak memory of the tensors of a network of 32 channels."""
    case = compared.resized_cases([name], 32, size, batch)[name]
    network = case.network(library, "channels last").train(train)
    inputs = case.inputs("channels last")

    def run() -> None:
        with torch.set_grad_enabled(train):
            output = network(*inputs)
        if train:
            output.square().mean().backward()

    return measuring.peak_tensors(run)
