"""Prompts in the CogVideoX wrapper's node ids, on the real server: they run, and give what ours give."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file

from cogvideox_core import load_pipeline
from cogvideox_core.demo import DEMO_MODELS
from tests.support.checkpoints import make_checkpoint
from tests.support.foreign_graphs import (
    CFG,
    HEIGHT,
    IDS,
    IMAGE_FOLDER,
    IMAGE_MODEL,
    LENGTH,
    PROMPT,
    SEED,
    STEPS,
    TEXT_FOLDER,
    WIDTH,
    controlled,
    image_to_video,
    loader,
    sampler,
    stub_of_the_wrapper,
    text_to_video,
    texts,
    video_to_video,
)
from tests.support.graphs import Graph, node, saved_latent
from tests.support.host import Host, PromptRejected
from tests.support.lora_forms import pairs_of, peft
from tests.support.weight_forms import blocks_in_safetensors

TEXT, IMAGE = DEMO_MODELS["text-to-video"], DEMO_MODELS["image-to-video"]
SIZE = {"width": WIDTH, "height": HEIGHT, "length": LENGTH}


@pytest.fixture(scope="module")
def server(host: Host) -> Host:
    """The shared host with the demo models under the names of two downloads of the wrapper's."""
    host.add_model("diffusers", TEXT, TEXT_FOLDER)
    host.add_model("diffusers", IMAGE, IMAGE_FOLDER)
    return host


def ours(kind: str) -> Graph:
    """The same run in our nodes, but for where it starts."""
    prompts = {"positive": PROMPT, "negative": ""}
    return {
        "model": node("CogVideoXLoadModel", model_name=f"demo/{kind}", weight_dtype="fp32"),
        "vae": node("CogVideoXLoadVAE", vae_name="demo"),
        "t5": node("CogVideoXLoadT5", text_encoder_name="demo"),
        **{name: node("CogVideoXT5Encode", clip=["t5", 0], text=text) for name, text in prompts.items()},
        "first": node("EmptyImage", width=WIDTH, height=HEIGHT, batch_size=1, color=0x203040),
        "last": node("EmptyImage", width=WIDTH, height=HEIGHT, batch_size=1, color=0xA04020),
        "save": node("SaveLatent", samples=["sampler", 0], filename_prefix="latents/ours"),
    }


def our_sampler(start: dict[str, list], **changes: object) -> Graph:
    inputs = {"seed": SEED, "steps": STEPS, "cfg": CFG, "sampler": "ddim", "dynamic_cfg": "off", "denoise": 1.0}
    return {"sampler": node("CogVideoXSampler", model=["model", 0], **start, **{**inputs, **changes})}


def from_text(**changes: object) -> Graph:
    latent = node("CogVideoXEmptyLatent", model=["model", 0], **SIZE)
    start = {"positive": ["positive", 0], "negative": ["negative", 0], "latent_image": ["latent", 0]}
    return {**ours("text-to-video"), "latent": latent, **our_sampler(start, **changes)}


def assert_same(server: Host, foreign: Graph, wanted: Graph) -> None:
    """Both run, to the very same latent; the foreign one to a video as well."""
    history = server.run(foreign)
    assert torch.equal(saved_latent(server, history), saved_latent(server, server.run(wanted)))
    if "video" in foreign:
        (path,) = history.files("video")
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height) == (WIDTH, HEIGHT)
            assert sum(1 for _ in container.decode(stream)) == LENGTH


def test_the_canvas_is_told_of_all_25(server: Host) -> None:
    listed = server.request("/cogvideox/foreign")
    assert len(listed["become"] + listed["muted"]) == 25 and {*listed["become"], *listed["muted"]} == IDS


