"""Adapters that their own libraries make on a transformer of diffusers, LyCORIS and PEFT: files, and what they compute.

A row of FORMS makes an adapted transformer and writes its file; the adapted transformer itself is the judge of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.support.checkpoints import random_transformer, toy_transformer_config

TARGETS = ["to_q", "to_v", "to_out.0", "ff.net.0.proj", "norm1.linear"]
WITH_CONVOLUTION = ["to_q", "proj"]
CONFIG = toy_transformer_config("CogVideoX-2B", text_embed_dim=64, max_text_seq_length=7)


class Adapted(NamedTuple):
    """A transformer of diffusers with an adapter, and the file or folder that the adapter's library wrote."""

    model: nn.Module
    path: Path

    def __call__(self) -> Tensor:
        """What it predicts for `inputs`: [2, 16, 4, 6, 8]."""
        latents, prompt, timestep = inputs()
        with torch.no_grad():
            return self.model(latents.transpose(1, 2), prompt, timestep).sample.transpose(1, 2)


Maker = Callable[[CogVideoXTransformer3DModel, Path], Adapted]
"""Puts an adapter on a transformer and writes it into a new folder."""


class Form(NamedTuple):
    """A maker, and what the report says of its file."""

    make: Maker
    report: str


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Latents [2, 16, 4, 6, 8], prompt embeddings [2, 7, 64] and timesteps [2]."""
    generator = torch.Generator().manual_seed(5)
    latents, prompt = torch.randn(2, 16, 4, 6, 8, generator=generator), torch.randn(2, 7, 64, generator=generator)
    return latents, prompt, torch.tensor([300, 900])


def base() -> CogVideoXTransformer3DModel:
    """The transformer that the tests' adapters are made for."""
    return random_transformer(CONFIG)


def peft(kind: str, *, spread: float = 0.1, **options: Any) -> Maker:
    """PEFT: the name of the configuration's class, and what it is given."""

    def make(model: CogVideoXTransformer3DModel, folder: Path) -> Adapted:
        import peft
        import peft.tuners.boft.layer as boft

        boft.get_fbd_cuda = lambda: None  # PEFT would compile a kernel first
        torch.manual_seed(0)
        adapted = peft.get_peft_model(model, getattr(peft, kind)(**{"target_modules": TARGETS, **options}))  # type: ignore[arg-type]
        _spread(filter(lambda part: part.requires_grad, adapted.parameters()), spread)
        adapted.save_pretrained(str(folder))
        return Adapted(adapted.eval(), folder)

    return make


def lycoris(algo: str, *, spread: float = 0.1, multiplier: float = 1.0, **options: Any) -> Maker:
    """LyCORIS: what `create_lycoris` is given, for all layers of the transformer."""

    def make(model: CogVideoXTransformer3DModel, folder: Path) -> Adapted:
        library = pytest.importorskip("lycoris")
        torch.manual_seed(0)
        options_ = {"linear_dim": 4, "linear_alpha": 2, **options}
        network = library.create_lycoris(model, multiplier, algo=algo, **options_)
        network.apply_to()
        _spread(network.eval().parameters(), spread)
        folder.mkdir()
        tensors = {key: tensor.detach().clone().contiguous() for key, tensor in network.state_dict().items()}
        save_file(tensors, folder / "lycoris.safetensors")
        return Adapted(model, folder / "lycoris.safetensors")

    return make


