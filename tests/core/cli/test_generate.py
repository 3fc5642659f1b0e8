"""The command: real runs on toy checkpoints whose files are decoded again, and every bad input as one sentence."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cogvideox_core import CogVideoXPipeline, Progress, Request, __version__, load_pipeline
from cogvideox_core.cli import main as cli
from cogvideox_core.cli.progress_bars import ProgressBars
from cogvideox_core.demo import DEMO_GUIDANCE, DEMO_MODELS, DEMO_STEPS
from cogvideox_core.pipeline.folder import LoadOptions, ModelFolder
from cogvideox_core.videos.video_files import write_video
from cogvideox_core.videos.video_io import read_metadata, read_video
from tests.provision import REPO
from tests.support.counted_videos import MATRICES, numbers_of, write_counted, write_pictures
from tests.support.counted_videos import picture as picture_of
from tests.support.hub_cache import add_to_cache

Checkpoint = Callable[..., Path]
Captured = pytest.CaptureFixture[str]

COMMAND = [sys.executable, "-m", "cogvideox_core"]
FULL_BLOCK = "\u2588"  # what a progress bar is filled with
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}


@pytest.fixture
def small(checkpoint: Checkpoint) -> Path:
    """A toy of the 5B model whose default video is 64x96, 17 frames."""
    return checkpoint("CogVideoX-5B", transformer=dict(sample_height=8, sample_width=12, sample_frames=17))


@pytest.fixture
def i2v(checkpoint: Checkpoint) -> Path:
    """A toy of the 5B-I2V model; its table holds 64x96, 17 frames."""
    return checkpoint("CogVideoX-5B-I2V")


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when a model is loaded."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(ModelFolder, "load", refuse)


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def picture(path: Path, width: int = 96, height: int = 64) -> Path:
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(path)
    return path


def clip(path: Path, num_frames: int = 17, fps: float = 24) -> Path:
    frames = torch.linspace(0, 1, num_frames)[None, None, :, None, None].expand(1, 3, num_frames, 64, 96)
    return write_video(path, frames, fps)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# --- Runs -----------------------------------------------------------------------------------------------------------


def test_a_prompt_becomes_an_mp4_with_the_demo_model(tmp_path: Path) -> None:
    told = subprocess.run(
        [*COMMAND, "a red circle", "--steps", "2", "--seed", "3", "-o", "out.mp4"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout == "out.mp4\n" and names(tmp_path) == ["out.mp4"]
    lines = told.stderr.replace("\r", "\n").splitlines()
    for stage, total, unit in (
        ("text", 2, "prompt"),
        ("sampling", 2, "step"),
        ("decoding", 2, "chunk"),
        ("writing", 17, "frame"),
    ):
        end = f"100%|{FULL_BLOCK * 30}| {total}/{total} ["
        done = [line for line in lines if line.startswith(stage) and end in line]
        assert done and done[-1].rstrip("\x1b[A").endswith(f"s/{unit}]"), told.stderr
    assert any("<00:0" in line for line in lines if line.startswith("sampling  50%")), "no time left is told"
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (96, 96, 8)
        assert len(list(container.decode(video=0))) == 17
    assert read_metadata(tmp_path / "out.mp4") == {
        "software": f"cogvideox-nodes {__version__}",
        "model": "demo",
        "variant": "CogVideoX-5B",
        "prompt": "a red circle",
        "negative_prompt": "",
        "width": 96,
        "height": 96,
        "num_frames": 17,
        "fps": 8,
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "use_dynamic_cfg": True,
        "sampler": "dpm",
        "seed": 3,
        "dtype": "float32",
    }


def test_the_file_holds_what_the_pipeline_makes(tmp_path: Path, small: Path, capsys: Captured) -> None:
    options = (
        "--steps 2 --seed 5 --guidance 3 --no-dynamic-cfg --sampler ddim --frames 9 --fps 12 --width 64 --height 64"
    )
    prompt = ["a cat", "--negative-prompt", "blurred", "--model", str(small), "--dtype", "float32"]
    assert cli.main([*prompt, *options.split(), "-o", str(tmp_path / "shell.mp4")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'shell.mp4'}\n"
    video = load_pipeline(small, device="cpu")(
        "a cat",
        "blurred",
        num_inference_steps=2,
        guidance_scale=3.0,
        sampler="ddim",
        num_frames=9,
        width=64,
        height=64,
        generator=torch.Generator().manual_seed(5),
    )
    metadata = read_metadata(tmp_path / "shell.mp4")
    python = write_video(tmp_path / "python.mp4", video, 12, metadata)
    assert (tmp_path / "shell.mp4").read_bytes() == python.read_bytes()
    assert (metadata["model"], metadata["negative_prompt"], metadata["dtype"]) == (small.name, "blurred", "float32")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("out.webm", ["out.webm"]),
        ("out.gif", ["out.gif"]),
        ("out.webp", ["out.webp"]),
        ("out_%03d.png", [f"out_{number:03}.png" for number in range(1, 10)]),
    ],
)
def test_the_ending_of_the_output_chooses_its_format(
    tmp_path: Path, small: Path, capsys: Captured, name: str, written: list[str]
) -> None:
    options = ["--model", str(small), "--steps", "1", "--frames", "9", "--seed", "7", "--crf", "20"]
    assert cli.main(["a cat", *options, "-o", str(tmp_path / name)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / name}\n"
    assert names(tmp_path) == written
    assert read_metadata(tmp_path / written[0])["seed"] == 7


def test_a_folder_gets_a_picture_of_every_frame(tmp_path: Path, small: Path, capsys: Captured) -> None:
    options = ["--model", str(small), "--steps", "1", "--frames", "9"]
    assert cli.main(["a cat", *options, "-o", f"{tmp_path}/frames/"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'frames' / '%05d.png'}\n"
    assert names(tmp_path / "frames") == [f"{number:05}.png" for number in range(1, 10)]
    refused(["a cat", *options, "-o", f"{tmp_path}/frames"], "name a new or empty folder", tmp_path, capsys)


def test_first_and_last_image_go_to_an_image_to_video_model(tmp_path: Path, i2v: Path) -> None:
    first, last = picture(tmp_path / "first.png"), picture(tmp_path / "last.png", 192, 128)
    images = ["--image", str(first), "--last-image", str(last)]
    assert cli.main(["a cat", "--model", str(i2v), *images, "--steps", "1", "-o", str(tmp_path / "out.mp4")]) == 0
    frames, _ = read_video(tmp_path / "out.mp4")
    assert frames.shape == (1, 3, 17, 64, 96)
    metadata = read_metadata(tmp_path / "out.mp4")
    assert (metadata["image"], metadata["last_image"]) == ("first.png", "last.png"), "names, not where they lay"


def test_an_image_alone_goes_to_the_demo_model_that_takes_one(tmp_path: Path, spy: Spy) -> None:
    image = picture(tmp_path / "square.png", 96, 96)
    assert cli.main(["a cat", "--image", str(image), "-o", str(tmp_path / "out.mp4")]) == 0
    assert spy.loaded["path"] == DEMO_MODELS["image-to-video"]
    assert spy.asked["num_inference_steps"] == DEMO_STEPS == 25
    assert spy.asked["guidance_scale"] == DEMO_GUIDANCE == 3


def test_a_video_is_made_anew_at_the_rate_that_is_asked_for(tmp_path: Path, small: Path) -> None:
    source = clip(tmp_path / "source.mp4", 60, fps=24)
    arguments = ["a cat", "--model", str(small), "--video", str(source), "--strength", "0.5", "--steps", "2"]
    for options, rate in (([], 8), (["--video-fps", "every"], 24), (["--video-fps", "12", "--fps", "6"], 6)):
        assert cli.main([*arguments, *options, "--frames", "9", "-o", str(tmp_path / "out.mp4")]) == 0
        frames, fps = read_video(tmp_path / "out.mp4")
        assert frames.shape == (1, 3, 9, 64, 96) and fps == rate
        metadata = read_metadata(tmp_path / "out.mp4")
        assert (metadata["video"], metadata["strength"]) == ("source.mp4", 0.5)
        assert metadata["video_fps"] == {8: "model", 24: "every", 6: 12}[rate]


@pytest.mark.parametrize(
    ("options", "taken", "told"),
    [
        ("--frames 49", [min(i * 30 // 8, 179) for i in range(49)], "49 frames at 8 fps, the first 6 of 6 seconds"),
        ("", [min(i * 30 // 8, 179) for i in range(49)], "49 frames at 8 fps, the first 6 of 6 seconds"),
        ("--frames 17", [i * 30 // 8 for i in range(17)], "17 frames at 8 fps, the first 2.03 of 6 seconds"),
        ("--video-fps every", list(range(49)), "49 frames at 30 fps, the first 1.63 of 6 seconds"),
        ("--video-fps 5", [min(6 * i, 179) for i in range(31)], "31 frames at 5 fps, the first 6 of 6 seconds"),
    ],
)
def test_a_clip_of_30_fps_is_taken_by_time(
    tmp_path: Path, small: Path, spy: Spy, options: str, taken: list[int], told: str, capsys: Captured
) -> None:
    source = write_counted(tmp_path / "phone.MP4", 180, 30)
    arguments = ["a cat", "--model", str(small), "--video", str(source), "-o", str(tmp_path / "out.mp4")]
    assert cli.main([*arguments, *options.split()]) == 0
    assert numbers_of(spy.asked["video"]) == taken
    assert f"cogvideox: phone.MP4: {told}\n" in capsys.readouterr().err


def test_a_model_of_16_frames_a_second_takes_twice_as_many(tmp_path: Path, checkpoint: Checkpoint, spy: Spy) -> None:
    source = write_counted(tmp_path / "phone.mp4", 180, 30)
    arguments = ["a cat", "--model", str(checkpoint("CogVideoX1.5-5B")), "--video", str(source), "--frames", "81"]
    assert cli.main([*arguments, "--height", "64", "--width", "96", "-o", str(tmp_path / "out.mp4")]) == 0
    assert numbers_of(spy.asked["video"]) == [min(i * 30 // 16, 179) for i in range(81)]
    assert read_video(tmp_path / "out.mp4")[1] == 16


@pytest.mark.parametrize("name", ["to the right", "to the left"])
def test_a_clip_of_a_phone_stands_upright(tmp_path: Path, small: Path, spy: Spy, name: str) -> None:
    matrix = MATRICES[name]
    laid = np.ascontiguousarray(np.rot90(picture_of(9, 96, 64), 1 if name == "to the right" else -1))
    source = write_pictures(tmp_path / "phone.mp4", [laid] * 9, 8, matrix=matrix)
    arguments = ["a cat", "--model", str(small), "--video", str(source), "-o", str(tmp_path / "out.mp4")]
    assert cli.main(arguments) == 0
    assert numbers_of(spy.asked["video"]) == [9] * 9


def test_transparent_pictures_are_put_on_the_background(tmp_path: Path, i2v: Path, spy: Spy) -> None:
    Image.new("RGBA", (96, 64), (0, 0, 0, 0)).save(tmp_path / "logo.png")
    arguments = ["a cat", "--model", str(i2v), "--image", str(tmp_path / "logo.png"), "-o", str(tmp_path / "out.mp4")]
    for options, colour in (([], (255, 255, 255)), (["--background", "#102030"], (16, 32, 48))):
        assert cli.main([*arguments, *options]) == 0
        assert spy.asked["image"].getpixel((5, 5)) == colour


def test_a_lora_that_does_not_fit_is_told_before_any_model_is_loaded(
    tmp_path: Path, small: Path, nothing_loaded: None, capsys: Captured
) -> None:
    save_file({"fc.weight": torch.ones(2)}, tmp_path / "else.safetensors")
    for text, told in (
        (str(tmp_path / "nowhere.safetensors"), "nowhere.safetensors does not exist; give a LoRA's"),
        (str(tmp_path / "else.safetensors"), "else.safetensors holds no LoRA"),
        (f"{tmp_path / 'else.safetensors'}:nan", "a strength is a number, such as 0.8"),
    ):
        assert cli.main(["a cat", "--model", str(small), "-o", str(tmp_path / "o.mp4"), "--lora", text]) == 2
        assert told in capsys.readouterr().err


def test_an_adapter_that_a_quantization_does_not_take_is_told_before_any_model_is_loaded(
    tmp_path: Path, small: Path, nothing_loaded: None, capsys: Captured
) -> None:
    name, path = "transformer_blocks.0.attn1.to_q", tmp_path / "oft.safetensors"
    width = load_file(small / "transformer" / "diffusion_pytorch_model.safetensors")["norm_final.weight"].shape[0]
    save_file({f"base_model.model.{name}.oft_R.weight": torch.ones(width // 4, 6)}, path)
    asked = ["a cat", "--model", str(small), "-o", str(tmp_path / "o.mp4"), "--quantize", "llm.int8"]
    assert cli.main([*asked, "--lora", str(path)]) == 2
    assert f"--lora {path} (OFT) changes weights, which --quantize llm.int8 cannot show; use" in capsys.readouterr().err


def test_a_lora_strength_that_is_no_number_is_told(tmp_path: Path, small: Path, capsys: Captured) -> None:
    told = "--lora nosuch.safetensors:abc; a strength is a number, such as 0.8"
    refused(["a cat", "--model", str(small), "--lora", "nosuch.safetensors:abc"], told, tmp_path, capsys)


def test_an_attention_backend_that_does_not_run_here_is_told(tmp_path: Path, small: Path, capsys: Captured) -> None:
    output = ["-o", str(tmp_path / "out.mp4")]
    arguments = ["a cat", "--model", str(small), "--device", "cpu", "--attention", "flash", *output]
    assert cli.main(arguments) == 2
    assert "--attention 'flash' runs on cuda and this is cpu; take 'sdpa' or 'auto'\n" in capsys.readouterr().err


@pytest.fixture
def official(checkpoint: Checkpoint) -> Path:
    """A toy of the 5B model for the size of the released one."""
    return checkpoint("CogVideoX-5B")


@pytest.fixture
def alone(official: Path, tmp_path: Path) -> Path:
    """The official toy's transformer in a file, in a folder of its own."""
    file = official / "transformer" / "diffusion_pytorch_model.safetensors"
    return Path(shutil.copy(file, tmp_path / "alone.safetensors"))


