"""Configurations from shapes: the five released models at full size, toys, and models of no known build."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, replace

import pytest
import torch

from cogvideox_core.models.config import TransformerConfig, VAEConfig
from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from cogvideox_core.models.vae.autoencoder import AutoencoderCausal3D
from cogvideox_core.models.variants import DERIVED, VARIANTS, rows_like, taking
from cogvideox_core.weights.detect import find_variant, transformer_config, vae_config
from cogvideox_core.weights.errors import CheckpointError

Shapes = dict[str, tuple[int, ...]]

# Keys, learned numbers and numbers in the file, counted on diffusers' models.
SIZES = {
    "CogVideoX-2B": (736, 1_693_783_872, 1_693_783_872),
    "CogVideoX-5B": (1024, 5_570_283_072, 5_570_283_072),
    "CogVideoX-5B-I2V": (1025, 5_570_479_680, 5_625_087_552),
    "CogVideoX1.5-5B": (1024, 5_570_676_352, 5_570_676_352),
    "CogVideoX1.5-5B-I2V": (1028, 5_571_594_880, 5_571_594_880),
}
PUBLISHED = {
    "CogVideoX-2B": dict(width=1920, layers=30, channels=16),
    "CogVideoX-5B": dict(width=3072, layers=42, channels=16),
    "CogVideoX-5B-I2V": dict(width=3072, layers=42, channels=32, table=17776),
    "CogVideoX1.5-5B": dict(width=3072, layers=42, channels=16, linear=True),
    "CogVideoX1.5-5B-I2V": dict(width=3072, layers=42, channels=32, linear=True, ofs=512),
}
TOY = TransformerConfig(
    num_attention_heads=2, num_layers=3, attention_head_dim=16, time_embed_dim=24, text_embed_dim=40
)
TABLE = dict(sample_height=4, sample_width=6, sample_frames=5, max_text_seq_length=10)


def published_shapes(
    width: int, layers: int, channels: int, table: int = 0, linear: bool = False, ofs: int = 0
) -> Shapes:
    """Shapes of a released file, written down from the files' own headers rather than from our model."""
    modules: Shapes = {
        "patch_embed.proj": (width, 8 * channels) if linear else (width, channels, 2, 2),
        "patch_embed.text_proj": (width, 4096),
        "time_embedding.linear_1": (512, width),
        "time_embedding.linear_2": (512, 512),
        "norm_final": (width,),
        "norm_out.linear": (2 * width, 512),
        "norm_out.norm": (width,),
        "proj_out": (128 if linear else 64, width),
    }
    if ofs:
        modules |= {"ofs_embedding.linear_1": (ofs, ofs), "ofs_embedding.linear_2": (ofs, ofs)}
    for layer in range(layers):
        block = f"transformer_blocks.{layer}"
        for norm in ("norm1", "norm2"):
            modules |= {f"{block}.{norm}.linear": (6 * width, 512), f"{block}.{norm}.norm": (width,)}
        modules |= {f"{block}.attn1.{name}": (64,) for name in ("norm_q", "norm_k")}
        modules |= {f"{block}.attn1.{name}": (width, width) for name in ("to_q", "to_k", "to_v", "to_out.0")}
        modules |= {f"{block}.ff.net.0.proj": (4 * width, width), f"{block}.ff.net.2": (width, 4 * width)}
    shapes: Shapes = {}
    for name, shape in modules.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes | ({"patch_embed.pos_embedding": (1, table, width)} if table else {})


def shapes_of(model: torch.nn.Module) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def toy(**changes: object) -> TransformerConfig:
    return replace(TOY, **changes)


def toy_shapes(**changes: object) -> Shapes:
    return shapes_of(CogVideoXTransformer3D(toy(**changes), device="meta"))


def toy_of(name: str) -> TransformerConfig:
    """A toy with the flags of a released model."""
    row = VARIANTS[name].transformer
    small = dict(num_attention_heads=2, num_layers=2, text_embed_dim=32, time_embed_dim=16)
    if row.ofs_embed_dim:
        small |= dict(ofs_embed_dim=16)
    return replace(row, **small | (TABLE if row.use_learned_positional_embeddings else {}))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_released_model_is_found_from_its_shapes_alone(name: str) -> None:
    shapes = published_shapes(**PUBLISHED[name])
    keys, parameters, in_file = SIZES[name]
    assert len(shapes) == keys
    assert sum(map(math.prod, shapes.values())) == in_file
    config = transformer_config(shapes)
    assert config == VARIANTS[name].transformer
    assert find_variant(config) is VARIANTS[name]
    model = CogVideoXTransformer3D(config, device="meta")
    assert shapes_of(model) == shapes
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


