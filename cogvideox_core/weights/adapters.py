"""What adapters make of a tensor of a layer: low-rank and Kronecker products, rotations, magnitudes and others.

An adapter of any kind is a `Delta`: a function from a weight W, or a bias, to the changed one, W'. A strength goes
along the straight line between them, W + strength * (W' - W). Nothing here knows of files: `adapter_kinds.py` does.

Sources: LyCORIS (arXiv 2309.14859) for LoHa, LoKr, GLoRA and the layout of its rotations, DoRA (2402.09353), OFT
(2306.07280), BOFT (2311.06243) and IA3 (2205.05638); LyCORIS' and PEFT's own modules decide in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_AnyDelta = TypeVar("_AnyDelta", bound="Delta")


@dataclass(frozen=True)
class Delta:
    """What an adapter changes of one tensor. Its fields are tensors, numbers, and other deltas."""

    def changed(self, weight: Tensor) -> Tensor:
        """The weight [out, in], [out, in, rows, columns] or [out] with the adapter in it, of the same shape.

        Raises: RuntimeError if the adapter is of another shape.
        """
        raise NotImplementedError

    def fits(self, shape: torch.Size) -> bool:
        """Whether it is for a weight of this shape, tried without numbers. Raises: RuntimeError, too, if it is not."""
        meta = torch.empty(shape, device="meta")
        return self.to(meta.device, meta.dtype).changed(meta).shape == shape

    def at_strength(self, weight: Tensor, strength: float) -> Tensor:
        """Between the weight [...] (0) and the changed one (1), or beyond; both in 32 bits at least."""
        weight = weight if weight.dtype == torch.float64 else weight.float()
        return torch.lerp(weight, self.to(weight.device, weight.dtype).changed(weight), strength)

    def to(self: _AnyDelta, device: torch.device, dtype: torch.dtype) -> _AnyDelta:
        """The same delta with its tensors on a device, in a dtype."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: _moved(part, device, dtype) for name, part in parts.items()})


def _moved(part: Any, device: torch.device, dtype: torch.dtype) -> Any:
    return part.to(device, dtype) if isinstance(part, Tensor | Delta) else part


# --- Sums: W' = W + scale * M ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sum(Delta):
    """W' = W + scale * M, with an M that does not depend on W.

    Attributes:
        scale: what the file says that M is to be multiplied by.
    """

    scale: float = field(default=1.0, kw_only=True)

    def matrix(self) -> Tensor:
        """M: [out, in], or [out, in, rows, columns], or that with its last dimensions flattened."""
        raise NotImplementedError

    def changed(self, weight: Tensor) -> Tensor:
        """The weight [...] plus scale * M."""
        return torch.add(weight, _like(weight, self.matrix()), alpha=self.scale)

    def product(self, layer: nn.Module, x: Tensor) -> Tensor:
        """M x, not scaled: x [..., in] to [..., out], or for a convolution [B, in, H, W] to [B, out, h, w]."""
        return _multiplied(layer, x, self.to(x.device, x.dtype).matrix())


def _multiplied(layer: nn.Module, x: Tensor, matrix: Tensor) -> Tensor:
    """A matrix [out, in] times x [..., in], or [out, in * rows * columns] in the way that a layer convolves."""
    if not isinstance(layer, nn.Conv2d):
        return F.linear(x, matrix.flatten(1))
    return F.conv2d(x, matrix.reshape(-1, layer.in_channels, *layer.kernel_size), stride=layer.stride)  # type: ignore[arg-type]


def _like(weight: Tensor, matrix: Tensor) -> Tensor:
    """A matrix [out, ...] in the shape of a weight [out, ...]; only what lies behind `out` may be flattened."""
    if matrix.shape[:1] != weight.shape[:1]:
        raise RuntimeError(f"a matrix of {list(matrix.shape)} for a weight of {list(weight.shape)}")
    return matrix.reshape(weight.shape)


