"""What becomes of graphs in the CogVideoX wrapper's node ids, without a server: the table and the rewriting."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from cogvideox_core import VARIANTS
from cogvideox_core.models.shapes import size_steps
from tests.support.foreign_graphs import (
    IDS,
    IMAGE_MODEL,
    LENGTH,
    SEED,
    controlled,
    encode,
    image_to_video,
    loader,
    rules,
    sampler,
    text_to_video,
    texts,
)
from tests.support.foreign_graphs import video_to_video as video_to_video_graph
from tests.support.graphs import Graph, node
from tools.make_foreign_page import PAGE, page


def find(component: str, names: Any) -> str | None:
    """A folder that holds everything."""
    return f"here/{next(iter(names))}"


def nothing_here(component: str, names: Any) -> None:
    return None


def no_defaults(kind: str) -> Any:
    return rules("drawing").Shape((), (), "")


def converted(graph: Graph, found: Any = find) -> tuple[Graph, list[str]]:
    before = deepcopy(graph)
    result = rules("prompt").convert_prompt(graph, found, no_defaults)
    assert graph == before, "the prompt that came is not changed"
    return result


def the(graph: Graph, kind: str) -> dict[str, Any]:
    """Inputs of the one node of a type."""
    (one,) = [each for each in graph.values() if each["class_type"] == kind]
    return one["inputs"]


def types(graph: Graph) -> set[str]:
    return {each["class_type"] for each in graph.values()}


# ---- the table


def test_the_table_has_the_wrappers_25_nodes() -> None:
    table = rules("table")
    assert len(table.TABLE) == 25 and set(table.FOREIGN) == IDS


def test_each_row_says_what_becomes_of_the_node_or_why_nothing_does() -> None:
    for row in rules("table").TABLE:
        assert bool(row.becomes) != bool(row.lost), row.id
        for one in row.inputs:
            if row.becomes:
                assert one.to or one.lost, f"{row.id}.{one.name}"


def test_every_node_of_the_wrapper_is_gone_or_named() -> None:
    """One node of each type, linked to nothing."""
    for row in rules("table").TABLE:
        inputs = dict(row.defaults())
        result, sentences = converted({"one": node(row.id, **inputs), "other": node("SaveLatent")})
        assert row.id not in types(result), row.id
        assert bool(row.lost) == any(row.lost in sentence for sentence in sentences), row.id


# ---- single values


@pytest.mark.parametrize("name", list(rules("names").SCHEDULERS))
def test_every_scheduler_has_a_sampler(name: str) -> None:
    result, sentences = converted(text_to_video(scheduler=name))
    rule = rules("names").SCHEDULERS[name]
    assert sentences == []
    if rule.official:
        assert the(result, "CogVideoXSampler")["sampler"] == rule.official
    else:
        assert the(result, "KSamplerSelect") == {"sampler_name": rule.comfyui}
        assert the(result, "SamplerCustom")["noise_seed"] == SEED
        assert (
            the(result, "CogVideoXScheduler")["steps"]
            == the(converted(text_to_video())[0], "CogVideoXSampler")["steps"]
        )


@pytest.mark.parametrize("length", [1, 17, 48, 49, 50, 85, 97])
def test_frames_stay_as_many_and_more_than_some_model_was_trained_for_are_allowed(length: int) -> None:
    result, sentences = converted(text_to_video(num_frames=length))
    latent = the(result, "CogVideoXEmptyLatent")
    assert (latent["length"], latent.get("allow_any_size", False), sentences) == (length, length > 49, [])


def test_a_linked_number_of_frames_stays_linked() -> None:
    graph = text_to_video(num_frames=["frames_wanted", 0]) | {"frames_wanted": node("PrimitiveInt", value=50)}
    result, sentences = converted(graph)
    assert the(result, "CogVideoXEmptyLatent")["length"] == ["frames_wanted", 0]
    assert sentences == []


def test_a_size_that_is_no_multiple_of_16_is_rounded_and_that_is_said() -> None:
    graph = text_to_video()
    graph["empty"]["inputs"] |= {"width": 728, "height": 480}
    result, sentences = converted(graph)
    assert (the(result, "CogVideoXEmptyLatent")["width"], the(result, "CogVideoXEmptyLatent")["height"]) == (736, 480)
    assert sentences == ["EmptyLatentImage (empty): width=728: 736 is taken; sides are multiples of 16"]


def test_models_are_called_by_their_names_here() -> None:
    graph = text_to_video("THUDM/CogVideoX-5b")
    result, sentences = converted(graph)
    assert the(result, "CogVideoXLoadModel") == {"model_name": "here/CogVideoX-5b", "weight_dtype": "fp32"}
    assert the(result, "CogVideoXLoadVAE") == {"vae_name": "here/CogVideoX-5b"}
    assert sentences == []


def test_models_that_are_not_here_are_named_for_the_user_to_choose() -> None:
    result, sentences = converted(text_to_video("THUDM/CogVideoX-5b"), nothing_here)
    assert the(result, "CogVideoXLoadModel")["model_name"] == "CogVideoX-5b"
    told = "CogVideoX-5b is not among the files here; put it into its folder, or choose another"
    assert sentences == [f"DownloadAndLoadCogVideoModel (model): {told}"]


def test_every_published_model_is_looked_for_by_a_name_of_ours() -> None:
    for name, model in rules("names").MODELS.items():
        result, _ = converted(text_to_video(name))
        assert the(result, "CogVideoXLoadModel")["model_name"] == f"here/{model.names[0]}", name


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"quantization": "fp8_e4m3fn"}, "quantization=fp8_e4m3fn: weights stay in their precision"),
        ({"attention_mode": "sageattn"}, "attention_mode=sageattn: attention is ComfyUI's choice"),
        ({"quantization": "torchao_int8dq"}, ""),
        ({"enable_sequential_cpu_offload": True, "load_device": "offload_device", "attention_mode": "comfy"}, ""),
    ],
)
def test_values_of_the_loader(value: dict[str, Any], told: str) -> None:
    result, sentences = converted(text_to_video() | {"model": loader("THUDM/CogVideoX-5b", **value)})
    assert [told in sentence for sentence in sentences] == ([True] if told else [])
    assert ("CogVideoXQuantizeINT8" in types(result)) == ("torchao_int8dq" in value.values())


@pytest.mark.parametrize(
    ("tiling", "auto", "ours"),
    [(True, True, ("blended", 0, 0)), (False, True, ("auto", 0, 0)), (True, False, ("blended", 360, 240))],
)
def test_tiling_of_the_decoder(tiling: bool, auto: bool, ours: tuple) -> None:
    graph = text_to_video()
    graph["frames"]["inputs"] |= {"enable_vae_tiling": tiling, "auto_tile_size": auto}
    inputs = the(converted(graph)[0], "CogVideoXVAEDecode")
    assert (inputs["tiling"], inputs["tile_width"], inputs["tile_height"]) == ours


# ---- nodes in their context


def test_the_clip_that_a_text_encoder_hands_on_is_the_loaders() -> None:
    result, _ = converted(text_to_video())
    clips = [each["inputs"]["clip"] for each in result.values() if each["class_type"] == "CogVideoXT5Encode"]
    assert clips == [["t5", 0]] * 2


def test_loras_stand_behind_the_model_first_one_first() -> None:
    graph = text_to_video()
    graph["model"]["inputs"]["lora"] = ["second", 0]
    graph["first"] = node("CogVideoLoraSelect", lora="DimensionX_orbit.safetensors", strength=0.5, fuse_lora=True)
    graph["second"] = node("CogVideoLoraSelectComfy", lora="b.safetensors", strength=-1.0, prev_lora=["first", 0])
    result, sentences = converted(graph)
    assert sentences == []
    loras = {name: each["inputs"] for name, each in result.items() if each["class_type"] == "CogVideoXLoadLoRA"}
    (one, other) = loras
    first = {"lora_name": "here/DimensionX_orbit.safetensors", "strength": 0.5, "divide_by_rank": True}
    assert loras[one] == {"model": ["model", 0], **first}
    second = {"lora_name": "here/b.safetensors", "strength": -1.0, "divide_by_rank": False}
    assert loras[other] == {"model": [one, 0], **second}
    assert result["sampler"]["inputs"]["model"] == [other, 0]
    assert the(result, "CogVideoXEmptyLatent")["model"] == [other, 0]


def test_a_lora_for_two_models_stands_behind_each() -> None:
    graph = text_to_video()
    graph["lora"] = node("CogVideoLoraSelect", lora="a.safetensors", strength=1.0)
    for name in ("model", "other"):
        graph[name] = loader("THUDM/CogVideoX-5b", lora=["lora", 0])
    graph["sampler2"], graph["save2"] = (
        sampler(model=["other", 0], samples=["empty", 0]),
        node("SaveLatent", samples=["sampler2", 0]),
    )
    result, _ = converted(graph)
    ends = {result[name]["inputs"]["model"][0] for name in ("sampler", "sampler2")}
    assert {tuple(result[end]["inputs"]["model"]) for end in ends} == {("model", 0), ("other", 0)}
    assert "EmptyLatentImage" not in types(result)


def test_speed_and_compilation_are_nodes_on_the_model() -> None:
    graph = text_to_video(teacache_args=["cache", 0])
    graph["cache"] = node("CogVideoXTeaCache", rel_l1_thresh=0.25)
    graph["compile"] = node("CogVideoXTorchCompileSettings", backend="cudagraphs", mode="max-autotune")
    graph["model"]["inputs"]["compile_args"] = ["compile", 0]
    result, sentences = converted(graph)
    assert the(result, "TorchCompileModel") == {"model": ["model", 0], "backend": "cudagraphs"}
    speed = the(result, "CogVideoXSpeed")
    assert speed["teacache"] == 0.25 and speed["cache_budget"] == 0.0
    assert result[result["sampler"]["inputs"]["model"][0]]["class_type"] == "CogVideoXSpeed"
    assert result[speed["model"][0]]["class_type"] == "TorchCompileModel"
    told = "CogVideoXTorchCompileSettings (compile): mode=max-autotune: TorchCompileModel has no such choice"
    assert sentences == [told]


def test_context_windows_are_comfyuis_in_latent_frames() -> None:
    values = {"context_frames": 48, "context_stride": 4, "context_overlap": 8, "freenoise": False}
    graph = text_to_video(num_frames=97, context_options=["context", 0])
    graph["context"] = node("CogVideoContextOptions", context_schedule="uniform_looped", **values)
    result, sentences = converted(graph)
    windows = the(result, "ContextWindowsManual")
    assert sentences == []
    assert [windows[f"context_{name}"] for name in ("length", "stride", "overlap")] == [12, 1, 2]
    assert (windows["context_schedule"], windows["closed_loop"]) == ("looped_uniform", True)
    assert (windows["dim"], windows["freenoise"], windows["model"]) == (2, False, ["model", 0])
    assert result[result["sampler"]["inputs"]["model"][0]]["class_type"] == "ContextWindowsManual"


def test_an_encoded_image_conditions_the_sampler() -> None:
    result, sentences = converted(image_to_video())
    made = the(result, "CogVideoXImageToVideo")
    assert sentences == []
    assert (made["start_image"], made["end_image"], made["length"]) == (["first", 0], ["last", 0], LENGTH)
    assert result[made["width"][0]]["class_type"] == "GetImageSize" and made["width"][1] == 0 and made["height"][1] == 1
    (name,) = [key for key, each in result.items() if each["class_type"] == "CogVideoXImageToVideo"]
    inputs = result["sampler"]["inputs"]
    assert [inputs[key] for key in ("positive", "negative", "latent_image")] == [[name, 0], [name, 1], [name, 2]]
    assert "model" not in made, "what the model takes is known by the node"


def test_an_encoded_image_for_an_inpainting_model_comes_with_the_model() -> None:
    graph = image_to_video("alibaba-pai/CogVideoX-Fun-V1.1-5b-InP")
    inputs = {"num_frames": LENGTH, "enable_tiling": True, "noise_aug_strength": 0.03}
    graph["image"] = node("CogVideoImageEncodeFunInP", vae=["model", 1], start_image=["first", 0], **inputs)
    result, sentences = converted(graph)
    assert the(result, "CogVideoXImageToVideo")["model"] == ["model", 0]
    told = "noise_aug_strength=0.03: no noise is put on the image"
    assert sentences == [f"CogVideoImageEncodeFunInP (image): {told}"]


def test_an_encoded_video_for_a_pose_model_is_one_to_follow() -> None:
    result, _ = converted(image_to_video("alibaba-pai/CogVideoX-Fun-V1.1-5b-Pose"))
    assert the(result, "CogVideoXControl")["control_video"] == ["first", 0]
    assert "CogVideoXImageToVideo" not in types(result)


def test_an_encoded_video_is_where_a_sampler_starts() -> None:
    result, sentences = converted(video_to_video_graph())
    assert sentences == []
    assert the(result, "CogVideoXVAEEncode")["pixels"] == ["clip", 0]
    assert result[result["sampler"]["inputs"]["latent_image"][0]]["class_type"] == "CogVideoXVAEEncode"
    assert the(result, "CogVideoXSampler")["denoise"] == 0.5


def test_an_encoded_image_that_something_else_takes_stays_an_encoder() -> None:
    graph = {"model": loader(IMAGE_MODEL), "first": node("LoadImage", image="example.png"), "image": encode("first")}
    graph["save"] = node("SaveLatent", samples=["image", 0])
    result, _ = converted(graph)
    assert result["image"]["class_type"] == "CogVideoXVAEEncode"
    assert result["image"]["inputs"]["pixels"] == ["first", 0]


def test_a_latent_of_another_pack_is_named() -> None:
    graph = image_to_video(samples=["warped", 0]) | {"warped": node("GetWarpedNoise")}
    _, sentences = converted(graph)
    told = "samples, of GetWarpedNoise: the video starts from noise of the seed"
    assert sentences == [f"CogVideoSampler (sampler): {told}"]
    graph = text_to_video(samples=["warped", 0]) | {"warped": node("GetWarpedNoise")}
    result, sentences = converted(graph)
    assert result["sampler"]["inputs"]["latent_image"] == ["warped", 0]
    assert len(sentences) == 1 and "the latent is taken as it is" in sentences[0]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("average", "ConditioningAverage"),
        ("weighted_average", "ConditioningAverage"),
        ("concatenate", "ConditioningConcat"),
    ],
)
def test_combined_texts(mode: str, kind: str) -> None:
    graph = texts()
    inputs = {"combination_mode": mode, "weighted_average_ratio": 0.25}
    graph["both"] = node(
        "CogVideoTextEncodeCombine", conditioning_1=["positive", 0], conditioning_2=["negative", 0], **inputs
    )
    graph["use"] = node("SaveAnything", conditioning=["both", 0])
    result, sentences = converted(graph)
    assert sentences == [] and result["both"]["class_type"] == kind
    if kind == "ConditioningAverage":
        assert result["both"]["inputs"]["conditioning_to"] == ["negative", 0]
        assert result["both"]["inputs"]["conditioning_to_strength"] == (0.5 if mode == "average" else 0.25)
    else:
        assert result["both"]["inputs"]["conditioning_to"] == ["positive", 0]


def test_a_resized_image_has_its_size_beside_it() -> None:
    resize = node(
        "CogVideoXFunResizeToClosestBucket",
        images=["first", 0],
        base_resolution=768,
        upscale_method="area",
        crop="disabled",
    )
    graph = {"first": node("LoadImage", image="example.png"), "resize": resize}
    graph["use"] = node("EmptyImage", width=["resize", 1], height=["resize", 2], batch_size=1, color=0)
    graph["show"] = node("PreviewImage", images=["resize", 0])
    result, _ = converted(graph)
    scaled = {"image": ["first", 0], "upscale_method": "area", "megapixels": 0.56, "resolution_steps": 16}
    assert the(result, "ImageScaleToTotalPixels") == scaled
    size = result["use"]["inputs"]
    assert result[size["width"][0]]["class_type"] == "GetImageSize" and (size["width"][1], size["height"][1]) == (0, 1)
    assert result["show"]["inputs"]["images"] == ["resize", 0]


# ---- what has no counterpart


def test_what_would_change_the_video_stays_with_the_reason_in_its_title() -> None:
    result, sentences = converted(controlled())
    title = result["control"]["_meta"]["title"]
    assert title.startswith("CogVideoControlNet: there is no ControlNet for CogVideoX in this pack")
    assert len(sentences) == 2, "the loader of it, too"


def test_what_changes_only_the_time_is_left_out_and_named() -> None:
    graph = text_to_video(fastercache=["cache", 0]) | {"cache": node("CogVideoXFasterCache")}
    result, sentences = converted(graph)
    assert "CogVideoXFasterCache" not in types(result)
    told = "there is no FasterCache in this pack, all is computed; CogVideoX Speed predicts steps"
    assert sentences == [f"CogVideoXFasterCache (cache): {told}"]


def test_what_nothing_depends_on_is_left_out() -> None:
    graph = text_to_video() | {"loose": node("CogVideoEnhanceAVideo", weight=1.0)}
    result, sentences = converted(graph)
    assert "loose" not in result and len(sentences) == 1


def test_a_prompt_without_the_wrapper_is_the_very_same() -> None:
    graph = {"1": node("EmptyImage", width=64)}
    result, sentences = rules("prompt").convert_prompt(graph, find, no_defaults)
    assert result is graph and sentences == []


def test_titles_are_kept_and_all_that_was_rewritten_has_one() -> None:
    graph = text_to_video()
    graph["positive"]["_meta"] = {"title": "What to show"}
    result, _ = converted(graph)
    assert result["positive"]["_meta"]["title"] == "What to show"
    assert all(
        each.get("_meta", {}).get("title")
        for each in result.values()
        if each["class_type"].startswith("CogVideoX")
        and each["class_type"] not in ("CogVideoXLoadT5", "CogVideoXVideoPlayer")
    )
    json.dumps(result)


def test_the_page_is_what_the_table_says() -> None:
    assert PAGE.read_text() == page(), "python tools/make_foreign_page.py writes it anew"


def test_sizes_are_rounded_by_the_numbers_of_the_models() -> None:
    sampling = rules("sampling")
    for row in VARIANTS.values():
        assert size_steps(row.transformer, row)[0] == sampling._MULTIPLE
        assert row.max_frames >= sampling._LONGEST
        assert row.vae.temporal_compression_ratio == sampling._LATENT_FRAME
