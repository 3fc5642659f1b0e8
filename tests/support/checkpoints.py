"""Toy CogVideoX checkpoints in the official folder layout, written by diffusers and transformers themselves.

A toy has the flags of the model it stands for and random weights of a few hundred thousand numbers. Every weight is
drawn, none is left at a convenient one or zero, so that a norm without its bias or a table never added shows up.

    python tests/support/checkpoints.py FOLDER KIND [--seed 0] [--dtype float32] [--sharded] [--text-width 4096]
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from cogvideox_core.training.tokenizer import train_tokenizer


@dataclass(frozen=True)
class Official:
    """The published JSON of one model: what its files say, not what our table says."""

    pipeline: str
    transformer: dict[str, Any]
    vae: dict[str, Any]
    scheduler: dict[str, Any]


# --- The published configurations -----------------------------------------------------------------------------------
# Source: the config.json files on the hub as quoted by diffusers' scripts/convert_cogvideox_to_diffusers.py and by
# copies of the repositories. `patch_bias: false` of 1.5 is in the files, though the weights do have that bias.

_TRANSFORMER = dict(
    attention_head_dim=64,
    num_attention_heads=48,
    num_layers=42,
    in_channels=16,
    out_channels=16,
    time_embed_dim=512,
    text_embed_dim=4096,
    max_text_seq_length=226,
    patch_size=2,
    sample_height=60,
    sample_width=90,
    sample_frames=49,
    temporal_compression_ratio=4,
    spatial_interpolation_scale=1.875,
    temporal_interpolation_scale=1.0,
    use_rotary_positional_embeddings=True,
)
_TRANSFORMER_15 = _TRANSFORMER | dict(
    patch_size_t=2, patch_bias=False, sample_height=300, sample_width=300, sample_frames=81
)
_VAE = dict(
    block_out_channels=(128, 256, 256, 512),
    layers_per_block=3,
    latent_channels=16,
    norm_num_groups=32,
    norm_eps=1e-6,
    sample_height=480,
    sample_width=720,
    scaling_factor=0.7,
)
_SCHEDULER = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    snr_shift_scale=1.0,
    set_alpha_to_one=True,
    steps_offset=0,
    clip_sample=False,
    clip_sample_range=1.0,
    sample_max_value=1.0,
    timestep_spacing="trailing",
)

OFFICIAL: dict[str, Official] = {
    "CogVideoX-2B": Official(
        "CogVideoXPipeline",
        _TRANSFORMER | dict(num_attention_heads=30, num_layers=30, use_rotary_positional_embeddings=False),
        _VAE | dict(scaling_factor=1.15258426),
        _SCHEDULER | dict(snr_shift_scale=3.0),
    ),
    "CogVideoX-5B": Official("CogVideoXPipeline", _TRANSFORMER, _VAE, _SCHEDULER),
    "CogVideoX-5B-I2V": Official(
        "CogVideoXImageToVideoPipeline",
        _TRANSFORMER | dict(in_channels=32, use_learned_positional_embeddings=True),
        _VAE,
        _SCHEDULER,
    ),
    "CogVideoX1.5-5B": Official(
        "CogVideoXPipeline", _TRANSFORMER_15, _VAE | dict(invert_scale_latents=True), _SCHEDULER
    ),
    "CogVideoX1.5-5B-I2V": Official(
        "CogVideoXImageToVideoPipeline",
        _TRANSFORMER_15 | dict(in_channels=32, ofs_embed_dim=512),
        _VAE | dict(invert_scale_latents=True),
        _SCHEDULER,
    ),
}

# --- What makes them small ------------------------------------------------------------------------------------------

TOY_TRANSFORMER = dict(num_layers=2, num_attention_heads=2, time_embed_dim=64)
TOY_TABLE = dict(sample_height=8, sample_width=12, sample_frames=17)  # where a stored table would be 17,776 rows
TOY_VAE = dict(block_out_channels=(16, 32, 32, 64), layers_per_block=1, norm_num_groups=8)
TOY_TEXT_WIDTH = 32

_SENTENCES = (
    "a red circle moves to the right on a blue background",
    "a green square bounces up and down in front of a grey wall",
    "the camera pans slowly over a forest at dawn, with mist between the trees",
    "a cat walks along a wooden fence while birds fly across the sky",
    "waves break on a rocky shore; two gulls circle above the harbour",
    "an old man plays the violin in a busy street, and nobody stops to listen",
)


def toy_transformer_config(kind: str, *, text_width: int = TOY_TEXT_WIDTH, **changes: Any) -> dict[str, Any]:
    """The published transformer configuration of `kind`, narrowed to a toy; `changes` have the last word."""
    config = OFFICIAL[kind].transformer | TOY_TRANSFORMER | dict(text_embed_dim=text_width)
    if config.get("use_learned_positional_embeddings"):
        config |= TOY_TABLE
    if config.get("ofs_embed_dim"):
        config |= dict(ofs_embed_dim=config["time_embed_dim"])  # both are added, so they are equally wide
    return config | changes


def toy_vae_config(kind: str, **changes: Any) -> dict[str, Any]:
    """The published VAE configuration of `kind`, narrowed to a toy; `changes` have the last word."""
    return OFFICIAL[kind].vae | TOY_VAE | changes


def random_transformer(config: dict[str, Any], *, seed: int = 0) -> CogVideoXTransformer3DModel:
    """diffusers' transformer with every weight drawn, in float32, ready to run."""
    return _randomised(CogVideoXTransformer3DModel(**config), seed)


def random_vae(config: dict[str, Any], *, seed: int = 0) -> AutoencoderKLCogVideoX:
    """diffusers' VAE with every weight drawn, in float32, ready to run."""
    return _randomised(AutoencoderKLCogVideoX(**config), seed)


