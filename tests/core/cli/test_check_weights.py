"""`cogvideox check-weights` on toys of all models and on the demo models, with diffusers, and on damaged folders."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox_core.cli import main as cli
from cogvideox_core.cli.check_weights import BOUNDS, check_weights
from cogvideox_core.demo import DEMO_LORAS, DEMO_MODELS
from tests.support.checkpoints import OFFICIAL
from tests.support.hub_cache import add_to_cache

PARITY = 1e-4  # in float32 whole runs agree at least so well; the command's own bound leaves room for large models
TRANSFORMER = Path("transformer", "diffusion_pytorch_model.safetensors")
QUICK = ("CogVideoX-5B", "CogVideoX1.5-5B-I2V")

Checkpoint = Callable[..., Path]
Captured = pytest.CaptureFixture[str]

every_model = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in OFFICIAL]
)


def row(capsys: Captured, *arguments: str | Path, code: int) -> dict[str, str]:
    """What the command prints, by the heads of the columns."""
    capsys.readouterr()  # what libraries print when they are imported, to make the checkpoint
    assert cli.main(["check-weights", *map(str, arguments)]) == code
    head, line, cells = capsys.readouterr().out.splitlines()
    assert set(line) == set("| -")
    heads, texts = ([cell.strip() for cell in text.strip("|").split("|")] for text in (head, cells))
    return dict(zip(heads, texts, strict=True))


def damaged(folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    """A copy of a model folder with changed tensors in its transformer."""
    shutil.copytree(folder, target)
    tensors = load_file(target / TRANSFORMER)
    change(tensors)
    save_file(tensors, target / TRANSFORMER)
    return target


@every_model
def test_a_model_is_whole_and_close_to_diffusers(checkpoint: Checkpoint, kind: str, capsys: Captured) -> None:
    said = row(capsys, checkpoint(kind), "--dtype", "float32", "--device", "cpu", code=0)
    assert (said["model"], said["result"], said["keys missing / unexpected"]) == (kind, "whole and close", "0 / 0")
    assert said["how"] == "96x64, 17 frames, 2 steps, guidance 2, float32"
    for part in ("latents apart", "frames apart"):
        assert 0 < float(said[part].split(" of ")[0]) < PARITY, said
    assert all(float(seconds) > 0 for seconds in said["seconds, ours / diffusers"].split(" / "))
    assert float(said["peak memory"].removesuffix(" GB")) > 0.1
    assert torch.__version__ in said["versions"]


@pytest.mark.slow
@pytest.mark.parametrize("task", DEMO_MODELS)
def test_the_demo_models_are_close_in_16_bits_too(task: str) -> None:
    check = check_weights(DEMO_MODELS[task], device="cpu", dtype=torch.bfloat16)
    assert check.fault is None, check.table()
    assert check.latents is not None and 1e-4 < check.latents < BOUNDS[torch.bfloat16], "that is not 16 bits"


def test_a_position_table_is_cut_down_or_the_model_runs_at_its_own_size(capsys: Captured) -> None:
    folder = DEMO_MODELS["image-to-video"]
    small = row(capsys, folder, "--dtype", "float32", "--device", "cpu", code=0)
    assert small["how"] == "96x64, 17 frames, 2 steps, guidance 2, float32, corner of the position table"
    trained = row(capsys, folder, "--dtype", "float32", "--device", "cpu", "--trained-size", code=0)
    assert trained["how"] == "96x96, 17 frames, 2 steps, guidance 2, float32"


def test_weights_that_diffusers_reads_otherwise_are_not_close(
    checkpoint: Checkpoint, tmp_path: Path, capsys: Captured
) -> None:
    """Two downloads in one folder: a single file, which we read, and shards of other weights, which diffusers reads."""
    folder = Path(shutil.copytree(checkpoint("CogVideoX-5B"), tmp_path / "mixed"))
    other = checkpoint("CogVideoX-5B", sharded=True, seed=1) / "transformer"
    for file in other.glob("*-of-*"):
        shutil.copy(file, folder / "transformer")
    shutil.copy(other / "diffusion_pytorch_model.safetensors.index.json", folder / "transformer")
    said = row(capsys, folder, "--dtype", "float32", "--device", "cpu", code=1)
    assert said["result"] == "not close to diffusers"
    assert float(said["latents apart"].split(" of ")[0]) > 0.1 > PARITY > float(said["frames apart"].split(" of ")[0])
    weight_files = len(list(other.glob("*-of-*"))) + 1
    assert len(said["size, SHA-256"].split(";")[1].split(",")) == weight_files, "a digest for each file"


def test_a_tensor_that_is_not_finite_fails(checkpoint: Checkpoint, tmp_path: Path, capsys: Captured) -> None:
    folder = damaged(
        checkpoint("CogVideoX-5B"), tmp_path / "nan", lambda tensors: tensors["proj_out.bias"].fill_(torch.nan)
    )
    said = row(capsys, folder, "--device", "cpu", code=1)
    assert said["result"].startswith("not finite: latents") and "proj_out.bias" in said["result"]


def test_a_missing_tensor_is_counted_and_named(checkpoint: Checkpoint, tmp_path: Path, capsys: Captured) -> None:
    key = "transformer_blocks.1.ff.net.2.bias"
    folder = damaged(checkpoint("CogVideoX-5B"), tmp_path / "torn", lambda tensors: tensors.pop(key))
    assert cli.main(["check-weights", str(folder)]) == 1
    printed = capsys.readouterr()
    assert "| 1 / 0 | not whole | not sampled |" in printed.out and key in printed.err


def test_without_diffusers_the_row_says_so(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)  # as Python sees a package that is not there
    said = row(capsys, checkpoint("CogVideoX-5B"), "--device", "cpu", code=0)
    assert said["result"] == "whole" and said["how"].endswith("; diffusers not installed")
    assert said["latents apart"] == "-" and "diffusers none" in said["versions"]


def test_a_form_that_diffusers_does_not_read_is_sampled_alone(
    checkpoint: Checkpoint, tmp_path: Path, capsys: Captured
) -> None:
    """diffusers would take fp8 numbers without their scales."""
    folder = Path(shutil.copytree(checkpoint("CogVideoX-5B"), tmp_path / "fp8"))
    small = tmp_path / "fp8.safetensors"
    assert cli.main(["convert", str(folder / "transformer"), str(small), "--to", "fp8"]) == 0
    capsys.readouterr()
    small.replace(folder / TRANSFORMER)
    said = row(capsys, folder, "--device", "cpu", code=0)
    assert said["result"] == "whole" and said["how"].endswith("; diffusers does not read this form")


def test_a_folder_that_diffusers_fails_on_says_so(checkpoint: Checkpoint, tmp_path: Path, capsys: Captured) -> None:
    folder = Path(shutil.copytree(checkpoint("CogVideoX-5B"), tmp_path / "no-scheduler"))
    shutil.rmtree(folder / "scheduler")
    said = row(capsys, folder, "--device", "cpu", code=0)
    assert said["result"] == "whole" and said["how"].endswith("; diffusers failed: OSError")


@pytest.mark.parametrize(
    ("component", "how"),
    [
        (
            "transformer/diffusion_pytorch_model.safetensors",
            "one forward at 96x64, 17 frames, float32; no whole folder",
        ),
        ("vae", "one decode at 96x64, 17 frames, float32; no whole folder"),
        ("text_encoder", "not sampled"),
    ],
)
def test_a_component_alone_is_used_once(checkpoint: Checkpoint, component: str, how: str, capsys: Captured) -> None:
    path = checkpoint("CogVideoX1.5-5B-I2V") / component
    said = row(capsys, path, "--device", "cpu", "--dtype", "float32", code=0)
    assert (said["result"], said["how"]) == ("whole", how)


def test_a_model_that_needs_another_video_is_only_opened(checkpoint: Checkpoint, capsys: Captured) -> None:
    folder = checkpoint("CogVideoX-5B", transformer={"in_channels": 33})
    said = row(capsys, folder, "--device", "cpu", code=0)
    assert (said["model"], said["result"]) == ("CogVideoX-Fun-5B-InP", "whole")
    assert said["how"] == "not sampled: the model is conditioned on inpaint"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent", "absent does not exist"),
        ("cut", "is cut short"),
        ("no-vae", "has no folder vae"),
        (str(DEMO_LORAS["old-film"]), "is a LoRA of rank"),
    ],
)
def test_what_does_not_open_is_one_sentence(
    checkpoint: Checkpoint, tmp_path: Path, path: str, message: str, capsys: Captured
) -> None:
    for name in ("cut", "no-vae"):
        shutil.copytree(checkpoint("CogVideoX-5B"), tmp_path / name)
    (tmp_path / "cut" / TRANSFORMER).write_bytes((tmp_path / "cut" / TRANSFORMER).read_bytes()[:-1000])
    shutil.rmtree(tmp_path / "no-vae" / "vae")
    assert cli.main(["check-weights", str(tmp_path / path), "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and message in said.err, said.err


def test_a_folder_without_text_encoder_is_sampled_from_drawn_embeddings(
    checkpoint: Checkpoint, tmp_path: Path, capsys: Captured
) -> None:
    folder = Path(shutil.copytree(checkpoint("CogVideoX-5B"), tmp_path / "model"))
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)
    said = row(capsys, folder, "--dtype", "float32", "--device", "cpu", code=0)
    assert said["result"] == "whole and close"
    assert said["how"].endswith("float32, drawn embeddings for want of a text encoder")


def test_names_are_taken_as_by_the_other_commands(checkpoint: Checkpoint, own_cache: Path, capsys: Captured) -> None:
    add_to_cache(own_cache, "zai-org/CogVideoX-5b", checkpoint("CogVideoX-5B"))
    said = row(capsys, "zai-org/CogVideoX-5b/transformer", "--device", "cpu", code=0)
    assert said["model"] == "CogVideoX-5B"
