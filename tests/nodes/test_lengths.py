"""Videos of any length, and sizes a position table is not for, in the host: what is computed, cut, allowed and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cogvideox_core import CogVideoXPipeline, load_pipeline, load_transformer
from tests.support.checkpoints import make_checkpoint
from tests.support.core_runs import run_core
from tests.support.graphs import (
    LENGTH,
    SIZE,
    image_to_video,
    ksampler,
    loaders,
    node,
    sampler,
    save_latent,
    saved_latent,
    saved_tensor,
    text_to_video,
)
from tests.support.host import ExecutionFailed, Host
from tests.support.parity import assert_parity

Core = Callable[[str], CogVideoXPipeline]
T2V, I2V, LATER_I2V = "CogVideoX-5B", "CogVideoX-5B-I2V", "CogVideoX1.5-5B-I2V"


def frames_of(host: Host, graph: dict) -> torch.Tensor:
    """[F, H, W, 3] of what a graph samples, through CogVideoX VAE Decode."""
    graph["decode"] = node("CogVideoXVAEDecode", samples=["sampler", 0], vae=["vae", 0], tiling="exact")
    graph["frames"] = node("ProbeSaveImages", images=["decode", 0], name="lengths")
    return saved_tensor(host.run(graph), "frames")


@pytest.mark.parametrize("native", [False, True], ids=["CogVideoX Sampler", "KSampler"])
@pytest.mark.parametrize("kind", [T2V, "CogVideoX1.5-5B"])
def test_a_text_to_video_of_any_length_is_cut_from_the_next_that_fits(
    host: Host, toys: dict, kind: str, native: bool
) -> None:
    def made(length: int) -> torch.Tensor:
        graph = text_to_video(kind, steps=2)
        graph["latent"]["inputs"]["length"] = length
        if native:
            graph["sampler"] = ksampler()
        return frames_of(host, graph)

    whole = made(LENGTH)
    assert len(whole) == LENGTH
    assert torch.equal(made(12), whole[:12])


def test_an_image_to_video_of_any_length_is_cut_too(host: Host, toys: dict, pictures: dict) -> None:
    def made(length: int, last: str | None = None) -> torch.Tensor:
        graph = image_to_video(LATER_I2V, "first.png", last, steps=2)
        graph["latent"]["inputs"]["length"] = length
        return frames_of(host, graph)

    assert torch.equal(made(15), made(LENGTH)[:15])
    with pytest.raises(ExecutionFailed, match="length=15 with an end image, which is the last of the 17 .*; use 9 or"):
        made(15, "last.png")


def test_a_given_video_of_any_length_is_encoded_and_cut(host: Host, toys: dict, pictures: dict) -> None:
    def made(amount: int) -> torch.Tensor:
        graph = text_to_video(T2V, steps=4, denoise=0.5)
        graph["image"] = node("LoadImage", image="first.png")
        graph["moving"] = node("RepeatImageBatch", image=["image", 0], amount=amount)
        graph["latent"] = node("CogVideoXVAEEncode", pixels=["moving", 0], vae=["vae", 0], tiling="exact")
        return frames_of(host, graph)

    assert torch.equal(made(12), made(17)[:12])


def test_a_latent_that_was_cut_elsewhere_is_decoded_whole(host: Host, toys: dict) -> None:
    graph = text_to_video(T2V, steps=2)
    graph["latent"]["inputs"]["length"] = 12
    graph["short"] = node("LatentCut", samples=["sampler", 0], dim="t", index=0, amount=3)
    graph["decode"] = node("CogVideoXVAEDecode", samples=["short", 0], vae=["vae", 0], tiling="exact")
    graph["frames"] = node("ProbeSaveImages", images=["decode", 0], name="cut")
    assert len(saved_tensor(host.run(graph), "frames")) == 9


def test_more_frames_than_trained_are_allowed_by_an_input_and_said(host: Host, toys: dict) -> None:
    graph = text_to_video(T2V, steps=1)
    graph["latent"]["inputs"] |= {"length": 57, "allow_any_size": True}
    graph["sampler"] = ksampler()
    graph["sampler"]["inputs"]["steps"] = 1
    before = len(host.log_text())
    assert saved_latent(host, host.run(graph)).shape[2] == 15
    assert "57 frames are more than the 49 that CogVideoX-5B was trained for" in host.log_text()[before:]


def test_context_windows_need_no_such_input_and_no_warning(host: Host, toys: dict) -> None:
    graph = text_to_video(T2V, steps=1)
    graph["latent"] = node("EmptyHunyuanLatentVideo", width=96, height=64, length=57, batch_size=1)
    windows = {"context_length": 5, "context_overlap": 2, "context_schedule": "standard_static", "context_stride": 1}
    more = {"closed_loop": False, "fuse_method": "pyramid", "dim": 2, "freenoise": False, "causal_window_fix": False}
    more |= {"cond_retain_index_list": "", "latent_retain_index_list": "", "split_conds_to_windows": False}
    graph["windows"] = node("ContextWindowsManual", model=["model", 0], **windows, **more)
    graph["sampler"]["inputs"]["model"] = ["windows", 0]
    before = len(host.log_text())
    assert saved_latent(host, host.run(graph)).shape[2] == 15
    assert "more than the 49" not in host.log_text()[before:]


def test_an_even_number_of_latent_frames_is_no_video(host: Host, toys: dict) -> None:
    graph = text_to_video(T2V)
    graph["latent"] = node("EmptyHunyuanLatentVideo", width=96, height=64, length=13, batch_size=1)
    with pytest.raises(ExecutionFailed, match="a latent of 4 frames; CogVideoX has an odd number of them"):
        host.run(graph)


@pytest.mark.parametrize("table", ["interpolated", "omitted"])
def test_another_size_than_the_position_tables_gives_what_the_core_gives(
    host: Host, core: Core, pictures: dict, table: str, tmp_path: Path
) -> None:
    square = pictures["first.png"].resize((64, 64))
    square.save(tmp_path / "square.png")
    host.upload_image(tmp_path / "square.png", "square.png")
    graph = image_to_video(I2V, "square.png", steps=2)
    graph["latent"]["inputs"] |= {"width": 64, "length": 9, "position_table": table}
    size = {"width": 64, "height": 64, "num_frames": 9, "position_table": table}
    expected = run_core(core(I2V), image=square, num_inference_steps=2, **size)
    found = saved_latent(host, host.run(graph))
    assert_parity(found, expected, 1e-5, f"the table {table} in the host")


@pytest.fixture(scope="module")
def without_table(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tune of 5B-I2V without its table; the host has the folder, and its transformer as a file."""
    folder = tmp_path_factory.mktemp("without-table") / "i2v"
    make_checkpoint(folder, I2V, transformer=dict(use_learned_positional_embeddings=False))
    host.add_model("diffusers", folder, "i2v-without-table")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    host.add_model("diffusion_models", file, "i2v-without-table.safetensors")
    return folder


