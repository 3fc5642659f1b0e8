"""Bad input in the real host: one sentence that says what came, what fits and what to do; then the next graph runs."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from graphs import Graph, image_to_video, node, sampler, text_to_video
from host import ExecutionFailed, Host, PromptRejected
from PIL import Image
from safetensors.torch import load_file, save_file

T2V, I2V, MODERN_I2V = "CogVideoX-5B", "CogVideoX-5B-I2V", "CogVideoX1.5-5B-I2V"


@pytest.fixture
def fails(host: Host, toys: dict, pictures: dict) -> Iterator[Callable[[Graph, str], str]]:
    """`fails(graph, pattern)`: the graph is refused with a sentence like the pattern, and a sound one runs after it."""

    def check(graph: Graph, pattern: str) -> str:
        with pytest.raises((PromptRejected, ExecutionFailed)) as caught:
            host.run(graph)
        sentence = str(caught.value)
        assert re.search(pattern, sentence), sentence
        assert "Traceback" not in sentence
        assert "\n" not in sentence.strip(), "more than a sentence"
        return sentence

    yield check
    host.run(text_to_video(T2V, steps=1))


def t2v_of_size(**size: int) -> Graph:
    graph = text_to_video(T2V)
    graph["latent"]["inputs"] |= size
    return graph


def test_a_frame_count_between_is_refused_before_anything_runs(fails) -> None:
    fails(t2v_of_size(length=50), r"length=50; CogVideoX takes 8n\+1 frames; use 49")


def test_a_side_that_is_no_multiple_of_16_is_refused_before_anything_runs(fails) -> None:
    fails(t2v_of_size(width=100), r"width=100; CogVideoX takes multiples of 16 up to 4096; use 96")


@pytest.mark.parametrize(("name", "value"), [("width", 0), ("height", 160_000), ("length", -7), ("length", 9001)])
def test_sizes_out_of_range_are_refused_before_anything_runs(fails, name: str, value: int) -> None:
    fails(t2v_of_size(**{name: value}), rf"{name}={value}; CogVideoX takes .*; use \d+")


@pytest.mark.parametrize(("length", "pattern"), [(17, None), (50, r"num_frames=50; CogVideoX-5B takes 8n\+1")])
def test_a_linked_length_is_checked_when_it_is_known(host: Host, fails, length: int, pattern: str | None) -> None:
    graph = t2v_of_size()
    graph["number"] = node("PrimitiveInt", value=length)
    graph["latent"]["inputs"]["length"] = ["number", 0]
    if pattern:
        fails(graph, pattern)
    else:
        assert host.run(graph).status == "success"


def test_several_start_images_are_refused(fails) -> None:
    graph = image_to_video(I2V, "first.png")
    graph["two"] = node("RepeatImageBatch", image=["image", 0], amount=2)
    graph["latent"]["inputs"]["start_image"] = ["two", 0]
    fails(graph, r"start_image holds 2 images; give one")


def test_more_frames_than_the_model_makes_are_refused(fails) -> None:
    fails(t2v_of_size(length=57), r"num_frames=57; CogVideoX-5B takes 8n\+1 frames up to 49; use 49")


def test_another_size_than_the_position_table_is_refused(fails) -> None:
    graph = image_to_video(I2V, "first.png")
    graph["latent"]["inputs"] |= {"width": 128, "image_fit": "stretch"}
    fails(graph, r"128x64; CogVideoX-5B-I2V has a learned position table for 96x64 only; use width 96 and height 64")


def test_fewer_frames_than_the_position_table_are_refused(fails) -> None:
    graph = image_to_video(I2V, "first.png")
    graph["latent"]["inputs"]["length"] = 9
    fails(graph, r"num_frames=9; CogVideoX-5B-I2V has a learned position table for exactly 17 frames; use 17")


def test_an_image_of_another_aspect_is_refused(fails) -> None:
    fails(image_to_video(I2V, "wide.png"), r"a picture of 288x64 for a video of 96x64: another aspect ratio; crop it")


@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_an_image_of_another_aspect_may_be_made_to_fit(host: Host, toys: dict, pictures: dict, fit: str) -> None:
    graph = image_to_video(I2V, "wide.png", steps=1)
    graph["latent"]["inputs"]["image_fit"] = fit
    assert host.run(graph).status == "success"


def test_an_image_for_a_text_to_video_model_is_refused(fails) -> None:
    fails(image_to_video(T2V, "first.png"), r"an image for CogVideoX-5B, which makes a video from a prompt alone")


@pytest.mark.parametrize("kind", [I2V, MODERN_I2V])
def test_no_image_for_an_image_to_video_model_is_refused(fails, kind: str) -> None:
    fails(text_to_video(kind), rf"no image for {kind}, which makes a video from an image and a prompt")


def test_ksampler_refuses_what_our_sampler_refuses(fails) -> None:
    graph = text_to_video(I2V)
    inputs = sampler()["inputs"]
    kept = {name: inputs[name] for name in ("model", "positive", "negative", "latent_image", "seed", "cfg", "denoise")}
    graph["sampler"] = node("KSampler", **kept, steps=2, sampler_name="euler", scheduler="simple")
    fails(graph, r"no image for CogVideoX-5B-I2V")


def test_embeddings_of_another_width_are_refused(fails, host: Host, tmp_path: Path) -> None:
    host.add_model("diffusers", make_checkpoint(tmp_path / "wide", T2V, text_width=64), "wide-text")
    graph = text_to_video(T2V)
    graph["t5"]["inputs"]["text_encoder_name"] = "wide-text"
    fails(graph, r"the conditioning is 64 wide; CogVideoX-5B takes 32: encode the prompt with the text encoder")


def test_a_latent_of_another_family_is_refused(fails) -> None:
    graph = text_to_video(T2V)
    graph["latent"] = node("EmptyLatentImage", width=96, height=64, batch_size=1)
    fails(graph, r"a latent of shape \(1, 4, 8, 12\); CogVideoX-5B takes \[B, 16, T, h, w\]")


def test_a_prompt_that_is_too_long_is_cut_and_shown(host: Host, toys: dict) -> None:
    graph = text_to_video(T2V, steps=1)
    graph["positive"]["inputs"]["text"] = "a red circle " * 200 + "and a very last word"
    graph["cut"] = node("PreviewAny", source=["positive", 2])
    graph["tokens"] = node("PreviewAny", source=["positive", 1])
    outputs = host.run(graph).outputs
    assert outputs["cut"]["text"][0].endswith("and a very last word")
    assert int(outputs["tokens"]["text"][0]) > 226
    assert "this was cut:" in host.log_text()


def test_an_unfinite_latent_is_named_with_its_likely_cause(fails) -> None:
    graph = text_to_video(T2V, steps=1)
    graph["poison"] = node("ProbePoisonLatent", samples=["sampler", 0])
    graph["decode"] = node("CogVideoXVAEDecode", samples=["poison", 0], vae=["vae", 0], tiling="exact")
    graph["frames"] = node("ProbeSaveImages", images=["decode", 0], name="never")
    fails(graph, r"NaN or infinite values; the likely cause is the model's dtype")


def test_sampling_that_becomes_unfinite_stops_with_the_dtype(fails) -> None:
    graph = text_to_video(T2V)
    graph["poison"] = node("ProbePoisonLatent", samples=["latent", 0])
    graph["sampler"] = sampler(latent_image=["poison", 0], denoise=0.5)
    fails(graph, r"latents became NaN or infinite at timestep 499; the likely cause is the model's dtype")


def test_a_strength_that_leaves_no_step_is_refused(fails) -> None:
    fails(text_to_video(T2V, denoise=0.1, steps=4), r"strength=0.1 leaves 0 of 4 steps")


def model_file(kind: str, toys: dict[str, Path]) -> Path:
    return toys[kind] / "transformer" / "diffusion_pytorch_model.safetensors"


class TestFiles:
    """Files that are not what they should be, chosen in the loader."""

    @pytest.fixture
    def graph_with(self, host: Host, tmp_path: Path) -> Callable[[Path], Graph]:
        def graph(path: Path) -> Graph:
            host.add_model("diffusion_models", path, path.name)
            graph = text_to_video(T2V)
            graph["model"]["inputs"]["model_name"] = path.name
            return graph

        return graph

    def test_a_truncated_file(self, fails, graph_with, toys: dict, tmp_path: Path) -> None:
        path = tmp_path / "truncated.safetensors"
        path.write_bytes(model_file(T2V, toys).read_bytes()[:-1000])
        fails(graph_with(path), r"truncated\.safetensors .*(truncated|ends|bytes)")

    def test_another_component(self, fails, graph_with, toys: dict, tmp_path: Path) -> None:
        path = tmp_path / "a-vae.safetensors"
        path.write_bytes((toys[T2V] / "vae" / "diffusion_pytorch_model.safetensors").read_bytes())
        fails(graph_with(path), r"a-vae\.safetensors is .*VAE.*, not a CogVideoX transformer")

    def test_a_missing_tensor(self, fails, graph_with, toys: dict, tmp_path: Path) -> None:
        tensors = load_file(model_file(T2V, toys))
        del tensors["transformer_blocks.1.ff.net.2.bias"]
        save_file(tensors, tmp_path / "incomplete.safetensors")
        fails(graph_with(tmp_path / "incomplete.safetensors"), r"missing \(transformer_blocks\.1\.ff\.net\.2\.bias\)")

    def test_a_pickle_is_not_opened(self, fails, graph_with, tmp_path: Path) -> None:
        path = tmp_path / "pickle.safetensors"
        path.write_bytes(pickle.dumps({"proj_out.weight": torch.zeros(1)}))
        fails(graph_with(path), r"pickle\.safetensors .*pickle")

    def test_a_missing_shard(self, fails, host: Host, tmp_path: Path) -> None:
        folder = make_checkpoint(tmp_path / "sharded", T2V, sharded=True)
        shards = sorted((folder / "transformer").glob("*.safetensors"))
        assert len(shards) > 1
        shards[-1].unlink()
        host.add_model("diffusers", folder, "one-shard-short")
        graph = text_to_video(T2V)
        graph["model"]["inputs"]["model_name"] = "one-shard-short"
        fails(graph, re.escape(shards[-1].name))


class TestWriting:
    """An mp4 that cannot be written leaves nothing behind."""

    def video(self, prefix: str) -> Graph:
        return {
            "image": node("EmptyImage", width=32, height=32, batch_size=2, color=255),
            "video": node(
                "CogVideoXVideoPlayer", images=["image", 0], fps=8.0, filename_prefix=prefix, save_output=True
            ),
        }

    def test_no_folder_can_be_made(self, fails, host: Host) -> None:
        host.output_path("blocked").write_text("a file where a folder is wanted")
        fails(self.video("blocked/video"), r"no folder for 'blocked/video'")

    def test_no_half_file_is_left_when_the_disk_is_full(self, start_host, tmp_path: Path) -> None:
        import resource  # not on Windows, where the disk must really be full

        host = start_host()
        noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "noise.png")
        graph = self.video("full/video")
        graph["image"] = node("LoadImage", image=host.upload_image(tmp_path / "noise.png"))
        limit = resource.prlimit(host.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(host.pid, resource.RLIMIT_FSIZE, (500_000, limit[1]))  # no file may grow larger
        with pytest.raises(ExecutionFailed, match=r"video_00001_\.mp4 could not be written: .*nothing was left behind"):
            host.run(graph)
        assert not list(host.output_path("full").iterdir())
        resource.prlimit(host.pid, resource.RLIMIT_FSIZE, limit)
        (path,) = host.run(graph).files("video")
        assert path.stat().st_size > 500_000

    def test_neither_images_nor_video(self, fails) -> None:
        graph = self.video("none")
        del graph["video"]["inputs"]["images"]
        fails(graph, r"give either images or video")
