"""The sampler, with everything that it is told through links and that nodes before it do here."""

from __future__ import annotations

from typing import Any

from .context import Context
from .graph import Link, Node
from .images import IMAGES, encoding
from .models import follows_video
from .names import CONTEXT_SCHEDULES, SCHEDULERS
from .table import FOREIGN

_EMPTY_IMAGE_LATENTS = ("EmptyLatentImage", "EmptySD3LatentImage")  # of which the wrapper takes the size alone
_USUAL_SIZE = {"width": 720, "height": 480}
# What every CogVideoX model takes. This package imports no other of ours; a test holds it to the core's numbers.
_MULTIPLE = 16  # pixels
_LONGEST = 49  # frames that every model was trained for; the wrapper asks for any number
_LATENT_FRAME = 4  # frames in one of a latent
_TIME = 2  # the dimension of a latent that holds its frames


def rewrite_sampler(context: Context, name: str, node: Node) -> None:
    """CogVideoSampler as CogVideoX Sampler, or as SamplerCustom where the scheduler is ComfyUI's."""
    graph, given = context.graph, node.inputs
    common = {"model": _model(context, name), **_start(context, name), "cfg": given["cfg"]}
    control = {"control_after_generate": given.get("control_after_generate")}
    scheduler = given["scheduler"]
    rule = None if isinstance(scheduler, Link) else SCHEDULERS.get(scheduler)
    if rule is None:
        context.lose(name, "scheduler: ddim is taken, as the name that comes in is not known here")
        rule = SCHEDULERS["CogVideoXDDIM"]
    if rule.official:
        official = {"sampler": rule.official, "dynamic_cfg": "off", "denoise": given["denoise_strength"]}
        inputs = {**common, "seed": given["seed"], **control, "steps": given["steps"], **official}
        graph.become(name, "CogVideoXSampler", inputs)
        return
    select = graph.add("KSamplerSelect", name, {"sampler_name": rule.comfyui})
    schedule = {"model": given.get("model"), "steps": given["steps"], "denoise": given["denoise_strength"]}
    sigmas = graph.add("CogVideoXScheduler", name, schedule)
    noise = {"add_noise": True, "noise_seed": given["seed"], **control}
    parts = {"sampler": Link(select, 0), "sigmas": Link(sigmas, 0)}
    graph.become(name, "SamplerCustom", {**common, **noise, **parts})


# ---- the model


def _model(context: Context, name: str) -> Any:
    """The model of a sampler, behind nodes that do what its settings did."""
    model = context.graph.nodes[name].inputs.get("model")
    if cache := context.settings_at(name, "teacache_args", "CogVideoXTeaCache"):
        speed = {"cache_budget": 0.0, "teacache": _threshold(context, cache), "guidance_until": 1.0}
        model = context.add_for(cache, "CogVideoXSpeed", {"model": model, **speed})
    if windows := context.settings_at(name, "context_options", "CogVideoContextOptions"):
        model = context.add_for(windows, "ContextWindowsManual", {"model": model, **_windows(context, windows)})
    return model


def _threshold(context: Context, cache: str) -> Any:
    value = context.graph.nodes[cache].inputs["rel_l1_thresh"]
    if isinstance(value, Link) or value <= 1.0:
        return value
    context.lose(cache, f"rel_l1_thresh={value}: 1.0 is taken, the largest that CogVideoX Speed has")
    return 1.0


def _windows(context: Context, name: str) -> dict[str, Any]:
    """Context windows of theirs as ComfyUI's; they are averaged where they overlap."""
    given = context.graph.nodes[name].inputs
    lengths = {}
    for key in ("context_frames", "context_overlap", "context_stride"):
        frames = given[key]
        if isinstance(frames, Link):
            frames = dict(FOREIGN["CogVideoContextOptions"].defaults())[key]
            context.lose(name, f"{key}: {frames} is taken, as latent frames stand in its place")
        lengths[key.replace("frames", "length")] = frames // _LATENT_FRAME
    schedule = given["context_schedule"]
    return {
        **lengths,
        "context_schedule": CONTEXT_SCHEDULES.get(schedule, "standard_uniform"),
        "closed_loop": schedule == "uniform_looped",
        "fuse_method": "flat",
        "dim": _TIME,
        "freenoise": given["freenoise"],
        "causal_window_fix": False,
    }


