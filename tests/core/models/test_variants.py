"""The five rows: their published numbers, full-size models without weights against diffusers', and the goldens."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from cogvideox_core.models.transformer.positions import rotary_table, sincos_table
from cogvideox_core.models.vae.autoencoder import AutoencoderCausal3D
from cogvideox_core.models.variants import VARIANTS
from cogvideox_core.sampling.noise_schedule import NoiseSchedule
from tests.golden.make_golden import describe, golden_path, make_golden, token_codes
from tests.support.checkpoints import OFFICIAL

KINDS = ("CogVideoX-2B", "CogVideoX-5B", "CogVideoX-5B-I2V", "CogVideoX1.5-5B", "CogVideoX1.5-5B-I2V")


def test_there_are_five_rows_and_each_knows_its_name() -> None:
    assert tuple(VARIANTS) == KINDS == tuple(OFFICIAL)
    assert all(name == row.name for name, row in VARIANTS.items())
    assert all(row.source for row in VARIANTS.values())


# From config.json: heads, layers, input channels, rotary, learned table, temporal patch, offset width, training size.
@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("CogVideoX-2B", (30, 30, 16, False, False, None, None, (60, 90, 49))),
        ("CogVideoX-5B", (48, 42, 16, True, False, None, None, (60, 90, 49))),
        ("CogVideoX-5B-I2V", (48, 42, 32, True, True, None, None, (60, 90, 49))),
        ("CogVideoX1.5-5B", (48, 42, 16, True, False, 2, None, (300, 300, 81))),
        ("CogVideoX1.5-5B-I2V", (48, 42, 32, True, False, 2, 512, (300, 300, 81))),
    ],
)
def test_a_transformer_row_has_the_published_numbers(kind: str, row: tuple[Any, ...]) -> None:
    config = VARIANTS[kind].transformer
    assert row == (
        config.num_attention_heads,
        config.num_layers,
        config.in_channels,
        config.use_rotary_positional_embeddings,
        config.use_learned_positional_embeddings,
        config.patch_size_t,
        config.ofs_embed_dim,
        (config.sample_height, config.sample_width, config.sample_frames),
    )
    assert (config.attention_head_dim, config.time_embed_dim, config.text_embed_dim) == (64, 512, 4096)
    assert (config.max_text_seq_length, config.out_channels, config.patch_size) == (226, 16, 2)
    assert (config.norm_eps, config.spatial_interpolation_scale, config.temporal_interpolation_scale) == (
        1e-5,
        1.875,
        1,
    )


# As published: VAE scale, whether 1.5 divides by it for image latents, SNR shift.
@pytest.mark.parametrize(
    ("kind", "scaling_factor", "inverts", "snr_shift"),
    [
        ("CogVideoX-2B", 1.15258426, False, 3.0),
        ("CogVideoX-5B", 0.7, False, 1.0),
        ("CogVideoX-5B-I2V", 0.7, False, 1.0),
        ("CogVideoX1.5-5B", 0.7, True, 1.0),
        ("CogVideoX1.5-5B-I2V", 0.7, True, 1.0),
    ],
)
def test_scales_belong_to_the_row(kind: str, scaling_factor: float, inverts: bool, snr_shift: float) -> None:
    row = VARIANTS[kind]
    assert (row.vae.scaling_factor, row.vae.invert_scale_latents) == (scaling_factor, inverts)
    assert row.schedule.snr_shift_scale == snr_shift
    assert (row.vae.block_out_channels, row.vae.layers_per_block) == ((128, 256, 256, 512), 3)
    assert (row.vae.norm_num_groups, row.vae.norm_eps, row.vae.latent_channels) == (32, 1e-6, 16)
    assert (row.vae.sample_height, row.vae.sample_width) == (480, 720)
    assert (row.vae.temporal_compression_ratio, row.vae.spatial_compression_ratio) == (4, 8)


# As the model cards advise: task, size and frames, fps, most frames, sampler, dynamic guidance, dtype.
@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("CogVideoX-2B", ("text-to-video", (480, 720, 49), 8, 49, "ddim", False, "float16")),
        ("CogVideoX-5B", ("text-to-video", (480, 720, 49), 8, 49, "dpm", True, "bfloat16")),
        ("CogVideoX-5B-I2V", ("image-to-video", (480, 720, 49), 8, 49, "dpm", True, "bfloat16")),
        ("CogVideoX1.5-5B", ("text-to-video", (768, 1360, 81), 16, 161, "dpm", True, "bfloat16")),
        ("CogVideoX1.5-5B-I2V", ("image-to-video", (768, 1360, 81), 16, 161, "dpm", True, "bfloat16")),
    ],
)
def test_defaults_are_the_published_ones(kind: str, row: tuple[Any, ...]) -> None:
    variant, defaults = VARIANTS[kind], VARIANTS[kind].defaults
    assert row == (
        variant.task,
        (defaults.height, defaults.width, defaults.num_frames),
        defaults.fps,
        variant.max_frames,
        defaults.sampler,
        defaults.use_dynamic_cfg,
        defaults.dtype,
    )
    assert (defaults.num_inference_steps, defaults.guidance_scale) == (50, 6.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_agrees_with_the_published_json_field_by_field(kind: str) -> None:
    """diffusers fills in what a JSON leaves out, so its defaults are part of what was published."""
    row, official = VARIANTS[kind], OFFICIAL[kind]
    with torch.device("meta"):
        published = {
            "transformer": CogVideoXTransformer3DModel(**official.transformer).config,
            "vae": AutoencoderKLCogVideoX(**official.vae).config,
            "schedule": CogVideoXDDIMScheduler(**official.scheduler).config,
        }
    for part, config in published.items():
        ours = getattr(row, part)
        for field in fields(ours):
            assert getattr(ours, field.name) == config[field.name], f"{part}.{field.name}"


# Counted on diffusers' models: parameters, numbers in the file, keys.
@pytest.mark.parametrize(
    ("kind", "parameters", "numel_in_file", "keys"),
    [
        ("CogVideoX-2B", 1_693_783_872, 1_693_783_872, 736),
        ("CogVideoX-5B", 5_570_283_072, 5_570_283_072, 1024),
        ("CogVideoX-5B-I2V", 5_570_479_680, 5_625_087_552, 1025),
        ("CogVideoX1.5-5B", 5_570_676_352, 5_570_676_352, 1024),
        ("CogVideoX1.5-5B-I2V", 5_571_594_880, 5_571_594_880, 1028),
    ],
)
def test_a_full_size_transformer_is_as_large_as_the_published_file(
    kind: str, parameters: int, numel_in_file: int, keys: int
) -> None:
    described = describe(CogVideoXTransformer3D(VARIANTS[kind].transformer, device="meta"))
    assert (described["parameters"], described["numel_in_file"], described["keys"]) == (parameters, numel_in_file, keys)


def test_a_full_size_vae_is_as_large_as_the_published_file() -> None:
    vae = AutoencoderCausal3D(VARIANTS["CogVideoX-5B"].vae, device="meta")
    assert (describe(vae)["parameters"], describe(vae)["keys"]) == (215_583_907, 436)
    assert describe(vae.encoder)["parameters"] == 92_215_456
    assert describe(vae.decoder)["parameters"] == 123_368_451


@pytest.mark.parametrize("kind", KINDS)
def test_full_size_models_have_the_keys_and_shapes_of_the_reference(kind: str) -> None:
    row, official = VARIANTS[kind], OFFICIAL[kind]
    with torch.device("meta"):
        pairs = [
            (CogVideoXTransformer3D(row.transformer), CogVideoXTransformer3DModel(**official.transformer)),
            (AutoencoderCausal3D(row.vae), AutoencoderKLCogVideoX(**official.vae)),
        ]
    for ours, reference in pairs:
        assert shapes_of(ours) == shapes_of(reference)
        assert set(dict(ours.named_parameters())) == set(dict(reference.named_parameters()))


def shapes_of(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


# --- Goldens --------------------------------------------------------------------------------------------------------


def test_every_row_has_a_golden_and_every_golden_a_row() -> None:
    goldens = {path.stem for path in golden_path("any").parent.glob("*.json")}
    without = sorted(set(VARIANTS) - goldens)
    assert not without, (
        f"{without} have no golden; add them to tests/support/checkpoints.py and run tests/golden/make_golden.py"
    )
    assert goldens == set(VARIANTS)


@pytest.mark.parametrize("kind", sorted(VARIANTS))
def test_a_row_builds_what_its_golden_says(kind: str) -> None:
    row, golden = VARIANTS[kind], json.loads(golden_path(kind).read_text(encoding="utf-8"))
    assert describe(CogVideoXTransformer3D(row.transformer, device="meta")) == golden["transformer"]
    assert describe(AutoencoderCausal3D(row.vae, device="meta")) == golden["vae"]
    assert row.vae.scaling_factor == golden["scaling_factor"]
    schedule = NoiseSchedule(row.schedule)
    for timestep, alpha in golden["alphas"].items():
        assert schedule.alpha(int(timestep)) == pytest.approx(alpha, rel=1e-6, abs=0)

    grid = tuple(golden["grid"])
    if row.transformer.use_rotary_positional_embeddings:
        tables = dict(zip(("cos", "sin"), rotary_table(grid, row.transformer), strict=True))
        tables = {name: table.repeat_interleave(2, dim=1) for name, table in tables.items()}
    else:
        tables = {"sincos": sincos_table(grid, row.transformer)}
    assert set(tables) == set(golden["positions"])
    for name, table in tables.items():
        for token, values in token_codes(table, grid).items():
            assert values == pytest.approx(golden["positions"][name][token], abs=2e-6), f"{name} of the {token} token"


@pytest.mark.parametrize("kind", KINDS)
def test_a_golden_is_what_its_script_makes(kind: str) -> None:
    written, made = (leaves(value) for value in (json.loads(golden_path(kind).read_text("utf-8")), make_golden(kind)))
    assert written.keys() == made.keys()
    for place, value in made.items():
        assert written[place] == (pytest.approx(value, rel=1e-6, abs=2e-6) if isinstance(value, float) else value), (
            place
        )


def leaves(value: Any, place: str = "") -> dict[str, Any]:
    """Every number and text in nested dicts and lists, by its place."""
    if not isinstance(value, dict | list):
        return {place: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {leaf: v for key, inner in items for leaf, v in leaves(inner, f"{place}/{key}").items()}
