"""Quantized weights on ComfyUI's layers: in its own formats where it has them, and GGML's blocks as one more.

ComfyUI keeps a quantized weight in its `QuantizedTensor`, which streams, moves between devices and takes LoRAs. A class
that ComfyUI calls a layout says how such a tensor is stored; `BlockLayout` is ours, and decodes with the core's codecs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import comfy.model_management
import comfy.ops
import comfy.quant_ops
import torch
from torch import Tensor, nn

from ....cogvideox_core.weights.codecs import CODECS
from ....cogvideox_core.weights.dtypes import weights_dtype
from ....cogvideox_core.weights.fill import check_fit
from ....cogvideox_core.weights.packed_weight import PackedWeight, is_quantizable

_BLOCKS = "CogVideoXBlocks"
# ComfyUI's names of the formats it computes in by itself.
_NATIVE = {"int8": "int8_tensorwise", "fp8": "float8_e4m3fn"}


def holds_packed_weights(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether any weight [...] is quantized."""
    return any(isinstance(tensor, PackedWeight) for tensor in state_dict.values())


def operations_for(compute_dtype: torch.dtype, *, weights_only: bool = False) -> Any:
    """ComfyUI's layers for quantized and ordinary weights.

    Args:
        compute_dtype: what ordinary weights are kept in, and quantized ones decoded to.
        weights_only: decode weights and never round activations, also where the device multiplies in 8 bits.
    Raises: ValueError if the package that ComfyUI keeps quantized weights with is missing.
    """
    _block_layout()  # registered before the first layer is filled
    mixed = comfy.ops.mixed_precision_ops(
        {"mixed_ops": True}, compute_dtype, full_precision_mm=weights_only, disabled=_emulated()
    )

    class Operations(mixed):
        class Linear(mixed.Linear):
            def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", **options: Any) -> Any:
                if not is_block_tensor(getattr(self, "weight", None)):
                    return super().state_dict(*args, destination=destination, prefix=prefix, **options)
                found = {} if destination is None else destination
                found[f"{prefix}weight"] = self.weight
                if self.bias is not None:
                    found[f"{prefix}bias"] = self.bias
                return found

    return Operations


def _emulated() -> set[str]:
    """Formats this device does not multiply in, which ComfyUI then decodes."""
    mm = comfy.model_management
    return set() if mm.supports_fp8_compute(mm.get_torch_device()) else {"float8_e4m3fn", "float8_e5m2"}


def fill_packed(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None,
    device: torch.device,
    source: str | Path,
    like: nn.Module,
) -> None:
    """Give a module of `operations_for` its weights, matrices [rows, columns] and vectors [D].

    Arguments and errors are those of the core's `fill`.
    """
    check_fit(like, state_dict, source)
    dtype = weights_dtype(state_dict, dtype, source)
    linear = {name for name, part in like.named_modules() if isinstance(part, nn.Linear)}
    tensors: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        if not isinstance(tensor, PackedWeight):
            tensors[key] = tensor.to(device=device, dtype=dtype)
        elif key.removesuffix(".weight") in linear:
            tensors |= _host_parts(key, cast(PackedWeight, tensor.to(device=device, dtype=dtype)))
        else:
            tensors[key] = cast(PackedWeight, tensor.to(device)).dequantize(dtype)
    module.load_state_dict(tensors, assign=True)
    module.requires_grad_(False).eval()


def _host_parts(key: str, tensor: PackedWeight) -> dict[str, Tensor]:
    """What ComfyUI's layers take for a quantized matrix."""
    data = tensor.stored["data"]
    if tensor.codec not in _NATIVE:
        params = _block_layout().Params(None, tensor.dtype, tuple(tensor.shape), tensor.codec)
        quantized: Any = comfy.quant_ops.QuantizedTensor
        return {key: quantized(data, _BLOCKS, params)}
    name = str(data.dtype).removeprefix("torch.") if tensor.codec == "fp8" else _NATIVE[tensor.codec]
    note: dict[str, Any] = {"format": name}
    if tensor.codec == "fp8" or not is_quantizable(key):
        note["full_precision_matrix_mult"] = True  # 8-bit activations would cost more than the weights did
    scale = tensor.stored.get("scale", torch.ones((), device=data.device)).float()
    module = key.removesuffix(".weight")
    return {
        key: data,
        f"{module}.weight_scale": scale,
        f"{module}.comfy_quant": _as_note(note),
    }


def _as_note(note: Mapping[str, Any]) -> Tensor:
    return torch.tensor(list(json.dumps(note).encode()), dtype=torch.uint8)


def is_block_tensor(tensor: Any) -> bool:
    """Whether a layer's weight is stored in GGML's blocks."""
    return isinstance(tensor, comfy.quant_ops.QuantizedTensor) and getattr(tensor, "_layout_cls", None) == _BLOCKS


def stored_blocks(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict to save: blocks under the keys that say so, bitsandbytes' as int8, everything else as it is.

    The scales of int8 are [rows, 1].
    """
    saved: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        module, _, leaf = key.rpartition(".")
        if leaf == "weight_format":
            continue
        if leaf == "SCB":  # the largest absolute value of each row, which bitsandbytes stores as 127
            saved[f"{module}.weight_scale"] = tensor.float().reshape(-1, 1) / 127
            saved[f"{module}.comfy_quant"] = _as_note({"format": _NATIVE["int8"]})
        elif is_block_tensor(tensor):
            blocks: Any = tensor
            saved[f"{key.removesuffix('.weight')}.{blocks._params.codec}_qweight"] = blocks._qdata
        else:
            saved[key] = tensor
    return saved


@lru_cache(maxsize=1)
def _block_layout() -> Any:
    """Our layout, registered with ComfyUI's package for quantized tensors. Raises: ValueError without that package."""
    try:
        from comfy_kitchen.tensor import BaseLayoutParams, QuantizedLayout, register_layout_class
    except ImportError as error:
        raise ValueError(
            f"quantized weights need the package comfy-kitchen ({error}); install ComfyUI's requirements.txt, or take "
            "the 16-bit weights"
        ) from error

    @dataclass(frozen=True)
    class BlockParams(BaseLayoutParams):
        """`scale` is None: the scales are inside the blocks."""

        codec: str = ""

        def _tensor_fields(self) -> list[str]:
            return []

    class BlockLayout(QuantizedLayout):
        """Rows of blocks, as `codecs` describes them."""

        Params = BlockParams

        @classmethod
        def quantize(cls, tensor: Tensor, **options: Any) -> Any:
            raise NotImplementedError("blocks are read and not written here; convert the file instead")

        @classmethod
        def dequantize(cls, qdata: Tensor, params: Any) -> Tensor:
            return CODECS[params.codec].decode({"data": qdata}).to(params.orig_dtype)

        @classmethod
        def get_plain_tensors(cls, qtensor: Any) -> tuple[Tensor, ...]:
            return (qtensor._qdata,)

        @classmethod
        def state_dict_tensors(cls, qdata: Tensor, params: Any) -> dict[str, Tensor]:
            return {f".{params.codec}_qweight": qdata}

    register_layout_class(_BLOCKS, BlockLayout)
    return BlockLayout
