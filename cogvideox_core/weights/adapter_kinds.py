"""The kinds of adapters as rows: which parts of a file make one, and what is made of them.

A new kind is a row of KINDS, and its parts' endings in `adapter_names.ENDINGS`. The first row that knows all parts of a
layer is taken. Parts that no row knows together are refused, because without one of them it is another adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .adapter_scales import Scale
from .adapters import (
    Delta,
    Difference,
    DoRADelta,
    GLoRADelta,
    LoHaDelta,
    LoKrDelta,
    LoRADelta,
    Replacement,
    Rescaled,
    Rotation,
    cayley,
    cayley_series,
    skew,
)


class NotRead(ValueError):
    """A form of an adapter that is not read; the message names it."""


@dataclass
class Parts:
    """The parts of one layer's adapter.

    Attributes:
        tensors: by the names of the parts, as the file has them.
        alpha: the file's alpha; None without one.
        settings: what PEFT's configuration says.
        scales: gives the scale for a rank, or for None where there are whole matrices.
        scale: the one that was taken; None for kinds without one.
    """

    tensors: Mapping[str, Tensor]
    alpha: float | None
    settings: Mapping[str, Any]
    scales: Callable[[int | None], Scale]
    scale: Scale | None = None

    def __getitem__(self, part: str) -> Tensor:
        """A part in 32 bits, as [...] in the file. Raises: KeyError if it is missing."""
        return self.tensors[part].float()

    def get(self, part: str) -> Tensor | None:
        """The same; None if it is missing."""
        return self[part] if part in self.tensors else None

    def scaled_by(self, rank: int | None) -> float:
        """The scale of an adapter of that rank, which is noted. Raises: RuntimeError if it is no rank."""
        if rank == 0:
            raise RuntimeError("rank 0")
        self.scale = self.scales(rank)
        return self.scale.value


Build = Callable[[Parts], Delta]
"""Makes a delta of parts. Raises: KeyError for a missing part, RuntimeError if they do not fit each other, NotRead."""


class Kind(NamedTuple):
    """A kind of adapter.

    Attributes:
        name: what people call it.
        parts: what it may be made of.
        build: makes the delta of the weight.
        of_bias: makes what the same parts change of the bias, or None.
    """

    name: str
    parts: Iterable[str]
    build: Build
    of_bias: Callable[[Parts], Delta | None] = lambda parts: None


class LayerAdapter(NamedTuple):
    """What a file has for one layer.

    Attributes:
        kind: what people call it.
        weight, bias: what it changes of them; None for nothing.
        scale: what it is multiplied by, already in `weight` and `bias`; None for kinds without one.
    """

    kind: str
    weight: Delta | None
    bias: Delta | None
    scale: Scale | None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it is for a weight of this shape. Raises: RuntimeError, too, if it is not."""
        sizes = ((self.weight, torch.Size(shape)), (self.bias, torch.Size(shape[:1])))
        fitting = [delta.fits(size) for delta, size in sizes if delta]
        return bool(fitting) and all(fitting)


def kind_of(names: Iterable[str]) -> Kind | None:
    """The kind that knows all these parts; None if none does."""
    return next((kind for kind in KINDS if set(names) <= set(kind.parts)), None)


def build(parts: Parts) -> LayerAdapter:
    """What the parts of a layer make. Raises: as `Build`; NotRead, too, for parts that no kind has together."""
    of_bias = parts.tensors.keys() & BIASES.keys()
    names = parts.tensors.keys() - of_bias
    kind = kind_of(names)
    if kind is None or len(of_bias) > 1:
        unknown = names - set().union(*(kind.parts for kind in KINDS))
        raise NotRead(" with ".join(sorted(unknown or parts.tensors)))
    weight = kind.build(parts) if names else None
    bias = BIASES[of_bias.pop()](parts) if of_bias else kind.of_bias(parts)
    return LayerAdapter(kind.name if names else "biases", weight, bias, parts.scale)


# --- Sums -----------------------------------------------------------------------------------------------------------


def _lora(parts: Parts) -> Delta:
    """down [r, in, ...] and up [out, r, ...], in the file's numbers; with a mid [r, r, rows, columns], of a convolution
    that was taken apart in three."""
    up, down, mid = parts.tensors["up"], parts.tensors["down"], parts.get("mid")
    if mid is None:
        return LoRADelta(down, up, scale=parts.scaled_by(down.shape[0]))
    product = torch.einsum("mn...,im,nj->ij...", mid, up.flatten(1).float(), down.flatten(1).float())
    return Difference(product, scale=parts.scaled_by(down.shape[0]))


