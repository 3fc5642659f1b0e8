"""Graphs in the CogVideoX wrapper's node ids, written for these tests, as prompts and as files of the canvas.

`rules` imports nodes/foreign/ without the pack around it, and so without ComfyUI, which it does not need.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tests import provision
from tests.support.graphs import Graph, node

_PACKAGE = "cogvideox_foreign"

IDS = {
    "CogVideoContextOptions",
    "CogVideoControlNet",
    "CogVideoDecode",
    "CogVideoEnhanceAVideo",
    "CogVideoImageEncode",
    "CogVideoImageEncodeFunInP",
    "CogVideoLatentPreview",
    "CogVideoLoraSelect",
    "CogVideoLoraSelectComfy",
    "CogVideoSampler",
    "CogVideoTextEncode",
    "CogVideoTextEncodeCombine",
    "CogVideoTransformerEdit",
    "CogVideoXFasterCache",
    "CogVideoXFunResizeToClosestBucket",
    "CogVideoXModelLoader",
    "CogVideoXTeaCache",
    "CogVideoXTorchCompileSettings",
    "CogVideoXVAELoader",
    "DownloadAndLoadCogVideoControlNet",
    "DownloadAndLoadCogVideoGGUFModel",
    "DownloadAndLoadCogVideoModel",
    "DownloadAndLoadToraModel",
    "ToraEncodeOpticalFlow",
    "ToraEncodeTrajectory",
}

TEXT_MODEL, IMAGE_MODEL = "bertjiazheng/KoolCogVideoX-5b", "feizhengcong/CogvideoX-Interpolation"
TEXT_FOLDER, IMAGE_FOLDER = "KoolCogVideoX-5b", "CogvideoX-Interpolation"  # where these names lie in models/diffusers
PROMPT = "A red ball moving to the right in front of the night sky."
WIDTH, HEIGHT, LENGTH, STEPS, CFG, SEED = 96, 96, 17, 4, 3.0, 11


def rules(module: str) -> ModuleType:
    """A module of nodes/foreign/."""
    if _PACKAGE not in sys.modules:
        folder = provision.REPO / "nodes" / "foreign"
        specification = importlib.util.spec_from_file_location(
            _PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert specification is not None and specification.loader is not None
        sys.modules[_PACKAGE] = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(sys.modules[_PACKAGE])
    return importlib.import_module(f"{_PACKAGE}.{module}")


STUB = """
class Decode:
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "stub"
    INPUT_TYPES = classmethod(lambda cls: {"required": {}})

    def run(self):
        raise NotImplementedError


NODE_CLASS_MAPPINGS = {"CogVideoDecode": Decode}
"""


def stub_of_the_wrapper(folder: Path) -> Path:
    """A pack with one of the wrapper's ids, loaded after ours; it takes the part of the wrapper."""
    pack = folder / "zz-wrapper"
    pack.mkdir()
    (pack / "__init__.py").write_text(STUB)
    return pack


# ---- prompts


def texts() -> Graph:
    """Both prompts; the second encoder takes the clip of the first, as in the wrapper's own examples."""
    return {
        "t5": node("CogVideoXLoadT5", text_encoder_name="demo"),
        "positive": node("CogVideoTextEncode", clip=["t5", 0], prompt=PROMPT, strength=1.0, force_offload=False),
        "negative": node("CogVideoTextEncode", clip=["positive", 1], prompt="", strength=1.0, force_offload=True),
    }


def loader(model: str, **changes: Any) -> dict[str, Any]:
    inputs = {
        "model": model,
        "precision": "fp32",
        "quantization": "disabled",
        "enable_sequential_cpu_offload": False,
        "attention_mode": "sdpa",
        "load_device": "main_device",
    }
    return node("DownloadAndLoadCogVideoModel", **{**inputs, **changes})


def sampler(**changes: Any) -> dict[str, Any]:
    inputs = {
        "model": ["model", 0],
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "num_frames": LENGTH,
        "steps": STEPS,
        "cfg": CFG,
        "seed": SEED,
        "scheduler": "CogVideoXDDIM",
        "denoise_strength": 1.0,
    }
    return node("CogVideoSampler", **{**inputs, **changes})


def ending() -> Graph:
    """The frames as a video, and the latent in a file."""
    decode = {
        "vae": ["model", 1],
        "samples": ["sampler", 0],
        "enable_vae_tiling": False,
        "tile_sample_min_height": 240,
        "tile_sample_min_width": 360,
        "tile_overlap_factor_height": 0.2,
        "tile_overlap_factor_width": 0.2,
        "auto_tile_size": True,
    }
    player = node("CogVideoXVideoPlayer", images=["frames", 0], fps=8.0, filename_prefix="foreign", save_output=True)
    save = node("SaveLatent", samples=["sampler", 0], filename_prefix="latents/foreign")
    return {"frames": node("CogVideoDecode", **decode), "video": player, "save": save}


def text_to_video(model: str = TEXT_MODEL, **sampling: Any) -> Graph:
    empty = node("EmptyLatentImage", width=WIDTH, height=HEIGHT, batch_size=1)
    return {
        "model": loader(model),
        **texts(),
        "empty": empty,
        "sampler": sampler(**{"samples": ["empty", 0], **sampling}),
        **ending(),
    }


def encode(image: str, **changes: Any) -> dict[str, Any]:
    inputs = {"enable_tiling": False, "noise_aug_strength": 0.0, "strength": 1.0}
    window = {"start_percent": 0.0, "end_percent": 1.0}
    return node("CogVideoImageEncode", vae=["model", 1], start_image=[image, 0], **{**inputs, **window, **changes})


