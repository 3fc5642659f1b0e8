"""A model folder: opened once, checked as a whole, loaded from what is open."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox_core import CheckpointError, CogVideoXPipeline, load_pipeline
from cogvideox_core.demo import DEMO_MODEL
from cogvideox_core.models.text_encoder import TextEncoder
from cogvideox_core.pipeline.folder import LoadOptions, ModelFolder
from cogvideox_core.pipeline.offload import Offload
from tests.support.hub_cache import add_to_cache
from tests.support.parity import assert_parity
from tests.support.weight_forms import Writer, comfyui, sat, true_gguf

Checkpoint = Callable[..., Path]
KIND = "CogVideoX-5B"
ASKED = dict(num_inference_steps=1, num_frames=9, height=64, width=96, output_type="latent")


def test_a_folder_knows_its_parts_before_anything_is_loaded(checkpoint: Checkpoint) -> None:
    folder = ModelFolder.open(checkpoint(KIND))
    assert folder.variant.name == KIND
    assert folder.text_encoder is not None
    assert folder.text_encoder.config["d_model"] == folder.transformer.config.text_embed_dim
    assert folder.vae.config.latent_channels == folder.transformer.config.out_channels


def test_files_are_not_opened_again_to_load_them(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """The folder is moved away between opening and loading; only the tokenizer is read by its path."""
    path = Path(shutil.copytree(checkpoint(KIND), tmp_path / "model"))
    folder = ModelFolder.open(path)
    for component in ("transformer", "vae"):
        (path / component).rename(tmp_path / component)
    pipeline = folder.load(LoadOptions(device="cpu"))
    expected = load_pipeline(checkpoint(KIND), device="cpu")
    made, wanted = (one("a cat", **ASKED, generator=torch.Generator().manual_seed(1)) for one in (pipeline, expected))
    assert torch.equal(made, wanted)


def test_without_a_path_it_is_the_demo_model() -> None:
    wanted = ModelFolder.open(DEMO_MODEL)
    assert load_pipeline(device="cpu").transformer.config == wanted.transformer.config


def test_the_schedule_of_the_folder_counts(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint(KIND), tmp_path / "model"))
    file = path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"snr_shift_scale": 3.0}))
    assert ModelFolder.open(path).variant.schedule.snr_shift_scale == 3.0


def test_a_text_encoder_of_another_width_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint(KIND), tmp_path / "model"))
    shutil.rmtree(path / "text_encoder")
    shutil.copytree(DEMO_MODEL / "text_encoder", path / "text_encoder")
    with pytest.raises(ValueError, match="makes embeddings .* wide and its transformer takes 32; put the text encoder"):
        ModelFolder.open(path)


@pytest.mark.parametrize("missing", ["transformer", "vae", "text_encoder", "tokenizer"])
def test_a_missing_component_is_named(checkpoint: Checkpoint, tmp_path: Path, missing: str) -> None:
    path = Path(shutil.copytree(checkpoint(KIND), tmp_path / "model"))
    shutil.rmtree(path / missing)
    with pytest.raises(CheckpointError, match=missing):
        ModelFolder.open(path)


def test_missing_settings_are_not_guessed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint(KIND), tmp_path / "model"))
    (path / "vae" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="config.json is missing; get that file again, or the whole folder"):
        ModelFolder.open(path)


def latents(pipeline: CogVideoXPipeline, **asked: Any) -> torch.Tensor:
    return pipeline(**{"prompt": "a cat", **ASKED, "generator": torch.Generator().manual_seed(1), **asked})


@pytest.fixture(scope="session")
def model(checkpoint: Checkpoint) -> Path:
    """A toy whose VAE has as many norm groups as the released one: a bare file cannot say others."""
    return checkpoint(KIND, vae=dict(block_out_channels=(32, 32, 32, 64), norm_num_groups=32))


@pytest.fixture(scope="module")
def parts(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The toy's components, each as a single file in a folder of its own; and its tokenizer beside the T5."""
    folder = tmp_path_factory.mktemp("files")
    parts = {}
    for name in ("transformer", "vae", "text_encoder"):
        parts[name] = folder / name / "any name.safetensors"
        parts[name].parent.mkdir()
        (file,) = (model / name).glob("*.safetensors")
        shutil.copy(file, parts[name])
    shutil.copytree(model / "tokenizer", parts["text_encoder"].parent / "tokenizer")
    return parts


@pytest.fixture(scope="module")
def wanted(model: Path) -> torch.Tensor:
    """Latents that the whole folder makes."""
    return latents(load_pipeline(model, device="cpu"))


def test_files_put_together_make_the_same_video(model: Path, parts: dict[str, Path], wanted: torch.Tensor) -> None:
    """The settings are those of the released models; the size is asked for."""
    others = {"vae": parts["vae"], "text_encoder": parts["text_encoder"]}
    assert torch.equal(latents(load_pipeline(parts["transformer"], **others, device="cpu")), wanted)
    folders = {"vae": model, "text_encoder": model / "text_encoder"}
    assert torch.equal(latents(load_pipeline(parts["transformer"], **folders, device="cpu")), wanted)


