"""What a training batch is: packed clips, timesteps, noise, images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler
from torch import Tensor

from cogvideox_core import VARIANTS, CogVideoXTransformer3D, load_transformer
from cogvideox_core.training.frame_pack import Bundle, packed_forward
from cogvideox_core.training.loop import Optimisation, slots_of_process
from cogvideox_core.training.timesteps import Focus, explicit_uniform, independent
from tests.support.checkpoints import make_checkpoint
from tests.support.parity import assert_parity
from tests.support.training_runs import DIFFUSION, objective_of

# --- Frame pack ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VARIANTS)
def test_packed_clips_are_as_if_each_were_alone(kind: str, tmp_path: Path) -> None:
    transformer = load_transformer(make_checkpoint(tmp_path, kind), dtype=torch.float32).requires_grad_(True)
    config = transformer.config
    sizes = [(2, 1, 4, 6, 5), (1, 3, 4, 4, 9), (3, 2, 8, 2, 5)]  # clips, frames, rows, columns, text tokens
    if config.use_learned_positional_embeddings:  # its table knows one size and one length of text
        sizes = [(count, frames, 8, 12, 226) for count, frames, *_ in sizes]
    generator = torch.Generator().manual_seed(0)
    bundles = [
        Bundle(
            torch.randn(clips, config.in_channels, frames * config.frame_patch, rows, columns, generator=generator),
            torch.randn(clips, length, config.text_embed_dim, generator=generator),
            torch.randint(0, 1000, (clips,), generator=generator),
        )
        for clips, frames, rows, columns, length in sizes
    ]
    alone = [transformer(*bundle) for bundle in bundles]
    wanted = _gradients(transformer, alone)
    for recompute in (False, True):
        packed = packed_forward(transformer, bundles, recompute=recompute).predictions
        for index, (ours, reference) in enumerate(zip(packed, alone, strict=True)):
            assert_parity(ours, reference, 1e-5, f"{kind}, packed clip {index}")
        assert_parity(_gradients(transformer, packed), wanted, 1e-4, f"{kind}, gradients of the pack")


def test_packed_clips_show_their_tokens_half_way(toy: Path) -> None:
    transformer = load_transformer(toy, dtype=torch.float32)
    bundles = [
        Bundle(torch.randn(2, 16, 3, 4, 6), torch.randn(2, 5, 32), torch.tensor([7, 900])),
        Bundle(torch.randn(1, 16, 1, 8, 4), torch.randn(1, 9, 32), torch.tensor([500])),
    ]
    for depth, block in enumerate(transformer.transformer_blocks, 1):
        seen: list[Any] = []
        packed = packed_forward(transformer, bundles, half_way=depth)
        watch = block.register_forward_hook(lambda *call, seen=seen: seen.append(call[-1]))
        for bundle in bundles:
            transformer(*bundle)
        watch.remove()
        for ours, (video, _) in zip(packed.tokens, seen, strict=True):
            assert_parity(ours, video, 1e-5, f"tokens after block {depth}")


def _gradients(transformer: CogVideoXTransformer3D, predictions: list[Tensor]) -> Tensor:
    loss = sum(prediction.square().sum() for prediction in predictions)
    assert isinstance(loss, Tensor)
    parameters = list(transformer.parameters())
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, parameters)])


# --- Timesteps and batches ----------------------------------------------------------------------------------------


def test_explicit_uniform_gives_every_clip_an_interval_of_its_own() -> None:
    batch_size = 20
    for step in range(30):
        timesteps = explicit_uniform(step, range(batch_size), batch_size, seed=1)
        assert sorted(timestep * batch_size // 1000 for timestep in timesteps) == list(range(batch_size))
    orders = {tuple(t // 50 for t in explicit_uniform(step, range(20), 20)) for step in range(30)}
    assert len(orders) == 30, "the intervals are dealt out the same way every time"


@pytest.mark.parametrize("draw", [explicit_uniform, independent])
def test_timesteps_are_uniform_over_all(draw: Any) -> None:
    drawn = torch.tensor([draw(step, range(8), 8, seed=3) for step in range(4000)]).flatten().float()
    assert drawn.min() == 0 and drawn.max() == 999
    assert abs(drawn.mean() - 499.5) < 8
    counts = torch.histc(drawn, 10, 0, 1000)
    assert (counts / counts.mean() - 1).abs().max() < 0.08


@pytest.mark.parametrize("draw", [explicit_uniform, independent])
def test_a_focus_moves_timesteps_to_where_it_lies(draw: Any) -> None:
    focus = Focus(500, 900, 0.6)
    drawn = torch.tensor([draw(step, range(8), 8, focus=focus) for step in range(1500)]).flatten()
    assert drawn.min() < 20 and drawn.max() > 980
    for low, high, share in ((500, 900, 0.76), (500, 700, 0.38), (0, 500, 0.2), (0, 250, 0.1), (900, 1000, 0.04)):
        assert abs(((drawn >= low) & (drawn < high)).float().mean() - share) < 0.02, (low, high)


@pytest.mark.parametrize("draw", [explicit_uniform, independent])
def test_processes_draw_what_one_process_would(draw: Any) -> None:
    whole = draw(5, range(12), 12, seed=2)
    assert draw(5, range(4), 12, seed=2) + draw(5, range(4, 12), 12, seed=2) == whole


def test_independent_timesteps_leave_gaps() -> None:
    held = [len({t // 50 for t in independent(step, range(20), 20)}) for step in range(30)]
    assert max(held) < 20  # 20 of 20 intervals has a chance of 2e-8


def test_slots_cover_the_batch_once() -> None:
    plan = Optimisation(steps=1, batch_size=24, learning_rate=1e-3, accumulation=3)
    parts = [slots for process in range(4) for slots in slots_of_process(plan, process, 4)]
    assert sorted(slot for slots in parts for slot in slots) == list(range(24))
    with pytest.raises(ValueError, match="24 clips does not divide over 5 processes x 3"):
        slots_of_process(plan, 0, 5)


@pytest.mark.parametrize("kind", ["CogVideoX-5B", "CogVideoX-2B"])  # without and with a shift of the noise levels
def test_clips_are_noised_as_diffusers_noises_them(kind: str, tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model", kind)
    objective = objective_of(DIFFUSION | {"variant": kind}, model, tmp_path)
    theirs = CogVideoXDDIMScheduler.from_pretrained(model / "scheduler")
    groups = objective.batch(3, range(4), 4)
    assert [tuple(group.latents.shape[2:]) for group in groups] == [(3, 4, 6), (1, 6, 6)]
    assert sorted(t // 250 for group in groups for t in group.timestep.tolist()) == [0, 1, 2, 3]
    for group, (encoded, _) in zip(groups, objective.buckets, strict=True):
        share = theirs.alphas_cumprod[group.timestep].view(-1, 1, 1, 1, 1).float()
        sample = share**0.5 * group.latents - (1 - share) ** 0.5 * group.target
        noise = (1 - share) ** 0.5 * group.latents + share**0.5 * group.target
        assert_parity(group.latents, theirs.add_noise(sample, noise, group.timestep), 1e-5, f"{kind}, noised")
        assert_parity(group.target, theirs.get_velocity(sample, noise, group.timestep), 1e-5, f"{kind}, velocity")
        assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
        clips = [encoded[index] for index in range(encoded.bucket.count)]
        for clean in sample:
            apart = [((clean / objective.scale - clip.mean) / clip.deviation).square().mean() for clip in clips]
            assert 0.8 < min(apart) < 1.2, "it is drawn from no clip's posterior"


@pytest.mark.parametrize(
    ("dropout", "given"),
    [({}, "first"), ({"last_image": 1.0}, "both"), ({"last_image": 1.0, "image": 1.0}, "nothing")],
)
def test_images_stand_where_their_frames_do(dropout: dict[str, float], given: str, tmp_path: Path) -> None:
    model = make_checkpoint(tmp_path / "model", "CogVideoX-5B-I2V")
    recipe = DIFFUSION | {"variant": "CogVideoX-5B-I2V", "buckets": DIFFUSION["buckets"][:1]}
    recipe["buckets"] = [recipe["buckets"][0] | {"share": 1.0}]
    recipe["dropout"] = {"image": 0.0, "last_image": 0.0} | dropout
    objective = objective_of(recipe, model, tmp_path)
    (group,) = objective.batch(0, range(4), 4)
    (encoded, _) = objective.buckets[0]
    clips = [encoded[index] for index in range(encoded.bucket.count)]
    condition = group.latents[:, 16:] / objective.image_scale
    assert not condition[:, :, 1:-1].any()
    for place, name, there in ((0, "first", given != "nothing"), (-1, "last", given == "both")):
        for frame in condition[:, :, place]:
            wanted = [getattr(clip, name)[:, 0] for clip in clips]
            assert any(torch.allclose(frame, picture, atol=1e-5) for picture in wanted) if there else not frame.any()
