"""Our MODEL and CLIP inside ComfyUI's own classes, in this process: what a server on a CPU does not show."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from cogvideox_core import load_text_encoder
from cogvideox_core.models.shapes import LatentSize
from cogvideox_core.pipeline.conditioning import quadmask_latents, quadmask_videos
from tests import provision
from tests.support.checkpoints import OFFICIAL, make_checkpoint
from tests.support.parity import assert_parity

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def host_model(pack: ModuleType) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.nodes.host.types.model")


@pytest.fixture(scope="module")
def host_clip(pack: ModuleType) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.nodes.host.types.clip")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("types") / "5B", "CogVideoX-5B")


@pytest.mark.parametrize("kind", OFFICIAL)
def test_on_a_gpu_the_weights_keep_the_dtype_the_model_was_trained_in(
    host_model: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "should_use_fp16", lambda *args, **options: True)
    monkeypatch.setattr(mm, "should_use_bf16", lambda *args, **options: True)
    trained = torch.float16 if kind == "CogVideoX-2B" else torch.bfloat16
    folder = make_checkpoint(tmp_path / kind, kind, dtype=trained)
    patcher = host_model.load_model(folder)
    assert {weight.dtype for weight in patcher.model.diffusion_model.parameters()} == {trained}
    assert patcher.model.get_dtype_inference() == trained


@pytest.mark.parametrize("kind", ["CogVideoX-2B", "CogVideoX-5B"])
def test_weights_in_float16_do_not_make_a_model_compute_in_what_it_overflows_in(
    host_model: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "should_use_fp16", lambda *args, **options: True)
    monkeypatch.setattr(mm, "should_use_bf16", lambda *args, **options: True)
    model = host_model.load_model(make_checkpoint(tmp_path / kind, kind), torch.float16).model
    assert {weight.dtype for weight in model.diffusion_model.parameters()} == {torch.float16}
    assert model.get_dtype_inference() == (torch.float16 if kind == "CogVideoX-2B" else torch.bfloat16)


@pytest.mark.parametrize(("kind", "taken"), [("CogVideoX-2B", torch.float16), ("CogVideoX-5B", torch.float32)])
@pytest.mark.parametrize("asked", [None, torch.bfloat16])
def test_a_card_below_8_0_computes_in_float32_or_float16(
    host_model: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, taken: torch.dtype, asked: Any
) -> None:
    """A T4: ComfyUI keeps weights in bfloat16 where memory is short (manual_cast), and casts them to compute."""
    import comfy.model_management as mm

    monkeypatch.setattr(mm, "should_use_fp16", lambda *args, **options: True)
    monkeypatch.setattr(mm, "should_use_bf16", lambda *args, manual_cast=False, **options: manual_cast)
    model = host_model.load_model(make_checkpoint(tmp_path / kind, kind, dtype=torch.bfloat16), asked).model
    assert model.get_dtype_inference() == taken


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_a_clip_is_where_it_is_asked_to_be(host_clip: ModuleType, folder: Path, device: torch.device | None) -> None:
    import comfy.model_management as mm

    clip = host_clip.load_clip(folder, device=device)
    assert clip.patcher.load_device == (device or mm.text_encoder_device())
    assert clip.patcher.offload_device == (device or mm.text_encoder_offload_device())


def test_a_clip_on_a_card_rests_on_the_processor(host_clip: ModuleType, folder: Path) -> None:
    clip = host_clip.load_clip(folder, device=torch.device("meta"))
    assert (clip.patcher.load_device.type, clip.patcher.offload_device.type) == ("meta", "cpu")


def test_a_host_that_streams_weights_by_itself_loads_the_same_model(
    host_model: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """With dynamic VRAM, ComfyUI's layers have no weights until a state dict arrives."""
    import comfy.memory_management

    latents, embeds = torch.randn(1, 16, 2, 8, 12), torch.randn(1, 226, 32)
    inputs = (latents, torch.tensor([500.0]), embeds)
    with torch.no_grad():
        expected = host_model.load_model(folder).model.diffusion_model(*inputs)
        monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
        streaming = host_model.load_model(folder).model.diffusion_model
        assert torch.equal(streaming(*inputs), expected)