@pytest.mark.parametrize("write", [sat, comfyui, true_gguf("F16")], ids=["SAT", "ComfyUI", "gguf"])
def test_a_transformer_in_any_form_is_a_model(
    write: Writer, parts: dict[str, Path], wanted: torch.Tensor, tmp_path: Path
) -> None:
    file = write(load_file(parts["transformer"]), tmp_path)
    given = {"vae": parts["vae"], "text_encoder": parts["text_encoder"], "device": "cpu", "dtype": "float32"}
    assert_parity(latents(load_pipeline(file, **given)), wanted, 5e-3, file.name)


def test_what_is_given_takes_the_place_of_what_the_folder_has(checkpoint: Checkpoint) -> None:
    other = checkpoint(KIND, seed=7)
    found = ModelFolder.open(checkpoint(KIND), vae=other, text_encoder=other / "text_encoder")
    assert (found.sources.vae, found.sources.text_encoder) == (other / "vae", other / "text_encoder")
    assert found.sources.transformer == checkpoint(KIND) / "transformer"
    wanted = load_file(other / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(found.vae.state_dict[key], tensor) for key, tensor in wanted.items())


def test_a_file_of_a_whole_folder_leads_to_all_of_it(checkpoint: Checkpoint) -> None:
    file = checkpoint(KIND) / "transformer" / "diffusion_pytorch_model.safetensors"
    assert ModelFolder.open(file).sources.vae == checkpoint(KIND) / "vae"


def test_a_file_that_holds_a_whole_model_needs_no_other(
    model: Path, parts: dict[str, Path], wanted: torch.Tensor, tmp_path: Path
) -> None:
    """As SAT's fine-tunes of everything do, and whole checkpoints for ComfyUI."""
    prefixes = {
        "transformer": "model.diffusion_model.",
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.",
    }
    tensors = {}
    for name, prefix in prefixes.items():
        tensors |= {prefix + key: value for key, value in load_file(parts[name]).items()}
    save_file(tensors, tmp_path / "all.safetensors")
    shutil.copytree(model / "tokenizer", tmp_path / "tokenizer")
    assert torch.equal(latents(load_pipeline(tmp_path / "all.safetensors", device="cpu")), wanted)


def test_the_tokenizer_of_the_model_serves_a_text_encoder_without_one(
    model: Path, parts: dict[str, Path], wanted: torch.Tensor, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(model, tmp_path / "models" / "model"))
    shutil.rmtree(path / "text_encoder")
    (tmp_path / "t5").mkdir()
    alone = Path(shutil.copy(parts["text_encoder"], tmp_path / "t5" / "t5.safetensors"))
    assert torch.equal(latents(load_pipeline(path, text_encoder=alone, device="cpu")), wanted)
    shutil.rmtree(path / "tokenizer")
    with pytest.raises(CheckpointError, match="tokenizer holds no spiece.model or tokenizer.json; put the tokenizer"):
        load_pipeline(path, text_encoder=alone)