def test_comfyuis_registry_offers_what_one_node_can_replace(server: Host) -> None:
    offered = server.request("/node_replacements")
    nodes = server.object_info()
    for name in IDS & set(offered):
        (one,) = offered[name]
        info = nodes[one["new_node_id"]]
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        for mapping in one["input_mapping"]:
            assert mapping["new_id"] in inputs, (name, mapping)
        for mapping in one["output_mapping"]:
            assert mapping["new_idx"] < len(info["output"]), (name, mapping)
    assert {"CogVideoSampler", "CogVideoDecode", "CogVideoTextEncode", "DownloadAndLoadCogVideoModel"} <= set(offered)


def test_text_to_video(server: Host) -> None:
    assert_same(server, text_to_video(), from_text())


def test_text_to_video_with_dpm(server: Host) -> None:
    foreign = text_to_video(scheduler="CogVideoXDPMScheduler")
    assert_same(server, foreign, from_text(sampler="dpm++ 2m sde"))


def test_a_sampler_of_comfyuis(server: Host) -> None:
    wanted = from_text()
    wanted["rule"] = node("KSamplerSelect", sampler_name="euler_ancestral")
    wanted["sigmas"] = node("CogVideoXScheduler", model=["model", 0], steps=STEPS, denoise=1.0)
    inputs = {
        name: wanted["sampler"]["inputs"][name] for name in ("model", "positive", "negative", "latent_image", "cfg")
    }
    parts = {"add_noise": True, "noise_seed": SEED, "sampler": ["rule", 0], "sigmas": ["sigmas", 0]}
    wanted["sampler"] = node("SamplerCustom", **inputs, **parts)
    assert_same(server, text_to_video(scheduler="Euler A"), wanted)


def test_image_to_video(server: Host) -> None:
    prompts = {"positive": ["positive", 0], "negative": ["negative", 0], "vae": ["vae", 0]}
    images = {"start_image": ["first", 0], "end_image": ["last", 0]}
    latent = node("CogVideoXImageToVideo", **prompts, **images, **SIZE)
    start = {"positive": ["latent", 0], "negative": ["latent", 1], "latent_image": ["latent", 2]}
    assert_same(server, image_to_video(), {**ours("image-to-video"), "latent": latent, **our_sampler(start)})


def test_video_to_video(server: Host) -> None:
    clip = node("RepeatImageBatch", image=["first", 0], amount=LENGTH)
    latent = node("CogVideoXVAEEncode", pixels=["clip", 0], vae=["vae", 0], tiling="auto")
    start = {"positive": ["positive", 0], "negative": ["negative", 0], "latent_image": ["latent", 0]}
    wanted = {**ours("text-to-video"), "clip": clip, "latent": latent, **our_sampler(start, denoise=0.5)}
    assert_same(server, video_to_video(), wanted)


def test_single_files_and_loras(server: Host, tmp_path: Path) -> None:
    """CogVideoXModelLoader and CogVideoXVAELoader; a LoRA by a name with a backslash, as on Windows."""
    server.add_model(
        "diffusion_models", TEXT / "transformer/diffusion_pytorch_model.safetensors", "foreign/model.safetensors"
    )
    server.add_model("vae", TEXT / "vae", "foreign-vae")  # the folder, as its file does not say how wide its norms are
    transformer = load_pipeline(TEXT, device="cpu").transformer
    peft("transformer.")(pairs_of(transformer), tmp_path / "lora.safetensors")
    server.add_model("loras", tmp_path / "lora.safetensors", "foreign/lora.safetensors")
    foreign = text_to_video()
    values = {"base_precision": "fp32", "quantization": "disabled", "load_device": "main_device"}
    more = {"enable_sequential_cpu_offload": False, "lora": ["lora", 0]}
    foreign["model"] = node("CogVideoXModelLoader", model="foreign\\model.safetensors", **values, **more)
    foreign["vae"] = node("CogVideoXVAELoader", model_name="foreign-vae", precision="fp32")
    foreign["frames"]["inputs"]["vae"] = ["vae", 0]
    foreign["lora"] = node("CogVideoLoraSelectComfy", lora="foreign\\lora.safetensors", strength=0.7)
    wanted = from_text()
    wanted["model"]["inputs"]["model_name"] = "foreign/model.safetensors"
    file = {"lora_name": "foreign/lora.safetensors", "strength": 0.7}
    wanted["lora"] = node("CogVideoXLoadLoRA", model=["model", 0], **file)
    for name in ("sampler", "latent"):
        wanted[name]["inputs"]["model"] = ["lora", 0]
    assert_same(server, foreign, wanted)
    strong = saved_latent(server, server.run(wanted))
    wanted["lora"]["inputs"]["strength"] = 0.0
    assert not torch.equal(saved_latent(server, server.run(wanted)), strong)