# Parameters of the models that others made, at full size.
DERIVED_PARAMETERS = {
    "CogVideoX-Fun-2B-InP": 1_693_914_432,
    "CogVideoX-Fun-5B-InP": 5_570_491_968,
    "CogVideoX-Fun-V1.5-5B-InP": 5_571_094_144,
    "CogVideoX-Fun-5B-Control": 5_570_479_680,
}


@pytest.mark.parametrize("name", DERIVED)
def test_a_derived_model_finds_its_row_by_its_shapes_alone(name: str) -> None:
    row = DERIVED[name]
    model = CogVideoXTransformer3D(row.transformer, device="meta")
    found = transformer_config(shapes_of(model))
    assert found.in_channels == row.transformer.in_channels
    assert find_variant(found) is rows_like(found)[0]
    assert taking(find_variant(found), row.conditioning) == replace(row, or_conditioning=None)
    if name in DERIVED_PARAMETERS:
        assert sum(parameter.numel() for parameter in model.parameters()) == DERIVED_PARAMETERS[name]


def test_only_one_build_is_of_two_models() -> None:
    several = [[row.name for row in rows_like(row.transformer)] for row in (*VARIANTS.values(), *DERIVED.values())]
    assert {tuple(names) for names in several if len(names) > 1} == {
        ("CogVideoX-Fun-5B-Control", "CogVideoX-5B-I2V without its position table")
    }


def test_a_derived_model_takes_what_its_channels_are_for() -> None:
    assert {row.conditioning for row in VARIANTS.values()} == {"text", "image"}
    for row in (*VARIANTS.values(), *DERIVED.values()):
        extra = {"text": 0, "image": 16, "control": 16, "inpaint": 17, "quadmask": 32}[row.conditioning]
        assert row.transformer.image_channels == extra, row.name


@pytest.mark.parametrize("name", VARIANTS)
def test_a_toy_finds_its_row_with_what_its_config_declares(name: str) -> None:
    config = toy_of(name)
    shapes = shapes_of(CogVideoXTransformer3D(config, device="meta"))
    found = transformer_config(shapes, {**asdict(config), "_class_name": "CogVideoXTransformer3DModel"})
    assert found == config
    assert find_variant(found) is VARIANTS[name]


def test_declared_values_have_the_last_word_where_shapes_are_silent() -> None:
    shapes = published_shapes(**PUBLISHED["CogVideoX1.5-5B"])
    found = transformer_config(shapes, {"sample_height": 96, "sample_width": 170, "patch_bias": False})
    assert (found.sample_height, found.sample_width, found.sample_frames) == (96, 170, 81)
    rotary_2b = transformer_config(
        published_shapes(**PUBLISHED["CogVideoX-2B"]), {"use_rotary_positional_embeddings": True}
    )
    assert find_variant(rotary_2b) is VARIANTS["CogVideoX-5B"]


def test_without_a_declaration_only_the_width_of_2b_means_sincos() -> None:
    assert transformer_config(toy_shapes()).use_rotary_positional_embeddings
    assert not transformer_config(toy_shapes(num_attention_heads=120)).use_rotary_positional_embeddings
    assert transformer_config(toy_shapes(num_attention_heads=120, patch_size_t=2)).use_rotary_positional_embeddings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_layers", 30),
        ("num_attention_heads", 4),
        ("in_channels", 32),
        ("out_channels", 4),
        ("time_embed_dim", 512),
        ("ofs_embed_dim", 512),
        ("text_embed_dim", 4096),
        ("patch_size", 4),
        ("patch_size_t", 2),
        ("use_learned_positional_embeddings", True),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(field: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"toy.*{field} {value} where the tensors show") as caught:
        transformer_config(toy_shapes(), {**asdict(TOY), field: value}, source="toy")
    assert str(getattr(TOY, field)) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("sample_height", "60"), ("sample_height", 0), ("sample_frames", 48.5), ("sample_width", True), ("norm_eps", "x"),
     ("norm_eps", float("nan")), ("spatial_interpolation_scale", -1), ("use_rotary_positional_embeddings", 1),
     ("num_layers", 10**400), ("sample_width", [90])],
)  # fmt: skip
def test_a_declared_value_of_the_wrong_type_is_refused(field: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"toy declares {field}"):
        transformer_config(toy_shapes(), {**asdict(TOY), field: value}, source="toy")


