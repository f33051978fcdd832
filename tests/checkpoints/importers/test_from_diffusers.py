"""Folders of diffusers against the library itself: outputs, conventions, layouts, and what is refused."""

from __future__ import annotations

import inspect
import json
import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from support.damage import Bomb
from support.denoisers import relative_error, same_model
from support.diffusers_models import AS_DDPM, AS_NCSNPP, NETWORKS, PLAIN, SKIP, random_unet, save_pipeline
from torch import Tensor

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints import CheckpointError, load_denoiser
from sdedit_pl.checkpoints.expected_tensors import state_shapes
from sdedit_pl.checkpoints.importers import diffusers_config, importer
from sdedit_pl.checkpoints.importers.checkpoint_format import Imported
from sdedit_pl.checkpoints.importers.diffusers_config import read_unet
from sdedit_pl.checkpoints.importers.diffusers_tensor_names import network_sources
from sdedit_pl.checkpoints.importers.from_diffusers import DiffusersFormat
from sdedit_pl.checkpoints.importers.presets import PRESETS, Preset
from sdedit_pl.checkpoints.importers.tensor_mapping import difference
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser

TOLERANCE = 1e-5
WEIGHTS = "diffusion_pytorch_model"


def read(path: Path, **options: Any) -> Imported:
    return DiffusersFormat().read(path, **options)


def denoiser_of(imported: Imported) -> Denoiser:
    denoiser = build_denoiser(imported.model)
    denoiser.network.load_state_dict(imported.weights, strict=True)
    return denoiser.eval().requires_grad_(False)


def worst_error(found: Tensor, expected: Tensor) -> float:
    """The largest `relative_error` of an image in a batch."""
    return max(map(relative_error, found, expected))


def noise_like(options: dict[str, Any], batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, options.get("in_channels", 3), 16, 16, generator=generator)