def test_a_gguf_download_with_its_vae(server: Host, tmp_path: Path) -> None:
    """Files where the wrapper downloads them to: models/CogVideo/GGUF and models/CogVideo/VAE."""
    name = "CogVideoX_5b_GGUF_Q4_0.safetensors"
    state = load_file(TEXT / "transformer/diffusion_pytorch_model.safetensors")
    server.add_model("CogVideo", blocks_in_safetensors("Q4_0")(state, tmp_path), f"GGUF/{name}")
    server.add_model("CogVideo", TEXT / "vae", "VAE/cogvideox_vae.safetensors")  # a folder, as above
    foreign = text_to_video()
    values = {"vae_precision": "fp32", "fp8_fastmode": False, "load_device": "main_device"}
    more = {"enable_sequential_cpu_offload": False}
    foreign["model"] = node("DownloadAndLoadCogVideoGGUFModel", model=name, **values, **more)
    wanted = from_text()
    wanted["model"] = node("CogVideoXLoadModel", model_name=f"GGUF/{name}")
    assert_same(server, foreign, wanted)


@pytest.fixture(scope="module")
def fun(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], str]:
    """A toy of a CogVideoX-Fun model under the name of a download; its name in the wrapper's list."""

    def make(name: str, channels: int) -> str:
        folder = tmp_path_factory.mktemp("fun") / name
        host.add_model(
            "diffusers", make_checkpoint(folder, "CogVideoX-5B", transformer={"in_channels": channels}), name
        )
        return f"alibaba-pai/{name}"

    return make


def from_clip(model: str) -> Graph:
    """A still picture of the size of toys, as a video, encoded for a sampler."""
    graph = image_to_video(model)
    for name in ("first", "last"):
        graph[name]["inputs"] |= {"width": 96, "height": 64}
    graph["clip"] = node("RepeatImageBatch", image=["first", 0], amount=LENGTH)
    graph["t5"]["inputs"]["text_encoder_name"] = model.rpartition("/")[2]
    del graph["video"], graph["frames"]
    return graph


def in_our_nodes(model: str) -> Graph:
    """The same but for where it starts."""
    graph = ours("text-to-video")
    graph["model"]["inputs"]["model_name"] = model
    graph["vae"]["inputs"]["vae_name"] = graph["t5"]["inputs"]["text_encoder_name"] = model
    for name in ("first", "last"):
        graph[name]["inputs"] |= {"width": 96, "height": 64}
    return graph