SIZE = ["--frames", "9", "--width", "96", "--height", "64", "--steps", "1", "--dtype", "float32", "--seed", "1"]


def test_a_single_file_makes_the_video_with_a_vae_and_a_t5(tmp_path: Path, official: Path, alone: Path) -> None:
    made = []
    t5 = official / "text_encoder"
    for parts in (
        ["--model", str(official)],
        ["--model", str(alone), "--vae", str(official), "--t5", str(t5)],
        ["--model", str(alone), "--vae", str(official / "vae"), "--t5", str(t5 / "model.safetensors")],
    ):
        assert cli.main(["a cat", *parts, *SIZE, "-o", str(tmp_path / "out.mp4")]) == 0
        made.append(read_video(tmp_path / "out.mp4")[0])
    assert torch.equal(made[1], made[0]) and torch.equal(made[2], made[0])
    metadata = read_metadata(tmp_path / "out.mp4")
    assert (metadata["model"], metadata["vae"], metadata["t5"]) == ("alone.safetensors", "vae", "model.safetensors")


@pytest.mark.usefixtures("nothing_loaded")
def test_what_a_single_file_lacks_is_told(tmp_path: Path, small: Path, alone: Path, capsys: Captured) -> None:
    vae = "--vae PATH (the folder vae of any CogVideoX model, or its file in ComfyUI's models/vae)"
    t5 = "--t5 PATH (the folder text_encoder of any CogVideoX model, or a t5xxl file)"
    asked = ["a cat", "--model", str(alone), *SIZE, "-o", str(tmp_path / "out.mp4")]
    end = ", or a whole CogVideoX folder\n"
    refused(asked, f"single file with a transformer, without VAE and T5; give {vae} and {t5}{end}", tmp_path, capsys)
    refused([*asked, "--vae", str(small)], f"a transformer, without T5; give {t5}{end}", tmp_path, capsys)
    refused([*asked, "--t5", str(small)], f"a transformer, without VAE; give {vae}{end}", tmp_path, capsys)
    vae_as_model = [*asked, "--model", str(small / "vae" / "diffusion_pytorch_model.safetensors"), "--t5", str(alone)]
    refused(vae_as_model, "is a CogVideoX transformer, not a T5 text encoder", tmp_path, capsys)


