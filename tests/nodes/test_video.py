"""The files that the player node writes, decoded again, and what it tells the player."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from cogvideox_core import read_video, write_video
from cogvideox_core.videos.checks import check
from cogvideox_core.videos.file_tags import picture_tags
from tests.support.graphs import HEIGHT, LENGTH, WIDTH, Graph, node, saved_tensor, text_to_video
from tests.support.host import ExecutionFailed, History, Host
from tests.support.workflow_files import TITLES, api_workflow

TONE = 440.0  # hertz


def video_graph(**inputs) -> Graph:
    graph = {
        "dark": node("EmptyImage", width=64, height=48, batch_size=3, color=0x202020),
        "bright": node("EmptyImage", width=64, height=48, batch_size=2, color=0xE0E0E0),
        "frames": node("ImageBatch", image1=["dark", 0], image2=["bright", 0]),
        "video": node("CogVideoXVideoPlayer", images=["frames", 0], fps=16.0, filename_prefix="v", save_output=True),
    }
    graph["video"]["inputs"] |= inputs
    return graph


def colour(value: int, frames: int = 1, width: int = 64, height: int = 48) -> dict[str, Any]:
    return node("EmptyImage", width=width, height=height, batch_size=frames, color=value * 0x010101)


def brightness(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]


def told(history: History, name: str = "video") -> dict[str, Any]:
    """What the player's widget gets besides the file."""
    (payload,) = history.outputs[name]["cogvideox_player"]
    return payload


def saved(history: History, name: str = "video") -> Path:
    return saved_all(history, name)[0]


def saved_all(history: History, name: str = "video") -> list[Path]:
    return [history.host.saved_path(item) for item in history.outputs[name]["images"]]


def psnr(ours: int, theirs: int) -> float:
    """Of two even greys."""
    return -20 * math.log10(abs(ours - theirs) / 255)


# ---- the file


def test_the_mp4_has_the_frames_size_and_rate(host: Host) -> None:
    path = saved(host.run(video_graph(filename_prefix="folder/name")))
    assert path.parent.name == "folder"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (64, 48, 16)
        assert stream.codec_context.name == "h264"
    assert brightness(path) == pytest.approx([32, 32, 32, 224, 224], abs=8)


def test_the_mp4_carries_the_prompt_and_the_workflow(host: Host) -> None:
    graph, workflow = video_graph(), {"nodes": [], "note": "bär"}
    prompt_id = host.queue(graph, extra_data={"extra_pnginfo": {"workflow": workflow}})
    with av.open(str(saved(host.wait(prompt_id)))) as container:
        metadata = dict(container.metadata)
    assert json.loads(metadata["workflow"]) == workflow
    assert json.loads(metadata["prompt"]).keys() == graph.keys()


def test_a_preview_is_temporary(host: Host) -> None:
    history = host.run(video_graph(save_output=False))
    assert history.outputs["video"]["images"][0]["type"] == "temp"


def test_a_video_passes_through_with_its_own_rate(host: Host) -> None:
    graph = video_graph()
    graph["made"] = node("CreateVideo", images=["frames", 0], fps=24.0)
    graph["video"] = node("CogVideoXVideoPlayer", video=["made", 0], fps=8.0, filename_prefix="v", save_output=True)
    graph["again"] = node("CogVideoXVideoPlayer", images=["video", 1], fps=8.0, filename_prefix="w", save_output=True)
    history = host.run(graph)
    with av.open(str(saved(history))) as container:
        assert container.streams.video[0].average_rate == 24
    assert told(history)["fps"] == 24
    assert len(brightness(saved(history, "again"))) == 5


@pytest.mark.parametrize("source", ["images", "video"])
def test_sound_is_in_the_mp4_beside_its_workflow(host: Host, source: str) -> None:
    """16 frames at 16 per second are one second; of three seconds of a tone as much is kept."""
    graph, workflow = video_graph(), {"nodes": [], "note": source}
    graph["frames"] = colour(128, 16)
    graph["made"] = node("CreateVideo", images=["frames", 0], fps=16.0)
    graph["tone"] = node("ProbeTone", seconds=3.0, hertz=TONE, channels=2)
    inputs = {source: [{"images": "frames", "video": "made"}[source], 0], "audio": ["tone", 0]}
    graph["video"] = node("CogVideoXVideoPlayer", **inputs, fps=16.0, filename_prefix="v", save_output=True)
    history = host.wait(host.queue(graph, extra_data={"extra_pnginfo": {"workflow": workflow}}))
    assert told(history)["has_audio"] is True
    with av.open(str(saved(history))) as container:
        metadata, rate = dict(container.metadata), container.streams.audio[0].rate
        wave = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    assert json.loads(metadata["workflow"]) == workflow
    assert json.loads(metadata["prompt"]).keys() == graph.keys()
    assert wave.shape[1] / rate == pytest.approx(1.0, abs=0.1)
    spectrum = np.abs(np.fft.rfft(wave[0, :rate]))
    assert np.argmax(spectrum) * rate / min(rate, wave.shape[1]) == pytest.approx(TONE, abs=3)
    assert len(brightness(saved(history))) == 16