def test_a_model_without_text_encoder_takes_embeddings(
    checkpoint: Checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = load_pipeline(checkpoint(KIND), device="cpu")
    assert whole.text_encoder is not None
    embeds = {"prompt": None, "prompt_embeds": whole.text_encoder(["a cat"])}
    embeds["negative_prompt_embeds"] = whole.text_encoder([""])
    path = Path(shutil.copytree(checkpoint(KIND), tmp_path / "model"))
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(path / part)
    pipeline = load_pipeline(path, device="cpu")
    assert "model has no text encoder, so it takes prompt_embeds alone" in caplog.text
    assert torch.equal(latents(pipeline, **embeds), latents(whole))
    with pytest.raises(ValueError, match="no text encoder is loaded; give prompt_embeds, or load the model with text_"):
        latents(pipeline)
    with pytest.raises(CheckpointError, match=r"model has no folder text_encoder; give text_encoder=PATH \(the folder"):
        ModelFolder.open(path)


def test_a_text_encoder_may_be_left_out(checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    assert load_pipeline(checkpoint(KIND), text_encoder="none", device="cpu").text_encoder is None
    assert ModelFolder.open(checkpoint(KIND), text_encoder="none").sources.text_encoder is None
    assert "has no text encoder" not in caplog.text, "that was asked for"


def test_a_vae_of_other_latents_is_refused(checkpoint: Checkpoint, parts: dict[str, Path]) -> None:
    other = checkpoint(KIND, vae=dict(latent_channels=8))
    with pytest.raises(ValueError, match="vae makes latents of 8 channels and the transformer takes 16; give vae=PATH"):
        ModelFolder.open(parts["transformer"], vae=other, text_encoder="none")


def test_settings_of_what_is_given_separately_are_not_asked_of_the_folder(
    checkpoint: Checkpoint, parts: dict[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copytree(checkpoint(KIND), tmp_path / "model"))
    (path / "vae" / "config.json").unlink()
    assert ModelFolder.open(path, vae=parts["vae"]).sources.vae == parts["vae"]
    shutil.rmtree(path / "vae")
    assert ModelFolder.open(path, vae=parts["vae"]).sources.vae == parts["vae"]


def test_a_name_is_a_model_too(checkpoint: Checkpoint, own_cache: Path) -> None:
    snapshot = add_to_cache(own_cache, "zai-org/CogVideoX-5b", checkpoint(KIND))
    for name in ("zai-org/CogVideoX-5b", "THUDM/CogVideoX-5b", own_cache / "models--zai-org--CogVideoX-5b"):
        assert ModelFolder.open(name).path == snapshot
    assert ModelFolder.open(snapshot / "transformer", vae="CogVideoX-5b").sources.vae == snapshot / "vae"


def test_an_unfinished_download_names_the_command(checkpoint: Checkpoint, own_cache: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(checkpoint(KIND), tmp_path / "model"))
    shutil.rmtree(path / "vae")
    add_to_cache(own_cache, "zai-org/CogVideoX-5b", path)
    with pytest.raises(CheckpointError, match=r"has no folder vae; give vae=PATH .*, or run: \S+ download zai-org/Cog"):
        ModelFolder.open("zai-org/CogVideoX-5b")


# --- Devices ----------------------------------------------------------------------------------------------------------


def turing(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A card that PyTorch calls "cuda" and that only emulates bfloat16."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    return torch.device("cuda")


@pytest.mark.parametrize(
    ("kind", "stored", "taken"),
    [
        ("CogVideoX-5B", torch.bfloat16, torch.float32),
        ("CogVideoX1.5-5B-I2V", torch.bfloat16, torch.float32),
        ("CogVideoX-2B", torch.bfloat16, torch.float16),
        ("CogVideoX-2B", torch.float16, torch.float16),
    ],
)
def test_no_model_computes_in_emulated_bfloat16(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, kind: str, stored: torch.dtype, taken: torch.dtype
) -> None:
    folder = ModelFolder.open(checkpoint(kind, dtype=stored))
    assert folder._default_dtype(turing(monkeypatch)) == taken


def test_emulated_bfloat16_is_refused_before_anything_is_loaded(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, card = ModelFolder.open(checkpoint(KIND)), turing(monkeypatch)
    with pytest.raises(ValueError, match=r"dtype=bfloat16 on cuda, .* capability is 7\.5, below 8\.0\); take float32$"):
        folder.load(LoadOptions(device=card, dtype="bfloat16"))


def test_float16_for_a_model_that_overflows_in_it_is_told(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    card = turing(monkeypatch)
    for kind in (KIND, "CogVideoX-2B"):
        assert ModelFolder.open(checkpoint(kind))._checked_dtype("float16", card) == torch.float16
    assert caplog.messages == [
        "CogVideoX-5B was trained in bfloat16 and may overflow in float16; if it does, take float32"
    ]


def test_a_pipeline_put_together_by_hand_is_refused_emulated_bfloat16(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load_pipeline(checkpoint(KIND), device="cpu", dtype="bfloat16")
    offload = Offload(turing(monkeypatch), torch.bfloat16)
    with pytest.raises(ValueError, match="dtype=bfloat16 on cuda"):
        CogVideoXPipeline(made.transformer, made.vae, made.text_encoder, made.variant, offload=offload)


@pytest.mark.parametrize("low_memory", [False, True])
def test_the_text_encoder_may_be_somewhere_else(checkpoint: Checkpoint, low_memory: bool) -> None:
    """Here on the same device by its name, which takes the way of another: the same video."""
    options = dict(device="cpu", low_memory=low_memory)
    plain, apart = (load_pipeline(checkpoint(KIND), **options, **more) for more in ({}, {"text_encoder_device": "cpu"}))
    made, wanted = (one("a cat", **ASKED, generator=torch.Generator().manual_seed(1)) for one in (apart, plain))
    assert torch.equal(made, wanted)


def test_the_text_encoder_goes_where_it_is_asked_to(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "cogvideox_core.pipeline.folder.named_device", lambda name, argument="device": torch.device(name)
    )
    for device, other in (("cpu", "meta"), ("meta", "cpu")):
        apart = load_pipeline(checkpoint(KIND), device=device, attention="sdpa", text_encoder_device=other)
        assert isinstance(apart.text_encoder, TextEncoder)
        assert (apart.device.type, apart.text_encoder.device.type) == (device, other)


def test_a_device_that_is_not_there_is_told(checkpoint: Checkpoint) -> None:
    for argument in ("device", "text_encoder_device"):
        with pytest.raises(
            ValueError, match=f"^{argument}=cuda:99; this machine, or this build of PyTorch, has no such"
        ):
            load_pipeline(checkpoint(KIND), **{argument: "cuda:99"})
