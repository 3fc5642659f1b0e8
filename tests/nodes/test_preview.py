"""Live previews as a client of a real server gets them, and their parts in this process."""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import websocket
from PIL import Image, ImageSequence

from tests.support.graphs import (
    HEIGHT,
    LENGTH,
    WIDTH,
    custom_sampling,
    ksampler,
    node,
    sampler,
    saved_tensor,
    text_to_video,
)
from tests.support.host import Events, ExecutionInterrupted, History, Host

KIND = "CogVideoX-5B"
PREVIEWS = "nodes.host.features.previews"
LATENT_FRAMES = (LENGTH - 1) // 4 + 1
SIZE = (WIDTH, HEIGHT)
STEP_FIELDS = {
    "node_id",
    "display_node_id",
    "prompt_id",
    "step",
    "steps",
    "seconds_per_step",
    "seconds_left",
    "peak_bytes",
}
COLOURLESS = {"latent_rgb_factors": [[0.0, 0.0, 0.0]] * 16, "latent_rgb_factors_bias": [0.0, 0.0, 0.0]}
_seeds = count(1000)  # another one each time, or the result comes from ComfyUI's cache and nothing is sampled


def our_sampler(kind: str) -> dict:
    return text_to_video(kind, seed=next(_seeds), steps=6)


def native_ksampler(kind: str) -> dict:
    graph = text_to_video(kind)
    graph["sampler"] = ksampler()
    graph["sampler"]["inputs"] |= {"seed": next(_seeds), "steps": 6}
    return graph


def custom(kind: str) -> dict:
    graph = custom_sampling(kind, steps=6)
    inputs = sampler()["inputs"]
    given = {name: inputs[name] for name in ("model", "positive", "negative", "latent_image", "cfg")}
    graph["sampler"] = node(
        "SamplerCustom",
        **given,
        add_noise=True,
        noise_seed=next(_seeds),
        sampler=["rule", 0],
        sigmas=["sigmas", 0],
    )
    return graph


def custom_advanced(kind: str) -> dict:
    graph = custom_sampling(kind, steps=6)
    graph["noise"]["inputs"]["noise_seed"] = next(_seeds)
    return graph


def slowly(graph: dict, seconds: float) -> dict:
    """The same, with steps that take so much longer."""
    graph["slow"] = node("ProbeSlowSteps", model=["model", 0], seconds=seconds)
    graph["sampler"]["inputs"]["model"] = ["slow", 0]
    return graph


def watched(host: Host, graph: dict, **more: Any) -> tuple[Events, History]:
    """Everything the client of a run got, once all of it is there."""
    with host.events() as events:
        history = host.run(graph, client_id=events.client_id, **more)
        events.wait_for("execution_success")
    return events, history


def frames_of(file: bytes) -> list[np.ndarray]:
    """The frames [H, W, 3] of an animated WebP."""
    with Image.open(BytesIO(file)) as picture:
        assert picture.format == "WEBP" and picture.size == SIZE
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)]


@pytest.mark.parametrize("make", [our_sampler, native_ksampler, custom, custom_advanced])
@pytest.mark.parametrize("kind", [KIND, "CogVideoX1.5-5B"])
def test_the_client_sees_the_clip_move_while_it_is_sampled(host: Host, toys: dict, make: Any, kind: str) -> None:
    events, history = watched(host, make(kind))
    assert 2 <= len(events.previews) <= 6
    for about, file in events.previews:
        assert (about["node_id"], about["display_node_id"]) == ("sampler", "sampler")
        assert about["prompt_id"] == history.prompt_id
        frames = frames_of(file)
        assert len(frames) == LATENT_FRAMES  # 1.5's leading frame is not shown
        assert len({frame.tobytes() for frame in frames}) >= 2
    with Image.open(BytesIO(events.previews[-1][1])) as picture:
        picture.load()
        assert picture.info["duration"] == 4 * 1000 / (16 if "1.5" in kind else 8)  # milliseconds a latent frame


def test_the_clips_of_a_batch_are_shown_side_by_side(host: Host, toys: dict) -> None:
    graph = our_sampler(KIND)
    graph["latent"]["inputs"]["batch_size"] = 2
    events, _ = watched(host, graph)
    with Image.open(BytesIO(events.previews[-1][1])) as picture:
        assert (picture.size, picture.n_frames) == ((WIDTH, 2 * HEIGHT), LATENT_FRAMES)
        pixels = np.asarray(picture.convert("RGB"))
    assert not np.array_equal(pixels[:HEIGHT], pixels[HEIGHT:])