def test_a_video_keeps_its_own_sound(host: Host) -> None:
    graph = video_graph()
    graph["tone"] = node("ProbeTone", seconds=0.3, hertz=TONE, channels=1)
    graph["made"] = node("CreateVideo", images=["frames", 0], fps=16.0, audio=["tone", 0])
    graph["video"] = node("CogVideoXVideoPlayer", video=["made", 0], fps=8.0, filename_prefix="v", save_output=True)
    history = host.run(graph)
    assert told(history)["has_audio"] is True
    with av.open(str(saved(history))) as container:
        assert len(container.streams.audio) == 1


def test_colours_and_quality_are_those_of_the_shell(host: Host, tmp_path: Path) -> None:
    """The node's file holds the very pictures that the command's has."""
    graph = video_graph()
    graph["frames"] = node("ProbeNumberedFrames", frames=9, width=64, height=48, shade=0.7)
    with av.open(str(saved(host.run(graph)))) as container:
        ours = [frame.to_ndarray() for frame in container.decode(video=0)]
        context = container.streams.video[0].codec_context
        assert [int(context.colorspace), int(context.color_primaries), int(context.color_trc)] == [1, 1, 1]
        assert int(context.color_range) == 1
    levels = torch.zeros(9, 64)
    for number in range(9):
        for bit in range(8):
            levels[number, 8 * bit : 8 * bit + 8] = 0.7 * (number >> bit & 1)
    shell = write_video(tmp_path / "shell.mp4", levels[None, None, :, None].expand(1, 3, 9, 48, 64), 16)
    with av.open(str(shell)) as container:
        theirs = [frame.to_ndarray() for frame in container.decode(video=0)]
    assert np.array_equal(ours, theirs)


def test_crf_is_the_quality(host: Host) -> None:
    graph = video_graph(crf=40)
    assert b"crf=40.0" in saved(host.run(graph)).read_bytes()


def test_a_file_that_is_an_mp4_keeps_its_encoding(host: Host) -> None:
    """Its packets are copied; of another kind, it is encoded anew as well as frames are."""
    for name, packets_stay in (("own.mp4", True), ("own.webm", False)):
        path = write_video(host.folder / "input" / name, torch.rand(1, 3, 5, 48, 64), 12, crf=44)
        graph = {
            "loaded": node("LoadVideo", file=name),
            "video": node(
                "CogVideoXVideoPlayer", video=["loaded", 0], fps=8.0, filename_prefix="own", save_output=True
            ),
        }
        made = saved(host.run(graph))
        assert (b"crf=44.0" in made.read_bytes()) == packets_stay
        assert (b"crf=17.0" in made.read_bytes()) == (not packets_stay)
        with av.open(str(made)) as container, av.open(str(path)) as source:
            assert len(list(container.decode(video=0))) == 5
            assert container.streams.video[0].average_rate == source.streams.video[0].average_rate == 12


def test_a_video_of_ten_bits_keeps_them(host: Host) -> None:
    graph = video_graph()
    graph["made"] = node("CreateVideo", images=["frames", 0], fps=16.0, bit_depth=10)
    graph["video"] = node("CogVideoXVideoPlayer", video=["made", 0], fps=8.0, filename_prefix="v", save_output=True)
    with av.open(str(saved(host.run(graph)))) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p10le"


# ---- other formats


def decoded(path: Path) -> list[np.ndarray]:
    """The frames [H, W, 3] of a moving picture or a video."""
    if path.suffix in (".gif", ".webp"):
        with Image.open(path) as picture:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("format", ["webm", "webm-av1", "gif", "webp"])
