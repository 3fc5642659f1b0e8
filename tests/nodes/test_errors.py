"""Bad input in the real host: one sentence on the right node that says what came, what fits and what to do; then the
next graph runs. docs/troubleshooting.md lists the sentences."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.support.checkpoints import make_checkpoint
from tests.support.graphs import SIZE, Graph, image_to_video, ksampler, node, sampler, text_to_video
from tests.support.host import ExecutionFailed, Host, PromptRejected

T2V, I2V, MODERN_I2V = "CogVideoX-5B", "CogVideoX-5B-I2V", "CogVideoX1.5-5B-I2V"


@pytest.fixture
def fails(host: Host, toys: dict, pictures: dict) -> Iterator[Callable[..., str]]:
    """`fails(graph, pattern, at="sampler")`: the graph is refused with a sentence like the pattern, on that node if one
    is named, and a sound graph runs after it.
    """

    def check(graph: Graph, pattern: str, at: str | None = None) -> str:
        with pytest.raises((PromptRejected, ExecutionFailed)) as caught:
            host.run(graph)
        sentence = str(caught.value)
        assert re.search(pattern, sentence), sentence
        assert "Traceback" not in sentence
        assert "\n" not in sentence.strip(), "more than a sentence"
        assert at is None or blamed(caught.value) == [at]
        return sentence

    yield check
    host.run(text_to_video(T2V, steps=1))


def blamed(error: PromptRejected | ExecutionFailed) -> list[str]:
    """The nodes that the canvas marks."""
    return list(error.answer["node_errors"]) if isinstance(error, PromptRejected) else [error.details["node_id"]]


def t2v_of_size(**size: int) -> Graph:
    graph = text_to_video(T2V)
    graph["latent"]["inputs"] |= size
    return graph


def test_a_side_that_is_no_multiple_of_16_is_refused_before_anything_runs(fails) -> None:
    fails(t2v_of_size(width=100), r"width=100; CogVideoX takes multiples of 16 up to 4096; use 96")


@pytest.mark.parametrize(("name", "value"), [("width", 0), ("height", 160_000), ("length", -7), ("length", 9001)])
def test_sizes_out_of_range_are_refused_before_anything_runs(fails, name: str, value: int) -> None:
    fails(t2v_of_size(**{name: value}), rf"{name}={value}; CogVideoX takes .*; use \d+")


@pytest.mark.parametrize(
    ("length", "pattern"), [(17, None), (12, None), (57, "num_frames=57; CogVideoX-5B was trained for up to 49")]
)
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
    fails(
        t2v_of_size(length=57),
        "num_frames=57; CogVideoX-5B was trained for up to 49 frames; use 49, or allow longer videos .allow_any_size.",
    )


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
    graph["sampler"] = ksampler()
    fails(graph, r"no image for CogVideoX-5B-I2V", "sampler")


def test_an_image_beside_the_positive_prompt_only_is_refused(fails) -> None:
    graph = image_to_video(I2V, "first.png")
    graph["sampler"]["inputs"]["negative"] = ["negative", 0]
    fails(graph, r"no image for CogVideoX-5B-I2V", "sampler")


def test_a_latent_of_another_length_than_the_image_is_refused(fails) -> None:
    graph = image_to_video(MODERN_I2V, "first.png")
    graph["short"] = node("CogVideoXEmptyLatent", model=["model", 0], **{**SIZE, "length": 9})
    graph["sampler"]["inputs"]["latent_image"] = ["short", 0]
    fails(graph, r"image latents of \(\d, 8, 12\) .* take the latent from the same CogVideoX Image to Video", "sampler")


def test_a_control_video_for_a_model_that_takes_an_image_is_refused(fails) -> None:
    graph = image_to_video(I2V, "first.png")
    inputs = graph["latent"]["inputs"]
    inputs["control_video"] = inputs.pop("start_image")
    graph["latent"]["class_type"] = "CogVideoXControl"
    fails(graph, r"a control video for CogVideoX-5B-I2V, which takes an image; put CogVideoX Image to Video", "sampler")


def test_a_mask_for_a_model_without_one_is_refused(fails) -> None:
    graph = image_to_video(T2V, "first.png")
    inputs = graph["latent"]["inputs"]
    inputs |= {"model": ["model", 0], "video": inputs.pop("start_image"), "mask": ["image", 1]}
    graph["latent"]["class_type"] = "CogVideoXInpaint"
    fails(graph, r"CogVideoX-5B takes no mask; give a CogVideoX-Fun InP model or VOID", "latent")


@pytest.mark.parametrize("sampling", [sampler, ksampler])
def test_a_prompt_of_fewer_tokens_is_refused(fails, sampling: Callable) -> None:
    graph = text_to_video(T2V)
    graph["cut"] = node("ProbeCutConditioning", conditioning=["positive", 0], tokens=154)
    graph["sampler"] = sampling()
    graph["sampler"]["inputs"]["positive"] = ["cut", 0]
    fails(graph, r"the conditioning has 154 tokens; CogVideoX-5B takes 226: encode .* CogVideoX T5 Encode", "sampler")


def test_joined_prompts_are_refused_where_a_table_counts_tokens(host: Host, fails) -> None:
    graph, table = text_to_video(T2V, steps=1), image_to_video(I2V, "first.png")
    for made in (graph, table):
        made["both"] = node("ConditioningConcat", conditioning_to=["positive", 0], conditioning_from=["negative", 0])
    graph["sampler"]["inputs"]["positive"] = table["latent"]["inputs"]["positive"] = ["both", 0]
    assert host.run(graph).status == "success"
    fails(table, r"the conditioning has 452 tokens; CogVideoX-5B-I2V takes 226", "sampler")


class TestOtherFamilies:
    """A MODEL, CLIP or VAE of another kind on each node that takes one."""

    @pytest.fixture
    def graph(self) -> Graph:
        return {**text_to_video(T2V), "foreign": node("ProbeForeign")}

    @pytest.mark.parametrize(
        ("class_type", "more"),
        [
            ("CogVideoXEmptyLatent", SIZE),
            ("CogVideoXLoadLoRA", {"lora_name": "empty.safetensors", "strength": 1.0}),
            ("CogVideoXQuantizeINT8", {"method": "int8"}),
            ("CogVideoXScheduler", {"steps": 4, "denoise": 1.0}),
            ("CogVideoXSpeed", {"cache_budget": 0.1, "teacache": 0.0, "guidance_until": 1.0}),
        ],
    )
    def test_a_model(self, fails, host: Host, graph: Graph, tmp_path: Path, class_type: str, more: dict) -> None:
        save_file({"empty": torch.zeros(1)}, tmp_path / "empty.safetensors")
        host.add_model("loras", tmp_path / "empty.safetensors")
        graph["node"] = node(class_type, model=["foreign", 0], **more)
        graph["shown"] = node("PreviewAny", source=["node", 0])
        del graph["save"]
        fails(graph, r"a MODEL of type BaseModel; this node takes one from CogVideoX Load Model", "node")

    def test_a_model_at_the_sampler(self, fails, graph: Graph) -> None:
        graph["sampler"]["inputs"]["model"] = ["foreign", 0]
        fails(graph, r"a MODEL of type BaseModel; this node takes one from CogVideoX Load Model", "sampler")

    def test_a_model_under_our_step_rules(self, fails, graph: Graph) -> None:
        inputs = graph["sampler"]["inputs"]
        graph["rule"] = node("CogVideoXSamplerSelect", sampler="ddim", dynamic_cfg="off")
        graph["sigmas"] = node("BasicScheduler", model=["foreign", 0], scheduler="simple", steps=2, denoise=1.0)
        kept = {name: inputs[name] for name in ("positive", "negative", "cfg")}
        graph["images"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
        links = {name: [name, 0] for name in ("sigmas",)} | {"sampler": ["rule", 0], "latent_image": ["images", 0]}
        graph["sampler"] = node("SamplerCustom", model=["foreign", 0], add_noise=True, noise_seed=0, **kept, **links)
        fails(graph, r"a model of type BaseModel; the CogVideoX samplers take a MODEL from CogVideoX Load", "sampler")

    def test_a_clip(self, fails, graph: Graph) -> None:
        graph["positive"]["inputs"]["clip"] = ["foreign", 1]
        fails(graph, r"a CLIP with l; CogVideoX needs T5-XXL: take CogVideoX Load T5, or Load CLIP", "positive")

    def test_a_vae(self, fails, graph: Graph) -> None:
        graph["pixels"] = node("VAELoader", vae_name="pixel_space")
        graph["frames"] = node("CogVideoXVAEDecode", samples=["sampler", 0], vae=["pixels", 0], tiling="auto")
        graph["shown"] = node("PreviewImage", images=["frames", 0])
        graph["sampler"]["inputs"]["steps"] = 1
        fails(graph, r"a VAE of type VAE; this node takes one from CogVideoX Load VAE", "frames")


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
    fails(graph, r"latents became NaN or infinite at timestep 499, though float32 suits every model; remove", "sampler")


def test_ksampler_stops_too_instead_of_giving_black_frames(fails) -> None:
    graph = text_to_video(T2V, steps=1)
    graph["broken"] = node("ProbeBrokenModel", model=["model", 0])
    graph["sampler"] = ksampler()
    graph["sampler"]["inputs"] |= {"model": ["broken", 0], "steps": 1}
    fails(graph, r"the sampler's latent holds NaN or infinite values, though float32 suits every model", "sampler")


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

    def test_a_pointer_and_a_web_page(self, fails, graph_with, tmp_path: Path) -> None:
        pointer, page = tmp_path / "pointer.safetensors", tmp_path / "page.safetensors"
        pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 11140000000\n")
        page.write_text("<!DOCTYPE html><title>Log in</title>")
        fails(graph_with(pointer), r"pointer\.safetensors is a Git LFS pointer, not the weights; fetch them", "model")
        fails(graph_with(page), r"page\.safetensors is a web page, not weights; download the file again", "model")

    def test_a_folder_with_its_small_files_only(self, fails, host: Host, toys: dict, tmp_path: Path) -> None:
        folder = tmp_path / "small-files"
        (folder / "transformer").mkdir(parents=True)
        for name in ("model_index.json", "transformer/config.json"):
            (folder / name).write_bytes((toys[T2V] / name).read_bytes())
        host.add_model("diffusers", folder)
        graph = text_to_video(T2V)
        graph["model"]["inputs"]["model_name"] = "small-files"
        fails(graph, r"transformer holds no weights; looked for diffusion_pytorch_model\.safetensors", "model")

    # What is in other families' files, by where people put them: keys, the node and its input, the sentence.
    OTHERS = {
        "a Wan model": (["blocks.0.cross_attn.q.weight"], "diffusion_models", "model", "model_name"),
        "a LoRA": (["lora_unet_blocks_0.lora_down.weight"], "diffusion_models", "model", "model_name"),
        "a VAE of another layout or model": (["encoder.downsamples.0.x.weight"], "vae", "vae", "vae_name"),
        "Wan's UMT5 text encoder": (
            ["encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"],
            "text_encoders",
            "t5",
            "text_encoder_name",
        ),
        "a CLIP text encoder": (["text_model.embeddings.weight"], "text_encoders", "t5", "text_encoder_name"),
    }

    @pytest.mark.parametrize("what", OTHERS)
    def test_what_belongs_elsewhere(self, fails, host: Host, tmp_path: Path, what: str) -> None:
        keys, folder, at, name = self.OTHERS[what]
        path = tmp_path / f"other {at} {len(what)}.safetensors"
        save_file({key: torch.zeros(4, 4) for key in keys}, path)
        host.add_model(folder, path)
        graph = text_to_video(T2V)
        graph["decode"] = node("CogVideoXVAEDecode", samples=["sampler", 0], vae=["vae", 0], tiling="exact")
        graph["shown"] = node("PreviewImage", images=["decode", 0])
        graph[at]["inputs"][name] = path.name
        fails(graph, rf"{path.stem}\.safetensors is {what}, not a (CogVideoX|T5) ", at)

    def test_a_model_where_a_lora_is_wanted(self, fails, host: Host, toys: dict) -> None:
        host.add_model("loras", model_file(T2V, toys), "no-lora.safetensors")
        graph = text_to_video(T2V)
        graph["lora"] = node("CogVideoXLoadLoRA", model=["model", 0], lora_name="no-lora.safetensors", strength=1.0)
        graph["sampler"]["inputs"]["model"] = ["lora", 0]
        fails(graph, r"no-lora\.safetensors ", "lora")

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
        with pytest.raises(ExecutionFailed, match=r"Cannot write .*video_00001_\.mp4: .*; name a file on another disk"):
            host.run(graph)
        assert not list(host.output_path("full").iterdir())
        resource.prlimit(host.pid, resource.RLIMIT_FSIZE, limit)
        (path,) = host.run(graph).files("video")
        assert path.stat().st_size > 500_000

    def test_neither_images_nor_video(self, fails) -> None:
        graph = self.video("none")
        del graph["video"]["inputs"]["images"]
        fails(graph, r"give either images or video")
