"""Whole runs against diffusers' pipelines: text-, image- and video-to-video; float32, random weights, files on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXVideoToVideoPipeline,
    DiffusionPipeline,
)
from PIL import Image
from torch import Tensor

from cogvideox_core import CogVideoXPipeline as Pipeline
from cogvideox_core import Progress, Request, Tiling, load_pipeline, load_transformer
from cogvideox_core.sampling.loop import denoise
from cogvideox_core.sampling.predictor import Conditions, TransformerPredictor
from cogvideox_core.sampling.samplers import make_sampler
from tests.support.checkpoints import OFFICIAL
from tests.support.parity import assert_parity, relative_difference

BOUND = 1e-4
PROMPT = "a red circle moves to the right on a blue background"
NEGATIVE = "a grey wall"
SIZE = dict(height=32, width=48)
FRAMES = 17  # five latents: in 1.5 one more is put in front
TABLE = dict(sample_height=4, sample_width=6)  # latents: the one size of the model with a learned table
TEXT, IMAGE, VIDEO = CogVideoXPipeline, CogVideoXImageToVideoPipeline, CogVideoXVideoToVideoPipeline

Checkpoint = Callable[..., Path]


class Runs:
    """The same request to diffusers' pipeline and to ours, both loaded from one folder."""

    def __init__(self, folder: Path) -> None:
        self.loaded = DiffusionPipeline.from_pretrained(folder)
        self.ours = load_pipeline(folder, device="cpu")

    def reference(self, task: type, sampler: str, **request: Any) -> tuple[Tensor, Tensor]:
        """diffusers' latents and video, in our layout [B, C, T, H, W]."""
        components = dict(self.loaded.components)
        if sampler == "dpm":
            components["scheduler"] = CogVideoXDPMScheduler.from_config(components["scheduler"].config)
        pipeline = task(**components)
        pipeline.set_progress_bar_config(disable=True)
        seen: dict[str, Tensor] = {}

        def remember(pipeline: Any, index: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            seen.update(tensors)
            return tensors

        if request.get("latents") is not None:
            request = request | {"latents": request["latents"].transpose(1, 2)}
        frames = pipeline(**request, output_type="pt", callback_on_step_end=remember).frames
        return seen["latents"].transpose(1, 2), frames.transpose(1, 2)

    def run_ours(self, sampler: Any, **request: Any) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []

        def remember(progress: Progress) -> None:
            if progress.stage == "sampling":
                assert progress.latents is not None
                seen.append(progress.latents)

        video = self.ours(**request, sampler=sampler, callback=remember)
        return seen[-1], video

    def assert_alike(self, task: type, sampler: str, what: str, seed: int | list[int] = 5, **request: Any) -> Tensor:
        reference = self.reference(task, sampler, **request, generator=seeded(seed))
        ours = self.run_ours(sampler, **request, generator=seeded(seed))
        for part, mine, theirs in zip(("latents", "video"), ours, reference, strict=True):
            assert_parity(mine, theirs, BOUND, f"run {what} {part}")
        assert 0.05 < ((reference[1] > 0) & (reference[1] < 1)).float().mean()  # not all of it is clamped away
        return ours[1]


@pytest.fixture(scope="module")
def runs(checkpoint: Checkpoint) -> Callable[[str], Runs]:
    made: dict[str, Runs] = {}

    def get(kind: str) -> Runs:
        if kind not in made:
            has_table = OFFICIAL[kind].transformer.get("use_learned_positional_embeddings")
            made[kind] = Runs(checkpoint(kind, **dict(transformer=TABLE) if has_table else {}))
        return made[kind]

    return get


def seeded(seed: int | list[int] = 5) -> Any:
    if isinstance(seed, list):
        return [torch.Generator().manual_seed(one) for one in seed]
    return torch.Generator().manual_seed(seed)


def picture(width: int = 48, height: int = 32, shift: int = 0) -> Image.Image:
    """A picture with detail everywhere: three waves, one per colour."""
    x, y = torch.arange(width).float()[None, :] / width, torch.arange(height).float()[:, None] / height
    waves = [torch.sin(9 * x + 5 * y + shift), torch.cos(7 * y - 3 * x + shift / 2), torch.sin(20 * x * y + shift / 3)]
    data = ((torch.stack(waves, dim=-1) + 1) * 127.5).round().to(torch.uint8)
    return Image.frombytes("RGB", (width, height), bytes(data.flatten().tolist()))


def clip(frames: int, width: int = 48, height: int = 32) -> list[Image.Image]:
    return [picture(width, height, shift=index) for index in range(frames)]


def request(kind: str, **changes: Any) -> dict[str, Any]:
    common: dict[str, Any] = dict(
        prompt=PROMPT, negative_prompt=NEGATIVE, num_inference_steps=4, guidance_scale=6.0, **SIZE
    )
    if OFFICIAL[kind].transformer["in_channels"] == 32:
        common["image"] = picture()
    return common | changes


SAMPLERS = pytest.mark.parametrize("sampler", ["ddim", "dpm"])
DYNAMIC = pytest.mark.parametrize("dynamic", [False, True], ids=["constant guidance", "dynamic guidance"])


@SAMPLERS
@DYNAMIC
@pytest.mark.parametrize("kind", ["CogVideoX-2B", "CogVideoX-5B", "CogVideoX1.5-5B"])
def test_text_to_video_equals_the_reference(
    runs: Callable[[str], Runs], kind: str, sampler: str, dynamic: bool
) -> None:
    video = runs(kind).assert_alike(
        TEXT,
        sampler,
        f"text {kind} {sampler} {dynamic=}",
        **request(kind, num_frames=FRAMES, use_dynamic_cfg=dynamic),
    )
    assert video.shape == (1, 3, FRAMES, 32, 48)


@SAMPLERS
@DYNAMIC
@pytest.mark.parametrize("kind", ["CogVideoX-5B-I2V", "CogVideoX1.5-5B-I2V"])
def test_image_to_video_equals_the_reference(
    runs: Callable[[str], Runs], kind: str, sampler: str, dynamic: bool
) -> None:
    video = runs(kind).assert_alike(
        IMAGE,
        sampler,
        f"image {kind} {sampler} {dynamic=}",
        **request(kind, num_frames=FRAMES, use_dynamic_cfg=dynamic),
    )
    assert video.shape == (1, 3, FRAMES, 32, 48)


@SAMPLERS
@DYNAMIC
@pytest.mark.parametrize(("kind", "strength"), [("CogVideoX-2B", 0.8), ("CogVideoX-5B", 0.5)])
def test_video_to_video_equals_the_reference(
    runs: Callable[[str], Runs], kind: str, strength: float, sampler: str, dynamic: bool
) -> None:
    """diffusers' pipeline counts the frames of the video itself, and its prev_t keeps the stride of all N steps."""
    video = runs(kind).assert_alike(
        VIDEO,
        sampler,
        f"video {kind} {sampler} {dynamic=}",
        **request(kind, video=clip(9), strength=strength, num_inference_steps=6, use_dynamic_cfg=dynamic),
    )
    assert video.shape == (1, 3, 9, 32, 48)


@pytest.mark.parametrize("kind", ["CogVideoX-2B", "CogVideoX1.5-5B"])
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_any_number_of_steps_equals_the_reference(runs: Callable[[str], Runs], kind: str, steps: int) -> None:
    changes = dict(num_frames=9, num_inference_steps=steps)
    runs(kind).assert_alike(TEXT, "dpm", f"text {kind} {steps} steps", **request(kind, **changes))


@pytest.mark.parametrize("frames", [1, 9, 25])
@pytest.mark.parametrize("kind", ["CogVideoX-5B", "CogVideoX1.5-5B", "CogVideoX1.5-5B-I2V"])
def test_any_frame_count_and_a_portrait_equal_the_reference(
    runs: Callable[[str], Runs], kind: str, frames: int
) -> None:
    changes: dict[str, Any] = dict(num_frames=frames, num_inference_steps=2, height=48, width=32)
    if "I2V" in kind:
        changes["image"] = picture(32, 48)
    task = IMAGE if "image" in changes else TEXT
    video = runs(kind).assert_alike(task, "ddim", f"{kind} {frames} frames portrait", **request(kind, **changes))
    assert video.shape == (1, 3, frames, 48, 32)


@pytest.mark.parametrize("kind", ["CogVideoX-5B-I2V", "CogVideoX1.5-5B-I2V"])
def test_a_larger_picture_is_resized_as_the_reference_does(runs: Callable[[str], Runs], kind: str) -> None:
    changes = dict(num_frames=FRAMES, num_inference_steps=2, image=picture(300, 200))
    runs(kind).assert_alike(IMAGE, "ddim", f"image {kind} resized", **request(kind, **changes))


def test_a_larger_video_is_resized_as_the_reference_does(runs: Callable[[str], Runs]) -> None:
    kind = "CogVideoX-5B"
    changes = dict(video=clip(9, 150, 100), num_inference_steps=3)
    runs(kind).assert_alike(VIDEO, "ddim", f"video {kind} resized", **request(kind, **changes))


def test_a_tensor_in_place_of_a_picture_gives_the_same_video(runs: Callable[[str], Runs]) -> None:
    ours = runs("CogVideoX-5B-I2V").ours
    data = torch.frombuffer(bytearray(picture().tobytes()), dtype=torch.uint8).view(32, 48, 3)
    common = request("CogVideoX-5B-I2V", num_frames=FRAMES, num_inference_steps=1)
    of_picture = ours(**common, generator=seeded())
    common["image"] = data.permute(2, 0, 1) / 255
    of_tensor = ours(**common, generator=seeded())
    assert torch.equal(of_picture, of_tensor)


@SAMPLERS
def test_a_batch_with_a_generator_each_equals_the_reference(runs: Callable[[str], Runs], sampler: str) -> None:
    changes = dict(
        prompt=[PROMPT, "waves break on a rocky shore"],
        negative_prompt=[NEGATIVE, ""],
        num_frames=9,
        num_inference_steps=3,
    )
    kind = "CogVideoX-5B"
    video = runs(kind).assert_alike(
        TEXT, sampler, f"text {kind} {sampler} batch", seed=[5, 6], **request(kind, **changes)
    )
    assert video.shape[0] == 2


@SAMPLERS
def test_a_batch_with_one_generator_equals_the_reference(runs: Callable[[str], Runs], sampler: str) -> None:
    kind = "CogVideoX1.5-5B"
    changes = dict(
        prompt=[PROMPT, "waves break on a rocky shore"], negative_prompt=["", ""], num_frames=9, num_inference_steps=3
    )
    runs(kind).assert_alike(TEXT, sampler, f"text {kind} {sampler} batch, one generator", **request(kind, **changes))


def test_a_batch_of_pictures_equals_the_reference(runs: Callable[[str], Runs]) -> None:
    kind = "CogVideoX1.5-5B-I2V"
    changes = dict(
        prompt=[PROMPT, "waves break on a rocky shore"],
        negative_prompt=["", ""],
        image=[picture(), picture(shift=2)],
        num_frames=9,
        num_inference_steps=3,
    )
    for seed in (5, [5, 6]):
        runs(kind).assert_alike(IMAGE, "dpm", f"image {kind} batch, seed {seed}", seed=seed, **request(kind, **changes))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_run_without_guidance_equals_the_reference(runs: Callable[[str], Runs], scale: float) -> None:
    kind = "CogVideoX-2B"
    changes = dict(num_frames=9, guidance_scale=scale)
    runs(kind).assert_alike(TEXT, "dpm", f"text {kind} guidance {scale}", **request(kind, **changes))


@pytest.mark.parametrize("kind", ["CogVideoX-2B", "CogVideoX1.5-5B", "CogVideoX1.5-5B-I2V"])
def test_given_noise_and_embeddings_equal_the_reference(runs: Callable[[str], Runs], kind: str) -> None:
    generator = seeded(9)
    frames = 6 if OFFICIAL[kind].transformer.get("patch_size_t") else 5
    changes = dict(
        prompt=None,
        negative_prompt=None,
        prompt_embeds=torch.randn(1, 226, 32, generator=generator),
        negative_prompt_embeds=torch.randn(1, 226, 32, generator=generator),
        latents=torch.randn(1, 16, frames, 4, 6, generator=generator),
        num_frames=FRAMES,
    )
    pair, common = runs(kind), request(kind, **changes)
    task = IMAGE if "image" in common else TEXT
    reference = pair.reference(task, "dpm", **common, generator=seeded())
    ours = pair.run_ours("dpm", **common | {"negative_prompt": ""}, generator=seeded())
    for part, mine, theirs in zip(("latents", "video"), ours, reference, strict=True):
        assert_parity(mine, theirs, BOUND, f"run {kind} given latents and embeddings, {part}")


@pytest.mark.parametrize("kind", ["CogVideoX-5B", "CogVideoX1.5-5B"])
def test_latents_come_out_with_their_leading_frames(runs: Callable[[str], Runs], kind: str) -> None:
    pair, common = runs(kind), request(kind, num_frames=FRAMES, num_inference_steps=2)
    reference, _ = pair.reference(TEXT, "ddim", **common, generator=seeded())
    latents = pair.ours(**common, output_type="latent", generator=seeded())
    assert latents.shape[2] == (6 if OFFICIAL[kind].transformer.get("patch_size_t") else 5)
    assert_parity(latents, reference, BOUND, f"run {kind} latent output")


def test_a_seed_is_a_video(runs: Callable[[str], Runs]) -> None:
    ours = runs("CogVideoX-5B").ours
    common = request("CogVideoX-5B", num_frames=9, num_inference_steps=2, sampler="dpm")
    first, again, other = (ours(**common, generator=seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert relative_difference(other, first) > 0.1


def test_a_stream_gives_the_very_frames_of_a_call(runs: Callable[[str], Runs]) -> None:
    ours = runs("CogVideoX1.5-5B").ours
    common = request("CogVideoX1.5-5B", num_frames=FRAMES, num_inference_steps=1)
    chunks = list(ours.stream(Request(**common, generator=seeded())))
    assert [chunk.shape[2] for chunk in chunks] == [9, 8]
    assert torch.equal(torch.cat(chunks, dim=2), ours(**common, generator=seeded()))


def test_a_zeroed_negative_prompt_stands_for_zero_embeddings(runs: Callable[[str], Runs]) -> None:
    ours = runs("CogVideoX-5B").ours
    common = request("CogVideoX-5B", num_frames=9, num_inference_steps=2, negative_prompt="")
    assert ours.text_encoder is not None
    embeds = ours.text_encoder([PROMPT])
    zeroed = ours(**common, zero_negative_prompt=True, generator=seeded())
    given = common | dict(prompt=None, prompt_embeds=embeds, negative_prompt_embeds=torch.zeros_like(embeds))
    assert torch.equal(zeroed, ours(**given, generator=seeded()))
    assert relative_difference(zeroed, ours(**common, generator=seeded())) > 1e-3


def test_progress_counts_every_stage_and_an_error_in_it_stops_the_run(runs: Callable[[str], Runs]) -> None:
    ours = runs("CogVideoX-5B").ours
    common = request("CogVideoX-5B", num_frames=FRAMES, num_inference_steps=3)
    told: list[tuple[str, int, int]] = []
    ours(**common, callback=lambda p: told.append((p.stage, p.step, p.total)), generator=seeded())
    assert told == [
        *[("text", step, 2) for step in (1, 2)],
        *[("sampling", step, 3) for step in (1, 2, 3)],
        *[("decoding", step, 2) for step in (1, 2)],
    ]

    class Stopped(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.stage == "sampling":
            raise Stopped

    with pytest.raises(Stopped):
        ours(**common, callback=stop, generator=seeded())


def test_latents_that_are_not_finite_stop_the_run_at_once(
    runs: Callable[[str], Runs], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = runs("CogVideoX-5B").ours
    monkeypatch.setattr(ours.transformer.proj_out, "forward", lambda tokens: tokens[..., :64] * float("nan"))
    embeds, steps = torch.zeros(1, 226, 32), ours.schedule.steps(4)
    predictor = TransformerPredictor(ours.transformer, steps, Conditions(embeds, embeds))
    with predictor, pytest.raises(FloatingPointError, match="timestep 999.*float32"):
        denoise(predictor, torch.zeros(1, 16, 3, 8, 12), steps, make_sampler("ddim", torch.randn_like))


def test_float16_runs_wider_on_a_cpu(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint("CogVideoX-5B", dtype=torch.float16)
    assert load_pipeline(folder, device="cpu").dtype == torch.float32
    monkeypatch.setattr("cogvideox_core.pipeline.dtype_choice._SMALL", 1000)  # parameters: now it is a large model
    assert load_pipeline(folder, device="cpu").dtype == torch.bfloat16
    assert load_pipeline(folder, device="cpu", dtype="float16").dtype == torch.float16


# --- Lengths and sizes that a model was not trained at ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["CogVideoX-5B", "CogVideoX1.5-5B-I2V"])
def test_a_video_of_any_length_is_the_beginning_of_the_next_that_fits(runs: Callable[[str], Runs], kind: str) -> None:
    ours = runs(kind).ours
    whole = ours(**request(kind, num_frames=17), generator=seeded())
    for frames in (16, 12):
        chunks = list(ours.stream(Request(**request(kind, num_frames=frames), generator=seeded())))
        assert torch.equal(torch.cat(chunks, dim=2), whole[:, :, :frames])
    latents = ours(**request(kind, num_frames=12), generator=seeded(), output_type="latent")
    assert latents.shape[2] == 5 + (kind == "CogVideoX1.5-5B-I2V")


def test_a_given_video_of_any_length_ends_with_its_last_frame(runs: Callable[[str], Runs]) -> None:
    ours, given = runs("CogVideoX-5B").ours, clip(12)
    common = request("CogVideoX-5B", strength=0.5)
    made = ours(**common, video=given, generator=seeded())
    assert made.shape[2] == 12
    longer = ours(**common, video=given + given[-1:] * 5, generator=seeded())
    assert torch.equal(made, longer[:, :, :12])


def test_a_last_image_is_not_cut_off(runs: Callable[[str], Runs]) -> None:
    ours = runs("CogVideoX1.5-5B-I2V").ours
    with pytest.raises(ValueError, match="num_frames=12 with a last image, .* last of the 17 .*; use 9 or 17"):
        ours(**request("CogVideoX1.5-5B-I2V", last_image=picture(shift=2), num_frames=12))


WITHOUT_TABLE = dict(use_learned_positional_embeddings=False)
OTHER_SIZE = dict(height=64, width=32, num_frames=9)


@SAMPLERS
def test_image_to_video_without_a_table_equals_the_reference_at_every_size(
    checkpoint: Checkpoint, sampler: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A fine-tune of 5B-I2V: built like a control model, and the folder's pipeline says what it is."""
    runs = Runs(checkpoint("CogVideoX-5B-I2V", transformer=WITHOUT_TABLE))
    assert runs.ours.variant.conditioning == "image"
    for size in (OTHER_SIZE, dict(height=32, width=48, num_frames=17)):
        more = request("CogVideoX-5B-I2V", image=picture(size["width"], size["height"]), **size)
        runs.assert_alike(IMAGE, sampler, f"without a table, {sampler}, {size}", **more)


def test_a_bare_model_is_given_what_the_request_gives(runs: Callable[[str], Runs], checkpoint: Checkpoint) -> None:
    folder = checkpoint("CogVideoX-5B-I2V", transformer=WITHOUT_TABLE)
    whole = load_pipeline(folder, device="cpu")
    transformer = load_transformer(folder / "transformer" / "diffusion_pytorch_model.safetensors", dtype="float32")
    assert transformer.variant is not None and transformer.variant.conditioning == "control"
    bare = Pipeline(transformer, whole.vae, whole.text_encoder, transformer.variant)
    asked = request("CogVideoX-5B-I2V", num_frames=9)
    assert torch.equal(bare(**asked, generator=seeded()), whole(**asked, generator=seeded()))
    with pytest.raises(ValueError, match="makes a video from another one"):
        bare(**request("CogVideoX-5B", num_frames=9))


@pytest.mark.parametrize("table", ["omitted", "interpolated"])
def test_a_learned_table_at_another_size_equals_the_reference_with_such_a_table(
    checkpoint: Checkpoint, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = checkpoint("CogVideoX-5B-I2V", transformer=TABLE)
    runs = Runs(folder)
    reference = runs.loaded.components["transformer"]
    embed, config = reference.patch_embed, runs.ours.transformer.config
    if table == "omitted":
        embed.use_learned_positional_embeddings = False
        embed.use_positional_embeddings = False
    else:
        rows = embed.pos_embedding[0].detach()
        text, cells = rows[:226], rows[226:].unflatten(0, config.training_grid)[:3]  # of nine frames, by cell
        embed.pos_embedding = torch.cat([text, torch.stack([bilinear(one, 4, 2) for one in cells]).flatten(0, 2)])[None]
        embed.sample_height, embed.sample_width, embed.sample_frames = 8, 4, 9
    more = request("CogVideoX-5B-I2V", image=picture(32, 64), **OTHER_SIZE)
    theirs = runs.reference(IMAGE, "ddim", **more, generator=seeded())
    ours = runs.run_ours("ddim", **more, generator=seeded(), position_table=table)
    for mine, reference in zip(ours, theirs, strict=True):
        assert_parity(mine, reference, BOUND, f"run with the table {table}")
    assert "32x64 is not the size CogVideoX-5B-I2V was trained at (48x32)" in caplog.text
    if table == "interpolated":
        _, allowed = runs.run_ours("ddim", **more, generator=seeded(), allow_any_size=True)
        assert torch.equal(allowed, ours[1])


def bilinear(picture: Tensor, height: int, width: int) -> Tensor:
    """[H, W, D] at another size [height, width, D], by the formula: weights fall off linearly around each centre."""
    for axis, size in ((0, height), (1, width)):
        length = picture.shape[axis]
        centres = ((torch.arange(size) + 0.5) * length / size - 0.5).clamp(0, length - 1)
        weights = (1 - (centres[:, None] - torch.arange(length)).abs()).clamp(min=0)
        picture = torch.tensordot(weights.to(picture), picture, dims=([1], [axis])).movedim(0, axis)
    return picture


def test_blended_tiles_are_those_of_the_vae(checkpoint: Checkpoint) -> None:
    """A toy whose published tile is smaller than its video."""
    pipeline = load_pipeline(checkpoint("CogVideoX-5B"), dtype="float32", device="cpu")
    pipeline.vae.config = replace(pipeline.vae.config, sample_height=96, sample_width=96)
    common = {"prompt_embeds": torch.zeros(1, 226, pipeline.transformer.config.text_embed_dim), "guidance_scale": 1.0}
    common |= {"height": 64, "width": 96, "num_frames": 17, "num_inference_steps": 1, "allow_any_size": True}

    def made(**options: Any) -> torch.Tensor:
        return pipeline(**common, generator=torch.Generator().manual_seed(1), **options)

    z = made(output_type="latent") / pipeline.variant.vae.scaling_factor
    blended = pipeline.vae.decode(z, Tiling.of(pipeline.vae.config)) / 2 + 0.5
    assert torch.equal(made(vae_tiling="blended"), blended.clamp(0, 1))
    exact = pipeline.vae.decode(z) / 2 + 0.5
    assert torch.equal(made(vae_tiling="auto"), exact.clamp(0, 1))
    assert not torch.equal(blended, exact)
    with pytest.raises(ValueError, match="vae_tiling='off'; there are 'auto', 'exact', 'blended'"):
        made(vae_tiling="off")
