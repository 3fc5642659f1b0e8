"""Position codes: golden values and, over whole tables, diffusers."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed, get_3d_rotary_pos_embed, get_3d_sincos_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor, nn

from cogvideox_core.models.transformer.adaln_table import tabulated
from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from cogvideox_core.models.transformer.positions import (
    TRAINED_AXES,
    Axis,
    Grid,
    RotaryAxes,
    apply_rotary,
    rotary_table,
    sincos_table,
    timestep_embedding,
)
from cogvideox_core.models.variants import VARIANTS
from tests.support.parity import assert_parity

CONFIG_2B = VARIANTS["CogVideoX-2B"].transformer
CONFIG_5B = VARIANTS["CogVideoX-5B"].transformer
CONFIG_15 = VARIANTS["CogVideoX1.5-5B"].transformer
DEFAULT: Grid = (13, 30, 45)


def token(grid: Grid, t: int, h: int, w: int) -> int:
    """Row of a token in a table: w runs fastest, then h, then t."""
    return (t * grid[1] + h) * grid[2] + w


@pytest.mark.parametrize(
    ("channel", "value"),
    [
        (0, 0.841471),  # sin t
        (240, 0.540302),  # cos t
        (241, 0.571593),
        (480, 0.999574),  # sin(3 / 1.875): columns stand before rows
        (840, -0.029200),
        (1200, 0.875595),  # sin(2 / 1.875): rows
        (1560, 0.483046),
    ],
)
def test_the_sincos_table_has_the_published_values(channel: int, value: float) -> None:
    table = sincos_table(DEFAULT, CONFIG_2B)
    assert table.shape == (13 * 30 * 45, 1920)
    assert table[token(DEFAULT, 1, 2, 3), channel].item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("grid", [DEFAULT, (1, 45, 30), (3, 7, 5), (13, 32, 32)])
def test_the_sincos_table_equals_the_reference(grid: Grid) -> None:
    config = replace(CONFIG_2B, num_attention_heads=3)
    frames, rows, columns = grid
    reference = get_3d_sincos_pos_embed(config.width, (columns, rows), frames, 1.875, 1.0, output_type="pt")
    # The reference divides coordinates in float32, ours in float64: that alone is nearly 1e-6 of a large angle.
    assert_parity(sincos_table(grid, config), reference.flatten(0, 1), 2e-6, f"sincos {grid}")


@pytest.mark.parametrize("config", [CONFIG_5B, CONFIG_15], ids=["1.0", "1.5"])
@pytest.mark.parametrize(
    ("channel", "cosine", "sine"),
    [
        (0, 0.54030, 0.84147),
        (2, 0.95042, 0.31098),
        (16, -0.41615, 0.90930),
        (18, 0.59918, 0.80061),
        (40, -0.98999, 0.14112),
        (42, 0.17738, 0.98414),
    ],
)
def test_the_rotary_table_has_the_published_values(config, channel: int, cosine: float, sine: float) -> None:
    cos, sin = rotary_table(DEFAULT, config)
    row = token(DEFAULT, 1, 2, 3)
    assert cos.shape == sin.shape == (13 * 30 * 45, 32)  # one column per pair of channels
    assert cos[row, channel // 2].item() == pytest.approx(cosine, abs=1e-5)
    assert sin[row, channel // 2].item() == pytest.approx(sine, abs=1e-5)


@pytest.mark.parametrize(
    ("rows", "columns", "corners"),
    [
        (30, 45, ((0, 0), (30, 45))),
        (45, 30, ((0, 12), (30, 32))),
        (30, 30, ((0, 8), (30, 38))),
        (40, 60, ((0, 0), (30, 45))),
        (24, 42, ((2, 0), (28, 45))),
        (48, 85, ((2, 0), (27, 45))),
        (32, 32, ((0, 8), (30, 38))),
    ],
)
def test_first_models_fit_every_size_into_the_training_grid(rows: int, columns: int, corners: tuple) -> None:
    """The corners, read back from the angles of the slowest frequency, which is 1 radian per cell."""
    (top, left), (bottom, right) = corners
    cos, sin = rotary_table((1, rows, columns), CONFIG_5B)
    first_row_channel, first_column_channel = 8, 20  # pairs: 8 of time, 12 of rows, 12 of columns
    last_row, last_column = token((1, rows, columns), 0, rows - 1, 0), columns - 1
    for row, pair, position in (
        (0, first_row_channel, top),
        (0, first_column_channel, left),
        (last_row, first_row_channel, top + (bottom - top) * (rows - 1) / rows if top == 0 else None),
        (last_column, first_column_channel, left + (right - left) * (columns - 1) / columns if left == 0 else None),
    ):
        if position is not None:
            assert cos[row, pair].item() == pytest.approx(torch.tensor(float(position)).cos().item(), abs=2e-5)
            assert sin[row, pair].item() == pytest.approx(torch.tensor(float(position)).sin().item(), abs=2e-5)
    assert get_resize_crop_region_for_grid((rows, columns), 45, 30) == corners


@pytest.mark.parametrize("grid", [DEFAULT, (1, 45, 30), (3, 30, 30), (2, 40, 60), (2, 24, 42), (2, 48, 85), (5, 7, 3)])
def test_the_rotary_table_of_the_first_models_equals_the_reference(grid: Grid) -> None:
    frames, rows, columns = grid
    reference = get_3d_rotary_pos_embed(
        64, get_resize_crop_region_for_grid((rows, columns), 45, 30), (rows, columns), frames
    )
    for name, ours, theirs in zip(("cos", "sin"), rotary_table(grid, CONFIG_5B), reference, strict=True):
        assert_parity(ours.repeat_interleave(2, dim=1), theirs, 1e-6, f"rotary 1.0 {grid} {name}")


@pytest.mark.parametrize("grid", [(11, 48, 85), (21, 85, 48), (1, 3, 5)])
def test_the_rotary_table_of_the_later_models_equals_the_reference(grid: Grid) -> None:
    frames, rows, columns = grid
    reference = get_3d_rotary_pos_embed(64, None, (rows, columns), frames, grid_type="slice", max_size=(150, 150))
    for name, ours, theirs in zip(("cos", "sin"), rotary_table(grid, CONFIG_15), reference, strict=True):
        assert_parity(ours.repeat_interleave(2, dim=1), theirs, 1e-6, f"rotary 1.5 {grid} {name}")


@pytest.mark.parametrize(("config", "first"), [(CONFIG_5B, (0, 2, 0)), (CONFIG_15, (0, 0, 0))], ids=["1.0", "1.5"])
def test_scaled_and_shifted_axes_move_every_token_from_the_first_one(config, first: tuple) -> None:
    grid = (3, 24, 42)  # in 1.0 fitted into rows 2 to 28 and columns 0 to 45 of the training grid
    last = (28, 45) if config.patch_size_t is None else grid[1:]
    distance = (1, (last[0] * 23 / 24 - first[1]) / 23, (last[1] * 41 / 42 - first[2]) / 41)
    axes = (Axis(2.0, 5.0), Axis(0.5, -3.0), Axis(1.5, 0.25))
    cos, sin = rotary_table(grid, config, axes=axes)
    expected = []
    for axis, width in enumerate((16, 24, 24)):
        places = [first[axis] + n * distance[axis] * axes[axis].scale + axes[axis].shift for n in range(grid[axis])]
        table: Any = get_1d_rotary_pos_embed(width, torch.tensor(places), use_real=True)
        part = torch.stack(table)[..., ::2]
        shape = [2, 1, 1, 1, -1]
        shape[1 + axis] = grid[axis]
        expected.append(part.view(shape).expand(2, *grid, -1).flatten(1, 3))
    for name, ours, theirs in zip(("cos", "sin"), (cos, sin), torch.cat(expected, dim=-1), strict=True):
        assert_parity(ours, theirs, 1e-5, f"moved rotary {name}")
    assert torch.equal(rotary_table(grid, config)[0], rotary_table(grid, config, axes=(Axis(), Axis(), Axis()))[0])


def test_rotation_turns_a_pair_of_channels_by_its_angle() -> None:
    """In one pass as complex numbers, and as torch.compile and GPUs compute it."""
    quarter = (torch.zeros(1, 2), torch.ones(1, 2))  # cos 0, sin 1: a quarter turn
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    assert apply_rotary(x, quarter).flatten().tolist() == [-2.0, 1.0, -4.0, 3.0]
    assert apply_rotary(x.to(torch.bfloat16), quarter).dtype == torch.bfloat16
    compiled: Any = torch.compile(apply_rotary, backend="eager", fullgraph=True)
    assert compiled(x, quarter).flatten().tolist() == [-2.0, 1.0, -4.0, 3.0]
    two = torch.cat([x, -x], dim=1)
    across = two.transpose(1, 3).contiguous().transpose(1, 3)  # channels that lie apart in memory
    assert across.stride(-1) > 1 and torch.equal(apply_rotary(across, quarter), apply_rotary(two, quarter))


@pytest.mark.parametrize(
    ("channel", "value"), [(0, 0.99965), (1, 0.95984), (1535, 0.99495), (1536, -0.02646), (3071, 0.10033)]
)
def test_the_timestep_code_has_the_published_values(channel: int, value: float) -> None:
    assert timestep_embedding(torch.tensor([999]), 3072)[0, channel].item() == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize(("channel", "value"), [(0, -0.41615), (256, 0.90930)])
def test_the_offset_code_has_the_published_values(channel: int, value: float) -> None:
    assert timestep_embedding(torch.tensor([2.0]), 512)[0, channel].item() == pytest.approx(value, abs=1e-5)


# --- What is kept -----------------------------------------------------------------------------------------------------


def live_bytes(device: str) -> int:
    """Bytes of all tensors of a kind of device that Python holds."""
    gc.collect()
    found = [tensor for tensor in gc.get_objects() if type(tensor) in (Tensor, nn.Parameter)]
    return sum(tensor.nbytes for tensor in found if tensor.device.type == device)


@torch.no_grad()
def forward(model: CogVideoXTransformer3D, frames: int, device: str) -> Tensor:
    config = model.config
    latents = torch.zeros(1, config.in_channels, frames * config.frame_patch, 32, 48, device=device)
    embeds = torch.zeros(1, config.max_text_seq_length, config.text_embed_dim, device=device)
    return model(latents, embeds, torch.zeros(1, device=device))


@pytest.mark.parametrize("kind", ["CogVideoX-2B", "CogVideoX-5B", "CogVideoX1.5-5B"])
def test_nothing_on_a_device_outlives_its_use(kind: str) -> None:
    """The meta device stands for a GPU; in CPU memory no more is kept than codes of the axes."""
    config = replace(VARIANTS[kind].transformer, num_attention_heads=2, num_layers=1, text_embed_dim=32)
    rest = {device: live_bytes(device) for device in ("meta", "cpu")}
    model = CogVideoXTransformer3D(config, device="meta").requires_grad_(False)
    weights = live_bytes("meta")
    for frames in range(1, 6):
        forward(model, frames, "meta")
    assert live_bytes("meta") == weights
    with tabulated(model, [999, 500], torch.zeros(1, device="meta")):
        model.rotary((2, 16, 24), 226, torch.device("meta"))
    assert live_bytes("meta") == weights
    del model
    assert live_bytes("meta") == rest["meta"]
    assert live_bytes("cpu") - rest["cpu"] < 200_000


@pytest.mark.parametrize("axes", [TRAINED_AXES, (Axis(2.0), Axis(), Axis())], ids=["trained", "moved"])
def test_a_run_makes_a_rotary_table_once(axes: RotaryAxes) -> None:
    config = replace(CONFIG_5B, num_attention_heads=2, num_layers=1, text_embed_dim=32)
    model = CogVideoXTransformer3D(config).requires_grad_(False)
    arguments = (3, 4, 5), 226, torch.device("cpu"), axes
    wanted = rotary_table(*arguments[:1], config, "cpu", 226, axes)
    assert model.rotary(*arguments) is not model.rotary(*arguments)
    with tabulated(model, [999, 500], torch.zeros(1)):
        first = model.rotary(*arguments)
        assert first is not None and all(map(torch.equal, first, wanted))
        assert model.rotary(*arguments) is first
        other = model.rotary((3, 4, 6), *arguments[1:])
        assert other is not None and other[0].shape[0] == 226 + 3 * 4 * 6
        assert model.rotary(*arguments) is not first  # one is kept
    assert model.rotary(*arguments) is not first


def test_a_table_made_in_inference_mode_serves_training() -> None:
    config = replace(CONFIG_5B, num_attention_heads=2)
    with torch.inference_mode():
        rotary_table((1, 2, 3), config)
        sincos_table((1, 2, 3), config)
    x = torch.ones(1, 6, 2, 64, requires_grad=True)
    apply_rotary(x, rotary_table((1, 2, 3), config)).sum().backward()
    assert x.grad is not None
    assert not sincos_table((1, 2, 3), config).is_inference()


def test_an_additive_table_is_rounded_once() -> None:
    table = sincos_table((3, 4, 5), CONFIG_2B)
    assert torch.equal(sincos_table((3, 4, 5), CONFIG_2B, dtype=torch.bfloat16), table.bfloat16())