@pytest.mark.parametrize("method", ["auto", "latent2rgb", "taesd", "default"])
def test_comfyuis_own_preview_comes_once_at_most_and_ours_after_it(host: Host, toys: dict, method: str) -> None:
    events, _ = watched(host, slowly(native_ksampler(KIND), 0.3), extra_data={"preview_method": method})
    stills = [index for index, (_, file) in enumerate(events.previews) if not file.startswith(b"RIFF")]
    moving = [file for _, file in events.previews if file.startswith(b"RIFF")]
    assert 2 <= len(moving) <= 6
    assert {len(frames_of(file)) for file in moving} == {LATENT_FRAMES}
    assert stills == ([] if method == "default" else [len(events.previews) - 2])


@pytest.mark.parametrize("is_last_reported", [True, False])
def test_previews_leave_the_denoised_output_as_it_is(host: Host, toys: dict, is_last_reported: bool) -> None:
    """SamplerCustom's second output is the x0 of the last step that the sampler reports, with or without previews."""
    graph = custom(KIND)
    if not is_last_reported:
        graph["quiet"] = node("ProbeQuietSampler", sampler=["rule", 0])
        graph["sampler"]["inputs"]["sampler"] = ["quiet", 0]
    graph["decoded"] = node("CogVideoXVAEDecode", samples=["sampler", 1], vae=["vae", 0], tiling="exact")
    denoised = []
    for method in ("none", "latent2rgb"):
        graph["show"] = node("ProbeSaveImages", images=["decoded", 0], name=f"denoised, previews {method}")
        slow = slowly(graph, 0.001 * next(_seeds))  # another graph to ComfyUI, or the sampler would not run again
        events, history = watched(host, slow, extra_data={"preview_method": method})
        denoised.append(saved_tensor(history, "show"))
    assert torch.equal(*denoised)
    assert [step["step"] for step in events.of_type("cogvideox.step")] == [1, 2, 3, 4, 5, 6]
    assert len(frames_of(events.previews[-1][1])) == LATENT_FRAMES


def test_the_first_preview_comes_before_the_second_step_is_done(host: Host, toys: dict) -> None:
    events, _ = watched(host, slowly(our_sampler(KIND), 1.0))
    steps = [index for index, kind in enumerate(events.arrivals) if kind == "cogvideox.step"]
    assert events.arrivals.index("preview") < steps[1]


def test_each_step_is_told(host: Host, toys: dict) -> None:
    events, history = watched(host, slowly(our_sampler(KIND), 0.2))
    told = events.of_type("cogvideox.step")
    assert [(step["step"], step["steps"]) for step in told] == [(index, 6) for index in range(1, 7)]
    for step in told:
        assert set(step) == STEP_FIELDS and step["peak_bytes"] is None  # no GPU
        assert (step["node_id"], step["display_node_id"]) == ("sampler", "sampler")
        assert step["prompt_id"] == history.prompt_id
        assert step["seconds_left"] == pytest.approx(step["seconds_per_step"] * (6 - step["step"]))
    assert told[-1]["seconds_left"] == 0 and told[-1]["seconds_per_step"] >= 0.2


def test_no_other_client_gets_anything(host: Host, toys: dict) -> None:
    with host.events() as other:
        events, _ = watched(host, our_sampler(KIND))
        host.run(our_sampler(KIND))  # of nobody
        time.sleep(0.5)
        assert events.previews and other.previews == []
        assert other.of_type("cogvideox.step") == []


def test_none_is_none(host: Host, toys: dict) -> None:
    events, _ = watched(host, our_sampler(KIND), extra_data={"preview_method": "none"})
    assert events.previews == []
    assert len(events.of_type("cogvideox.step")) == 6


def test_a_client_that_knows_no_metadata_gets_the_same_pictures(host: Host, toys: dict) -> None:
    socket = websocket.create_connection(f"ws://127.0.0.1:{host.port}/ws?clientId=old", timeout=60)
    pictures, done = [], False
    host.queue(our_sampler(KIND), "old")
    while not done:
        message = socket.recv()
        if isinstance(message, bytes):
            assert message[:4] == (1).to_bytes(4, "big")
            pictures.append(message[8:])
        else:
            done = json.loads(message)["type"] == "execution_success"
    socket.close()
    assert len(pictures) >= 2 and len(frames_of(pictures[-1])) == LATENT_FRAMES


