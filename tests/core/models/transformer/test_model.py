"""One forward pass of the transformer against diffusers, all five models; float32, random weights."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from torch import Tensor

from cogvideox_core.models.config import TransformerConfig
from cogvideox_core.models.transformer.attention import sdpa, values_only
from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from cogvideox_core.models.transformer.positions import Axis, Positions, rotary_table
from tests.support.checkpoints import OFFICIAL, random_transformer, toy_transformer_config
from tests.support.parity import assert_parity, relative_difference

BOUND = 1e-5
FIRST = ("CogVideoX-2B", "CogVideoX-5B")
LATER = ("CogVideoX1.5-5B", "CogVideoX1.5-5B-I2V")
LEARNED = "CogVideoX-5B-I2V"
KINDS = tuple(OFFICIAL)

# (latent frames, rows, columns); the training size first, then portrait, square and a wide small one.
SIZES = {
    **dict.fromkeys(FIRST, [(2, 60, 90), (1, 90, 60), (3, 64, 64), (5, 16, 28)]),
    LEARNED: [(5, 8, 12)],
    **dict.fromkeys(LATER, [(2, 96, 170), (2, 170, 96), (4, 60, 90), (6, 16, 28)]),
}


class Pair:
    """diffusers' model and ours with the same weights."""

    def __init__(self, config: dict[str, Any], seed: int = 0) -> None:
        self.reference = random_transformer(config, seed=seed)
        names = {field.name for field in fields(TransformerConfig)}
        self.config = TransformerConfig(**{k: v for k, v in self.reference.config.items() if k in names})
        self.ours = CogVideoXTransformer3D(self.config).eval().requires_grad_(False)
        self.ours.load_state_dict(self.reference.state_dict(), strict=True)

    def inputs(self, frames: int, rows: int, columns: int, batch: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
        """Latents [B, C, T, H, W] and prompt embeddings [B, L, text_embed_dim]."""
        generator = torch.Generator().manual_seed(seed)
        config = self.config
        latents = torch.randn(batch, config.in_channels, frames, rows, columns, generator=generator)
        return latents, torch.randn(batch, config.max_text_seq_length, config.text_embed_dim, generator=generator)


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    return {kind: Pair(toy_transformer_config(kind)) for kind in KINDS}


@torch.no_grad()
def run_reference(
    model: CogVideoXTransformer3DModel, latents: Tensor, embeds: Tensor, timestep: Tensor, ofs: float = 2.0
) -> Tensor:
    """diffusers' forward as its pipelines call it, in our layout [B, C, T, H, W]."""
    config: Any = model.config
    rotary = None
    if config.use_rotary_positional_embeddings:
        pipeline: Any = SimpleNamespace(vae_scale_factor_spatial=8, transformer=model)
        frames, rows, columns = latents.shape[2:]
        rotary = CogVideoXPipeline._prepare_rotary_positional_embeddings(
            pipeline, rows * 8, columns * 8, frames, torch.device("cpu")
        )
    offset = None if config.ofs_embed_dim is None else torch.full((1,), ofs)
    frames_first = latents.transpose(1, 2)
    predicted = model(frames_first, embeds, timestep, ofs=offset, image_rotary_emb=rotary, return_dict=False)[0]
    return predicted.transpose(1, 2)


@pytest.mark.parametrize(("kind", "size"), [(kind, size) for kind in KINDS for size in SIZES[kind]])
def test_a_forward_pass_equals_the_reference_at_every_size(pairs: dict[str, Pair], kind: str, size: tuple) -> None:
    pair = pairs[kind]
    latents, embeds = pair.inputs(*size)
    timestep = torch.tensor([999, 19])
    with torch.no_grad():
        ours = pair.ours(latents, embeds, timestep)
    assert_parity(ours, run_reference(pair.reference, latents, embeds, timestep), BOUND, f"transformer {kind} {size}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("timestep", [0, 499])
def test_a_forward_pass_equals_the_reference_at_every_timestep(
    pairs: dict[str, Pair], kind: str, timestep: int
) -> None:
    pair = pairs[kind]
    latents, embeds = pair.inputs(*SIZES[kind][-1], batch=1)
    t = torch.tensor([timestep])
    with torch.no_grad():
        ours = pair.ours(latents, embeds, t)
    assert_parity(ours, run_reference(pair.reference, latents, embeds, t), BOUND, f"transformer {kind} t={timestep}")


@pytest.mark.parametrize("kind", ["CogVideoX-5B", LEARNED, LATER[0]])
def test_moved_rotary_axes_equal_the_reference_with_a_table_of_those_positions(
    pairs: dict[str, Pair], kind: str
) -> None:
    pair, axes = pairs[kind], (Axis(0.5, 1.0), Axis(2.0, -4.0), Axis(1.5, 3.0))
    latents, embeds = pair.inputs(*SIZES[kind][-1], batch=1)
    grid = pair.ours.token_grid(latents, embeds)
    table = [part.repeat_interleave(2, dim=-1) for part in rotary_table(grid, pair.config, axes=axes)]
    t, frames_first = torch.tensor([500]), latents.transpose(1, 2)
    with torch.no_grad():
        ours = pair.ours(latents, embeds, t, positions=Positions(axes))
        options = dict(image_rotary_emb=table, return_dict=False)
        offset = None if pair.config.ofs_embed_dim is None else torch.full((1,), 2.0)
        expected = pair.reference(frames_first, embeds, t, ofs=offset, **options)[0].transpose(1, 2)
    assert_parity(ours, expected, BOUND, f"{kind} with moved axes")
    assert relative_difference(ours, run_reference(pair.reference, latents, embeds, t)) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_values_in_place_of_attention_equal_the_reference_with_such_a_processor(
    pairs: dict[str, Pair], kind: str
) -> None:
    pair = pairs[kind]
    latents, embeds = pair.inputs(*SIZES[kind][-1], batch=1)
    t = torch.tensor([500])

    class ValuesOnly:
        """What spatio-temporal guidance makes of an attention: each token keeps its own value."""

        def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **options: Any) -> tuple:
            out = attn.to_out[0](attn.to_v(torch.cat([encoder_hidden_states, hidden_states], dim=1)))
            text = encoder_hidden_states.shape[1]
            return out[:, text:], out[:, :text]

    plain = run_reference(pair.reference, latents, embeds, t)
    processors = pair.reference.attn_processors
    processor: Any = ValuesOnly()
    pair.reference.set_attn_processor(processor)
    try:
        expected = run_reference(pair.reference, latents, embeds, t)
    finally:
        pair.reference.set_attn_processor(processors)
    with torch.no_grad():
        ours = pair.ours(latents, embeds, t, attention=values_only)
    assert_parity(ours, expected, BOUND, f"{kind} with values in place of attention")
    assert relative_difference(plain, expected) > 1e-3


@pytest.mark.parametrize("kind", FIRST)
def test_any_number_of_latent_frames_equals_the_reference(pairs: dict[str, Pair], kind: str) -> None:
    pair = pairs[kind]
    for frames in (1, 2, 4, 7, 13):
        latents, embeds = pair.inputs(frames, 8, 12, batch=1)
        t = torch.tensor([700])
        with torch.no_grad():
            ours = pair.ours(latents, embeds, t)
        assert_parity(ours, run_reference(pair.reference, latents, embeds, t), BOUND, f"transformer {kind} T={frames}")


@pytest.mark.parametrize("kind", KINDS)
def test_items_of_a_batch_do_not_touch_each_other(pairs: dict[str, Pair], kind: str) -> None:
    pair = pairs[kind]
    latents, embeds = pair.inputs(*SIZES[kind][-1])
    timestep = torch.tensor([999, 19])
    with torch.no_grad():
        together = pair.ours(latents, embeds, timestep)
        alone = torch.cat([pair.ours(latents[i : i + 1], embeds[i : i + 1], timestep[i : i + 1]) for i in (0, 1)])
    assert relative_difference(together, alone) <= BOUND


def test_the_offset_defaults_to_two_and_is_obeyed(pairs: dict[str, Pair]) -> None:
    pair = pairs["CogVideoX1.5-5B-I2V"]
    latents, embeds = pair.inputs(2, 8, 12)
    t = torch.tensor([999, 19])
    with torch.no_grad():
        default, two = (pair.ours(latents, embeds, t, ofs=ofs) for ofs in (None, torch.tensor([2.0])))
        seven = pair.ours(latents, embeds, t, ofs=torch.tensor([7.0]))
    assert torch.equal(default, two)
    assert_parity(two, run_reference(pair.reference, latents, embeds, t, ofs=2.0), BOUND, "transformer ofs=2")
    assert_parity(seven, run_reference(pair.reference, latents, embeds, t, ofs=7.0), BOUND, "transformer ofs=7")
    assert relative_difference(seven, two) > 1e-2


def test_a_model_without_an_offset_ignores_it(pairs: dict[str, Pair]) -> None:
    pair = pairs["CogVideoX1.5-5B"]
    latents, embeds = pair.inputs(2, 8, 12)
    t = torch.tensor([999, 19])
    with torch.no_grad():
        assert torch.equal(pair.ours(latents, embeds, t), pair.ours(latents, embeds, t, ofs=torch.tensor([7.0])))


def test_a_learned_table_refuses_another_size_as_the_reference_does(pairs: dict[str, Pair]) -> None:
    pair = pairs[LEARNED]
    latents, embeds = pair.inputs(5, 12, 8)
    t = torch.tensor([999, 19])
    with pytest.raises(ValueError, match="different resolution"):
        run_reference(pair.reference, latents, embeds, t)
    with pytest.raises(ValueError, match="8 x 12"):
        pair.ours(latents, embeds, t)
    with pytest.raises(ValueError, match="up to 5 frames"):
        pair.ours(*pair.inputs(6, 8, 12), t)


@pytest.mark.parametrize("kind", ["CogVideoX-2B", "CogVideoX1.5-5B-I2V"])
def test_quiet_activations_equal_the_reference(kind: str) -> None:
    """Where activations are hardly larger than a norm's epsilon, each epsilon counts: 1e-6 for q and k, 1e-5 else."""
    pair = Pair(toy_transformer_config(kind))
    for name, weight in pair.reference.named_parameters():
        if name.startswith("patch_embed") or ".to_q." in name or ".to_k." in name:
            weight.mul_(0.005)
    pair.ours.load_state_dict(pair.reference.state_dict(), strict=True)
    latents, embeds = pair.inputs(2, 8, 12)
    t = torch.tensor([999, 19])
    with torch.no_grad():
        ours = pair.ours(latents, embeds, t)
    assert_parity(ours, run_reference(pair.reference, latents, embeds, t), BOUND, f"transformer {kind} quiet")


def test_a_shorter_clip_reads_the_first_rows_of_the_learned_table(pairs: dict[str, Pair]) -> None:
    """The reference would put a computed table in the place of the trained one; ours keeps the trained rows."""
    pair = pairs[LEARNED]
    frames = 3
    shorter = CogVideoXTransformer3DModel(**toy_transformer_config(LEARNED, sample_frames=4 * (frames - 1) + 1)).eval()
    weights = dict(pair.reference.state_dict())
    rows = shorter.state_dict()["patch_embed.pos_embedding"].shape[1]
    weights["patch_embed.pos_embedding"] = weights["patch_embed.pos_embedding"][:, :rows]
    shorter.load_state_dict(weights, strict=True)
    latents, embeds = pair.inputs(frames, 8, 12)
    t = torch.tensor([999, 19])
    with torch.no_grad():
        ours = pair.ours(latents, embeds, t)
    assert_parity(ours, run_reference(shorter, latents, embeds, t), BOUND, "transformer shorter learned table")


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_takes_part(pairs: dict[str, Pair], kind: str) -> None:
    """A weight that could be dropped without a trace would hide an error; each moves the result."""
    pair = pairs[kind]
    latents, embeds = pair.inputs(*SIZES[LEARNED][0] if kind == LEARNED else (2, 8, 12), batch=1)
    pair.ours.requires_grad_(True)
    try:
        # Squared, because a plain sum is blind to what a bias before a norm adds.
        pair.ours(latents, embeds, torch.tensor([499])).square().sum().backward()
        gradients = {name: weight.grad for name, weight in pair.ours.named_parameters()}
        silent = [name for name, gradient in gradients.items() if gradient is None or not gradient.abs().max() > 0]
    finally:
        pair.ours.requires_grad_(False)
        pair.ours.zero_grad(set_to_none=True)
    assert silent == []


def test_the_attention_function_is_taken_from_the_caller(pairs: dict[str, Pair]) -> None:
    pair = pairs["CogVideoX-5B"]
    latents, embeds = pair.inputs(1, 8, 12, batch=1)
    seen = []

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append(tuple(q.shape))
        return sdpa(q, k, v)

    with torch.no_grad():
        ours = pair.ours(latents, embeds, torch.tensor([1]), attention=attention)
        plain = pair.ours(latents, embeds, torch.tensor([1]))
    assert torch.equal(ours, plain)
    assert seen == [(1, 2, 226 + 24, 64)] * 2


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("CogVideoX-5B", (1, 32, 1, 8, 12), r"takes \[B, 16, T, H, W\]"),
        ("CogVideoX-5B-I2V", (1, 16, 5, 8, 12), r"takes \[B, 32, T, H, W\]"),
        ("CogVideoX-5B", (1, 16, 1, 9, 12), "1 x 9 x 12"),
        ("CogVideoX1.5-5B", (1, 16, 3, 8, 12), "2 x 2 x 2"),
    ],
)
def test_latents_that_do_not_fit_are_refused(pairs: dict[str, Pair], kind: str, shape: tuple, message: str) -> None:
    pair = pairs[kind]
    embeds = torch.zeros(1, 226, pair.config.text_embed_dim)
    with pytest.raises(ValueError, match=message):
        pair.ours(torch.zeros(shape), embeds, torch.tensor([1]))


def test_prompt_embeddings_of_another_width_are_refused(pairs: dict[str, Pair]) -> None:
    pair = pairs["CogVideoX-5B"]
    with pytest.raises(ValueError, match="4096 wide; this model takes 32"):
        pair.ours(torch.zeros(1, 16, 1, 8, 12), torch.zeros(1, 226, 4096), torch.tensor([1]))