def random_text_encoder(text_width: int = TOY_TEXT_WIDTH, *, vocab_size: int = 256, seed: int = 0) -> T5EncoderModel:
    """transformers' T5 encoder, two layers of the v1.1 kind, with every weight drawn."""
    settings: Any = T5Config  # whose arguments are those of its parents too
    config = settings(
        vocab_size=vocab_size,
        d_model=text_width,
        num_heads=2,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        is_encoder_decoder=False,
        use_cache=False,
        pad_token_id=0,
        eos_token_id=1,
    )
    return _randomised(T5EncoderModel(config), seed)


def whole_model(kind: str = "CogVideoX1.5-5B-I2V") -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a toy transformer, VAE and T5 whose shapes show all that a config.json would say of their build.

    The T5 has its embedding under both keys, as transformers' state dict has it.
    """
    transformer = random_transformer(toy_transformer_config(kind, text_width=64))
    vae = random_vae(toy_vae_config(kind, block_out_channels=(32, 32, 64, 64), norm_num_groups=32))
    return _cloned(transformer), _cloned(vae), _cloned(random_text_encoder(64))


def _cloned(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def make_checkpoint(
    folder: Path | str,
    kind: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    sharded: bool = False,
    text_width: int = TOY_TEXT_WIDTH,
    transformer: dict[str, Any] | None = None,
    vae: dict[str, Any] | None = None,
) -> Path:
    """Write a whole toy checkpoint: model_index.json, scheduler, text_encoder, tokenizer, transformer, vae.

    Args:
        folder: made if missing; what lies there is overwritten.
        kind: a key of OFFICIAL, the same as in `cogvideox_core.models.variants.VARIANTS`.
        sharded: split transformer and text encoder over several files with an index, as the 5B models are.
        text_width: width of the prompt embeddings; the official one is 4096.
        transformer, vae: configuration values to set on top of the toy ones.
    Returns: folder.
    """
    folder = Path(folder)
    official = OFFICIAL[kind]
    transformer_config = toy_transformer_config(kind, text_width=text_width, **(transformer or {}))
    seeds = {part: seed + zlib.crc32(f"{kind}/{part}".encode()) for part in ("transformer", "vae", "text_encoder")}
    models = {
        "transformer": random_transformer(transformer_config, seed=seeds["transformer"]),
        "vae": random_vae(toy_vae_config(kind, **(vae or {})), seed=seeds["vae"]),
        "text_encoder": random_text_encoder(text_width, seed=seeds["text_encoder"]),
    }
    with _quiet():
        for name, model in models.items():
            parts = 3 if sharded and name != "vae" else 1
            nn.Module.to(model, dtype)  # diffusers' own `to` warns about casting
            model.save_pretrained(folder / name, max_shard_size=_shard_size(model, parts))
        CogVideoXDDIMScheduler(**official.scheduler).save_pretrained(folder / "scheduler")
    train_tokenizer(_SENTENCES, folder / "tokenizer", 140, transformer_config["max_text_seq_length"])
    _write_json(folder / "model_index.json", _model_index(official.pipeline))
    return folder


def _randomised(model: Any, seed: int) -> Any:
    """Draw every tensor of the state dict: norms around one, biases and tables around zero, the rest by fan-in."""
    generator = torch.Generator().manual_seed(seed)
    norms = {name for name, module in model.named_modules() if _is_norm(module)}
    for name, tensor in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        noise = torch.randn(tensor.shape, generator=generator)
        with torch.no_grad():
            tensor.copy_(_gain(owner) * _draw(owner, leaf, noise, is_norm=owner in norms))
    return model.eval().requires_grad_(False)


def _draw(owner: str, leaf: str, noise: Tensor, *, is_norm: bool) -> Tensor:
    if is_norm:
        return 1 + 0.3 * noise if leaf == "weight" else 0.3 * noise
    if leaf == "bias":
        # conv_y of a spatial norm is what that norm multiplies by; around zero it would switch whole channels off.
        return 0.3 * noise + (1.0 if owner.endswith("conv_y.conv") else 0.0)
    if owner.endswith(("shared", "embed_tokens", "relative_attention_bias")) or leaf == "pos_embedding":
        return noise
    if owner.endswith("SelfAttention.q"):
        return noise / math.sqrt(noise.shape[1] * 16)  # T5 does not scale its attention
    return noise / math.sqrt(noise[0].numel())


def _gain(owner: str) -> float:
    """The last convolution is kept small, so that videos lie mostly within -1 to 1 and clamping hides little."""
    return 0.15 if owner == "decoder.conv_out.conv" else 1.0


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm | nn.GroupNorm) or type(module).__name__ == "T5LayerNorm"


def _shard_size(model: nn.Module, parts: int) -> int:
    total = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return total // parts + 1 if parts > 1 else 2 * total


def _model_index(pipeline: str) -> dict[str, Any]:
    return {
        "_class_name": pipeline,
        "_diffusers_version": "0.30.0",
        "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Saving is no news; transformers shows a progress bar for it all the same."""
    from transformers.utils import logging as transformers_logging

    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a toy CogVideoX checkpoint with random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", choices=OFFICIAL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--sharded", action="store_true", help="split transformer and text encoder over several files")
    parser.add_argument("--text-width", type=int, default=TOY_TEXT_WIDTH, help="4096 in the official models")
    options = vars(parser.parse_args(arguments))
    make_checkpoint(**options | {"dtype": getattr(torch, options["dtype"])})
    print(f"{options['kind']} written to {options['folder']}")


if __name__ == "__main__":
    main()
