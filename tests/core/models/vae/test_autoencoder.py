"""The causal VAE against diffusers: encoding, decoding, streaming and blended tiles; float32, random weights."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from cogvideox_core.models.config import VAEConfig
from cogvideox_core.models.vae import feature_maps
from cogvideox_core.models.vae.autoencoder import AutoencoderCausal3D
from cogvideox_core.models.vae.tiling import Tiling
from tests.support.checkpoints import random_vae, toy_vae_config
from tests.support.parity import assert_parity, relative_difference

BOUND = 1e-5
FRAMES = (1, 5, 8, 9, 13, 16, 17, 25, 49)
KIND = "CogVideoX-5B"


class Pair:
    """diffusers' model and ours with the same weights."""

    def __init__(self, config: dict[str, Any], seed: int = 0) -> None:
        self.reference = random_vae(config, seed=seed)
        names = {field.name for field in fields(VAEConfig)}
        values = {name: value for name, value in self.reference.config.items() if name in names}
        self.config = VAEConfig(**values | {"block_out_channels": tuple(values["block_out_channels"])})
        self.ours = AutoencoderCausal3D(self.config).eval().requires_grad_(False)
        self.ours.load_state_dict(self.reference.state_dict(), strict=True)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair(toy_vae_config(KIND))


@pytest.fixture(scope="module")
def small_tiles() -> Pair:
    """A model whose published tile is 48 x 40 pixels: half of its training size."""
    return Pair(toy_vae_config(KIND, sample_height=96, sample_width=80))


def video(frames: int, height: int = 32, width: int = 48, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(frames)) * 2 - 1


def latents(frames: int, rows: int = 4, columns: int = 6, batch: int = 1) -> Tensor:
    return torch.randn(batch, 16, frames, rows, columns, generator=torch.Generator().manual_seed(frames))


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latent_frames(frames: int) -> int:
    return -(-frames // 4)


def assert_encodes_alike(pair: Pair, pixels: Tensor, what: str, tiling: Tiling | None = None) -> None:
    ours = pair.ours.encode(pixels, *([tiling] if tiling else []))
    reference = pair.reference.encode(pixels).latent_dist
    assert_parity(ours.mean, reference.mean, BOUND, f"{what} mean")
    assert_parity(ours.logvar, reference.logvar, BOUND, f"{what} logvar")
    assert_parity(ours.mode(), reference.mode(), BOUND, f"{what} mode")
    assert_parity(ours.sample(seeded()), reference.sample(seeded()), BOUND, f"{what} sample")


@pytest.mark.parametrize("frames", FRAMES)
def test_encoding_equals_the_reference(pair: Pair, frames: int) -> None:
    pixels = video(frames)
    assert pair.ours.encode(pixels).mean.shape == (1, 16, latent_frames(frames), 4, 6)
    assert_encodes_alike(pair, pixels, f"vae encode {frames} frames")


@pytest.mark.parametrize("frames", FRAMES)
def test_decoding_equals_the_reference(pair: Pair, frames: int) -> None:
    count = latent_frames(frames)
    z = latents(count)
    ours = pair.ours.decode(z)
    assert ours.shape == (1, 3, 4 * count if count % 2 == 0 else 4 * (count - 1) + 1, 32, 48)
    assert_parity(ours, pair.reference.decode(z).sample, BOUND, f"vae decode {count} latents")


@pytest.mark.parametrize("batch", [2, 3])
def test_a_batch_equals_the_reference(pair: Pair, batch: int) -> None:
    assert_encodes_alike(pair, video(9, batch=batch), f"vae encode batch {batch}")
    z = latents(3, batch=batch)
    assert_parity(pair.ours.decode(z), pair.reference.decode(z).sample, BOUND, f"vae decode batch {batch}")


def test_more_layers_and_an_official_latent_clamp_equal_the_reference() -> None:
    deep = Pair(toy_vae_config(KIND, layers_per_block=3))
    loud = deep.reference.encoder.conv_out.conv.bias
    with torch.no_grad():
        loud[16:24] -= 60.0  # below the floor of the log-variance
        loud[24:] += 40.0  # above its ceiling
    deep.ours.load_state_dict(deep.reference.state_dict(), strict=True)
    posterior = deep.ours.encode(video(9))
    assert (posterior.logvar.min(), posterior.logvar.max()) == (-30.0, 20.0)
    assert_encodes_alike(deep, video(9), "vae encode deep, clamped")
    assert_parity(deep.ours.decode(latents(5)), deep.reference.decode(latents(5)).sample, BOUND, "vae decode deep")


def test_quiet_activations_equal_the_reference() -> None:
    """Where activations are hardly larger than the norms' epsilon, 1e-6 everywhere, it counts."""
    quiet = Pair(toy_vae_config(KIND))
    for name, weight in quiet.reference.named_parameters():
        if "norm" not in name:
            weight.mul_(0.002)
    quiet.ours.load_state_dict(quiet.reference.state_dict(), strict=True)
    assert_encodes_alike(quiet, video(9), "vae encode quiet")
    assert_parity(quiet.ours.decode(latents(3)), quiet.reference.decode(latents(3)).sample, BOUND, "vae decode quiet")


def test_half_a_picture_of_one_colour_equals_the_reference(pair: Pair) -> None:
    """Where the same value is added up again and again, rounding does not average out."""
    pixels = video(17, 64, 96)
    pixels[..., 48:] = -1
    assert_encodes_alike(pair, pixels, "vae encode half of one colour")
    z = latents(5, 8, 12)
    z[..., 6:] = 1.5
    assert_parity(pair.ours.decode(z), pair.reference.decode(z).sample, BOUND, "vae decode half of one colour")


@pytest.mark.parametrize(
    "shape", [(16, 9, 64, 96), (96, 1, 45, 75), (128, 4, 61, 90), (512, 2, 60, 90), (4096, 1, 6, 6)]
)
def test_statistics_of_half_a_map_of_one_value(shape: tuple[int, ...]) -> None:
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)) + 1
    x[..., shape[-1] // 2 :] = torch.linspace(-3, 3, shape[0]).view(-1, 1, 1, 1)
    exact = x.double().unflatten(1, (8, -1)).flatten(2)
    for layout in (torch.channels_last_3d, torch.contiguous_format):
        mean, variance = feature_maps._strip_moments(x.contiguous(memory_format=layout), 8)
        assert (mean - exact.mean(2)).abs().max() < 3e-6
        assert_parity(variance.double(), exact.var(2, correction=0), 2e-6, f"variance of {shape}")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 13])