def test_names_of_comfyui_and_of_hugging_face_are_models(
    tmp_path: Path, small: Path, alone: Path, own_comfyui: Path, own_cache: Path, spy: Spy
) -> None:
    models = own_comfyui / "models"
    for folder in ("diffusers", "diffusion_models", "text_encoders", "loras"):
        (models / folder).mkdir()
    (models / "diffusers" / "CogVideoX-5b").symlink_to(small)
    alone.rename(models / "diffusion_models" / "cogvideox_5b.safetensors")
    snapshot = add_to_cache(own_cache, "zai-org/CogVideoX-5b", small)
    output = ["-o", str(tmp_path / "out.mp4")]
    for name, path, shown in (
        ("CogVideoX-5b", models / "diffusers" / "CogVideoX-5b", "CogVideoX-5b"),
        ("zai-org/CogVideoX-5b", snapshot, "CogVideoX-5b"),
        (str(own_cache / "models--zai-org--CogVideoX-5b"), snapshot, "zai-org/CogVideoX-5b"),
        (str(snapshot), snapshot, "zai-org/CogVideoX-5b"),
    ):
        assert cli.main(["a cat", "--model", name, *output]) == 0
        assert spy.loaded["path"] == path and read_metadata(tmp_path / "out.mp4")["model"] == shown
    parts = ["--vae", "zai-org/CogVideoX-5b", "--t5", "CogVideoX-5b"]
    assert cli.main(["a cat", "--model", "cogvideox_5b.safetensors", *parts, *output]) == 0
    assert spy.loaded["path"] == models / "diffusion_models" / "cogvideox_5b.safetensors"