@pytest.mark.parametrize("bare", [False, True], ids=["folder", "file"])
def test_image_to_video_without_a_table_gives_what_the_core_gives(
    host: Host, pictures: dict, without_table: Path, bare: bool, tmp_path: Path
) -> None:
    graph = image_to_video("i2v-without-table", "first.png")
    pipeline = load_pipeline(without_table, device="cpu")
    if bare:  # without the config.json, with the published training size
        graph["model"] = node("CogVideoXLoadModel", model_name="i2v-without-table.safetensors", weight_dtype="fp32")
        file = tmp_path / "bare.safetensors"
        file.write_bytes((without_table / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes())
        transformer = load_transformer(file, dtype="float32")
        assert transformer.variant is not None
        pipeline = CogVideoXPipeline(transformer, pipeline.vae, pipeline.text_encoder, transformer.variant)
    expected = run_core(pipeline, image=pictures["first.png"])
    assert_parity(saved_latent(host, host.run(graph)), expected, 1e-5, "image to video without a table, in the host")


def test_a_folder_that_says_what_it_is_takes_nothing_else(host: Host, pictures: dict, without_table: Path) -> None:
    graph = loaders("i2v-without-table")
    graph["image"] = node("LoadImage", image="first.png")
    inputs = dict(positive=["positive", 0], negative=["negative", 0], vae=["vae", 0])
    graph["latent"] = node("CogVideoXControl", **inputs, control_video=["image", 0], **SIZE)
    graph["sampler"] = sampler(positive=["latent", 0], negative=["latent", 1], latent_image=["latent", 2])
    graph["save"] = save_latent()
    with pytest.raises(ExecutionFailed, match="a control video for CogVideoX-5B-I2V without its position table"):
        host.run(graph)