def test_an_encoder_that_fails_fails_no_run(host: Host, toys: dict) -> None:
    sentence = "no live previews in this run (OSError: the encoder is broken); sampling goes on"
    before = host.log_text().count(sentence)
    graph = slowly(our_sampler(KIND), 0.3)
    graph["break"] = node("ProbeBreakPreviews", model=["model", 0], broken=True)
    graph["slow"]["inputs"]["model"] = ["break", 0]
    try:
        events, history = watched(host, graph)
        assert history.status == "success" and events.previews == []
        assert host.log_text().count(sentence) == before + 1
    finally:
        graph["break"]["inputs"]["broken"] = False
        graph["sampler"]["inputs"]["seed"] = next(_seeds)
        events, _ = watched(host, graph)
    assert len(events.previews) >= 2


def test_a_run_is_cancelled_in_the_middle_of_a_step(host: Host, toys: dict) -> None:
    with host.events() as events:
        prompt_id = host.queue(slowly(our_sampler(KIND), 30.0), events.client_id)
        events.wait_for("progress_state")
        while not any("sampler" in state["nodes"] for state in events.of_type("progress_state")):
            time.sleep(0.05)
        time.sleep(0.5)
        host.interrupt()
        history = host.wait(prompt_id, timeout=20)
        assert history.message("execution_interrupted") and events.previews == []
    with host.events() as events, pytest.raises(ExecutionInterrupted):
        stopper = threading.Thread(target=lambda: (events.wait_for("cogvideox.step"), host.interrupt()))
        stopper.start()
        host.run(slowly(our_sampler(KIND), 1.0), client_id=events.client_id)
    stopper.join()
    seen = len(events.previews)
    assert 1 <= seen <= 2
    assert watched(host, our_sampler(KIND))[1].status == "success"


def test_colours_are_those_of_the_video(host: Host) -> None:
    """The demo model's: docs/previews.md has what this measures."""
    graph = {
        **text_to_video("demo", steps=25, cfg=3.0, sampler="dpm++ 2m sde", dynamic_cfg="published", seed=1),
        "frames": node("CogVideoXVAEDecode", samples=["sampler", 0], vae=["vae", 0], tiling="exact"),
        "show": node("ProbeSaveImages", images=["frames", 0], name="decoded"),
    }
    graph["model"]["inputs"]["model_name"] = "demo/text-to-video"
    graph["positive"]["inputs"]["text"] = "A red ball moving to the right in front of the night sky."
    graph["negative"]["inputs"]["text"] = ""
    graph["latent"]["inputs"] |= {"width": WIDTH, "height": HEIGHT, "length": LENGTH}
    events, history = watched(host, graph)
    video = saved_tensor(history, "show").permute(0, 3, 1, 2)  # [F, 3, H, W]
    frames = np.stack(frames_of(events.previews[-1][1]))
    shown = torch.from_numpy(frames).float().permute(0, 3, 1, 2)  # [T, 3, H, W]
    wanted = torch.cat([video[:1], video[1:].unflatten(0, (-1, 4)).mean(dim=1)])
    pair = [torch.nn.functional.avg_pool2d(clip, 8).flatten() for clip in (shown, wanted)]
    correlation = float(torch.corrcoef(torch.stack(pair))[0, 1])
    print(f"preview of the last step against the decoded video: correlation {correlation:.3f}")
    assert correlation > 0.95


# ---- the user's tiny decoder


@pytest.fixture
def tiny_decoder(host: Host, pack: ModuleType) -> Iterator[Path]:
    """A file of taecvx' layout with random weights, in models/vae_approx."""
    from comfy.taesd.taehv import TAEHV
    from safetensors.torch import save_file

    file = host.folder / "models" / "vae_approx" / "taecvx.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    weights = {}
    for name, tensor in TAEHV(16).state_dict().items():
        scale = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.0
        weights[name] = torch.randn(tensor.shape) * scale
    save_file({name: tensor.half() for name, tensor in weights.items()}, file)
    yield file
    file.unlink()


