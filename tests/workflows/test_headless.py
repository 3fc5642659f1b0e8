"""The API workflows through `POST /prompt`, and the canvas workflows and blueprints as ComfyUI lists them."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cogvideox_core import load_transformer
from tests.support.checkpoints import make_checkpoint, random_text_encoder
from tests.support.graphs import save_latent, saved_latent
from tests.support.host import PACK_NAME, Host, PromptRejected
from tests.support.lora_forms import pairs_of, peft
from tests.support.weight_forms import blocks_in_safetensors
from tests.support.workflow_files import (
    BLUEPRINT_NAMES,
    DEMO_TITLES,
    FILE_TITLES,
    OUR_PREFIX,
    TITLES,
    api_workflow,
    blueprint,
    canvas_file,
    canvas_workflow,
    downloads,
    thumbnail_file,
)

WIDTH, HEIGHT, FRAMES, FPS = 96, 96, 17, 8

# Our nodes that no example shows, and why.
UNUSED = {
    "CogVideoXScheduler": "a part for SamplerCustom graphs; CogVideoX Sampler has it built in",
    "CogVideoXSamplerSelect": "a part for SamplerCustom graphs; CogVideoX Sampler has it built in",
    "CogVideoXControl": "for models made from CogVideoX, and none of them travels with the nodes",
    "CogVideoXInpaint": "for models made from CogVideoX, and none of them travels with the nodes",
}

every_workflow = pytest.mark.parametrize("title", TITLES)


def decode(path: Path) -> tuple[list[np.ndarray], float]:
    """Frames [H, W, 3] of an mp4, and its frames per second."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        rate = container.streams.video[0].average_rate
    return frames, float(rate or 0)


def served(host: Host, name: str) -> tuple[str, bytes]:
    """Content type and content of a file of our templates, fetched as the frontend does."""
    address = f"{host.url}/api/workflow_templates/{PACK_NAME}/{urllib.parse.quote(name)}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return answer.headers.get_content_type(), answer.read()


@pytest.mark.parametrize("title", DEMO_TITLES)
def test_api_workflow_writes_its_video(host: Host, title: str):
    prompt = api_workflow(title)
    history = host.run(prompt)
    (path,) = history.files("video")
    assert path.parent == host.output_path("CogVideoX")
    assert path.name.startswith(title.lower().replace(" ", "-"))
    frames, fps = decode(path)
    assert (len(frames), fps) == (FRAMES, FPS)
    scale = round(prompt["enlarged"]["inputs"]["scale_by"]) if "enlarged" in prompt else 1
    assert {frame.shape for frame in frames} == {(scale * HEIGHT, scale * WIDTH, 3)}
    assert any(not np.array_equal(frames[0], frame) for frame in frames[1:]), "a still picture"


@pytest.fixture(scope="module")
def toy_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Toys under the names of the files that workflows ask for, each in the form that file has."""
    folder = tmp_path_factory.mktemp("toys")
    # What a bare file cannot say has to be as in the official models.
    groups = dict(block_out_channels=(32, 32, 32, 64), norm_num_groups=32)
    table = dict(sample_height=60, sample_width=90, sample_frames=49)
    saved = {
        kind: make_checkpoint(folder / kind, kind, dtype=torch.bfloat16, vae=groups, transformer=changes)
        for kind, changes in {"CogVideoX1.5-5B": {}, "CogVideoX1.5-5B-I2V": {}, "CogVideoX-5B-I2V": table}.items()
    }
    random_text_encoder(vocab_size=32_128).half().save_pretrained(folder / "t5")
    weights = "diffusion_pytorch_model.safetensors"
    five_b = saved["CogVideoX-5B-I2V"] / "transformer"
    in_blocks = blocks_in_safetensors("Q4_0")(load_file(five_b / weights), folder)
    lora = peft("transformer.")(pairs_of(load_transformer(five_b)), folder / "lora.safetensors")
    return {
        "CogVideoX_1_5_5b_T2V_bf16.safetensors": saved["CogVideoX1.5-5B"] / "transformer" / weights,
        "CogVideoX_1_5_5b_I2V_bf16.safetensors": saved["CogVideoX1.5-5B-I2V"] / "transformer" / weights,
        "CogVideoX_5b_I2V_GGUF_Q4_0.safetensors": in_blocks,
        "CogVideoX_5b_Interpolation_GGUF_Q4_0.safetensors": in_blocks,
        "DimensionX_orbit_left_lora_rank256_bf16.safetensors": lora,
        "cogvideox_vae_bf16.safetensors": saved["CogVideoX-5B-I2V"] / "vae" / weights,
        "t5xxl_fp16.safetensors": folder / "t5" / "model.safetensors",
    }


def test_workflow_for_files_runs_once_they_are_there(start_host: Callable[..., Host], toy_files: dict[str, Path]):
    """Every file where the workflow says it goes. Toys, so the video is small and takes one step."""
    host = start_host()
    for title in FILE_TITLES:
        prompt, needed = small(api_workflow(title)), downloads(title)
        missing = [file for file in needed if not (host.folder / "models" / file.directory / file.name).exists()]
        if missing:
            with pytest.raises(PromptRejected) as refusal:
                host.run(prompt)
            assert [file.name for file in missing if repr(file.name) not in str(refusal.value)] == []
        for file in missing:
            host.add_model(file.directory, toy_files[file.name], file.name)
        history = host.run(prompt)
        if "save" in prompt:
            assert saved_latent(host, history).shape == (1, 16, 13, 60, 90)
        else:
            frames, fps = decode(*history.files("video"))
            assert (len(frames), fps) == (FRAMES, prompt["video"]["inputs"]["fps"])
            assert {frame.shape for frame in frames} == {(HEIGHT, WIDTH, 3)}


def small(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt for toys: one step, and the size of the demo where the model takes it, else without a decoder."""
    prompt["sampler"]["inputs"].update(steps=1, cfg=1.0, denoise=1.0)
    if "1_5" not in prompt["model"]["inputs"]["model_name"]:  # one size only, too large to decode in a test
        del prompt["frames"], prompt["video"]
        return {**prompt, "save": save_latent()}
    for key in {"latent", "background", "path"} & set(prompt):
        inputs = prompt[key]["inputs"]
        inputs |= {name: WIDTH for name in ("width", "height") if name in inputs}
        inputs |= {name: FRAMES for name in ("length", "num_frames") if name in inputs}
    return prompt


