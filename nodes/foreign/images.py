"""Images, latents and texts: nodes that one of ours stands for, or two."""

from __future__ import annotations

from typing import Any

from .context import Context
from .graph import Link, Node
from .table import FOREIGN

IMAGES = ("CogVideoImageEncode", "CogVideoImageEncodeFunInP")
_STEP = 16  # pixels that both sides of a resized image are multiples of


def rewrite_text(context: Context, name: str, node: Node) -> None:
    """CogVideoTextEncode as CogVideoX T5 Encode; what took its clip takes that of the loader."""
    clip = node.inputs.get("clip")
    inputs = {"clip": clip, "text": node.inputs["prompt"], "prompt_weights": True}
    context.graph.become(name, "CogVideoXT5Encode", inputs)
    context.graph.reroute(Link(name, 1), clip)


def rewrite_combined_texts(context: Context, name: str, node: Node) -> None:
    """CogVideoTextEncodeCombine as ComfyUI's node for the mode that is chosen."""
    first, second = node.inputs.get("conditioning_1"), node.inputs.get("conditioning_2")
    mode, ratio = node.inputs["combination_mode"], node.inputs["weighted_average_ratio"]
    if mode == "concatenate":
        inputs = {"conditioning_to": first, "conditioning_from": second}
        context.graph.become(name, "ConditioningConcat", inputs)
        return
    if mode == "average":
        ratio = 0.5
    elif not isinstance(ratio, Link) and ratio > 1.0:
        context.lose(name, f"weighted_average_ratio={ratio}: 1.0 is taken, the largest that ConditioningAverage has")
        ratio = 1.0
    inputs = {"conditioning_to": second, "conditioning_from": first, "conditioning_to_strength": ratio}
    context.graph.become(name, "ConditioningAverage", inputs)


def encoding(context: Context, image: str) -> dict[str, Any]:
    """Inputs of CogVideoX VAE Encode for an encode node of theirs."""
    given = context.graph.nodes[image].inputs
    if context.graph.source(given.get("end_image")):
        context.lose(image, "end_image: a video to start from has its own last frame")
    tiling = "blended" if given["enable_tiling"] is True else "auto"
    sizes = {"tile_width": 0, "tile_height": 0}
    return {"pixels": given.get("start_image"), "vae": given.get("vae"), "tiling": tiling, **sizes}


def rewrite_image(context: Context, name: str, node: Node) -> None:
    """An encode node that other nodes than samplers take; one that none takes any more goes."""
    if context.graph.is_used(Link(name, 0)):
        context.graph.become(name, "CogVideoXVAEEncode", encoding(context, name))
    else:
        del context.graph.nodes[name]


def rewrite_decode(context: Context, name: str, node: Node) -> None:
    """CogVideoDecode as CogVideoX VAE Decode."""
    given = node.inputs
    own_size = given["auto_tile_size"] is False
    inputs = {
        "samples": given.get("samples"),
        "vae": given.get("vae"),
        "tiling": "blended" if given["enable_vae_tiling"] is True else "auto",
        "tile_width": given["tile_sample_min_width"] if own_size else 0,
        "tile_height": given["tile_sample_min_height"] if own_size else 0,
    }
    context.graph.become(name, "CogVideoXVAEDecode", inputs)


def rewrite_resize(context: Context, name: str, node: Node) -> None:
    """CogVideoXFunResizeToClosestBucket as ComfyUI's scaling to an area, and its size as that of the result."""
    given, side = node.inputs, node.inputs["base_resolution"]
    if isinstance(side, Link):
        side = dict(FOREIGN[node.type].defaults())["base_resolution"]
        context.lose(name, f"base_resolution: {side} is taken, as megapixels stand in its place")
    inputs = {
        "image": given.get("images"),
        "upscale_method": given["upscale_method"],
        "megapixels": round(side * side / 1024**2, 2),
        "resolution_steps": _STEP,
    }
    context.graph.become(name, "ImageScaleToTotalPixels", inputs)
    if sizes := [link for link in context.graph.used_outputs(name) if link.slot > 0]:
        size = context.graph.add("GetImageSize", name, {"image": Link(name, 0)})
        for link in sizes:
            context.graph.reroute(link, Link(size, link.slot - 1))