def test_a_tiny_decoder_is_used_where_there_is_one(host: Host, toys: dict, tiny_decoder: Path) -> None:
    def last_preview(method: str) -> np.ndarray:
        graph = our_sampler(KIND)
        graph["sampler"]["inputs"]["seed"] = 5
        graph["slow"] = node("ProbeSlowSteps", model=["model", 0], seconds=0.001 * next(_seeds))
        graph["sampler"]["inputs"]["model"] = ["slow", 0]
        events, _ = watched(host, graph, extra_data={"preview_method": method})
        frames = frames_of(events.previews[-1][1])
        assert len(frames) == LATENT_FRAMES
        return np.stack(frames).astype(float)

    decoded, linear = last_preview("auto"), last_preview("latent2rgb")
    assert np.abs(decoded - linear).mean() > 5
    assert "taecvx" not in host.log_text().rpartition("got prompt")[2]


@pytest.mark.parametrize("damage", ["cut short", "not finite"])
def test_a_tiny_decoder_that_does_not_work_is_told_once(
    host: Host, toys: dict, tiny_decoder: Path, damage: str
) -> None:
    from safetensors.torch import load_file, save_file

    if damage == "cut short":
        tiny_decoder.write_bytes(tiny_decoder.read_bytes()[:1000])
    else:
        save_file({name: tensor * torch.nan for name, tensor in load_file(tiny_decoder).items()}, tiny_decoder)
    before = host.log_text().count("previews without taecvx.safetensors")
    events, _ = watched(host, slowly(our_sampler(KIND), 0.3))
    assert len(events.previews) >= 2
    assert host.log_text().count("previews without taecvx.safetensors") == before + 1


def test_a_tiny_decoder_gets_the_latents_of_the_vae(pictures: ModuleType, tiny_decoder: Path) -> None:
    latent_format = SimpleNamespace(**COLOURLESS, process_out=lambda x0: x0 / 0.7)
    x0 = torch.randn(1, 16, 3, 4, 6)
    seen = pictures.Painter(latent_format, torch.device("cpu"), tiny_decoder)(x0)
    decoded = pictures.load_tiny_decoder(tiny_decoder, torch.device("cpu")).decode(x0 / 0.7)[0].transpose(0, 1)
    assert seen.shape == (3, 3, 32, 48)
    torch.testing.assert_close(seen, decoded)


# ---- parts


@pytest.fixture(scope="module")
def newest_only(pack: ModuleType) -> type:
    return importlib.import_module(f"{pack.__name__}.{PREVIEWS}.newest_only").NewestOnly


@pytest.fixture(scope="module")
def pictures(pack: ModuleType) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.{PREVIEWS}.pictures")


def test_comfyuis_callback_gets_the_last_step_alone(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.utils
    import latent_preview

    HostCallback = importlib.import_module(f"{pack.__name__}.{PREVIEWS}.sampling_wrapper").HostCallback

    class Previewer:
        def decode_latent_to_preview_image(self, *_: Any) -> str:
            return "a picture"

    sent = []
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *_: Previewer())
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *told, node_id: sent.append(told))
    kept: dict[str, Any] = {}
    model = type("Model", (), {"load_device": None, "model": type("Inner", (), {"latent_format": None})})
    host = HostCallback(latent_preview.prepare_callback(model, 3, kept), 3)
    x0 = torch.zeros(1)
    for step in range(3):
        assert kept == {}
        host(step, x0 + step, x0, 3)
        assert (host.left is None) == (step == 2)
    assert sent[0] == (1, 3, None) and sent[-1] == (3, 3, "a picture") and kept["x0"] == 2
    assert [told for told in sent if told[2]] == [(3, 3, "a picture")]

    seen: list[int] = []
    others = HostCallback(lambda step, *_: seen.append(step), 3)
    for step in range(3):
        others(step, x0, x0, 3)
    assert seen == [0, 1, 2]


def test_of_what_waits_only_the_newest_is_worked_on(newest_only: type) -> None:
    started, go_on, done = threading.Event(), threading.Event(), []

    def work(thing: int) -> None:
        done.append(thing)
        started.set()
        go_on.wait(10)

    desk = newest_only(work, lambda error: None)
    desk.put(1)
    assert started.wait(10)
    for thing in (2, 3, 4):
        desk.put(thing)
    go_on.set()
    desk.close(10.0)
    assert done == [1, 4]