def test_source_of_video_to_video_moves(host: Host):
    """The drawn ball goes from right to left: the column where blue is strongest falls."""
    prompt = api_workflow("Video to Video")
    wanted = ("background", "path", "source", "source_video")
    frames, _ = decode(*host.run({key: prompt[key] for key in wanted}).files("source_video"))
    columns = [int(np.argmax(frame[HEIGHT // 2, :, 1] > 120)) for frame in frames]
    assert columns == sorted(columns, reverse=True)
    assert columns[0] - columns[-1] > WIDTH // 2


@every_workflow
def test_every_node_is_of_comfyui_or_ours(host: Host, title: str):
    known = host.object_info()
    for node in api_workflow(title).values():
        origin = known[node["class_type"]]["python_module"].partition(".")[0]
        ours = node["class_type"].startswith(OUR_PREFIX)
        assert origin == "custom_nodes" if ours else origin in ("nodes", "comfy_extras"), node["class_type"]


@every_workflow
def test_api_workflow_sets_every_widget(host: Host, title: str):
    """What is not written down changes when a default changes."""
    known = host.object_info()
    for key, node in api_workflow(title).items():
        declared = known[node["class_type"]]["input"]
        kinds = {**declared.get("required", {}), **declared.get("optional", {})}
        widgets = {name for name, declaration in kinds.items() if is_widget(declaration)}
        assert widgets - set(node["inputs"]) == set(), key
        assert set(node["inputs"]) - set(kinds) == set(), key


def is_widget(declaration: list[Any]) -> bool:
    """Whether an input of /object_info is set on the node itself; old nodes give a combo as its list of options."""
    return isinstance(declaration[0], list) or declaration[0] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def test_every_node_of_ours_is_shown_by_a_workflow(host: Host):
    ours = {name for name, node in host.object_info().items() if node["python_module"] == f"custom_nodes.{PACK_NAME}"}
    shown = {node["class_type"] for title in TITLES for node in api_workflow(title).values()} & ours
    assert ours - shown == set(UNUSED)


def test_comfyui_lists_the_workflows_as_templates(host: Host):
    assert sorted(host.request("/workflow_templates")[PACK_NAME]) == sorted(TITLES)


@every_workflow
def test_comfyui_serves_template_and_thumbnail(host: Host, title: str):
    kind, content = served(host, canvas_file(title).name)
    assert (kind, json.loads(content)) == ("application/json", canvas_workflow(title))
    assert served(host, thumbnail_file(title).name) == ("image/jpeg", thumbnail_file(title).read_bytes())


def test_comfyui_serves_the_blueprints(host: Host):
    listed = {
        entry["name"]: (key, entry)
        for key, entry in host.request("/global_subgraphs").items()
        if entry["source"] == "custom_node"
    }
    assert set(listed) >= set(BLUEPRINT_NAMES)
    for name in BLUEPRINT_NAMES:
        key, entry = listed[name]
        assert entry["info"]["node_pack"] == f"custom_nodes.{PACK_NAME}"
        assert json.loads(host.request(f"/global_subgraphs/{key}")["data"]) == blueprint(name)


def test_lora_that_travels_with_the_nodes_makes_an_old_film(host: Host):
    """More of what distinguishes the pixels is brightness: less than half as much colour is left."""
    prompt = api_workflow("LoRA")
    with_lora, _ = decode(*host.run(prompt).files("video"))
    prompt["lora"]["inputs"]["strength"] = 0.0
    without, _ = decode(*host.run(prompt).files("video"))
    assert colourfulness(with_lora) < 0.5 * colourfulness(without)


def colourfulness(frames: list[np.ndarray]) -> float:
    """The deviation of red and blue from green over the frames, beyond what a tint of their brightness explains."""
    red, green, blue = np.stack(frames).astype(float).reshape(-1, 3).T
    brightness = np.stack([np.ones_like(green), red + green + blue], axis=1)
    left = []
    for difference in (red - green, blue - green):
        explained = brightness @ np.linalg.lstsq(brightness, difference, rcond=None)[0]
        left.append(np.std(difference - explained))
    return float(np.mean(left))