def test_another_format_has_the_frames_and_the_player_an_mp4_of_them(host: Host, format: str) -> None:
    graph = video_graph(format=format)
    graph["frames"] = node("ProbeNumberedFrames", frames=6, width=64, height=48, shade=1.0)
    history = host.run(graph)
    path, payload = saved(history), told(history)
    assert path.suffix == f".{format.removesuffix('-av1')}"
    frames = decoded(path)
    assert len(frames) == 6 and [frame[20, 4].mean() > 100 for frame in frames] == [False, True] * 3
    assert payload["file"] == history.outputs["video"]["images"][0] and payload["files"] == 1
    if path.suffix == ".webm":
        assert payload["shown"] == payload["file"]
    else:
        assert (payload["shown"]["type"], Path(payload["shown"]["filename"]).suffix) == ("temp", ".mp4")
        assert len(decoded(history.host.saved_path(payload["shown"]))) == 6


def test_png_is_a_folder_of_pictures_without_loss(host: Host) -> None:
    graph = video_graph(format="png", filename_prefix="pictures/one")
    history = host.run(graph)
    paths = saved_all(history)
    assert [path.name for path in paths] == [f"{number:05}.png" for number in range(1, 6)]
    assert paths[0].parent == host.output_path("pictures") / "one_00001_"
    assert [int(np.asarray(Image.open(path)).mean()) for path in paths] == [32, 32, 32, 224, 224]
    assert json.loads(Image.open(paths[4]).info["prompt"]).keys() == graph.keys()
    assert told(history)["files"] == 5
    again = saved_all(host.run(video_graph(format="png", filename_prefix="pictures/one", fps=15.0)))
    assert again[0].parent.name == "one_00002_"


def test_the_workflow_is_in_every_format(host: Host) -> None:
    workflow = {"nodes": [], "note": "b\u00e4r"}
    found = {}
    for format in ("webm", "webp", "gif", "png"):
        prompt_id = host.queue(video_graph(format=format), extra_data={"extra_pnginfo": {"workflow": workflow}})
        path = saved(host.wait(prompt_id))
        if format == "webm":
            with av.open(str(path)) as container:
                found[format] = container.metadata["WORKFLOW"]
        else:
            tags = picture_tags(path) or {}
            found[format] = tags["workflow"] if format != "gif" else json.dumps(json.loads(tags["comment"])["workflow"])
    assert {format: json.loads(text) for format, text in found.items()} == dict.fromkeys(found, workflow)


@pytest.mark.parametrize("format", ["webm", "gif"])
def test_sound_stays_where_the_format_takes_it(host: Host, format: str) -> None:
    graph = video_graph(format=format, audio=["tone", 0])
    graph["tone"] = node("ProbeTone", seconds=1.0, hertz=TONE, channels=2)
    history = host.run(graph)
    assert told(history)["has_audio"] is True
    with av.open(str(history.host.saved_path(told(history)["shown"]))) as container:
        assert len(container.streams.audio) == 1
    if format == "gif":
        assert "a GIF has no sound, so the file is written without; the player has it" in host.log_text()


@pytest.mark.parametrize("format", ["gif", "webp", "png"])
def test_pictures_may_have_odd_sizes(host: Host, format: str) -> None:
    graph = video_graph(format=format)
    graph["frames"] = colour(100, width=65, height=47)
    history = host.run(graph)
    with Image.open(saved(history)) as picture:
        assert picture.size == (65, 47)
    assert decoded(history.host.saved_path(told(history)["shown"]))[0].shape == (48, 66, 3)


# ---- a batch is several clips


def batch(host: Host, size: int, decoder: dict[str, Any], **player: Any) -> Graph:
    """A latent of so many clips, sampled with a toy, decoded, and played."""
    graph = text_to_video("CogVideoX-5B", steps=1)
    graph["latent"]["inputs"]["batch_size"] = size
    graph["decode"] = decoder
    inputs: dict[str, Any] = {"images": ["decode", 0], "fps": 8.0, "filename_prefix": "batch/clip", "save_output": True}
    graph["video"] = node("CogVideoXVideoPlayer", **{**inputs, **player})
    return graph


def our_decoder() -> dict[str, Any]:
    return node("CogVideoXVAEDecode", samples=["sampler", 0], vae=["vae", 0], tiling="exact")