def test_a_stream_gives_the_numbers_of_the_reference_in_official_chunks(pair: Pair, count: int) -> None:
    z = latents(count)
    chunks = list(pair.ours.decode_stream(z))
    first = count if count < 4 else 2 + count % 2
    latents_per_chunk = [first] + [2] * ((count - first) // 2)
    assert [chunk.shape[2] for chunk in chunks] == [4 * n if n % 2 == 0 else 4 * (n - 1) + 1 for n in latents_per_chunk]
    assert_parity(torch.cat(chunks, dim=2), pair.reference.decode(z).sample, BOUND, f"vae stream of {count}")


def test_a_frame_depends_on_no_later_one_and_stays_as_it_was_handed_out(pair: Pair) -> None:
    z = latents(7)
    handed_out = [(chunk, chunk.clone()) for chunk in pair.ours.decode_stream(z)]
    for chunk, then in handed_out:
        assert torch.equal(chunk, then)
    for count in (3, 5):
        frames = 4 * (count - 1) + 1
        until = torch.cat([chunk for chunk, _ in handed_out], dim=2)[:, :, :frames]
        assert torch.equal(pair.ours.decode(z[:, :, :count]), until)


def test_a_stream_is_lazy_and_leaves_nothing_behind(pair: Pair) -> None:
    z = latents(5)
    expected = pair.ours.decode(z)
    abandoned = pair.ours.decode_stream(z)
    next(abandoned)
    assert torch.equal(pair.ours.decode(z), expected)
    interleaved = [torch.cat(both, dim=1) for both in zip(*(pair.ours.decode_stream(z) for _ in "ab"), strict=True)]
    assert torch.equal(torch.cat(interleaved, dim=2), torch.cat([expected, expected], dim=1))


# Sizes whose strides come out whole both in pixels and in latents, as those of the published 240 x 360 tile do.
TILINGS = {
    "both sides, uneven rest": ((104, 88), {}),
    "rows only": ((104, 40), {}),
    "columns only": ((48, 88), {}),
    "other overlaps": ((72, 64), {"overlap_height": 0.5, "overlap_width": 0.4}),
    "other tile": ((104, 88), {"tile_height": 96, "tile_width": 80}),
}


@pytest.mark.parametrize(
    ("case", "frames"), [*((case, frames) for case in TILINGS for frames in (1, 5)), ("both sides, uneven rest", 17)]
)
def test_blended_tiles_equal_the_reference(small_tiles: Pair, case: str, frames: int) -> None:
    (height, width), changes = TILINGS[case]
    default = Tiling.of(small_tiles.config)
    tiling = Tiling(**{field.name: changes.get(field.name, getattr(default, field.name)) for field in fields(Tiling)})
    assert (default.tile_height, default.tile_width) == (48, 40)
    reference = small_tiles.reference
    reference.enable_tiling(tiling.tile_height, tiling.tile_width, tiling.overlap_height, tiling.overlap_width)
    try:
        assert_encodes_alike(small_tiles, video(frames, height, width), f"vae tiles encode {case}", tiling)
        z = latents(latent_frames(frames), height // 8, width // 8)
        tiled = small_tiles.ours.decode(z, tiling)
        assert_parity(tiled, reference.decode(z).sample, BOUND, f"vae tiles decode {case}")
        assert relative_difference(tiled, small_tiles.ours.decode(z)) > 1e-3  # so tiles were used at all
    finally:
        reference.disable_tiling()


def test_a_picture_no_larger_than_a_tile_is_not_tiled(small_tiles: Pair) -> None:
    tiling = Tiling.of(small_tiles.config)
    z, pixels = latents(2, 6, 5), video(5, 48, 40)
    assert torch.equal(small_tiles.ours.decode(z, tiling), small_tiles.ours.decode(z))
    assert torch.equal(small_tiles.ours.encode(pixels, tiling).mean, small_tiles.ours.encode(pixels).mean)


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 3, 5, 36, 48), "48 x 36"), ((1, 4, 5, 32, 48), "takes"), ((3, 5, 32, 48), "takes")]
)
def test_a_video_that_does_not_fit_is_refused(pair: Pair, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair.ours.encode(torch.zeros(shape))


def test_latents_with_another_number_of_channels_are_refused(pair: Pair) -> None:
    with pytest.raises(ValueError, match="16"):
        pair.ours.decode(torch.zeros(1, 4, 2, 4, 6))


@pytest.mark.parametrize("tiling", [Tiling(32, 48, 1 / 6, 1 / 5), Tiling(36, 48, 0.25, 0.25), Tiling(48, 48, 1.0, 0.5)])
def test_tiles_that_are_no_whole_latents_are_refused(small_tiles: Pair, tiling: Tiling) -> None:
    with pytest.raises(ValueError, match=r"tile and overlap must both be whole latents"):
        small_tiles.ours.decode(torch.zeros(1, 16, 1, 12, 13), tiling)
    with pytest.raises(ValueError, match=r"tile and overlap must both be whole latents"):
        small_tiles.ours.encode(video(1, 96, 104), tiling)


def test_an_overlap_a_hair_below_whole_latents_counts_as_whole(small_tiles: Pair) -> None:
    z = torch.randn(1, 16, 1, 12, 13)
    assert small_tiles.ours.decode(z, Tiling(48, 48, 1 / 6, 1 / 3)).shape[3:] == (96, 104)


@pytest.mark.parametrize("elements", [1, 5_000, 20_000])
@pytest.mark.parametrize("frames", [1, 8, 17])
def test_bands_of_rows_give_the_numbers_of_the_whole_picture(
    small_tiles: Pair, monkeypatch: pytest.MonkeyPatch, elements: int, frames: int
) -> None:
    """Large pictures go through every layer some rows at a time; here small ones do, down to single rows."""
    model, pixels = small_tiles.ours, video(frames, 48, 40, batch=2)
    z = model.encode(pixels).mean
    whole = model.decode(z)
    largest = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: largest.append(inputs[0].shape[-2]))
    monkeypatch.setattr(feature_maps, "ON_CPU", feature_maps.BandSize(1, elements))
    assert_parity(model.encode(pixels).mean, z, BOUND, f"encoding in bands of {elements}")
    assert_parity(model.decode(z), whole, BOUND, f"decoding in bands of {elements}")
    assert max(largest) < 48 + 2
    if elements == 1:
        assert max(largest) <= 6  # a row and what lies around it
