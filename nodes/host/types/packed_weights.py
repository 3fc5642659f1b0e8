"""Quantized weights on ComfyUI's layers: in its own formats where it has them, and all of the core's as one more.

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

from ....cogvideox_core.kernels.int8 import multiplies_int8
from ....cogvideox_core.weights.codecs import CODECS, FOUR_BITS, GGML, Stored
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
    device = mm.get_torch_device()
    found = set() if mm.supports_fp8_compute(device) else {"float8_e4m3fn", "float8_e5m2"}
    return found if multiplies_int8(device) else found | {_NATIVE["int8"]}


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
    assert tensor.stored.keys() <= {"data", "scale"}, "a part that no layout here would carry"
    data, scale = tensor.stored["data"], tensor.stored.get("scale")
    if not _is_native(tensor):
        params = _block_layout().Params(scale, tensor.dtype, tuple(tensor.shape), tensor.codec)
        quantized: Any = comfy.quant_ops.QuantizedTensor
        return {key: quantized(data, _BLOCKS, params)}
    name = _dtype_name(data) if tensor.codec == "fp8" else _NATIVE[tensor.codec]
    note: dict[str, Any] = {"format": name}
    if tensor.codec == "fp8" or not is_quantizable(key):
        note["full_precision_matrix_mult"] = True  # 8-bit activations would cost more than the weights did
    scale = torch.ones((), device=data.device) if scale is None else scale
    module = key.removesuffix(".weight")
    return {
        key: data,
        f"{module}.weight_scale": scale.float(),
        f"{module}.comfy_quant": _as_note(note),
    }


def _is_native(tensor: PackedWeight) -> bool:
    """Whether ComfyUI computes in a format by itself. Its fp8 has one scale for a whole matrix."""
    scale = tensor.stored.get("scale")
    return tensor.codec in _NATIVE and (tensor.codec != "fp8" or scale is None or scale.ndim == 0)


def _as_note(note: Mapping[str, Any]) -> Tensor:
    return torch.tensor(list(json.dumps(note).encode()), dtype=torch.uint8)


def is_block_tensor(tensor: Any) -> bool:
    """Whether a layer's weight is in our layout."""
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
            saved |= _stored_parts(key, tensor)
        else:
            saved[key] = tensor
    return saved


def _stored_parts(key: str, tensor: Any) -> dict[str, Tensor]:
    """The tensors of a file for a weight in our layout, under the names that the core reads."""
    data, scale, codec = tensor._qdata, tensor._params.scale, tensor._params.codec
    module = key.removesuffix(".weight")
    if codec in GGML:
        return {f"{module}.{codec}_qweight": data}
    if codec not in FOUR_BITS:
        return {key: data, f"{module}.weight_scale": scale}
    rows, columns = tensor.shape
    note = {"quant_type": codec, "blocksize": columns // scale.shape[1], "dtype": _dtype_name(tensor)}
    return {  # as bitsandbytes saves it
        key: data.reshape(-1, 1),
        f"{key}.absmax": scale.reshape(-1),
        f"{key}.quant_map": torch.tensor(FOUR_BITS[codec]),
        f"{key}.quant_state.bitsandbytes__{codec}": _as_note(note | {"shape": [rows, columns]}),
    }


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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
        """`scale` is None where the scales are inside the blocks."""

        codec: str = ""

        def _tensor_fields(self) -> list[str]:
            return [] if self.scale is None else ["scale"]

        def stored(self, data: Tensor) -> Stored:
            """The parts that the codec decodes, of any shapes [...]."""
            return {"data": data} if self.scale is None else {"data": data, "scale": self.scale}

    class BlockLayout(QuantizedLayout):
        """What a codec stores, as `codecs` describes it."""

        Params = BlockParams

        @classmethod
        def quantize(cls, tensor: Tensor, **options: Any) -> Any:
            raise NotImplementedError("these formats are read and not written here; convert the file instead")

        @classmethod
        def dequantize(cls, qdata: Tensor, params: Any) -> Tensor:
            return CODECS[params.codec].decode(params.stored(qdata)).to(params.orig_dtype)

        @classmethod
        def get_plain_tensors(cls, qtensor: Any) -> tuple[Tensor, ...]:
            return tuple(qtensor._params.stored(qtensor._qdata).values())

        @classmethod
        def state_dict_tensors(cls, qdata: Tensor, params: Any) -> dict[str, Tensor]:
            return {f".{name}": part for name, part in params.stored(qdata).items()}

    register_layout_class(_BLOCKS, BlockLayout)
    return BlockLayout