def test_a_clip_on_such_a_host_encodes_the_same(
    host_clip: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    import comfy.memory_management

    expected = encode(host_clip, host_clip.load_clip(folder), "a red circle")
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    assert torch.equal(encode(host_clip, host_clip.load_clip(folder), "a red circle"), expected)


def test_a_t5_file_without_a_tokenizer_takes_comfyuis_own(host_clip: ModuleType, tmp_path: Path) -> None:
    """The one-file T5-XXL that ComfyUI users have; here narrow, but with T5's vocabulary."""
    from transformers import (
        T5Config,
        T5EncoderModel,
        T5TokenizerFast,  # pyright: ignore[reportAttributeAccessIssue] -- it comes when asked for
    )

    config = T5Config(
        vocab_size=32128, d_model=32, d_kv=8, d_ff=64, num_heads=4, num_layers=2, feed_forward_proj="gated-gelu"
    )
    model = T5EncoderModel(config).eval()
    model.save_pretrained(tmp_path / "saved")
    file = tmp_path / "t5xxl_fp32.safetensors"
    (tmp_path / "saved" / "model.safetensors").rename(file)
    tokenizer = T5TokenizerFast.from_pretrained(provision.comfyui() / "comfy" / "text_encoders" / "t5_tokenizer")
    tokens = tokenizer("a red circle", padding="max_length", max_length=226, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model(tokens).last_hidden_state
    assert_parity(encode(host_clip, host_clip.load_clip(file), "a red circle"), expected, 1e-5, "a T5 file")


def test_a_t5_in_eight_bits_encodes_as_in_the_core(host_clip: ModuleType, folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "text_encoder" / "model.safetensors")
    place = tmp_path / "text_encoder"
    place.mkdir()
    (tmp_path / "tokenizer").symlink_to(folder / "tokenizer")
    file = place / "t5xxl_fp8.safetensors"
    save_file({key: tensor.to(torch.float8_e4m3fn) for key, tensor in weights.items()}, file)
    expected = load_text_encoder(file)(["a red circle"])
    assert_parity(encode(host_clip, host_clip.load_clip(file), "a red circle"), expected, 2e-2, "a T5 in fp8")


def test_void_is_conditioned_as_by_comfyuis_own_node(pack: ModuleType, folder: Path) -> None:
    """Both on 13 frames, which suit VOID's even number of latents without a leading one."""
    from comfy_extras.nodes_void import VOIDInpaintConditioning

    vae = importlib.import_module(f"{pack.__name__}.nodes.host.types.vae").load_vae(folder)
    generator = torch.Generator().manual_seed(0)
    video = torch.rand(13, 64, 96, 3, generator=generator)
    mask = torch.randint(0, 4, (13, 64, 96), generator=generator) / 3
    prompt = [[torch.zeros(1, 1, 1), {}]]
    conditioning: Any = VOIDInpaintConditioning.execute
    theirs = conditioning(prompt, prompt, vae, video, mask, 96, 64, 13, 1).args[0][0][1]
    shown = quadmask_videos(video.movedim(-1, 0)[None] * 2 - 1, mask[None, None])
    known, masked = (vae.encode((pixels[0].movedim(0, -1) + 1) / 2) for pixels in shown)
    ours = quadmask_latents(known, masked, LatentSize(4, 8, 12, leading=0))
    assert_parity(ours, theirs["concat_latent_image"], 1e-5, "VOID's conditioning")


def test_a_vae_has_what_a_later_comfyui_adds_to_its_own(
    pack: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import comfy.sd

    start = comfy.sd.VAE.__init__

    def later_release(self: Any, *arguments: Any, **options: Any) -> None:
        self.of_a_later_release = "its default"
        start(self, *arguments, **options)

    monkeypatch.setattr(comfy.sd.VAE, "__init__", later_release)
    vae = importlib.import_module(f"{pack.__name__}.nodes.host.types.vae").load_vae(folder)
    assert vae.of_a_later_release == "its default"
    assert vae.model_size() == sum(weight.nbytes for weight in vae.first_stage_model.state_dict().values())
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []


def test_the_text_encoder_needs_no_package_that_comfyui_does_not_need(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "without_protobuf.py"
    script.write_text(WITHOUT_PROTOBUF.format(repository=str(REPO), folder=str(folder)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    embeds = torch.tensor([float(value) for value in done.stdout.split()[-4:]])
    assert_parity(embeds, load_text_encoder(folder)(["a red circle"])[0, 0, :4], 1e-5, "without protobuf")


WITHOUT_PROTOBUF = """
import sys
for name in ("google", "google.protobuf", "diffusers", "accelerate", "bitsandbytes"):
    sys.modules[name] = None
sys.path.insert(0, {repository!r})
from tests.support.pack import load_pack
pack = load_pack()
import importlib
clip_module = importlib.import_module(pack.__name__ + ".nodes.host.types.clip")
clip = clip_module.load_clip({folder!r})
tokens, _, _ = clip_module.tokenize(clip, "a red circle")
print(*clip.encode_from_tokens_scheduled(tokens)[0][0][0, 0, :4].tolist())
"""


def encode(host_clip: ModuleType, clip, text: str) -> torch.Tensor:
    tokens, _, _ = host_clip.tokenize(clip, text)
    return clip.encode_from_tokens_scheduled(tokens)[0][0]