@pytest.mark.usefixtures("nothing_loaded")
def test_a_name_that_is_not_here_is_told_with_the_command(tmp_path: Path, own_cache: Path, capsys: Captured) -> None:
    told = f"Hugging Face's cache ({own_cache}) do not have it; download it with: hf download zai-org/CogVideoX-5b"
    refused(["a cat", "--model", "zai-org/CogVideoX-5b"], told, tmp_path, capsys)
    refused(["a cat", "--lora", "someone/orbits:0.5"], "if Hugging Face has it, download it with", tmp_path, capsys)
    refused(["inspect", "CogVideoX-2b"], "hf download zai-org/CogVideoX-2b", tmp_path, capsys)


@pytest.mark.usefixtures("nothing_loaded")
def test_a_folder_without_a_component_asks_for_it(tmp_path: Path, small: Path, capsys: Captured) -> None:
    model = copy_of(small, tmp_path / "model")
    shutil.rmtree(model / "text_encoder")
    refused(["a cat", "--model", str(model)], "model has no folder text_encoder; give --t5 PATH", tmp_path, capsys)
    shutil.rmtree(model / "vae")
    told = "has no folder vae and no text_encoder; give --vae PATH ("
    refused(["a cat", "--model", str(model)], told, tmp_path, capsys)


def test_a_folder_without_a_t5_takes_embeddings(tmp_path: Path, small: Path, capsys: Captured) -> None:
    file = tmp_path / "cat.safetensors"
    assert cli.main(["embed", "a cat", "--negative-prompt", "blurred", "--t5", str(small), "-o", str(file)]) == 0
    model = copy_of(small, tmp_path / "model")
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(model / part)
    asked = ["--model", str(model), *SIZE, "--embeds", str(file)]
    assert cli.main([*asked, "-o", str(tmp_path / "embeds.mp4")]) == 0
    wanted = ["a cat", "--negative-prompt", "blurred", "--model", str(small), *SIZE]
    assert cli.main([*wanted, "-o", str(tmp_path / "prompt.mp4")]) == 0
    assert torch.equal(read_video(tmp_path / "embeds.mp4")[0], read_video(tmp_path / "prompt.mp4")[0])
    metadata = read_metadata(tmp_path / "embeds.mp4")
    assert (metadata["prompt"], metadata["negative_prompt"]) == ("a cat", "blurred")
    assert metadata["embeds"] == "cat.safetensors"


