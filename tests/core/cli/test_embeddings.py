"""`cogvideox embed`, and the files of encoded prompts that it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cogvideox_core import CheckpointError, load_text_encoder
from cogvideox_core.cli import main as cli
from cogvideox_core.cli.embeddings import read_embeddings
from cogvideox_core.demo import DEMO_MODEL

Checkpoint = Callable[..., Path]
Captured = pytest.CaptureFixture[str]


def test_the_file_holds_what_the_text_encoder_makes(
    checkpoint: Checkpoint, own_cache: Path, tmp_path: Path, capsys: Captured
) -> None:
    model, file = checkpoint("CogVideoX-5B"), tmp_path / "cat.safetensors"
    encoder = load_text_encoder(model)
    for t5 in (model, model / "text_encoder"):
        assert cli.main(["embed", "a cat", "--negative-prompt", "blurred", "--t5", str(t5), "-o", str(file)]) == 0
        assert capsys.readouterr().out == f"{file}\n"
        tensors = load_file(file)
        assert torch.equal(tensors["prompt_embeds"], encoder(["a cat"]))
        assert torch.equal(tensors["negative_prompt_embeds"], encoder(["blurred"]))
    with safe_open(file, "pt") as opened:
        assert {"prompt": "a cat", "negative_prompt": "blurred"}.items() <= opened.metadata().items()
    found = read_embeddings(file)
    assert found.negative is not None and torch.equal(found.prompt, tensors["prompt_embeds"])
    assert found.texts == {"prompt": "a cat", "negative_prompt": "blurred"}


def test_without_a_text_encoder_it_is_that_of_the_demo_model(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "ball.safetensors"
    assert cli.main(["embed", "a red ball", "-o", str(file), "--dtype", "bf16"]) == 0
    assert torch.equal(
        load_file(file)["prompt_embeds"], load_text_encoder(DEMO_MODEL, dtype=torch.bfloat16)(["a red ball"])
    )


def test_files_of_others_may_lack_the_negative_prompt_and_be_pickles(tmp_path: Path) -> None:
    embeds = torch.ones(1, 226, 32)
    save_file({"prompt_embeds": embeds}, tmp_path / "one.safetensors")
    torch.save({"prompt_embeds": embeds, "negative_prompt_embeds": 2 * embeds}, tmp_path / "two.pt")
    assert read_embeddings(tmp_path / "one.safetensors").negative is None
    found = read_embeddings(tmp_path / "two.pt")
    assert found.negative is not None and torch.equal(found.negative, 2 * embeds) and found.texts == {}


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"embeds": torch.ones(1, 226, 32)}, "holds embeds; give a file with prompt_embeds"),
        ({"negative_prompt_embeds": torch.ones(1, 226, 32)}, "holds negative_prompt_embeds; give a file with prompt"),
        ({"prompt_embeds": torch.ones(226, 32)}, r"an encoded prompt of shape \[226, 32\]; give .* \[1, L, D\]"),
        ({"prompt_embeds": torch.ones(2, 226, 32)}, r"an encoded prompt of shape \[2, 226, 32\]"),
    ],
)
def test_other_files_are_refused(tensors: dict[str, torch.Tensor], told: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "e.safetensors")
    with pytest.raises(CheckpointError, match=f"e.safetensors holds .*{told.removeprefix('holds ')}"):
        read_embeddings(tmp_path / "e.safetensors")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("-o TMP/cat.txt", "cat.txt for encoded prompts; name a file that ends in .safetensors"),
        ("-o TMP/absent/cat.safetensors", "absent for cat.safetensors; make it first"),
        ("-o TMP/cat.safetensors --t5 TMP/absent", "absent does not exist; give a CogVideoX folder or a weight file"),
        ("-o TMP/cat.safetensors --device tpux", "--device tpux; there is no such kind; use cpu"),
        ("-o TMP/cat.safetensors --dtype float3", "--dtype 'float3'"),
    ],
)
def test_bad_input_is_one_sentence(options: str, told: str, tmp_path: Path, capsys: Captured) -> None:
    assert cli.main(["embed", "a cat", *options.replace("TMP", str(tmp_path)).split()]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and list(tmp_path.iterdir()) == []