def test_a_batch_of_three_makes_three_files_and_stays_one_image(host: Host, toys: dict) -> None:
    graph = batch(host, 3, our_decoder())
    graph["flat"] = node("ProbeSaveImages", images=["decode", 0], name="flat")
    graph["played"] = node("ProbeSaveImages", images=["video", 1], name="played")
    history = host.run(graph)
    assert [path.name for path in saved_all(history)] == [f"clip_{number:05}_.mp4" for number in (1, 2, 3)]
    payloads = history.outputs["video"]["cogvideox_player"]
    assert [payload["frames"] for payload in payloads] == [LENGTH] * 3
    assert len({payload["id"] for payload in payloads}) == 3
    assert [payload["file"] for payload in payloads] == history.outputs["video"]["images"]
    flat, played = saved_tensor(history, "flat"), saved_tensor(history, "played")
    assert flat.shape == (3 * LENGTH, HEIGHT, WIDTH, 3) and torch.equal(flat, played)
    for path, payload, clip in zip(saved_all(history), payloads, flat.unflatten(0, (3, -1)), strict=True):
        frames, _ = read_video(path)
        assert frames.shape[2] == LENGTH
        assert (frames[0].permute(1, 2, 3, 0) - clip).abs().mean() < 0.05, "each file holds its own clip"
        assert payload["checks"] == check(clip), "seam, frozen and black are those of the clip"


@pytest.mark.parametrize("way", ["comfyui's decoder", "a node in between", "a list"])
def test_clips_are_told_apart_by_hand_or_as_a_list(host: Host, toys: dict, way: str) -> None:
    """Where ComfyUI decodes, or a node computes other frames, the number is an input, or each clip goes by itself."""
    if way == "comfyui's decoder":
        graph = batch(host, 2, node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]), clips=2)
    else:
        graph = batch(host, 2, our_decoder(), images=["larger", 0], clips=2 if way == "a node in between" else 0)
        images = ["decode", 1 if way == "a list" else 0]
        graph["larger"] = node("ImageScaleBy", image=images, upscale_method="bilinear", scale_by=2.0)
    history = host.run(graph)
    assert [payload["frames"] for payload in history.outputs["video"]["cogvideox_player"]] == [LENGTH] * 2
    assert [read_video(path)[0].shape[2] for path in saved_all(history)] == [LENGTH] * 2


def test_videos_of_a_batch_are_saved_by_comfyui_one_by_one(host: Host, toys: dict) -> None:
    graph = batch(host, 2, our_decoder(), save_output=False)
    graph["save"] = node("SaveVideo", video=["video", 0], filename_prefix="one by one", format="auto", codec="auto")
    history = host.run(graph)
    assert [read_video(path)[0].shape[2] for path in history.files("save")] == [LENGTH] * 2


def test_a_batch_of_pictures_is_a_folder_a_clip(host: Host) -> None:
    graph = video_graph(images=["many", 0], clips=2, format="png", filename_prefix="folders/clip")
    graph["many"] = colour(100, 6)
    history = host.run(graph)
    assert [path.relative_to(host.output_path("folders")).as_posix() for path in saved_all(history)] == [
        f"clip_{clip:05}_/{number:05}.png" for clip in (1, 2) for number in (1, 2, 3)
    ]
    assert [payload["files"] for payload in history.outputs["video"]["cogvideox_player"]] == [3, 3]


def test_every_clip_has_the_sound_and_its_own_checks(host: Host) -> None:
    """Three frames dark, two bright and one black: as one clip it is frozen and black late, as two each in its own."""
    graph = video_graph(images=["all", 0], clips=2, audio=["tone", 0], reference=["dark", 0])
    graph |= {"black": colour(0), "tone": node("ProbeTone", seconds=1.0, hertz=TONE, channels=2)}
    graph["all"] = node("ImageBatch", image1=["frames", 0], image2=["black", 0])
    history = host.run(graph)
    first, second = history.outputs["video"]["cogvideox_player"]
    assert (first["checks"]["frozen"], first["checks"]["black"], first["checks"]["seam"]) == ([[0, 2]], [], 99.0)
    assert (second["checks"]["frozen"], second["checks"]["black"]) == ([[0, 1]], [[2, 2]])
    assert first["checks"]["first_frame"] > 50 > second["checks"]["first_frame"]
    for path in saved_all(history):
        with av.open(str(path)) as container:
            assert len(container.streams.audio) == 1


def test_clips_are_of_one_length(host: Host) -> None:
    with pytest.raises(ExecutionFailed, match="5 frames are not 2 clips of one length; set clips to the latent's"):
        host.run(video_graph(clips=2))
    graph = video_graph()
    graph["made"] = node("CreateVideo", images=["frames", 0], fps=16.0)
    graph["video"] = node(
        "CogVideoXVideoPlayer", video=["made", 0], fps=8.0, filename_prefix="v", save_output=True, clips=5
    )
    with pytest.raises(ExecutionFailed, match="clips=5 for a video, which is one clip; give the frames to images"):
        host.run(graph)