@dataclass(frozen=True)
class LoRADelta(Sum):
    """LoRA: M = up @ down.

    Attributes:
        down: [r, in]; of a convolution [r, in, rows, columns], its kernel.
        up: [out, r]; of a convolution [out, r, 1, 1].
    """

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        """r, the rank of the product."""
        return self.down.shape[0]

    def fits(self, shape: torch.Size) -> bool:
        """The same by counting: trying takes long for a file with hundreds of them."""
        up, down = self.up.shape, self.down.shape
        if min(len(up), len(down), len(shape)) < 2:
            return False
        return (up[0], up[1:].numel(), down[1:].numel()) == (shape[0], self.rank, shape[1:].numel())

    def matrix(self) -> Tensor:
        """[out, in * rows * columns]."""
        return self.up.flatten(1) @ self.down.flatten(1)

    def product(self, layer: nn.Module, x: Tensor) -> Tensor:
        """up (down x), which takes less than M: x and the result as in `Sum.product`."""
        down, up = (part.to(x.device, x.dtype) for part in (self.down, self.up))
        narrow, up = _multiplied(layer, x, down), up.flatten(1)
        return F.conv2d(narrow, up[..., None, None]) if isinstance(layer, nn.Conv2d) else F.linear(narrow, up)


@dataclass(frozen=True)
class Difference(Sum):
    """M itself, of the shape of the weight or bias."""

    difference: Tensor

    def matrix(self) -> Tensor:
        """[...], as the file has it."""
        return self.difference


@dataclass(frozen=True)
class LoHaDelta(Sum):
    """LoHa: M is the elementwise product of two low-rank matrices, (up1 @ down1) * (up2 @ down2).

    Attributes:
        up1, up2: [out, r].
        down1, down2: [r, in], or [r, in * rows * columns].
    """

    up1: Tensor
    down1: Tensor
    up2: Tensor
    down2: Tensor

    def matrix(self) -> Tensor:
        """[out, in], or [out, in * rows * columns]."""
        return (self.up1 @ self.down1) * (self.up2 @ self.down2)


@dataclass(frozen=True)
class LoKrDelta(Sum):
    """LoKr: M is the Kronecker product of two matrices.

    Attributes:
        left: [a, c].
        right: [b, d], or [b, d, rows, columns], or [b, d * rows * columns], where out = a b and in = c d.
    """

    left: Tensor
    right: Tensor

    def matrix(self) -> Tensor:
        """[a b, c d], with the kernel's dimensions behind them if `right` has them."""
        return torch.einsum("ac,bd...->abcd...", self.left, self.right).flatten(0, 1).flatten(1, 2)


# --- Changes that depend on the weight ------------------------------------------------------------------------------


@dataclass(frozen=True)
class DoRADelta(Delta):
    """DoRA: the weight with another adapter in it, its rows or columns brought to magnitudes that were learned.

    Attributes:
        direction: the other adapter.
        magnitude: [out], or [in] where `axis` is 1.
        axis: 0 if each row has a magnitude, 1 if each column has one.
    """

    direction: Delta
    magnitude: Tensor
    axis: int = 0

    def changed(self, weight: Tensor) -> Tensor:
        """The weight [out, in, ...]: its direction is the adapter's, its norms are the magnitudes."""
        weight = self.direction.changed(weight)
        others = [dim for dim in range(weight.ndim) if dim != self.axis]
        norm = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
        magnitude = _along(self.magnitude, weight, self.axis)
        return weight * (magnitude / norm.clamp_min(torch.finfo(norm.dtype).tiny))


@dataclass(frozen=True)
class GLoRADelta(Delta):
    """GLoRA: W' = W + scale * (W (a1 @ a2) + b1 @ b2).

    Attributes:
        a1, a2: [in, r] and [r, in].
        b1, b2: [out, r] and [r, in], or [r, in * rows * columns].
        scale: what the file says that the change is to be multiplied by.
    """

    a1: Tensor
    a2: Tensor
    b1: Tensor
    b2: Tensor
    scale: float = 1.0

    def changed(self, weight: Tensor) -> Tensor:
        """The weight [out, in, ...]."""
        product = torch.einsum("oi...,ir,rj->oj...", weight, self.a1, self.a2)
        return weight + self.scale * (product + _like(weight, self.b1 @ self.b2))


