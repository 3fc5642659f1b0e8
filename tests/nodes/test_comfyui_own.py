"""What the README says of ComfyUI's own CogVideoX: which files it opens, and how close its numbers are to diffusers'.

Our core stands for diffusers here; tests/core holds it to diffusers. If a test fails with a newer ComfyUI, the README's
paragraph is out of date.

    pytest tests/nodes/test_comfyui_own.py --comfy -rA      prints the differences
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cogvideox_core import VARIANTS, load_transformer, load_vae
from cogvideox_core.models.transformer.model import OFS
from cogvideox_core.sampling.noise_schedule import NoiseSchedule
from tests.support.checkpoints import TOY_VAE, make_checkpoint
from tests.support.parity import relative_difference
from tests.support.weight_forms import comfyui_name

SAME, OTHER = 1e-5, 1e-2  # a difference that rounding explains, and one that it does not
ALIKE = ("CogVideoX1.5-5B", "CogVideoX1.5-5B-I2V")
LOADED = [kind for kind in VARIANTS if kind != "CogVideoX-5B-I2V"]  # whose toys have a smaller table than ComfyUI takes
WEIGHTS = "diffusion_pytorch_model.safetensors"

pytestmark = pytest.mark.usefixtures("pack")  # which imports ComfyUI into this process

Maker = Callable[[str], Path]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """A toy that ComfyUI's code takes: T5's width, and a width of tokens that three axes share evenly."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp("own") / kind
            made[kind] = make_checkpoint(folder, kind, text_width=4096, transformer={"num_attention_heads": 3})
        return made[kind]

    return make


@pytest.mark.parametrize("kind", VARIANTS)
def test_it_does_not_know_the_names_of_official_transformers(toy: Maker, kind: str) -> None:
    import comfy.sd

    assert comfy.sd.load_diffusion_model_state_dict(load_file(toy(kind) / "transformer" / WEIGHTS)) is None


def renamed(folder: Path) -> dict[str, torch.Tensor]:
    """A toy's transformer under ComfyUI's names."""
    tensors = load_file(folder / "transformer" / WEIGHTS)
    return {comfyui_name(key): tensor for key, tensor in tensors.items()}


def own_model(folder: Path) -> Any:
    """ComfyUI's own model of a toy's weights under its names."""
    import comfy.sd

    patcher = comfy.sd.load_diffusion_model_state_dict(renamed(folder))
    assert patcher is not None
    return patcher.model


@pytest.mark.parametrize("kind", LOADED)
def test_with_other_names_only_the_transformers_of_1_5_compute_the_same(toy: Maker, kind: str) -> None:
    ours, theirs = load_transformer(toy(kind)), own_model(toy(kind))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, ours.config.in_channels, 4 if kind in ALIKE else 5, 8, 12, generator=generator)
    embeds = torch.randn(1, 226, 4096, generator=generator)
    with torch.no_grad():
        reference = ours(latents, embeds, torch.tensor([500]))
        output = theirs.diffusion_model.float()(latents, torch.tensor([500]), embeds, ofs=torch.tensor([OFS]))
    apart = relative_difference(output, reference)
    print(f"ComfyUI's own transformer | {kind} | {apart:.1e}")
    assert apart < SAME if kind in ALIKE else apart > OTHER


def test_it_takes_one_of_the_two_position_codes_of_5b_i2v(toy: Maker) -> None:
    from comfy.model_detection import detect_unet_config

    official = VARIANTS["CogVideoX-5B-I2V"].transformer
    assert official.use_learned_positional_embeddings and official.use_rotary_positional_embeddings
    found = detect_unet_config(renamed(toy("CogVideoX-5B-I2V")), "")
    assert found["use_learned_positional_embeddings"] and not found["use_rotary_positional_embeddings"]


@pytest.mark.parametrize("kind", LOADED)
def test_its_noise_schedule_is_not_that_of_2b(toy: Maker, kind: str) -> None:
    alphas = 1 / (1 + own_model(toy(kind)).model_sampling.sigmas.double() ** 2)
    apart = float((alphas - NoiseSchedule(VARIANTS[kind].schedule).alphas_cumprod).abs().max())
    print(f"ComfyUI's own schedule | {kind} | {apart:.1e}")
    assert apart > OTHER if kind == "CogVideoX-2B" else apart < SAME


def test_its_vae_opens_official_names_and_decodes_other_frames(toy: Maker) -> None:
    from comfy.ldm.cogvideo.vae import AutoencoderKLCogVideoX

    shape = dict(TOY_VAE)
    theirs = AutoencoderKLCogVideoX(groups=shape.pop("norm_num_groups"), **shape).eval()
    theirs.load_state_dict(load_file(toy("CogVideoX-5B") / "vae" / WEIGHTS))
    z = torch.randn(1, 16, 5, 8, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        apart = relative_difference(theirs.decode(z), load_vae(toy("CogVideoX-5B")).decode(z))
    print(f"ComfyUI's own VAE, 17 frames | {apart:.1e}")
    assert apart > OTHER


def test_ksampler_does_not_suit_its_model(toy: Maker) -> None:
    """Its model_sampling gives the network what a sampler has, unscaled; VOIDSampler alone scales by itself."""
    from comfy.model_sampling import V_PREDICTION

    sampling = own_model(toy("CogVideoX1.5-5B")).model_sampling
    sigma, noise = torch.tensor([4.0]), torch.ones(1)
    given = sampling.calculate_input(sigma, noise)
    assert relative_difference(given, V_PREDICTION.calculate_input(sampling, sigma, noise)) > 1
