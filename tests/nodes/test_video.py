"""The mp4 that the player node writes, decoded again, and what it tells the player."""

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
from PIL import Image

from tests.support.graphs import Graph, node
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
    return history.host.saved_path(history.outputs[name]["images"][0])


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
        ExecutionFailed, match=r"frames of 65x48; an mp4 takes even sizes; crop or resize them to 64x48"
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