@pytest.mark.usefixtures("nothing_loaded")
def test_embeddings_that_do_not_fit_are_told(tmp_path: Path, small: Path, capsys: Captured) -> None:
    file, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    save_file({"prompt_embeds": torch.ones(1, 226, 32)}, file)
    save_file({"prompt_embeds": torch.ones(1, 226, 64), "negative_prompt_embeds": torch.ones(1, 226, 64)}, other)
    asked = ["--model", str(small), *SIZE, "--embeds", str(file), "-o", str(tmp_path / "out.mp4")]
    told = "--guidance 6.0 with --embeds needs negative_prompt_embeds in its file; give them, or ask for --guidance 1"
    refused(asked, told, tmp_path, capsys)
    refused([*asked, "--embeds", str(other)], "of shape (1, 226, 64); this model takes (1, 226, 32)", tmp_path, capsys)
    refused([*asked, "--embeds", str(small)], "give one of its components", tmp_path, capsys)
    for extra in (["a cat"], ["--negative-prompt", "x"], ["--t5", str(small)]):
        refused(["a cat", "--t5", "none"], "--t5 none for a prompt; give a T5, or --embeds", tmp_path, capsys)
        told = "--embeds, which takes the place of PROMPT, --negative-prompt and --t5; leave those out"
        refused([*extra, *asked], told, tmp_path, capsys)


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_a_command_without_its_path_asks_for_it(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        cli.main([command])
    assert left.value.code == 2 and names(tmp_path) == []
    assert "the following arguments are required" in capsys.readouterr().err


def test_what_is_cut_from_a_long_prompt_is_told(tmp_path: Path, small: Path, capsys: Captured) -> None:
    prompt = "a " * 225 + "red circle"
    assert cli.main([prompt, "--model", str(small), "--steps", "1", "-o", str(tmp_path / "out.mp4")]) == 0
    assert "tokens and 226 fit; this part is cut off: red circle" in capsys.readouterr().err


# --- Defaults -------------------------------------------------------------------------------------------------------


LOAD = ModelFolder.load


class Spy:
    """Notes what the real pipeline is asked for; instead of fifty steps it then makes a grey video."""

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}
        self.asked: dict[str, Any] = {}
        self.pipeline: Any = None

    def load(self, folder: ModelFolder, options: LoadOptions) -> CogVideoXPipeline:
        self.loaded = {"path": folder.path, **vars(options)}
        self.pipeline = LOAD(folder, options)
        self.pipeline.stream = self.stream
        return self.pipeline

    def stream(self, request: Request, *, callback: Callable[[Progress], None]) -> Iterator[torch.Tensor]:
        self.asked = vars(request)
        callback(Progress("sampling", 1, 1))
        yield torch.full((1, 3, 5, 64, 96), 0.5)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    monkeypatch.setattr(ModelFolder, "load", lambda folder, options: spy.load(folder, options))
    return spy


@pytest.mark.parametrize("method", ["int8", "llm.int8"])
def test_the_model_can_be_in_8_bits(tmp_path: Path, small: Path, spy: Spy, method: str) -> None:
    arguments = ["a cat", "--model", str(small), "--steps", "1", "--seed", "1", "-o", str(tmp_path / "out.mp4")]
    assert cli.main([*arguments, "--quantize", method]) == 0
    assert spy.loaded["quantize"] == read_metadata(tmp_path / "out.mp4")["quantize"] == method