def test_images_for_an_inpainting_model(server: Host, fun: Callable[[str, int], str]) -> None:
    """The known frames are the first and the last; the others are masked, as CogVideoX Inpaint would be given them."""
    name = fun("CogVideoX-Fun-V1.1-5b-InP", 33)
    foreign = from_clip(name)
    inputs = {"num_frames": LENGTH, "enable_tiling": False, "noise_aug_strength": 0.0}
    images = {"start_image": ["first", 0], "end_image": ["last", 0]}
    foreign["image"] = node("CogVideoImageEncodeFunInP", vae=["model", 1], **images, **inputs)
    wanted = in_our_nodes(name.rpartition("/")[2])
    wanted["middle"] = node("RepeatImageBatch", image=["first", 0], amount=LENGTH - 1)
    wanted["clip"] = node("ImageBatch", image1=["middle", 0], image2=["last", 0])
    black, white = ({"width": 96, "height": 64, "color": colour} for colour in (0x000000, 0xFFFFFF))
    wanted["known"] = node("EmptyImage", batch_size=1, **black)
    wanted["unknown"] = node("EmptyImage", batch_size=LENGTH - 2, **white)
    wanted["masks"] = node("ImageBatch", image1=["known", 0], image2=["unknown", 0])
    wanted["all masks"] = node("ImageBatch", image1=["masks", 0], image2=["known", 0])
    wanted["mask"] = node("ImageToMask", image=["all masks", 0], channel="red")
    links = {"model": ["model", 0], "positive": ["positive", 0], "negative": ["negative", 0], "vae": ["vae", 0]}
    video = {"video": ["clip", 0], "mask": ["mask", 0], "width": 96, "height": 64, "length": LENGTH}
    wanted["latent"] = node("CogVideoXInpaint", **links, **video)
    start = {"positive": ["latent", 0], "negative": ["latent", 1], "latent_image": ["latent", 2]}
    assert_same(server, foreign, wanted | our_sampler(start))


def test_a_video_for_a_pose_model(server: Host, fun: Callable[[str, int], str]) -> None:
    name = fun("CogVideoX-Fun-V1.1-5b-Pose", 32)
    foreign = from_clip(name)
    foreign["image"]["inputs"] |= {"start_image": ["clip", 0]}
    del foreign["image"]["inputs"]["end_image"]
    wanted = in_our_nodes(name.rpartition("/")[2])
    wanted["clip"] = node("RepeatImageBatch", image=["first", 0], amount=LENGTH)
    links = {"positive": ["positive", 0], "negative": ["negative", 0], "vae": ["vae", 0], "control_video": ["clip", 0]}
    wanted["latent"] = node("CogVideoXControl", **links, width=96, height=64, length=LENGTH)
    start = {"positive": ["latent", 0], "negative": ["latent", 1], "latent_image": ["latent", 2]}
    assert_same(server, foreign, wanted | our_sampler(start))


def test_speed(server: Host) -> None:
    foreign = text_to_video(teacache_args=["cache", 0]) | {"cache": node("CogVideoXTeaCache", rel_l1_thresh=0.3)}
    wanted = from_text()
    settings = {"cache_budget": 0.0, "teacache": 0.3, "guidance_until": 1.0}
    wanted["speed"] = node("CogVideoXSpeed", model=["model", 0], **settings)
    wanted["sampler"]["inputs"]["model"] = ["speed", 0]
    assert_same(server, foreign, wanted)


def test_context_windows(server: Host) -> None:
    """More frames than a window has; the whole is what ComfyUI's own node makes of it."""
    values = {"context_schedule": "uniform_standard", "context_stride": 4, "freenoise": True}
    foreign = text_to_video(num_frames=33, context_options=["context", 0])
    foreign["context"] = node("CogVideoContextOptions", context_frames=16, context_overlap=4, **values)
    del foreign["video"], foreign["frames"]
    wanted = from_text()
    wanted["latent"]["inputs"]["length"] = 33
    lengths = {"context_length": 4, "context_overlap": 1, "context_stride": 1, "context_schedule": "standard_uniform"}
    rest = {"cond_retain_index_list": "", "split_conds_to_windows": False, "latent_retain_index_list": ""}
    more = {"closed_loop": False, "fuse_method": "flat", "dim": 2, "freenoise": True, "causal_window_fix": False}
    wanted["windows"] = node("ContextWindowsManual", model=["model", 0], **lengths, **more, **rest)
    wanted["sampler"]["inputs"]["model"] = ["windows", 0]
    assert_same(server, foreign, wanted)
    whole = from_text()
    whole["latent"]["inputs"]["length"] = 33
    windowed, plain = (saved_latent(server, server.run(graph)) for graph in (wanted, whole))
    assert windowed.isfinite().all() and not torch.equal(windowed, plain)