# ---- what the player is told


def test_the_player_is_told_what_the_video_is(host: Host) -> None:
    first = told(host.run(video_graph(filename_prefix="told")))
    assert (first["fps"], first["frames"], first["width"], first["height"]) == (16, 5, 64, 48)
    assert (first["has_audio"], first["reference"]) == (False, None)
    second = told(host.run(video_graph(filename_prefix="told/again")))
    assert first["id"] != second["id"]


def test_black_and_frozen_frames_are_told(host: Host) -> None:
    """Frames 0 to 2 are one dark grey, 3 and 4 one bright, 5 and 6 black, 7 dark again."""
    graph = video_graph(images=["all", 0])
    graph |= {"black": colour(0, 2), "end": colour(0x20)}
    graph["tail"] = node("ImageBatch", image1=["black", 0], image2=["end", 0])
    graph["all"] = node("ImageBatch", image1=["frames", 0], image2=["tail", 0])
    checks = told(host.run(graph))["checks"]
    assert checks["black"] == [[5, 6]]
    assert checks["frozen"] == [[0, 2], [3, 4], [5, 6]]
    assert checks["seam"] == 99.0, "the last frame is the first"
    assert (checks["first_frame"], checks["reference"]) == (None, None)


def test_the_seam_and_the_step_are_in_decibels(host: Host) -> None:
    graph = video_graph()
    graph["dark"], graph["bright"] = colour(100), colour(120)
    graph["last"] = colour(110)
    graph["all"] = node("ImageBatch", image1=["frames", 0], image2=["last", 0])
    graph["video"]["inputs"]["images"] = ["all", 0]
    checks = told(host.run(graph))["checks"]
    assert checks["seam"] == pytest.approx(psnr(100, 110), abs=0.01)
    assert checks["step"] == pytest.approx((psnr(100, 120) + psnr(120, 110)) / 2, abs=0.01)
    assert checks["frozen"] == []


def test_one_frame_has_no_seam(host: Host) -> None:
    graph = video_graph()
    graph["frames"] = colour(100)
    checks = told(host.run(graph))["checks"]
    assert (checks["seam"], checks["step"], checks["frozen"]) == (None, None, [])


def test_a_reference_image_is_measured_and_kept_in_the_size_of_the_video(host: Host) -> None:
    """The reference is four times as wide: its middle is compared."""
    graph = video_graph(reference=["reference", 0])
    graph["reference"] = colour(0x30, width=256)
    payload = told(host.run(graph))
    assert payload["checks"]["first_frame"] == pytest.approx(psnr(0x20, 0x30), abs=0.01)
    assert payload["checks"]["reference"] is None
    assert (payload["reference"]["type"], payload["reference"]["frames"]) == ("temp", 1)
    with Image.open(host.saved_path(payload["reference"])) as picture:
        assert (picture.size, picture.getpixel((5, 5))) == ((64, 48), (0x30, 0x30, 0x30))


@pytest.mark.parametrize("source", ["reference", "reference_video"])
def test_a_reference_video_is_measured_over_the_frames_both_have(host: Host, source: str) -> None:
    graph = video_graph()
    graph["reference"] = colour(0x24, 3)
    graph["made"] = node("CreateVideo", images=["reference", 0], fps=16.0)
    graph["video"]["inputs"][source] = [{"reference": "reference", "reference_video": "made"}[source], 0]
    payload = told(host.run(graph))
    assert payload["checks"]["first_frame"] == pytest.approx(psnr(0x20, 0x24), abs=0.01)
    assert payload["checks"]["reference"] == pytest.approx(psnr(0x20, 0x24), abs=0.01)
    assert payload["reference"]["frames"] == 3
    assert brightness(host.saved_path(payload["reference"])) == pytest.approx([0x24] * 3, abs=8)


def test_the_settings_of_a_headless_run_are_told(host: Host) -> None:
    graph = api_workflow(TITLES[0])
    (sampler,) = [name for name, one in graph.items() if one["class_type"] == "CogVideoXSampler"]
    (player,) = [name for name, one in graph.items() if one["class_type"] == "CogVideoXVideoPlayer"]
    graph[sampler]["inputs"] |= {"steps": 1, "seed": 2**63 + 1}
    settings = told(host.run(graph), player)["settings"]
    assert (settings["seed"], settings["steps"]) == (str(2**63 + 1), "1")
    assert settings["model"].startswith("demo/")
    assert settings["positive"]