@pytest.mark.usefixtures("nothing_loaded")
def test_a_method_that_does_not_run_is_told(
    tmp_path: Path, small: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["a cat", "--model", str(small), "--quantize"]
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn.modules", None)
    refused([*asked, "llm.int8"], "llm.int8 needs the package bitsandbytes", tmp_path, capsys)


def test_loras_go_onto_the_model(tmp_path: Path, small: Path, spy: Spy) -> None:
    key = "transformer.transformer_blocks.0.attn1.to_q.lora_{}.weight"
    width = load_file(small / "transformer" / "diffusion_pytorch_model.safetensors")["norm_final.weight"].shape[0]
    tensors = {key.format("A"): torch.ones(2, width), key.format("B"): torch.ones(width, 2)}
    save_file(tensors, tmp_path / "one.safetensors")
    save_file(tensors, tmp_path / "C:two.safetensors")
    arguments = ["a cat", "--model", str(small), "-o", str(tmp_path / "out.mp4"), "--steps", "1"]
    loras = ["--lora", f"{tmp_path / 'one.safetensors'}:-0.5", "--lora", str(tmp_path / "C:two.safetensors")]
    assert cli.main([*arguments, *loras]) == 0
    assert read_metadata(tmp_path / "out.mp4")["loras"] == {"one.safetensors": -0.5, "C:two.safetensors": 1.0}
    layer = spy.pipeline.transformer.transformer_blocks[0].attn1.to_q
    assert len(layer.deltas) == 2


def test_the_scale_of_an_adapter_is_told(tmp_path: Path, small: Path, capsys: Captured) -> None:
    flat, path = "lycoris_transformer_blocks_0_attn1_to_q", tmp_path / "lokr.safetensors"
    width = load_file(small / "transformer" / "diffusion_pytorch_model.safetensors")["norm_final.weight"].shape[0]
    tensors = {
        "lokr_w1": torch.ones(4, 4),
        "lokr_w2_a": torch.ones(width // 4, 2),
        "lokr_w2_b": torch.ones(2, width // 4),
    }
    save_file(
        {f"{flat}.{part}": tensor for part, tensor in tensors.items()} | {f"{flat}.alpha": torch.tensor(1.0)}, path
    )
    asked = ["a cat", "--model", str(small), "-o", str(tmp_path / "out.mp4"), "--steps", "1", "--lora", f"{path}:0.5"]
    assert cli.main(asked) == 0
    said = "LoRA lokr.safetensors at strength 0.5: 4 keys matched, for 1 layers; LoKr at scale 0.5 (alpha 1, rank 2)"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "sampler", "dynamic", "fps"),
    [("CogVideoX-2B", "ddim", False, 8), ("CogVideoX-5B", "dpm", True, 8), ("CogVideoX1.5-5B", "dpm", True, 16)],
)
def test_defaults_are_those_of_the_model(
    tmp_path: Path, checkpoint: Checkpoint, spy: Spy, kind: str, sampler: str, dynamic: bool, fps: int
) -> None:
    output = tmp_path / "out.mp4"
    assert cli.main(["a cat", "--model", str(checkpoint(kind)), "-o", str(output)]) == 0
    expected = {
        "prompt": "a cat",
        "num_inference_steps": 50,
        "guidance_scale": 6.0,
        "sampler": sampler,
        "use_dynamic_cfg": dynamic,
        "height": None,
        "width": None,
        "num_frames": None,
        "strength": 0.8,
    }
    assert {name: spy.asked[name] for name in expected} == expected
    plain = {"quantize": "none", "attention": "auto", "compile": False, "low_memory": False}
    assert spy.loaded == {"path": checkpoint(kind), "dtype": None, "device": None, "text_encoder_device": None, **plain}
    assert read_video(output)[1] == fps


def test_options_reach_the_pipeline(tmp_path: Path, small: Path, spy: Spy) -> None:
    options = "--frames 9 --height 128 --width 192 --steps 7 --guidance 1.5 --no-dynamic-cfg --sampler ddim --seed 0"
    options += " --vae-tiling blended"
    arguments = ["a cat", "--model", str(small), *options.split(), "--dtype", "fp32", "--device", "cpu"]
    arguments += ["--attention", "sdpa", "--low-memory", "--compile", "--quantize", "int8", "--t5-device", "cpu"]
    assert cli.main([*arguments, "-o", str(tmp_path / "out.mp4")]) == 0
    expected = {"num_frames": 9, "height": 128, "width": 192, "num_inference_steps": 7, "guidance_scale": 1.5}
    expected |= {"use_dynamic_cfg": False, "sampler": "ddim", "negative_prompt": "", "vae_tiling": "blended"}
    assert {name: spy.asked[name] for name in expected} == expected
    assert spy.asked["generator"].initial_seed() == 0
    how = {"quantize": "int8", "attention": "sdpa", "compile": True, "low_memory": True}
    how |= {"dtype": "fp32", "device": "cpu", "text_encoder_device": "cpu"}
    assert spy.loaded == {"path": small, **how}


def test_what_may_be_traded_for_speed_reaches_the_pipeline_and_the_file(tmp_path: Path, small: Path, spy: Spy) -> None:
    output = tmp_path / "out.mp4"
    arguments = ["a cat", "--model", str(small), "-o", str(output)]
    assert cli.main([*arguments, "--cache-budget", "0.03", "--guidance-until", "0.8"]) == 0
    expected = {"cache_budget": 0.03, "teacache": 0.0, "guidance_until": 0.8}
    assert {name: spy.asked[name] for name in expected} == expected
    assert {name: read_metadata(output)[name] for name in expected} == expected
    assert cli.main([*arguments, "--teacache", "0.2"]) == 0
    assert spy.asked["teacache"] == 0.2
    assert cli.main(arguments) == 0
    assert not set(read_metadata(output)) & set(expected), "an exact run does not speak of approximations"


def test_bfloat16_that_a_card_emulates_is_refused(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 0))
    options = f"--model {small} -o {tmp_path / 'out.mp4'} --device cuda --dtype bfloat16"
    assert cli.main(["a cat", *options.split()]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == (
        "cogvideox: --dtype bfloat16 on cuda, which does not compute in it (its compute capability is 7.0, below 8.0); "
        "take float32"
    )


def test_seeds_differ_where_none_is_given(tmp_path: Path, small: Path, spy: Spy) -> None:
    seeds = set()
    for _ in range(3):
        cli.main(["a cat", "--model", str(small), "-o", str(tmp_path / "out.mp4")])
        seeds.add(read_metadata(tmp_path / "out.mp4")["seed"])
        assert spy.asked["generator"].initial_seed() in seeds
    assert len(seeds) == 3


def test_a_file_that_is_there_is_not_overwritten_unasked(
    tmp_path: Path, small: Path, spy: Spy, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cogvideox.mp4", "cogvideox-2.mp4"):
        assert cli.main(["a cat", "--model", str(small)]) == 0
        assert capsys.readouterr().out == f"{name}\n"
    assert names(tmp_path) == ["cogvideox-2.mp4", "cogvideox.mp4"]


@pytest.mark.parametrize(
    ("option", "shown"), [("--version", f"cogvideox {__version__}\n"), ("--help", "--negative-prompt")]
)
def test_what_it_is_and_can_is_told(option: str, shown: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([option])
    assert left.value.code == 0 and shown in capsys.readouterr().out


# --- Bad input ------------------------------------------------------------------------------------------------------


def refused(arguments: list[str], message: str, folder: Path, capsys: Captured) -> None:
    """One sentence, exit code 2, nothing on stdout and no file more than before."""
    before = names(folder)
    try:
        code = cli.main(arguments)
    except SystemExit as left:
        code = left.code
    told = capsys.readouterr()
    assert (code, told.out) == (2, ""), told.err
    assert told.err.startswith("cogvideox: ") and told.err.count("\n") == 1, told.err
    assert message in told.err
    assert names(folder) == before


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--frames 57",
            "--frames 57; CogVideoX-5B was trained for up to 49 frames; use 49, or allow longer videos (--any-size)",
        ),
        ("--frames 0", "--frames 0; a video has at least 1 frame"),
        ("--frames -7", "--frames -7"),
        ("--height 90", "--height 90; CogVideoX-5B takes multiples of 16 up to 4096; use 96"),
        ("--width 0", "--width 0"),
        ("--steps 0", "--steps 0; a run takes 1 to 1000 steps"),
        ("--steps many", "argument --steps: invalid int value: 'many'"),
        ("--guidance nan", "--guidance nan; it must be a finite number"),
        ("--strength 0.5", "--strength 0.5 without a video to start from"),
        ("--fps 0", "fps=0; a video has more than 0"),
        ("--seed -1", "--seed -1; a seed is a whole number from 0 to"),
        (f"--seed {2**64}", "a seed is a whole number"),
        ("--dtype float3", "--dtype 'float3'; models compute in"),
        ("--device tpux", "--device tpux; there is no such kind; use cpu"),
        ("--device cuda:99", "--device cuda:99; this machine, or this build of PyTorch, has no such device; use"),
        ("--device meta", "--device meta; this machine, or this build of PyTorch, has no such device; use"),
        ("--t5-device npu", "--t5-device npu; there is no such kind; use cpu"),
        ("--cache-budget -1", "--cache-budget -1.0; it is an error from 0, for none, to 1"),
        ("--teacache 7", "--teacache 7.0; it is a threshold from 0, for off, to 1"),
        ("--guidance-until 0", "--guidance-until 0.0; it is the part of the steps with guidance, above 0"),
        ("--cache-budget 0.1 --teacache 0.1", "both decide which steps are computed; set one of them to 0"),
        ("--sampler euler", "argument --sampler: invalid choice: 'euler'"),
        ("--colour red", "unrecognized arguments: --colour red"),
        ("-o TMP/out.avi", "videos are written as .mp4, .webm, .gif or .webp, or as PNG files"),
        ("-o TMP/out.png", "one PNG holds one frame, so the name needs a number; use"),
        ("-o TMP/out.gif --fps 60", "players show at most 50 frames per second of a GIF"),
        ("-o TMP/out.gif --codec av1", "--codec av1 for out.gif; there are vp9, av1, for .webm files only"),
        ("--crf 60", "crf=60; it is 0 (best) to 51 (smallest)"),
        ("-o TMP/absent/out.mp4", "absent; make it first"),
        ("--model TMP/absent", "absent does not exist"),
        ("--model TMP/notes.txt", "notes.txt"),
        ("--model TMP", "holds no weights"),
        ("--image TMP/absent.png", "absent.png: there is no such file"),
        ("--image TMP/notes.txt", "notes.txt cannot be read as a picture"),
        ("--image TMP/wide.png", "a picture of 200x50 for a video of 96x96: another aspect ratio"),
        ("--last-image TMP/square.png", "no image; CogVideoX-5B-I2V makes a video from an image and a prompt"),
        ("--video TMP/notes.txt", "notes.txt cannot be read as a video"),
        (
            "--video TMP/clip.mp4 --frames 25 --fit crop",
            "clip.mp4 has 6 frames at 8 fps, the first 0.667 of 0.708 seconds for --frames 25; ask for at most "
            "--frames 6, or for every frame with --video-fps every",
        ),
        (
            "--video TMP/clip.mp4 --frames 25 --fit crop --video-fps every",
            "clip.mp4 has 17 frames at 24 fps, the first 0.708 of 0.708 seconds for --frames 25; ask for at most "
            "--frames 17\n",
        ),
        (
            "--video TMP/clip.mp4",
            "a picture of 96x64 for a video of 96x96: another aspect ratio; crop it to that shape",
        ),
        ("--video TMP/clip.mp4 --video-fps fast", "--video-fps: 'fast' is no rate; use model, every or frames per"),
        ("--video TMP/clip.mp4 --video-fps 0", "--video-fps: '0' is no rate"),
        ("--background purpel", "--background 'purpel'; a colour is a name such as white, or #rrggbb"),
        ("--video TMP/clip.mp4 --fit crop --strength 1.5", "--strength 1.5; it must be above 0 and at most 1"),
        ("--video TMP/clip.mp4 --fit crop --strength 0.1 --steps 4", "--strength 0.1 leaves 0 of 4 steps"),
    ],
)
def test_bad_input_is_one_sentence_before_any_model_is_loaded(
    tmp_path: Path, options: str, message: str, capsys: Captured
) -> None:
    (tmp_path / "notes.txt").write_text("these are notes")
    picture(tmp_path / "wide.png", 200, 50)
    picture(tmp_path / "square.png", 96, 96)
    if "--video" in options:
        clip(tmp_path / "clip.mp4")
        clip(tmp_path / "long.mp4", 60)
    arguments = [option.replace("TMP", str(tmp_path)) for option in options.split()]
    output = [] if "-o" in arguments else ["-o", str(tmp_path / "out.mp4")]
    refused(["a cat", *arguments, *output], message, tmp_path, capsys)