def test_what_waits_is_dropped_when_nobody_has_patience(newest_only: type) -> None:
    started, go_on, done = threading.Event(), threading.Event(), []

    def work(thing: int) -> None:
        done.append(thing)
        started.set()
        go_on.wait(10)

    desk = newest_only(work, lambda error: None)
    desk.put(1)
    assert started.wait(10)
    desk.put(2)
    desk.close(0.0)
    go_on.set()
    desk.thread.join(10)
    assert done == [1] and not desk.thread.is_alive()


def test_a_preview_goes_on_where_the_last_one_would_be(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    film_module = importlib.import_module(f"{pack.__name__}.{PREVIEWS}.film")
    now = 100.0
    monkeypatch.setattr(film_module.time, "perf_counter", lambda: now)
    vae = SimpleNamespace(spatial_compression_ratio=8, temporal_compression_ratio=4)
    variant = SimpleNamespace(vae=vae, defaults=SimpleNamespace(fps=8))
    brightness = {**COLOURLESS, "latent_rgb_factors": [[1.0, 1.0, 1.0], *[[0.0, 0.0, 0.0]] * 15]}
    model = SimpleNamespace(latent_format=SimpleNamespace(**brightness), variant=variant)
    patcher = SimpleNamespace(model=model, load_device=torch.device("cpu"))
    film = film_module.Film(SimpleNamespace(preview_method="latent2rgb"), patcher, lambda error: None)
    x0 = torch.zeros(1, 16, 5, 2, 2)
    x0[:, 0] = torch.linspace(-1, 1, 5).view(5, 1, 1)  # ever brighter

    def order(last: bool = False) -> list[int]:
        return [round(float(frame.mean()) / 255 * 4) for frame in film._clip(x0, last).frames]

    assert order() == [0, 1, 2, 3, 4]
    now = 101.2  # two latent frames later, at 2 a second
    assert order() == [2, 3, 4, 0, 1]
    assert order(last=True) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 720), (256, 384)), ((96, 96), (96, 96)), ((768, 1360), (217, 384)), ((8, 4000), (1, 384))],
)
def test_pictures_are_no_larger_than_384_pixels(pictures: ModuleType, size: tuple, expected: tuple) -> None:
    assert pictures.fitted(*size, 384) == expected
    assert pictures.as_frames(torch.rand(2, 3, 6, 9), *expected).shape == (2, *expected, 3)


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (1, (60, 90), (1, 1)),
        (2, (60, 90), (2, 1)),
        (2, (90, 60), (1, 2)),
        (3, (60, 90), (3, 1)),
        (4, (60, 90), (2, 2)),
        (5, (60, 60), (2, 3)),
        (6, (60, 90), (3, 2)),
    ],
)
def test_clips_have_their_places(pictures: ModuleType, count: int, size: tuple, expected: tuple) -> None:
    assert pictures.grid(count, *size) == expected


def test_every_clip_of_a_batch_is_shown(pictures: ModuleType) -> None:
    clips = torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 5, 3, 4, 6)
    picture = pictures.side_by_side(clips)
    assert picture.shape == (5, 3, 12, 6)
    assert picture[0, 0, :, 0].tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 4
    five = pictures.side_by_side(torch.arange(1.0, 6.0).view(5, 1, 1, 1, 1).expand(5, 2, 3, 4, 4))
    assert five[0, 0, ::4, ::4].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert torch.equal(pictures.side_by_side(clips[:1]), clips[0])


def test_a_tiny_decoder_gets_every_clip(pictures: ModuleType, tiny_decoder: Path) -> None:
    latent_format = SimpleNamespace(**COLOURLESS, process_out=lambda x0: x0)
    x0 = torch.randn(2, 16, 3, 4, 6)
    seen = pictures.Painter(latent_format, torch.device("cpu"), tiny_decoder)(x0)
    alone = pictures.Painter(latent_format, torch.device("cpu"), tiny_decoder)(x0[1:])
    assert seen.shape == (3, 3, 64, 48)
    torch.testing.assert_close(seen[:, :, 32:], alone)


def test_a_single_frame_is_a_picture_that_does_not_move(pictures: ModuleType) -> None:
    frame = np.zeros((8, 8, 3), dtype=np.uint8)
    assert b"ANIM" not in pictures.animated_webp([frame], 2.0)
    assert b"ANIM" in pictures.animated_webp([frame, frame + 255], 2.0)
