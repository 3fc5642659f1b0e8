"""A file of every form through the loader nodes of the real host: what it gives is what the core makes of the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvideox_core import CogVideoXPipeline, load_pipeline, load_transformer, load_vae
from tests import provision
from tests.support.checkpoints import make_checkpoint, random_text_encoder, random_vae, toy_vae_config, whole_model
from tests.support.graphs import (
    HEIGHT,
    LENGTH,
    NEGATIVE,
    PROMPT,
    WIDTH,
    loaders,
    node,
    saved_latent,
    saved_tensor,
    text_to_video,
)
from tests.support.host import Host
from tests.support.parity import assert_parity, snr_db
from tests.support.weight_forms import (
    IN_INT8_ROWS,
    QUANTIZED,
    RENAMED,
    dequantized,
    gguf_t5_name,
    k_blocks,
    sat_vae,
    sat_with_t5_and_vae,
    t5_q5_k_m,
    true_gguf,
)

KIND = "CogVideoX-5B"
STEPS = 2


@pytest.fixture(scope="module")
def state(toys: dict[str, Path]) -> dict[str, torch.Tensor]:
    return load_file(toys[KIND] / "transformer" / "diffusion_pytorch_model.safetensors")


def sampled(pipeline: CogVideoXPipeline) -> torch.Tensor:
    """What the core samples where the host runs `text_to_video`, in the VAE's own scale."""
    latents = pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        height=HEIGHT,
        width=WIDTH,
        num_frames=LENGTH,
        num_inference_steps=STEPS,
        sampler="ddim",
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
    )
    return latents / pipeline.variant.vae.scaling_factor


K_QUANTS = ("Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ2_XS")


@pytest.mark.parametrize("form", [*RENAMED, *QUANTIZED, *K_QUANTS])
def test_a_transformer_of_every_form_samples_as_in_the_core(
    form: str, host: Host, core: Callable[[str], CogVideoXPipeline], state: dict, tmp_path: Path
) -> None:
    writer = k_blocks(form) if form in K_QUANTS else RENAMED[form] if form in RENAMED else QUANTIZED[form][0]
    written = writer(state, tmp_path)
    (file,) = [written] if written.is_file() else written.rglob("*.pt")
    name = f"form of {form.replace('.', ' ')}{file.suffix}"
    host.add_model("diffusion_models", file, name)
    graph = text_to_video(KIND, steps=STEPS)
    graph["model"]["inputs"]["model_name"] = name
    found = saved_latent(host, host.run(graph))

    whole = core(KIND)
    pipeline = CogVideoXPipeline(load_transformer(file, dtype="float32"), whole.vae, whole.text_encoder, whole.variant)
    wanted = sampled(pipeline)
    if form in IN_INT8_ROWS:  # ComfyUI rounds activations to 8 bits as well
        assert snr_db(found, wanted) > 25
    else:
        assert_parity(found, wanted, 5e-5, f"{form} in the host")


def _one_file(dtype: torch.dtype) -> Callable[[dict, Path], Path]:
    def write(state: dict, folder: Path) -> Path:
        save_file({key: tensor.to(dtype) for key, tensor in state.items()}, folder / "vae.safetensors")
        return folder / "vae.safetensors"

    return write


def _in_a_fine_tune_of_sat(component: str) -> Callable[[dict, Path], Path]:
    """One file of a transformer, a VAE and a T5, one of which is given."""

    def write(state: dict, folder: Path) -> Path:
        transformer, vae, text_encoder = whole_model(KIND)
        parts = {"vae": vae, "text_encoder": text_encoder, component: state}
        return next(sat_with_t5_and_vae(transformer, parts["vae"], parts["text_encoder"], folder).rglob("*.pt"))

    return write


VAE_FORMS: dict[str, Callable[[dict, Path], Path]] = {
    "fp32": _one_file(torch.float32),
    "bf16": _one_file(torch.bfloat16),
    "SAT": sat_vae,
    "SAT with T5 and transformer": _in_a_fine_tune_of_sat("vae"),
}


@pytest.mark.parametrize(("form", "write"), VAE_FORMS.items())
def test_a_vae_of_every_form_decodes_as_in_the_core(
    form: str, write: Callable, host: Host, toys: dict, tmp_path: Path
) -> None:
    groups = dict(block_out_channels=(32, 32, 32, 64), norm_num_groups=32)  # a bare file cannot say others
    written = write(random_vae(toy_vae_config(KIND, **groups)).state_dict(), tmp_path)
    name = f"vae {form}{written.suffix}"
    host.add_model("vae", written, name)
    graph = text_to_video(KIND, steps=1)
    graph["other"] = node("CogVideoXLoadVAE", vae_name=name)
    graph["decode"] = node("CogVideoXVAEDecode", samples=["sampler", 0], vae=["other", 0], tiling="exact")
    graph["frames"] = node("ProbeSaveImages", images=["decode", 0], name="decoded")
    history = host.run(graph)
    z = saved_latent(host, history)
    wanted = load_vae(written, dtype="float32").decode(z)[0] / 2 + 0.5
    assert_parity(saved_tensor(history, "frames"), wanted.clamp(0, 1).permute(1, 2, 3, 0), 1e-5, f"VAE, {form}")