def test_a_prompt_is_needed(tmp_path: Path, capsys: Captured) -> None:
    refused([], "the following arguments are required: PROMPT; cogvideox --help", tmp_path, capsys)


@pytest.mark.usefixtures("nothing_loaded")
def test_pictures_go_only_to_models_that_take_them(tmp_path: Path, small: Path, i2v: Path, capsys: Captured) -> None:
    image = str(picture(tmp_path / "image.png"))
    output = ["-o", str(tmp_path / "out.mp4")]
    wanted = "an image for CogVideoX-5B, which makes a video from a prompt alone"
    refused(["a cat", "--model", str(small), "--image", image, *output], wanted, tmp_path, capsys)
    wanted = "no image; CogVideoX-5B-I2V makes a video from an image and a prompt; give --image"
    refused(["a cat", "--model", str(i2v), *output], wanted, tmp_path, capsys)
    wanted = "learned position table"
    refused(["a cat", "--model", str(i2v), "--image", image, "--frames", "9", *output], wanted, tmp_path, capsys)


def _drop_shard(model: Path) -> None:
    next((model / "transformer").glob("*-00002-of-*")).unlink()


def _cut_vae(model: Path) -> None:
    file = model / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def _pickle_vae(model: Path) -> None:
    file = model / "vae" / "diffusion_pytorch_model.safetensors"
    file.unlink()
    file.with_suffix(".bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")