def change(file: Path, **changes: Any) -> None:
    """Changes keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small DDPM pipeline; not to be changed."""
    folder = tmp_path_factory.mktemp("diffusers") / "saved"
    save_pipeline(folder, AS_DDPM)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of `saved`, to be changed."""
    return Path(shutil.copytree(saved, tmp_path / "folder"))


class TestExactness:
    @pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
    def test_outputs_are_those_of_the_library(self, options: dict[str, Any], tmp_path: Path) -> None:
        unet = save_pipeline(tmp_path, options)
        network = denoiser_of(read(tmp_path)).network
        x = noise_like(options, 4)
        with torch.no_grad():
            if options.get("time_embedding_type") == "fourier":
                sigma = torch.tensor([0.01, 0.3, 7.0, 50.0])
                expected = unet(x, sigma).sample
                actual = network(2 * x - 1, sigma.log()) / sigma.view(4, 1, 1, 1)
            else:
                index = torch.tensor([0, 1, 500, 999])
                expected, actual = unet(x, index).sample, network(x, index.float())
        assert worst_error(actual, expected) < TOLERANCE

    @pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
    @pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
    def test_estimates_are_those_of_its_scheduler(self, prediction: str, schedule: str, tmp_path: Path) -> None:
        settings = {"beta_schedule": schedule, "prediction_type": prediction, "num_train_timesteps": 100}
        unet = save_pipeline(tmp_path, AS_DDPM, **settings)
        denoiser = denoiser_of(read(tmp_path))
        scheduler = DDIMScheduler(**settings, clip_sample=False)
        # Its running product is in float32, where 1 - 0.9999 has four digits.
        scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)
        scheduler.set_timesteps(100)
        x = noise_like(AS_DDPM, 1).double()
        for index in (0, 3, 60, 97):
            output = unet(x.float(), index).sample.detach().double()
            expected = scheduler.step(output, index, x).pred_original_sample
            alpha_squared = scheduler.alphas_cumprod[index]
            score = (alpha_squared.sqrt() * expected - x) / (1 - alpha_squared)
            t = torch.tensor([(index + 1) / 100], dtype=torch.float64)
            assert worst_error(denoiser(x, t), expected) < TOLERANCE
            assert worst_error(denoiser.score(x, t), score) < TOLERANCE

    def test_estimates_of_ve_models_are_on_our_range(self, tmp_path: Path) -> None:
        """There images in [0, 1] get noise of sigma, here images in [-1, 1] twice as much."""
        unet = save_pipeline(tmp_path, AS_NCSNPP, sigma_min=0.02, sigma_max=40.0)
        denoiser = denoiser_of(read(tmp_path))
        assert denoiser.sde.sigma(torch.ones(1)).item() == pytest.approx(80.0)
        sigma = torch.tensor([0.03, 0.5, 2.0, 30.0], dtype=torch.float64)
        theirs = 0.5 + sigma.view(4, 1, 1, 1) * noise_like(AS_NCSNPP, 4).double()
        score = unet(theirs.float(), sigma.float()).sample.detach().double()
        x_0 = theirs + sigma.view(4, 1, 1, 1).square() * score
        t, ours = denoiser.sde.time_at_noise_level(2 * sigma), 2 * theirs - 1
        assert worst_error(denoiser(ours, t), 2 * x_0 - 1) < TOLERANCE
        assert worst_error(denoiser.score(ours, t), score / 2) < TOLERANCE

    def test_a_learned_variance_is_read(self, tmp_path: Path) -> None:
        options = {**AS_DDPM, "out_channels": 6}
        unet = save_pipeline(tmp_path, options, variance_type="learned_range")
        imported = read(tmp_path)
        assert imported.model.parameterisation.name == "epsilon_and_variance"
        x, index = noise_like(options, 1), torch.tensor([700])
        with torch.no_grad():
            expected = unet(x, index).sample
        assert worst_error(denoiser_of(imported).network(x, index.float()), expected) < TOLERANCE


def published(base: dict[str, Any], size: int, widths: tuple[int, ...], attending: int, layers: int) -> dict[str, Any]:
    """The options of a network with attention at one of its levels."""
    kind = "Skip" if base is AS_NCSNPP else ""
    down = [f"{'Attn' if level == attending else ''}{kind}DownBlock2D" for level in range(len(widths))]
    return {
        **base,
        "sample_size": size,
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": tuple(down),
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(down)),
    }


PUBLISHED = {
    "ddpm-cifar10-32": (published(AS_DDPM, 32, (128, 256, 256, 256), 1, 2), 35_746_307),
    "ddpm-*-256": (published(AS_DDPM, 256, (128, 128, 256, 256, 512, 512), 4, 2), 113_673_219),
    "ncsnpp-*-256": (published(AS_NCSNPP, 256, (128, 128, 256, 256, 256, 256, 256), 4, 2), 65_574_549),
    "ncsnpp-ffhq-1024": (published(AS_NCSNPP, 1024, (16, 32, 64, 128, 256, 512, 512, 512), 6, 1), 105_785_896),
}


@pytest.mark.parametrize(("options", "parameters"), PUBLISHED.values(), ids=PUBLISHED)
def test_published_networks_map_tensor_by_tensor(options: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        tensors = UNet2DModel(**options).state_dict()
    network = read_unet(options)
    sections = {"image": network.image, "network": network.section, "sde": "ddpm", "parameterisation": "epsilon"}
    model = ModelConfig.from_data(sections)
    assert not difference(tensors, network_sources(model.network), state_shapes(model))
    assert sum(tensor.numel() for tensor in tensors.values()) == parameters


class TestLayouts:
    def same_weights(self, path: Path, saved: Path, **options: Any) -> Imported:
        """Reads `path` and asserts that its model and weights are those of `saved`."""
        expected, imported = read(saved), read(path, **options)
        assert imported.model == expected.model
        assert all(torch.equal(tensor, expected.weights[name]) for name, tensor in imported.weights.items())
        return imported

    def test_it_recognises_its_folders_and_no_others(self, saved: Path, tmp_path: Path) -> None:
        recognises = importer("diffusers").recognises
        assert (
            recognises(saved) and recognises(saved / "unet") and recognises(saved / "unet" / f"{WEIGHTS}.safetensors")
        )
        assert not recognises(tmp_path) and not recognises(saved / "scheduler") and not recognises(tmp_path / "missing")
        torch.save({"weight": torch.zeros(1)}, tmp_path / "other.bin")
        assert not recognises(tmp_path / "other.bin")

    def test_editing_takes_it_without_an_import(self, saved: Path) -> None:
        assert same_model(load_denoiser(saved), denoiser_of(read(saved)))

    def test_its_origin_and_tensors_are_recorded(self, saved: Path) -> None:
        imported = read(saved)
        assert imported.origin["format"] == "diffusers"
        assert imported.origin["file"] == f"saved/unet/{WEIGHTS}.safetensors"
        assert imported.origin["sampling"]["class_name"] == "DDPMScheduler"
        assert json.loads(json.dumps(imported.origin)) == imported.origin
        used = [name for names in imported.used.values() for name in names]
        assert sorted(used) == sorted(random_unet(AS_DDPM).state_dict()) and not imported.ignored

    def test_old_names_in_a_pickle_of_weights(self, folder: Path, saved: Path) -> None:
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        state = random_unet(AS_DDPM).state_dict()
        for new_name, old_name in old.items():
            state = {name.replace(f".{new_name}.", f".{old_name}."): tensor for name, tensor in state.items()}
        (folder / "unet" / f"{WEIGHTS}.safetensors").unlink()
        torch.save(state, folder / "unet" / f"{WEIGHTS}.bin")
        imported = self.same_weights(folder, saved)
        assert imported.used["middle.0.attention.output.bias"] == ("mid_block.attentions.0.proj_attn.bias",)

    def test_frequencies_saved_twice(self, tmp_path: Path) -> None:
        """As the first releases did with those of VE models."""
        state = save_pipeline(tmp_path, AS_NCSNPP).state_dict()
        expected = read(tmp_path).weights
        file = tmp_path / "unet" / f"{WEIGHTS}.bin"
        file.with_suffix(".safetensors").unlink()
        torch.save({**state, "time_proj.W": state["time_proj.weight"].clone()}, file)
        imported = read(tmp_path)
        assert imported.ignored == {"time_proj.W": "the same as time_proj.weight"}
        assert all(torch.equal(tensor, expected[name]) for name, tensor in imported.weights.items())
        torch.save({**state, "time_proj.W": state["time_proj.weight"] + 1}, file)
        with pytest.raises(CheckpointError, match=r"missing none; not expected time_proj\.W"):
            read(tmp_path)

    def test_components_beside_the_index(self, folder: Path, saved: Path) -> None:
        for file in (*(folder / "unet").iterdir(), *(folder / "scheduler").iterdir()):
            file.rename(folder / file.name)
        self.same_weights(folder, saved)

    def test_a_part_of_a_pipeline_finds_the_rest(self, folder: Path, saved: Path) -> None:
        self.same_weights(folder / "unet", saved)
        self.same_weights(folder / "unet" / f"{WEIGHTS}.safetensors", saved)

    def test_a_network_alone_needs_its_scheduler(self, folder: Path, saved: Path) -> None:
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        alone = folder.rename(folder.parent / "alone") / "unet"
        (alone.parent / "model_index.json").unlink()
        with pytest.raises(CheckpointError, match=r"no scheduler/scheduler_config\.json.*config="):
            read(alone)
        self.same_weights(alone, saved, config=scheduler)

    def test_weights_alone_are_read_with_a_preset(
        self, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = Path(shutil.copy(saved / "unet" / f"{WEIGHTS}.safetensors", tmp_path))
        with pytest.raises(CheckpointError, match=r"no .*config\.json.*preset=NAME"):
            read(file)
        monkeypatch.setitem(PRESETS, "tiny", Preset("diffusers", read(saved).model.as_data()))
        assert self.same_weights(file, saved, preset="tiny").origin["preset"] == "tiny"

    def test_averaged_and_raw_weights_of_a_training_checkpoint(self, folder: Path, saved: Path) -> None:
        random_unet(AS_DDPM, seed=7).save_pretrained(folder / "unet_ema")
        change(folder / "unet_ema" / "config.json", decay=0.9999, optimization_step=500, use_ema_warmup=True)
        assert self.same_weights(folder, saved, weights="raw").origin["weights"] == "raw"
        averaged = read(folder)
        assert averaged.origin["weights"] == "ema"
        assert not torch.equal(averaged.weights["stem.weight"], read(saved).weights["stem.weight"])

    @pytest.mark.parametrize(("variant", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
    def test_half_precision_stays(self, variant: str, kind: torch.dtype, folder: Path) -> None:
        random_unet(AS_DDPM).to(dtype=kind).save_pretrained(folder / "unet", variant=variant)
        (folder / "unet" / f"{WEIGHTS}.safetensors").unlink()
        assert {tensor.dtype for tensor in read(folder).weights.values()} == {kind}

    @pytest.mark.parametrize("variant", [None, "fp16"])
    @pytest.mark.parametrize("safe", [True, False])
    def test_weights_in_parts(self, variant: str | None, safe: bool, folder: Path, saved: Path) -> None:
        (folder / "unet" / f"{WEIGHTS}.safetensors").unlink()
        options = {"variant": variant, "safe_serialization": safe, "max_shard_size": "200KB"}
        random_unet(AS_DDPM).save_pretrained(folder / "unet", **options)
        parts = [file for file in (folder / "unet").iterdir() if "-of-" in file.name]
        assert len(parts) > 2 and self.same_weights(folder, saved).origin["sha256"].keys() == {p.name for p in parts}
        parts[0].unlink()
        with pytest.raises(CheckpointError, match=rf"holds {len(parts) - 1} of the {len(parts)} parts of its weights"):
            read(folder)

    def test_weights_without_an_average_beside_the_averaged_ones(self, folder: Path, saved: Path) -> None:
        random_unet(AS_DDPM, seed=7).save_pretrained(folder / "unet", variant="non_ema")
        assert not torch.equal(read(folder, weights="raw").weights["stem.weight"], read(saved).weights["stem.weight"])
        self.same_weights(folder, saved)

    def test_prefixes_of_wrappers_and_a_byte_order_mark(self, folder: Path, saved: Path) -> None:
        file, config = folder / "unet" / f"{WEIGHTS}.safetensors", folder / "unet" / "config.json"
        wrapped = load_file(file)
        wrapped = {"module." + name.replace("blocks.0", "blocks._orig_mod.0"): each for name, each in wrapped.items()}
        save_file({f"_orig_mod.{name}": tensor for name, tensor in wrapped.items()}, file)
        config.write_text(config.read_text(), encoding="utf-8-sig")
        assert DiffusersFormat().recognises(file)
        self.same_weights(folder, saved)

    def test_block_names_of_the_first_releases(self, folder: Path, saved: Path) -> None:
        config = json.loads((folder / "unet" / "config.json").read_text())
        prefixed = {key: [f"UNetRes{name}" for name in config[key]] for key in ("down_block_types", "up_block_types")}
        change(folder / "unet" / "config.json", **prefixed)
        self.same_weights(folder, saved)


ATTENDING_DOWN_ALONE = {"up_block_types": ["UpBlock2D", "UpBlock2D"]}
MIXED = {"down_block_types": ["SkipDownBlock2D", "AttnDownBlock2D"]}
RESNETS = {"down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"]}


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"act_fn": "gelu"}, "act_fn='gelu'.*expected 'silu' or 'swish'"),
            ({"norm_num_groups": 3}, r"norm_num_groups=3 .* must divide block_out_channels, \[32, 64\]"),
            ({"norm_num_groups": None}, "norm_num_groups=None"),
            ({"attn_norm_num_groups": 4}, "attn_norm_num_groups=4 .* expected None or 32"),
            ({"attention_head_dim": 24}, r"=24 .* must divide the channels of each attention layer, \[64\]"),
            ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift='scale_shift'"),
            ({"center_input_sample": True}, "center_input_sample=True .* expected False"),
            ({"time_embedding_type": "fourier"}, "time_embedding_type='fourier' .* expected 'positional'"),
            ({"time_embedding_dim": 64}, "time_embedding_dim=64 .* expected None or 128"),
            ({"freq_shift": 2}, "freq_shift=2 .* expected 0 or 1"),
            ({"mid_block_scale_factor": 1.4142}, "mid_block_scale_factor=1.4142 .* expected 1"),
            ({"mid_block_type": None}, "mid_block_type=None"),
            ({"add_attention": False}, "add_attention=False"),
            ({"downsample_padding": 2}, "downsample_padding=2"),
            ({"downsample_type": "resnet"}, "downsample_type='resnet'"),
            ({"upsample_type": "resnet"}, "upsample_type='resnet'"),
            ({"num_class_embeds": 10}, "num_class_embeds=10"),
            ({"class_embed_type": "timestep"}, "class_embed_type='timestep'"),
            ({"out_channels": 4}, "out_channels=4 .* expected 3 or 6"),
            ({"block_out_channels": [32, 48]}, r"block_out_channels=\[32, 48\] .* each a multiple of the first"),
            ({"block_out_channels": [32]}, r"block_out_channels=\[32\] .* one number for each"),
            ({"sample_size": [16]}, r"sample_size=\[16\] cannot be read"),
            ({"sample_size": None}, "sample_size=None cannot be read"),
            (ATTENDING_DOWN_ALONE, "the same levels must attend on the way down and up"),
            (MIXED, "expected all of DownBlock2D, .*, or all of SkipDownBlock2D"),
            (RESNETS, "ResnetDownsampleBlock2D.* is not supported"),
            ({"dual_path": "yes"}, "dual_path='yes' is not supported: the effect"),
            ({"layers_per_block": 20_000}, "more than 5,000 tensors"),
            ({"layers_per_block": 10**9}, "network.blocks_per_level is 1,000,000,000"),
            ({"block_out_channels": [10**9, 10**9]}, "network.channels is 1,000,000,000"),
            ({"in_channels": 10**9, "out_channels": 10**9}, "image.channels is 1,000,000,000"),
            ({"sample_size": 10**9}, "image.size is 1,000,000,000"),
            ({"dropout": math.nan}, "network.dropout must be a finite number"),
            ({"layers_per_block": 2}, "not those of the configuration: missing down_blocks.0.resnets.1"),
            ({"block_out_channels": 32}, "a value of the wrong type"),
            ({"_class_name": "UNet2DConditionModel"}, "'UNet2DConditionModel', expected a UNet2DModel"),
        ],
    )
    def test_of_a_network(self, changes: dict[str, Any], message: str, folder: Path) -> None:
        change(folder / "unet" / "config.json", **changes)
        with pytest.raises(CheckpointError, match=message):
            read(folder)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"center_input_sample": False}, "center_input_sample=False .* expected True"),
            ({"mid_block_scale_factor": 1}, "mid_block_scale_factor=1 .* expected 1.414"),
            ({"norm_num_groups": 32}, "norm_num_groups=32 .* expected None or 4"),
            ({"attn_norm_num_groups": 8}, "attn_norm_num_groups=8 .* expected None or 32"),
            ({"in_channels": 1, "out_channels": 1}, "in_channels=1 .* expected 3"),
            ({"block_out_channels": [16, 32, 64]}, r"\[16, 32, 64\] .* agree from 128 channels up"),
        ],
    )
    def test_of_a_network_of_skips(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            read_unet({**AS_NCSNPP, **changes})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"trained_betas": [0.1, 0.2]}, r"trained_betas=\[0.1, 0.2\] .* expected None"),
            ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr=True"),
            (
                {"beta_schedule": "sigmoid"},
                "beta_schedule='sigmoid' .* 'linear' or 'scaled_linear' or 'squaredcos_cap_v2'",
            ),
            ({"prediction_type": "flow"}, "prediction_type='flow'"),
            ({"variance_type": "learned_range"}, "variance_type='learned_range'"),
            ({"_class_name": "ScoreSdeVeScheduler"}, "'positional'.*DDPMScheduler.*'ScoreSdeVe"),
            ({"_class_name": "HeunDiscreteScheduler"}, "got 'HeunDiscreteScheduler'"),
        ],
    )
    def test_of_a_scheduler(self, changes: dict[str, Any], message: str, folder: Path) -> None:
        change(folder / "scheduler" / "scheduler_config.json", **changes)
        with pytest.raises(CheckpointError, match=message):
            read(folder)

    def test_of_a_table_of_betas_for_a_ve_model(self, tmp_path: Path) -> None:
        save_pipeline(tmp_path, AS_NCSNPP)
        change(tmp_path / "scheduler" / "scheduler_config.json", _class_name="DDPMScheduler")
        with pytest.raises(CheckpointError, match=r"'fourier'.*ScoreSdeVeScheduler.*'DDPM"):
            read(tmp_path)

    def test_of_latents(self, folder: Path) -> None:
        change(folder / "model_index.json", _class_name="LDMPipeline", vqvae=["diffusers", "VQModel"])
        for place in (folder, folder / "unet"):
            with pytest.raises(CheckpointError, match="LDMPipeline with vqvae"):
                read(place)

    def test_of_a_preset_beside_a_configuration(self, folder: Path) -> None:
        with pytest.raises(CheckpointError, match=r"preset=celeba_hq .* omit preset"):
            read(folder, preset="celeba_hq")

    @pytest.mark.parametrize("name", ["config.json", f"{WEIGHTS}.safetensors"])
    def test_of_a_folder_that_lacks_something(self, name: str, folder: Path) -> None:
        (folder / "unet" / name).unlink()
        with pytest.raises(CheckpointError, match=r"there is no .*config\.json|holds no weights"):
            read(folder)

    @pytest.mark.parametrize(
        ("content", "message"), [("{", "is not a JSON file"), ("[]", "must hold a JSON object, got list")]
    )
    def test_of_a_damaged_configuration(self, content: str, message: str, folder: Path) -> None:
        (folder / "unet" / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            read(folder)

    def test_of_truncated_weights(self, folder: Path) -> None:
        file = folder / "unet" / f"{WEIGHTS}.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match=r"is not a complete \.safetensors file"):
            read(folder)

    def test_of_a_pickle_with_code(self, folder: Path, tmp_path: Path) -> None:
        (folder / "unet" / f"{WEIGHTS}.safetensors").unlink()
        bomb = Bomb(tmp_path)
        (folder / "unet" / f"{WEIGHTS}.bin").write_bytes(pickle.dumps({"conv_in.weight": bomb}))
        with pytest.raises(CheckpointError, match="it was not loaded"):
            read(folder)
        assert not bomb.marker.exists()


def test_the_defaults_are_the_library_s_own() -> None:
    for cls, defaults in (
        (UNet2DModel, diffusers_config.UNET_DEFAULTS),
        (DDIMScheduler, diffusers_config.SCHEDULER_DEFAULTS),
    ):
        own = {name: parameter.default for name, parameter in inspect.signature(cls.__init__).parameters.items()}
        assert {key: own.get(key, value) for key, value in defaults.items()} == defaults
    assert set(inspect.signature(UNet2DModel.__init__).parameters) - {"self"} == set(diffusers_config.UNET_DEFAULTS)
    assert SKIP.keys() | PLAIN.keys() <= diffusers_config.UNET_DEFAULTS.keys()
