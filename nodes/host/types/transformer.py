"""The core's transformer as ComfyUI calls it: its hooks, its attention, its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.ldm.modules.attention as attentions
import comfy.patcher_extension
import torch
from comfy.cli_args import args
from torch import Tensor

from ....cogvideox_core.kernels.cpu_attention import is_default, onednn_attention
from ....cogvideox_core.models.transformer.attention import AttentionFn, values_only
from ....cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from ....cogvideox_core.models.transformer.positions import Positions, Rotary
from .kernel_weights import with_kernel_weights
from .other_nodes import VALUES_ONLY, rotary_axes


class HostTransformer(CogVideoXTransformer3D):
    """Adds what ComfyUI's patches need: wrappers around the forward, block replacement, attention patches."""

    def __init__(self, *, operations: Any, dtype: torch.dtype | None = None, **options: Any) -> None:
        super().__init__(dtype=dtype, operations=with_kernel_weights(operations), **options)
        self.dtype = dtype
        self.in_channels = self.config.in_channels  # which RenormCFG asks for

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(
                f"CogVideoX's transformer has no {name!r}, which a node for another model asked for: take that node out"
            ) from None

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **extra: Any,
    ) -> Tensor:
        """x: [B, in_channels, T, H, W], image latents behind the noisy ones; context: [B, L, text_embed_dim]."""
        transformer_options = transformer_options or {}
        return comfy.patcher_extension.WrapperExecutor.new_class_executor(
            self._forward,
            self,
            comfy.patcher_extension.get_all_wrappers(
                comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, transformer_options
            ),
        ).execute(x, timestep, context, transformer_options, **extra)

    def _forward(
        self, x: Tensor, timestep: Tensor, context: Tensor, transformer_options: dict[str, Any], **extra: Any
    ) -> Tensor:
        options = {**transformer_options, "total_blocks": len(self.transformer_blocks), "block_type": "double"}
        attention = HostAttention(options, text_length=context.shape[1])
        positions = Positions(rotary_axes(options), extra.get("position_table", "trained"))
        return super().forward(x, context, timestep, attention=attention, positions=positions)

    def run_block(
        self,
        index: int,
        video: Tensor,
        text: Tensor,
        temb: Tensor,
        rotary: Rotary | None,
        attention: AttentionFn,
    ) -> tuple[Tensor, Tensor]:
        """Block `index`, or what a patch replaced it with under ("double_block", index); video [B, N, D] and text
        [B, L, D] in and out."""
        assert isinstance(attention, HostAttention)
        options, block = attention.options, self.transformer_blocks[index]
        options["block_index"] = index

        def run(given: dict[str, Any]) -> dict[str, Any]:
            video, text = block(given["img"], given["txt"], given["vec"], given["pe"], attention)
            return {"img": video, "txt": text}

        given = {"img": video, "txt": text, "vec": temb, "pe": rotary, "transformer_options": options}
        replacement = options.get("patches_replace", {}).get("dit", {}).get(("double_block", index))
        out = run(given) if replacement is None else replacement(given, {"original_block": run})
        for patch in options.get("patches", {}).get("double_block", ()):
            out = patch({**out, "x": video, "block_index": index, "transformer_options": options})
        return out["img"], out["txt"]


class HostAttention:
    """ComfyUI's attention of choice, with its patches on the output."""

    def __init__(self, options: dict[str, Any], *, text_length: int) -> None:
        self.options = options
        self.text_length = text_length

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of q, k, v [B, heads, S, d]; returns [B, S, heads * d]."""
        heads, length = q.shape[1], q.shape[2]
        if self.options.get("block_index") in self.options.get(VALUES_ONLY, ()):
            out = values_only(q, k, v)
        else:
            out = _choice(q)(q, k, v, heads, skip_reshape=True, transformer_options=self.options)
        for patch in self.options.get("patches", {}).get("attn1_output_patch", ()):
            out = patch(out, {**self.options, "n_heads": heads, "img_slice": [self.text_length, length]})
        return out


def _choice(q: Tensor) -> Callable[..., Tensor]:
    """ComfyUI's choice of attention, but on a CPU where the user made none.

    There ComfyUI takes sub-quadratic attention, which saves memory on GPUs. On a CPU, oneDNN's products and PyTorch's
    own attention need no more memory and less time (docs/cpu.md). Nothing of ComfyUI is changed: another of its
    functions is called, or one of ours that other packs' overrides act on. With `--use-quad-cross-attention` ComfyUI's
    choice is taken.
    """
    chosen = attentions.optimized_attention
    if q.device.type == "cpu" and chosen is attentions.attention_sub_quad and not args.use_quad_cross_attention:
        return attention_onednn if is_default(q.dtype) else attentions.attention_pytorch
    return chosen


@attentions.wrap_attn
def attention_onednn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """`onednn_attention` under the signature of ComfyUI's attention functions; PyTorch's own where more is asked.

    Args: q, k, v: [B, heads, S, d] with the option `skip_reshape`, else [B, S, heads * d].
    Returns: [B, S, heads * d].
    """
    others = [options.get(name) for name in ("skip_output_reshape", "scale", "enable_gqa")]
    if options.get("skip_reshape") and mask is None and not any(others):
        return onednn_attention(q, k, v)
    return attentions.attention_pytorch(q, k, v, heads, mask, **options)