@pytest.mark.parametrize(
    ("field", "value"), [("activation_fn", "geglu"), ("flip_sin_to_cos", False), ("freq_shift", 1)]
)
def test_a_declaration_that_would_change_the_maths_is_refused(field: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"{field}.*nothing else is supported"):
        transformer_config(toy_shapes(), {field: value})


@pytest.mark.parametrize(
    ("changes", "guess"),
    [
        (dict(in_channels=33, use_learned_positional_embeddings=True, **TABLE), "33 input channels.*like no known"),
        (dict(in_channels=32, patch_size_t=2), "32 input channels.*1.5 family.*like no known model"),
        (dict(in_channels=48), "48 input channels.*1.0 family.*like no known model"),
        (dict(in_channels=20), "like no known model"),
        (dict(in_channels=32, ofs_embed_dim=24), "no position table and an offset, like no known model"),
        (dict(ofs_embed_dim=24), "an offset, like no known model"),
    ],
)
def test_models_of_an_unknown_build_are_named_and_refused(changes: dict[str, object], guess: str) -> None:
    with pytest.raises(CheckpointError, match=guess):
        transformer_config(toy_shapes(**changes))
    with pytest.raises(CheckpointError, match=guess):
        find_variant(toy(**changes))


def test_the_position_table_must_fit_the_training_size() -> None:
    config = toy(in_channels=32, use_learned_positional_embeddings=True, **TABLE)
    shapes = shapes_of(CogVideoXTransformer3D(config, device="meta"))
    assert shapes["patch_embed.pos_embedding"] == (1, 10 + 2 * 2 * 3, 32)
    assert transformer_config(shapes, asdict(config)) == config
    with pytest.raises(CheckpointError, match="table of 22 rows.*take 17776"):
        transformer_config(shapes)
    with pytest.raises(CheckpointError, match="table of 22 rows.*take 23"):
        transformer_config(shapes, {**asdict(config), "max_text_seq_length": 11})


@pytest.mark.parametrize("absent", ["transformer_blocks.1.", "transformer_blocks.", "proj_out.", "time_embedding."])
def test_missing_modules_are_named(absent: str) -> None:
    shapes = {key: shape for key, shape in toy_shapes().items() if not key.startswith(absent)}
    with pytest.raises(CheckpointError, match=f"lacks {absent}"):
        transformer_config(shapes)


def test_no_shape_makes_detection_fail_with_anything_but_its_own_error() -> None:
    draw = random.Random(0)
    for _ in range(300):
        shapes = toy_shapes(in_channels=32, use_learned_positional_embeddings=True, **TABLE)
        for key in draw.sample(sorted(shapes), 2) + [draw.choice(["patch_embed.proj.weight", "proj_out.weight"])]:
            shapes[key] = tuple(draw.choice([0, 1, 3, 8, 2**40]) for _ in range(draw.randrange(6)))
        with pytest.raises(CheckpointError):
            transformer_config(shapes)


def test_the_released_vae_is_found_from_its_shapes_alone() -> None:
    model = AutoencoderCausal3D(VAEConfig(), device="meta")
    shapes = shapes_of(model)
    assert len(shapes) == 436 and sum(map(math.prod, shapes.values())) == 215_583_907
    assert vae_config(shapes) == VAEConfig()
    assert vae_config(shapes, {"scaling_factor": 1.15258426, "force_upcast": True}).scaling_factor == 1.15258426


def test_a_toy_vae_needs_its_declared_norm_groups() -> None:
    config = VAEConfig(block_out_channels=(8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4)
    shapes = shapes_of(AutoencoderCausal3D(config, device="meta"))
    assert vae_config(shapes, {**asdict(config), "block_out_channels": [8, 16, 16]}) == config
    with pytest.raises(CheckpointError, match="8 channels wide.*32 norm groups"):
        vae_config(shapes)
    with pytest.raises(CheckpointError, match="layers_per_block 3 where the tensors show 1"):
        vae_config(shapes, {"layers_per_block": 3, "norm_num_groups": 4})
    with pytest.raises(CheckpointError, match="shift_factor"):
        vae_config(shapes, {"shift_factor": 0.1})
    with pytest.raises(CheckpointError, match="lacks encoder.down_blocks.0 among 0 found"):
        vae_config({key: shape for key, shape in shapes.items() if not key.startswith("encoder.")})
    with pytest.raises(CheckpointError, match="lacks encoder.down_blocks.1"):
        vae_config({key: shape for key, shape in shapes.items() if ".down_blocks.1." not in key})