# ---- where it starts


def _start(context: Context, name: str) -> dict[str, Any]:
    """positive, negative and latent_image of a sampler, with what makes them before it."""
    graph, given = context.graph, context.graph.nodes[name].inputs
    start = {"positive": given.get("positive"), "negative": given.get("negative"), "latent_image": None}
    length = given["num_frames"]
    if image := context.source_of(given.get("image_cond_latents"), *IMAGES):
        start = _from_image(context, name, image, length)
    elif graph.source(given.get("image_cond_latents")):
        context.lose(name, "image_cond_latents: link an image to CogVideoX Image to Video instead")
    samples = graph.source(given.get("samples"))
    if video := context.source_of(given.get("samples"), *IMAGES):
        start["latent_image"] = Link(graph.add("CogVideoXVAEEncode", video, encoding(context, video)), 0)
    elif start["latent_image"] is None:
        start["latent_image"] = _latent(context, name, samples, length)
    elif samples and not _is_size(context, samples):
        context.lose(name, f"samples, of {graph.nodes[samples.node].type}: the video starts from noise of the seed")
    return start


def _from_image(context: Context, name: str, image: str, length: Any) -> dict[str, Any]:
    """An encoded image as the conditioning of a sampler; its size is that of the video."""
    graph, given, shown = context.graph, context.graph.nodes[name].inputs, context.graph.nodes[image].inputs
    size = graph.add("GetImageSize", image, {"image": shown.get("start_image")})
    inputs = {key: given.get(key) for key in ("positive", "negative")}
    inputs |= {"vae": shown.get("vae"), "width": Link(size, 0), "height": Link(size, 1), "length": length}
    if follows_video(context, given.get("model")):
        kind, inputs["control_video"] = "CogVideoXControl", shown.get("start_image")
    else:
        kind = "CogVideoXImageToVideo"
        inputs |= {key: shown.get(key) for key in ("start_image", "end_image")}
        inputs["image_scale"] = "sat"  # the wrapper multiplies by 0.7 and divides by it again for 1.5
        if graph.nodes[image].type == "CogVideoImageEncodeFunInP":
            inputs["model"] = given.get("model")
    made = graph.add(kind, image, {**inputs, "image_fit": "refuse"})
    return {"positive": Link(made, 0), "negative": Link(made, 1), "latent_image": Link(made, 2)}


def _latent(context: Context, name: str, samples: Link | None, length: Any) -> Link:
    """What a sampler without images starts from: an empty latent of the size that is given, or the latent itself."""
    graph, given = context.graph, context.graph.nodes[name].inputs
    if samples and not _is_size(context, samples):
        kind = graph.nodes[samples.node].type
        context.lose(name, f"samples, of {kind}: the latent is taken as it is; ours are [B, C, T, h, w]")
        return given["samples"]
    size = _size(context, samples.node) if samples else _USUAL_SIZE
    latent = {"model": given.get("model"), **size, "length": length, "batch_size": 1}
    if isinstance(length, Link) or length > _LONGEST:
        latent["allow_any_size"] = True
    made = graph.add("CogVideoXEmptyLatent", samples.node if samples else name, latent)
    if samples:
        given.pop("samples")
        if not graph.is_used(Link(samples.node, 0)):
            del graph.nodes[samples.node]
    return Link(made, 0)


def _is_size(context: Context, samples: Link) -> bool:
    return context.graph.nodes[samples.node].type in _EMPTY_IMAGE_LATENTS


def _size(context: Context, empty: str) -> dict[str, Any]:
    """width and height of an empty image latent, in the nearest multiples that a video can have."""
    size = {}
    for key, usual in _USUAL_SIZE.items():
        pixels = context.graph.nodes[empty].inputs.get(key, usual)
        if not isinstance(pixels, Link) and pixels % _MULTIPLE:
            nearest = max(round(pixels / _MULTIPLE), 1) * _MULTIPLE
            context.lose(empty, f"{key}={pixels}: {nearest} is taken; sides are multiples of {_MULTIPLE}")
            pixels = nearest
        size[key] = pixels
    return size
