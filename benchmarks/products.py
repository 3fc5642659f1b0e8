"""The products inside a computation: what no arrangement of the rest goes below."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from benchmarks.runs import Maker, Run

_aten = torch.ops.aten
_PRODUCTS = {
    getattr(torch.ops.mkldnn, "_linear_pointwise", None),
    _aten.convolution,
    _aten.mkldnn_convolution,
    _aten.mm,
    _aten.addmm,
    _aten.bmm,
    _aten.baddbmm,
    _aten.baddbmm_,
    _aten._addmm_activation,
    _aten._int_mm,
    _aten._scaled_dot_product_flash_attention_for_cpu,
    _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_cudnn_attention,
    _aten._scaled_dot_product_efficient_attention,
}
"""Convolutions, products of matrices, attention."""


class _Products(TorchDispatchMode):
    """Sees which products are computed inside, and can repeat them on random numbers in the same layouts."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[tuple[Any, Any, Any]] = []
        self._numbers: dict[Any, Tensor] = {}

    @property
    def count(self) -> int:
        """How many were seen."""
        return len(self._seen)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _PRODUCTS:
            self._seen.append((func, *tree_map(self._like, (args, kwargs or {}))))
        return func(*args, **(kwargs or {}))

    def _like(self, value: Any) -> Any:
        """Random numbers, the same for every tensor of a layout; what is no tensor stays."""
        if not isinstance(value, Tensor):
            return value
        layout = value.shape, value.stride(), value.dtype
        if layout not in self._numbers:
            like = torch.empty_strided(*layout[:2], dtype=value.dtype, device=value.device)
            self._numbers[layout] = like.normal_() if like.is_floating_point() else like.random_(-127, 128)
        return self._numbers[layout]

    def repeat(self) -> Tensor:
        """All of them, one after the other."""
        for func, args, kwargs in self._seen:
            func(*args, **kwargs)
        return torch.zeros(1)


def products_of(run: Maker, device: torch.device) -> Run:
    """The products of a run and nothing else."""
    with _Products() as seen:
        run(device).call()
    if not seen.count:
        raise ValueError("This run computes no product that is known here.")
    return Run(seen.repeat)