def _spread(parameters: Iterable[Tensor], spread: float) -> None:
    """Add random numbers to what each parameter holds, so that nothing stays at a convenient zero or one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))


_BY_CONFIG = "at scale 0.5 (alpha 2, rank 4, by adapter_config.json)"
_BY_ALPHA = "at scale 0.5 (alpha 2, rank 4)"
_NONE = "without a scale"
_LORA: dict[str, Any] = {"r": 4, "lora_alpha": 2, "init_lora_weights": False}
_RANK_4: dict[str, Any] = {"r": 4, "alpha": 2}
_KERNEL: dict[str, Any] = {"use_effective_conv2d": True, "target_modules": WITH_CONVOLUTION}

PEFT_FORMS: dict[str, Form] = {
    "LoRA": Form(peft("LoraConfig", **_LORA), f"LoRA {_BY_CONFIG}"),
    "LoRA with lora_bias": Form(peft("LoraConfig", **_LORA, lora_bias=True), f"LoRA {_BY_CONFIG}"),
    "LoRA with all biases": Form(peft("LoraConfig", **_LORA, bias="all"), f"biases and LoRA {_BY_CONFIG}"),
    "LoRA and whole modules": Form(
        peft("LoraConfig", **_LORA, modules_to_save=["norm_out", "norm_q"]), f"whole weights and LoRA {_BY_CONFIG}"
    ),
    "DoRA": Form(peft("LoraConfig", **_LORA, use_dora=True), f"DoRA {_BY_CONFIG}"),
    "DoRA of a convolution": Form(
        peft("LoraConfig", **_LORA, use_dora=True, target_modules=WITH_CONVOLUTION), f"DoRA {_BY_CONFIG}"
    ),
    "LoKr": Form(peft("LoKrConfig", **_RANK_4), f"LoKr {_BY_CONFIG}"),
    "LoKr of whole matrices": Form(
        peft("LoKrConfig", r=64, alpha=32), "LoKr at scale 0.5 (alpha 32, rank 64, by adapter_config.json)"
    ),
    "LoKr of a convolution": Form(
        peft("LoKrConfig", r=2, alpha=1, decompose_both=True, decompose_factor=8, spread=0.2, **_KERNEL),
        "LoKr at scale 0.5 (alpha 1, rank 2, by adapter_config.json)",
    ),
    "LoHa": Form(peft("LoHaConfig", spread=0.3, **_RANK_4), f"LoHa {_BY_CONFIG}"),
    "LoHa of a convolution": Form(peft("LoHaConfig", spread=0.3, **_RANK_4, **_KERNEL), f"LoHa {_BY_CONFIG}"),
    "OFT": Form(peft("OFTConfig", oft_block_size=8), f"OFT {_NONE}"),
    "OFT, solved": Form(peft("OFTConfig", oft_block_size=8, use_cayley_neumann=False), f"OFT {_NONE}"),
    "OFT of two terms": Form(peft("OFTConfig", oft_block_size=8, num_cayley_neumann_terms=2), f"OFT {_NONE}"),
    "OFT of seven terms": Form(peft("OFTConfig", oft_block_size=8, num_cayley_neumann_terms=7), f"OFT {_NONE}"),
    "OFT, shared": Form(peft("OFTConfig", oft_block_size=8, block_share=True), f"OFT {_NONE}"),
    "OFT, constrained": Form(peft("OFTConfig", oft_block_size=8, coft=True, eps=0.3), f"OFT {_NONE}"),
    "BOFT": Form(peft("BOFTConfig", boft_block_size=8, boft_n_butterfly_factor=1), f"BOFT {_NONE}"),
    "IA3": Form(
        peft("IA3Config", target_modules=["to_q", "ff.net.2"], feedforward_modules=["ff.net.2"]), f"IA3 {_NONE}"
    ),
}
LYCORIS_FORMS: dict[str, Form] = {
    "LoRA": Form(lycoris("lora"), f"LoRA {_BY_ALPHA}"),
    "LoRA in three": Form(lycoris("lora", use_tucker=True), f"LoRA {_BY_ALPHA}"),
    "LoRA and norms": Form(lycoris("lora", train_norm=True), f"differences and LoRA {_BY_ALPHA}"),
    "DoRA": Form(lycoris("lora", dora_wd=True), f"DoRA {_BY_ALPHA}"),
    "DoRA of columns": Form(lycoris("lora", dora_wd=True, wd_on_output=False), f"DoRA {_BY_ALPHA}"),
    "LoHa": Form(lycoris("loha"), f"LoHa {_BY_ALPHA}"),
    "LoHa in three": Form(lycoris("loha", use_tucker=True), f"LoHa {_BY_ALPHA}"),
    "LoHa with DoRA": Form(lycoris("loha", dora_wd=True), f"LoHa with DoRA {_BY_ALPHA}"),
    "LoKr": Form(lycoris("lokr", factor=4), f"LoKr {_BY_ALPHA}"),
    "LoKr of two times two": Form(
        lycoris("lokr", factor=8, decompose_both=True, linear_dim=2), "LoKr at scale 1 (alpha 2, rank 2)"
    ),
    "LoKr of whole matrices": Form(lycoris("lokr", full_matrix=True), "LoKr at scale 1 (whole matrices)"),
    "LoKr in three": Form(lycoris("lokr", use_tucker=True, linear_dim=1), "LoKr at scale 2 (alpha 2, rank 1)"),
    "LoKr with DoRA": Form(lycoris("lokr", factor=4, dora_wd=True), f"LoKr with DoRA {_BY_ALPHA}"),
    "GLoRA": Form(lycoris("glora"), f"GLoRA {_BY_ALPHA}"),
    "differences": Form(lycoris("full", spread=0.02), f"differences {_NONE}"),
    "OFT": Form(lycoris("diag-oft", linear_dim=8), f"OFT {_NONE}"),
    "OFT, rescaled": Form(lycoris("diag-oft", linear_dim=8, rescaled=True, constraint=0.01), f"OFT {_NONE}"),
    "BOFT": Form(lycoris("boft", linear_dim=8), f"OFT {_NONE}"),
    "BOFT, rescaled": Form(lycoris("boft", linear_dim=8, rescaled=True, constraint=0.002), f"OFT {_NONE}"),
    "IA3": Form(lycoris("ia3"), f"IA3 {_NONE}"),
}
FORMS: dict[str, Form] = {
    **{f"{name}, PEFT": form for name, form in PEFT_FORMS.items()},
    **{f"{name}, LyCORIS": form for name, form in LYCORIS_FORMS.items()},
}