def test_combined_texts_and_a_resized_image_run(server: Host) -> None:
    graph = {"model": loader(IMAGE_MODEL), **texts()}
    graph["big"] = node("EmptyImage", width=200, height=200, batch_size=1, color=0x203040)
    values = {"base_resolution": 96, "upscale_method": "lanczos", "crop": "disabled"}
    graph["first"] = node("CogVideoXFunResizeToClosestBucket", images=["big", 0], **values)
    mixed = {"combination_mode": "weighted_average", "weighted_average_ratio": 0.2}
    both = {"conditioning_1": ["positive", 0], "conditioning_2": ["negative", 0]}
    graph["both"] = node("CogVideoTextEncodeCombine", **both, **mixed)
    graph["image"] = node("CogVideoImageEncode", vae=["model", 1], start_image=["first", 0])
    graph["sampler"] = sampler(positive=["both", 0], image_cond_latents=["image", 0])
    graph["save"] = node("SaveLatent", samples=["sampler", 0], filename_prefix="latents/foreign")
    assert saved_latent(server, server.run(graph)).shape == (1, 16, 5, HEIGHT // 8, WIDTH // 8)


# ---- what is not carried over


def test_a_prompt_that_would_make_another_video_is_refused_with_the_reason(server: Host) -> None:
    with pytest.raises(PromptRejected, match="CogVideoControlNet: there is no ControlNet for CogVideoX in this pack"):
        server.run(controlled())


def test_what_is_left_out_is_in_the_log(server: Host) -> None:
    graph = text_to_video(fastercache=["cache", 0]) | {"cache": node("CogVideoXFasterCache")}
    graph["model"] = loader("bertjiazheng/KoolCogVideoX-5b", attention_mode="sageattn")
    server.run(graph)
    log = server.log_text()
    for told in (
        "not carried over from the CogVideoX wrapper: CogVideoXFasterCache (cache): there is no FasterCache",
        "DownloadAndLoadCogVideoModel (model): attention_mode=sageattn: attention is ComfyUI's choice",
    ):
        assert told in log


def test_a_model_that_is_not_here_is_named(server: Host) -> None:
    with pytest.raises(PromptRejected, match="'CogVideoX-5b-Tora' is not among the models"):
        server.run(text_to_video("kijai/CogVideoX-5b-Tora"))


@pytest.mark.parametrize("odd", [{}, {"1": {}}, {"1": {"class_type": "CogVideoSampler"}}])
def test_an_odd_prompt_gets_comfyuis_own_answer(server: Host, odd: object) -> None:
    with pytest.raises(PromptRejected):
        server.queue(odd)  # pyright: ignore[reportArgumentType]


def test_what_is_no_workflow_is_refused_in_a_sentence(server: Host) -> None:
    for body in (b"{", b"[]", b'{"nodes": [{"type": "CogVideoSampler"}]}'):
        with pytest.raises(urllib.error.HTTPError) as caught:
            server.request("/cogvideox/foreign", body)
        assert caught.value.code == 400
        assert json.load(caught.value)["error"].startswith("this is no workflow of the canvas")


def test_nothing_is_done_while_the_wrapper_is_there(start_host: Callable[..., Host], tmp_path: Path) -> None:
    server = start_host(extra_packs=[stub_of_the_wrapper(tmp_path)])
    assert "CogVideoDecode" in server.object_info()
    assert server.request("/cogvideox/foreign") == {"become": [], "muted": []}
    assert not IDS & set(server.request("/node_replacements"))
    with pytest.raises(PromptRejected, match="Node 'DownloadAndLoadCogVideoModel' not found"):
        server.run(text_to_video())
    workflow = {"nodes": [{"id": 1, "type": "CogVideoDecode"}], "links": []}
    assert server.post("/cogvideox/foreign", workflow)["workflow"] == workflow