def _t5_file(dtype: torch.dtype) -> Callable[[dict, Path], Path]:
    def write(state: dict, folder: Path) -> Path:
        save_file({key: tensor.to(dtype) for key, tensor in state.items()}, folder / "t5xxl.safetensors")
        return folder / "t5xxl.safetensors"

    return write


# How a T5 is written, and how near its embeddings come to those of the same numbers in float32.
T5_FORMS: dict[str, tuple[Callable[[dict, Path], Path], torch.dtype, float]] = {
    "fp16": (_t5_file(torch.float16), torch.float16, 5e-3),
    "bf16": (_t5_file(torch.bfloat16), torch.bfloat16, 4e-2),
    "fp8": (_t5_file(torch.float8_e4m3fn), torch.float8_e4m3fn, 5e-2),
    "gguf": (true_gguf("F16", gguf_t5_name, arch="t5encoder"), torch.float16, 5e-3),
    "gguf in Q5_K_M": (t5_q5_k_m, torch.float32, 5e-3),
    "SAT with VAE and transformer": (_in_a_fine_tune_of_sat("text_encoder"), torch.float32, 1e-5),
}


@pytest.mark.parametrize("form", T5_FORMS)
def test_a_t5_in_one_file_encodes_as_transformers_does(form: str, host: Host, toys: dict, tmp_path: Path) -> None:
    """With no tokenizer beside it, so with ComfyUI's own."""
    from transformers import T5TokenizerFast  # pyright: ignore[reportAttributeAccessIssue] -- it comes when asked for

    write, dtype, bound = T5_FORMS[form]
    model = random_text_encoder(256 if "_K" in form else 32, vocab_size=32_128)  # rows of whole blocks
    state = {key: tensor for key, tensor in model.state_dict().items() if key != "encoder.embed_tokens.weight"}
    file = write(state, tmp_path)
    host.add_model("text_encoders", file, f"t5 {form}{file.suffix}")
    graph = {**loaders(KIND), "probe": node("ProbeSaveConditioning", conditioning=["positive", 0], name="text")}
    del graph["model"], graph["vae"], graph["negative"]
    graph["t5"]["inputs"]["text_encoder_name"] = f"t5 {form}{file.suffix}"
    found = saved_tensor(host.run(graph), "probe")

    numbers = dequantized(file) if file.suffix == ".gguf" else {}
    for key, parameter in model.named_parameters():
        parameter.copy_(numbers.get(gguf_t5_name(key), parameter.to(dtype)).float())
    tokenizer = T5TokenizerFast.from_pretrained(provision.comfyui() / "comfy" / "text_encoders" / "t5_tokenizer")
    tokens = tokenizer(PROMPT, padding="max_length", max_length=226, return_tensors="pt").input_ids
    with torch.no_grad():
        assert_parity(found, model(tokens).last_hidden_state, bound, f"T5, {form}")


def test_a_folder_that_libraries_quantized_samples_as_in_the_core(host: Host, tmp_path: Path) -> None:
    """The transformer in nf4 and T5 in int8, both by bitsandbytes."""
    folder = make_checkpoint(tmp_path / KIND, KIND)
    files = (
        folder / "transformer" / "diffusion_pytorch_model.safetensors",
        folder / "text_encoder" / "model.safetensors",
    )
    for file, form in zip(files, ("nf4 of bitsandbytes, nested", "int8 of bitsandbytes"), strict=True):
        QUANTIZED[form][0](load_file(file), tmp_path).rename(file)
        config = json.loads((file.parent / "config.json").read_text())
        (file.parent / "config.json").write_text(
            json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}})
        )
    host.add_model("diffusers", folder, "in few bits")
    found = saved_latent(host, host.run(text_to_video("in few bits", steps=STEPS)))
    pipeline = load_pipeline(folder, dtype="float32", device="cpu")
    assert_parity(found, sampled(pipeline), 5e-3, "a quantized folder in the host")


def test_sharded_folders_sample_as_whole_ones_do(host: Host, toys: dict, tmp_path: Path) -> None:
    """Transformer and T5 in three files each, with an index."""
    host.add_model("diffusers", make_checkpoint(tmp_path / KIND, KIND, sharded=True), "in shards")
    whole, sharded = (saved_latent(host, host.run(text_to_video(name, steps=1))) for name in (KIND, "in shards"))
    assert torch.equal(whole, sharded)