@dataclass(frozen=True)
class Rotation(Delta):
    """OFT and BOFT: rows or columns of the weight are mixed by orthogonal blocks, in one stage or several.

    Attributes:
        blocks: [stages, n, b, b], each block for b rows; n may be 1 for one block that all share.
        axis: 0 to rotate the rows of W, 1 its columns (with the kernel of a convolution flattened into them).
        is_butterfly: whether a stage mixes rows that are apart, twice as far as those of the stage before.
        rescale: [out], what each row is multiplied by at the end; None for nothing.
    """

    blocks: Tensor
    axis: int = 0
    is_butterfly: bool = False
    rescale: Tensor | None = None

    def changed(self, weight: Tensor) -> Tensor:
        """The weight [out, in, ...]."""
        rows = weight.flatten(1) if self.axis == 0 else weight.flatten(1).t()
        for stage, blocks in enumerate(self.blocks):
            half = blocks.shape[-1] * 2**stage // 2
            rows = _mixed_apart(rows, blocks, half) if self.is_butterfly else _mixed(rows, blocks)
        rotated = _like(weight, rows if self.axis == 0 else rows.t())
        return rotated if self.rescale is None else rotated * _along(self.rescale, weight, 0)


def _mixed_apart(rows: Tensor, blocks: Tensor, half: int) -> Tensor:
    """`_mixed` for rows [n * b, m] in the order in which each stands beside the one `half` behind it."""
    beside = rows.unflatten(0, (-1, 2, half)).transpose(1, 2).flatten(0, 2)
    return _mixed(beside, blocks).unflatten(0, (-1, half, 2)).transpose(1, 2).flatten(0, 2)


def _mixed(rows: Tensor, blocks: Tensor) -> Tensor:
    """Rows [n * b, m], each group of b mixed by its block of [n, b, b], or by the only one of [1, b, b]."""
    size = blocks.shape[-1]
    groups = rows.unflatten(0, (-1, size))
    if blocks.shape[0] not in (1, groups.shape[0]):
        raise RuntimeError(f"{blocks.shape[0]} blocks for {groups.shape[0]} groups of rows")
    return (blocks @ groups).flatten(0, 1)


@dataclass(frozen=True)
class Rescaled(Delta):
    """IA3: rows (axis 0) or columns (axis 1) are multiplied by `factors` [out] or [in]; a bias is a column of rows."""

    factors: Tensor
    axis: int = 0

    def changed(self, weight: Tensor) -> Tensor:
        """The weight [out, in, ...] or bias [out]."""
        return weight * _along(self.factors, weight, self.axis)


@dataclass(frozen=True)
class Replacement(Delta):
    """A whole weight or bias that was trained beside an adapter: `value` in place of what was there."""

    value: Tensor

    def changed(self, weight: Tensor) -> Tensor:
        """`value`, in the shape of the weight [...]."""
        return _like(weight, self.value)


def _along(values: Tensor, weight: Tensor, axis: int) -> Tensor:
    """Values [n] shaped so that they multiply a weight [...] along one of its axes, which must have n entries."""
    if values.numel() != weight.shape[axis]:
        raise RuntimeError(f"{values.numel()} values for an axis of {weight.shape[axis]}")
    return values.view([-1 if dim == axis else 1 for dim in range(weight.ndim)])


# --- Orthogonal matrices --------------------------------------------------------------------------------------------


def skew(matrices: Tensor) -> Tensor:
    """A - A^T of square matrices [..., b, b]."""
    return matrices - matrices.mT


def cayley(skewed: Tensor) -> Tensor:
    """(I + Q) (I - Q)^-1 of skew-symmetric matrices Q [..., b, b]: orthogonal matrices."""
    identity = torch.eye(skewed.shape[-1], dtype=skewed.dtype, device=skewed.device)
    return torch.linalg.solve(identity - skewed, identity + skewed, left=False)


def cayley_series(skewed: Tensor, num_terms: int) -> Tensor:
    """I + 2 Q + 2 Q^2 + ... + Q^n [..., b, b]: `cayley` as a series that ends as PEFT's does.

    The last power counts once. It is the one before `num_terms`, but at least the third; two terms are I + 2 Q.
    """
    power = torch.eye(skewed.shape[-1], dtype=skewed.dtype, device=skewed.device).expand_as(skewed)
    total = power
    last = num_terms - 1 if num_terms < 3 else max(num_terms - 1, 3)
    for exponent in range(1, last + 1):
        power = power @ skewed
        total = total + (1 if exponent == last > 1 else 2) * power
    return total