def _swap(model: Path) -> None:
    shutil.rmtree(model / "transformer")
    shutil.copytree(model / "vae", model / "transformer")


def _narrow_text(model: Path) -> None:
    shutil.rmtree(model / "text_encoder")
    shutil.copytree(model.parent / "narrow" / "text_encoder", model / "text_encoder")


@pytest.mark.usefixtures("nothing_loaded")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop_shard, "is missing, though diffusion_pytorch_model.safetensors.index.json lists it"),
        (_cut_vae, "is cut short"),
        (_pickle_vae, "is a pickle that would run code"),
        (_swap, "is a CogVideoX VAE, not a CogVideoX transformer"),
        (_narrow_text, "makes embeddings 16 wide and its transformer takes 32"),
        (lambda model: shutil.rmtree(model / "tokenizer"), "holds no spiece.model or tokenizer.json"),
        (lambda model: shutil.rmtree(model / "text_encoder"), "has no folder text_encoder"),
    ],
    ids=["missing shard", "truncated", "pickle", "wrong component", "text width", "tokenizer", "text encoder"],
)
def test_damaged_checkpoints_are_one_sentence(
    tmp_path: Path, checkpoint: Checkpoint, damage: Callable[[Path], None], message: str, capsys: Captured
) -> None:
    model = copy_of(checkpoint("CogVideoX-5B", sharded=True), tmp_path / "model")
    if damage is _narrow_text:
        copy_of(checkpoint("CogVideoX-5B", text_width=16), tmp_path / "narrow")
    damage(model)
    arguments = ["a cat", "--model", str(model), "--height", "64", "--width", "96", "--frames", "9"]
    refused([*arguments, "-o", str(tmp_path / "out.mp4")], message, tmp_path, capsys)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("proj_out.bias", torch.inf, r"proj_out\.bias is damaged in its file; download it again"),
        (
            "proj_out.weight",
            3e38,
            r"at timestep 999, though float32 suits every model; remove sage attention, LoRAs",
        ),
    ],
)
def test_latents_that_are_not_finite_name_their_cause(
    tmp_path: Path, small: Path, capsys: Captured, key: str, value: float, told: str
) -> None:
    model = copy_of(small, tmp_path / "model")
    file = model / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors[key][:] = value
    save_file(tensors, file)
    arguments = ["a cat", "--model", str(model), "--steps", "1", "-o", str(tmp_path / "out.mp4")]
    assert cli.main(arguments) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith("cogvideox: latents became NaN or infinite") and re.search(told, sentence), sentence
    assert names(tmp_path) == ["model"]


def test_a_full_disk_is_told_before_the_run(tmp_path: Path) -> None:
    """The kernel refuses files over 100 kB to this process."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({100_000},) * 2)\n"
    script = (
        limited + "import sys; from cogvideox_core.cli.main import main; sys.exit(main(['a cat', '-o', 'out.mp4']))"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("cogvideox: Cannot write out.mp4: ") and told.stderr.count("\n") == 1, told.stderr
    assert names(tmp_path) == []


# --- Interruption ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "kill"])
def test_an_interrupted_run_leaves_no_file(tmp_path: Path, sent: signal.Signals, code: int) -> None:
    with (tmp_path / "stderr").open("w+") as stderr:
        process = subprocess.Popen(
            [*COMMAND, "a cat", "--steps", "1000", "-o", "out.mp4"],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stderr=stderr,
            # Tests that run in the background inherit a shell's deafness to Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            deadline = time.monotonic() + 120
            while "sampling   0%" not in (tmp_path / "stderr").read_text():
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "stderr").read_text()
                time.sleep(0.1)
            process.send_signal(sent)
            assert process.wait(60) == code
        finally:
            process.kill()
    told = (tmp_path / "stderr").read_text()
    assert "Traceback" not in told and names(tmp_path) == ["stderr"]
    if sent == signal.SIGINT:
        assert told.endswith("cogvideox: interrupted; no video was written\n")


def test_an_interrupted_writing_leaves_no_half_file(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    update = ProgressBars.update
    seen: list[str] = []

    def interrupt(bars: ProgressBars, progress: Progress) -> None:
        update(bars, progress)
        if progress.stage == "decoding" and progress.step == 2:
            seen.extend(names(tmp_path))
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBars, "update", interrupt)
    arguments = ["a cat", "--model", str(small), "--steps", "1", "-o", str(tmp_path / "out.mp4")]
    assert cli.main(arguments) == 130
    assert capsys.readouterr().err.endswith("cogvideox: interrupted; no video was written\n")
    assert len(seen) == 1 and seen[0].endswith(".part.mp4"), "the file was half written"
    assert names(tmp_path) == []


def test_a_bug_keeps_its_traceback(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(CogVideoXPipeline, "stream", broken)
    with pytest.raises(TypeError, match="a bug"):
        cli.main(["a cat", "--model", str(small), "-o", str(tmp_path / "out.mp4")])
    assert names(tmp_path) == []