def _loha(parts: Parts) -> Delta:
    """hada_w1_a, hada_w2_a [out, r] and hada_w1_b, hada_w2_b [r, in * rows * columns]; with cores hada_t1, hada_t2 [r,
    r, rows, columns] they are [r, out] and [r, in]."""
    up1, down1, up2, down2 = (parts[f"hada_{name}"] for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    core, scale = parts.get("hada_t1"), parts.scaled_by(down1.shape[0])
    if core is None:
        return LoHaDelta(up1, down1, up2, down2, scale=scale)
    return Difference(_from_core(core, up1, down1) * _from_core(parts["hada_t2"], up2, down2), scale=scale)


def _lokr(parts: Parts) -> Delta:
    """lokr_w1 [a, c] and lokr_w2 [b, d, rows, columns], or each as two factors of rank r; with a core lokr_t2 [r, r,
    rows, columns] the factors of the second are [r, b] and [r, d]."""
    left, right, rank = parts.get("lokr_w1"), parts.get("lokr_w2"), None
    if left is None:
        left, rank = parts["lokr_w1_a"] @ parts["lokr_w1_b"], parts["lokr_w1_b"].shape[0]
    if right is None:
        up, down, core = parts["lokr_w2_a"], parts["lokr_w2_b"], parts.get("lokr_t2")
        right, rank = up @ down if core is None else _from_core(core, up, down), down.shape[0]
    return LoKrDelta(left, right, scale=parts.scaled_by(rank))


def _from_core(core: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Tucker's decomposition: core [r, r, rows, columns], up [r, out], down [r, in] -> [out, in, rows, columns]."""
    return torch.einsum("ij...,ip,jr->pr...", core, up, down)


def _difference(part: str) -> Build:
    """The part is what is added."""
    return lambda parts: Difference(parts.tensors[part])


def _dora(build: Build) -> Build:
    """The same with magnitudes: LyCORIS' dora_scale [out, 1, ...] for rows or [1, in, ...] for columns, or PEFT's
    lora_magnitude_vector [out] or [1, out, 1, 1] for rows."""

    def with_magnitudes(parts: Parts) -> Delta:
        vector = parts.get("lora_magnitude_vector")
        magnitudes = parts["dora_scale"] if vector is None else vector.flatten()
        return DoRADelta(build(parts), magnitudes.flatten(), axis=int(_is_row(magnitudes)))

    return with_magnitudes


# --- Others ---------------------------------------------------------------------------------------------------------


def _glora(parts: Parts) -> Delta:
    """a1 [in, r], a2 [r, in], b1 [out, r], b2 [r, in, ...]; older files have the factors the other way round."""
    a1, a2, b1, b2 = (parts[name].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    if a1.shape[0] < a1.shape[1]:
        a1, a2, b1, b2 = a2, a1, b2, b1
    return GLoRADelta(a1, a2, b1, b2, scale=parts.scaled_by(a2.shape[0]))


def _oft(parts: Parts) -> Delta:
    """LyCORIS: oft_blocks [n, b, b] for OFT, [stages, n, b, b] for BOFT, which rotate rows; rescale [out, ...].

    alpha times the number of rows bounds how far all blocks together are from none.
    """
    blocks = skew(parts["oft_blocks"])
    if parts.alpha:
        num_rows = blocks.shape[-3] * blocks.shape[-1]
        blocks = blocks * (parts.alpha * num_rows / blocks.norm().clamp_min(1e-8)).clamp(max=1)
    rotations, rescale = cayley(blocks), parts.get("rescale")
    if blocks.ndim == 4:
        return Rotation(rotations, is_butterfly=True, rescale=rescale)
    return Rotation(rotations.mT[None], rescale=rescale)


def _oft_of_peft(parts: Parts) -> Delta:
    """oft_R [n, b (b - 1) / 2], the upper triangles of skew-symmetric matrices; they rotate columns."""
    triangles = parts["oft_R"]
    size = (1 + isqrt(1 + 8 * triangles.shape[1])) // 2
    rows, columns = torch.triu_indices(size, size, 1)
    upper = triangles.new_zeros(len(triangles), size, size)
    upper[:, rows, columns] = triangles
    blocks = skew(upper)
    if parts.settings.get("coft"):
        bound = parts.settings.get("eps", 6e-5) / len(blocks) ** 0.5
        blocks = blocks * (bound / blocks.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)).clamp(max=1)
    if parts.settings.get("use_cayley_neumann", True):
        rotations = cayley_series(blocks, min(parts.settings.get("num_cayley_neumann_terms", 5), _MOST_TERMS))
    else:
        rotations = cayley(-blocks)
    return Rotation(rotations[None], axis=1)


def _oft_of_older_peft(parts: Parts) -> Delta:
    """oft_r [n, b, b], not skew-symmetric yet; with oft_s [out, 1] they rotate columns, without it rows."""
    if parts.settings.get("coft"):
        raise NotRead("constrained OFT (coft) of PEFT before 0.16")
    blocks, rescale = cayley(skew(parts["oft_r"]) / -2)[None], parts.get("oft_s")
    return Rotation(blocks.mT) if rescale is None else Rotation(blocks, axis=1, rescale=rescale)


def _boft_of_peft(parts: Parts) -> Delta:
    """boft_R [1, n, b, b], which rotate columns, and boft_s [out, 1]."""
    if len(parts["boft_R"]) != 1:
        raise NotRead("BOFT of PEFT with more than one butterfly factor")
    return Rotation(cayley(skew(parts["boft_R"]) / -2), axis=1, rescale=parts["boft_s"])


def _ia3(parts: Parts) -> Delta:
    """PEFT: ia3_l [out, 1] for rows or [1, in] for columns. LyCORIS: weight [out] or [in], to which 1 is added."""
    factors = parts.get("ia3_l")
    if factors is None:
        return Rescaled(1 + parts["weight"], axis=int(parts["on_input"]))
    return Rescaled(factors, axis=int(_is_row(factors)))


def _ia3_of_bias(parts: Parts) -> Delta | None:
    """PEFT multiplies the whole result of a layer by factors of rows, LyCORIS the weight only."""
    factors = parts.get("ia3_l")
    return None if factors is None or _is_row(factors) else Rescaled(factors)


def _is_row(factors: Tensor) -> bool:
    """Whether there is a factor for each column: [1, in, ...], and not [out, 1, ...] or [out]."""
    return factors.ndim > 1 and factors.shape[0] == 1 < factors.shape[1]


def _replacement(part: str) -> Build:
    """The part takes the place of what was there."""
    return lambda parts: Replacement(parts.tensors[part])


# --- The rows -------------------------------------------------------------------------------------------------------

_MOST_TERMS = 50  # of a series: the others are nothing
_LOW_RANK = ["down", "up", "mid"]
_HADAMARD = [f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")]
_KRONECKER = [f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")]
_MAGNITUDES = ["dora_scale", "lora_magnitude_vector"]

KINDS: tuple[Kind, ...] = (
    Kind("LoRA", _LOW_RANK, _lora),
    Kind("LoHa", _HADAMARD, _loha),
    Kind("LoKr", _KRONECKER, _lokr),
    Kind("DoRA", _LOW_RANK + _MAGNITUDES, _dora(_lora)),
    Kind("LoHa with DoRA", _HADAMARD + _MAGNITUDES, _dora(_loha)),
    Kind("LoKr with DoRA", _KRONECKER + _MAGNITUDES, _dora(_lokr)),
    Kind("GLoRA", ["a1", "a2", "b1", "b2"], _glora),
    Kind("OFT", ["oft_blocks", "rescale"], _oft),
    Kind("OFT", ["oft_R"], _oft_of_peft),
    Kind("OFT", ["oft_r", "oft_s"], _oft_of_older_peft),
    Kind("BOFT", ["boft_R", "boft_s"], _boft_of_peft),
    Kind("differences", ["diff"], _difference("diff")),
    Kind("differences", ["w_norm"], _difference("w_norm")),
    Kind("whole weights", ["weight"], _replacement("weight")),
    Kind("whole weights", ["set_weight"], _replacement("set_weight")),
    Kind("IA3", ["ia3_l", "weight", "on_input"], _ia3, _ia3_of_bias),
)


def _up_bias(parts: Parts) -> Delta:
    """up_bias [out], scaled as its LoRA is."""
    return Difference(parts.tensors["up_bias"], scale=1.0 if parts.scale is None else parts.scale.value)


# What changes a bias, one part each.
BIASES: dict[str, Build] = {
    "up_bias": _up_bias,
    "diff_b": _difference("diff_b"),
    "b_norm": _difference("b_norm"),
    "bias": _replacement("bias"),
}