@pytest.mark.parametrize("title", TITLES)
def test_settings_are_found_in_every_workflow(pack: ModuleType, title: str) -> None:
    read = importlib.import_module(f"{pack.__name__}.nodes.host.player.prompt_settings").read_settings
    graph = api_workflow(title)
    *_, player = [name for name, one in graph.items() if one["class_type"] == "CogVideoXVideoPlayer"]
    assert {"model", "seed", "steps", "cfg", "sampler", "denoise", "positive"} <= read(graph, player).keys()


def test_settings_are_those_of_the_sampler_and_not_of_what_comes_after(pack: ModuleType) -> None:
    """SamplerCustomAdvanced, with LoRAs, a seed from a node of its own, and an upscaler behind the decoder."""
    read = importlib.import_module(f"{pack.__name__}.nodes.host.player.prompt_settings").read_settings
    graph = {
        "upscaler": node("UpscaleModelLoader", model_name="upscaler.pth"),
        "model": node("UNETLoader", unet_name="cog.safetensors"),
        "one": node("LoraLoaderModelOnly", model=["model", 0], lora_name="one", strength_model=0.5),
        "two": node("CogVideoXLoadLoRA", model=["one", 0], lora_name="two", strength=1.0),
        "yes": node("CLIPTextEncode", text="a ship"),
        "no": node("CLIPTextEncode", text="blurry"),
        "start": node("CogVideoXImageToVideo", positive=["yes", 0], negative=["no", 0]),
        "guider": node("CFGGuider", model=["two", 0], positive=["start", 0], negative=["start", 1], cfg=6.0),
        "seed": node("PrimitiveInt", value=7),
        "noise": node("RandomNoise", noise_seed=["seed", 0]),
        "rule": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["two", 0], scheduler="simple", steps=20, denoise=1.0),
        "sampler": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["rule", 0],
            sigmas=["sigmas", 0],
            latent_image=["start", 2],
        ),
        "decode": node("VAEDecode", samples=["sampler", 0]),
        "upscale": node("ImageUpscaleWithModel", upscale_model=["upscaler", 0], image=["decode", 0]),
        "player": node("CogVideoXVideoPlayer", images=["upscale", 0]),
    }
    assert read(graph, "player") == {
        "model": "cog.safetensors",
        "seed": "7",
        "steps": "20",
        "cfg": "6",
        "sampler": "euler",
        "scheduler": "simple",
        "denoise": "1",
        "lora": "one:0.5, two:1",
        "positive": "a ship",
        "negative": "blurry",
    }


# ---- what does not fit


def files(host: Host) -> set[Path]:
    return {path for kind in ("output", "temp") for path in (host.folder / kind).rglob("*") if path.is_file()}


def test_sound_of_three_channels_is_refused(host: Host) -> None:
    graph = video_graph(audio=["tone", 0], reference=["dark", 0])
    graph["tone"] = node("ProbeTone", seconds=1.0, hertz=TONE, channels=3)
    before = files(host)
    with pytest.raises(ExecutionFailed, match=r"audio of 3 channels; an mp4 takes 1, 2 or 6; mix it down to 2"):
        host.run(graph)
    assert files(host) == before


def test_silence_is_no_sound(host: Host) -> None:
    graph = video_graph(audio=["tone", 0])
    graph["tone"] = node("ProbeTone", seconds=0.0, hertz=TONE, channels=2)
    assert told(host.run(graph))["has_audio"] is False


def test_frames_of_an_odd_size_are_refused(host: Host) -> None:
    graph = video_graph()
    graph["frames"] = colour(100, width=65)
    with pytest.raises(
        ExecutionFailed,
        match=r"frames of 65x48; an mp4 takes even sizes; crop or resize them to 64x48, or save",
    ):
        host.run(graph)


def test_two_references_are_refused(host: Host) -> None:
    graph = video_graph(reference=["dark", 0], reference_video=["made", 0])
    graph["made"] = node("CreateVideo", images=["frames", 0], fps=16.0)
    with pytest.raises(ExecutionFailed, match="either reference or reference_video"):
        host.run(graph)


def test_a_failure_leaves_nothing_behind(host: Host) -> None:
    """A file stands where the video's folder should be; the reference has been written by then."""
    host.output_path("taken").write_text("a file")
    graph = video_graph(filename_prefix="taken/video", reference=["dark", 0])
    before = files(host)
    with pytest.raises(ExecutionFailed, match="choose another filename_prefix"):
        host.run(graph)
    assert files(host) == before
    host.output_path("taken").unlink()