def picture(colour: int) -> dict[str, Any]:
    return node("EmptyImage", width=WIDTH, height=HEIGHT, batch_size=1, color=colour)


def image_to_video(model: str = IMAGE_MODEL, **sampling: Any) -> Graph:
    """From one picture to another."""
    return {
        "model": loader(model),
        **texts(),
        "first": picture(0x203040),
        "last": picture(0xA04020),
        "image": encode("first", end_image=["last", 0]),
        "sampler": sampler(**{"image_cond_latents": ["image", 0], **sampling}),
        **ending(),
    }


def video_to_video(model: str = TEXT_MODEL) -> Graph:
    """A still picture, shown as long as the video, changed for a part of it."""
    return {
        "model": loader(model),
        **texts(),
        "first": picture(0x203040),
        "clip": node("RepeatImageBatch", image=["first", 0], amount=LENGTH),
        "image": encode("clip"),
        "sampler": sampler(samples=["image", 0], denoise_strength=0.5),
        **ending(),
    }


def controlled() -> Graph:
    """With a ControlNet, which has no counterpart."""
    graph = text_to_video(controlnet=["control", 0])
    graph["net"] = node("DownloadAndLoadCogVideoControlNet", model="TheDenk/cogvideox-2b-controlnet-hed-v1")
    graph["first"] = node("LoadImage", image="example.png")
    values = {"control_strength": 1.0, "control_start_percent": 0.0, "control_end_percent": 1.0}
    graph["control"] = node("CogVideoControlNet", controlnet=["net", 0], images=["first", 0], **values)
    return graph


# ---- files of the canvas


def canvas_file(graph: Graph, info: Callable[[str], Mapping[str, Any]], *, names: bool = False) -> dict[str, Any]:
    """A graph as a file of the canvas.

    Args:
        info: what a server says of one of its own nodes (/object_info).
        names: whether inputs with values are listed by name, as newer frontends do; the wrapper's examples are older.
    """
    numbers = {name: number for number, name in enumerate(graph, start=1)}
    links: list[list[Any]] = []
    nodes = []
    for name, one in graph.items():
        slots, values, outputs = _described(one, info)
        inputs = []
        for key, kind, is_value in slots:
            value = one["inputs"].get(key)
            is_link = isinstance(value, list)
            if is_value and not (is_link or names):
                continue
            slot = {"name": key, "type": kind, "link": None, **({"widget": {"name": key}} if is_value else {})}
            if is_link:
                slot["link"] = len(links) + 1
                links.append([slot["link"], numbers[value[0]], value[1], numbers[name], len(inputs), kind])
            inputs.append(slot)
        shown_at = {"pos": [360 * (numbers[name] % 5), 420 * (numbers[name] // 5)], "size": [320, 300]}
        written = {"id": numbers[name], "type": one["class_type"], **shown_at, "flags": {}, "order": 0, "mode": 0}
        nodes.append({**written, "inputs": inputs, "outputs": outputs, "properties": {}, "widgets_values": values})
    for number, origin, slot, *_ in links:
        nodes[origin - 1]["outputs"][slot]["links"].append(number)
    counts = {"last_node_id": len(nodes), "last_link_id": len(links)}
    return {**counts, "nodes": nodes, "links": links, "groups": [], "config": {}, "extra": {}, "version": 0.4}


def _described(one: dict[str, Any], info: Callable[[str], Mapping[str, Any]]) -> tuple[list, list, list]:
    """Inputs as (name, type, whether it has a value), values in their order, and outputs of a node."""
    table = rules("table")
    row = table.FOREIGN.get(one["class_type"])
    if row:
        slots = [(each.name, _WRAPPER_TYPES.get(each.name, "*"), isinstance(each, table.Widget)) for each in row.inputs]
        outputs = [(name, _WRAPPER_TYPES.get(name, "*")) for name in row.outputs]
        defaults, controlled = dict(row.defaults()), {"seed"}
    else:
        described = info(one["class_type"])
        given = {**described["input"].get("required", {}), **described["input"].get("optional", {})}
        defaults, controlled, slots = {}, set(), []
        for key, (kind, *options) in given.items():
            kind = "COMBO" if isinstance(kind, list) else kind
            choice = {**(options[0] if options else {})}
            slots.append((key, kind, kind in ("COMBO", "INT", "FLOAT", "STRING", "BOOLEAN")))
            defaults[key] = choice.get("default", 0)
            controlled |= {key} if choice.get("control_after_generate") else set()
        outputs = list(zip(described["output_name"], described["output"], strict=True))
    values = []
    for key, _, is_value in slots:
        if is_value:
            value = one["inputs"].get(key, defaults[key])
            values.append(defaults[key] if isinstance(value, list) else value)
            values += ["fixed"] if key in controlled else []
    return slots, values, [{"name": name, "type": kind, "links": []} for name, kind in outputs]


# Types of the wrapper's slots by their names, where a test needs them to be right.
_WRAPPER_TYPES = {
    "model": "COGVIDEOMODEL",
    "vae": "VAE",
    "clip": "CLIP",
    "conditioning": "CONDITIONING",
    "positive": "CONDITIONING",
    "negative": "CONDITIONING",
    "samples": "LATENT",
    "image_cond_latents": "LATENT",
    "images": "IMAGE",
    "start_image": "IMAGE",
    "end_image": "IMAGE",
    "lora": "COGLORA",
    "prev_lora": "COGLORA",
    "num_frames": "INT",
    "steps": "INT",
    "seed": "INT",
    "cfg": "FLOAT",
    "prompt": "STRING",
}
