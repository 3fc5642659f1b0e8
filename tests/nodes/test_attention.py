"""Which attention our MODEL takes in ComfyUI, and that ComfyUI's hooks around it are kept."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

TEXT = 3  # tokens


@pytest.fixture
def host_attention(pack: ModuleType) -> Any:
    return importlib.import_module(f"{pack.__name__}.nodes.host.transformer").HostAttention


@pytest.fixture
def qkv() -> Tensor:
    """[3, B, H, L, D]."""
    return torch.randn(3, 2, 4, 11, 16, generator=torch.Generator().manual_seed(0))


def chosen(host_attention: Any, qkv: Tensor) -> str:
    """The name of the function that computes it, as an override of another pack would see it."""
    seen = []

    def note(function: Any, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(function.__name__)
        return function(*args, **kwargs)

    host_attention({"optimized_attention_override": note}, text_length=TEXT)(*qkv)
    (name,) = seen
    return name


@pytest.mark.parametrize("name", ["attention_onednn", "attention_pytorch"])
@pytest.mark.parametrize("tokens", [11, 900])
def test_a_cpu_has_the_fastest_exact_one(
    host_attention: Any, tokens: int, name: str, pack: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "attention_pytorch":
        core = importlib.import_module(f"{pack.__name__}.cogvideox_core.cpu_attention")
        monkeypatch.setattr(core, "HAS_ONEDNN", False)
    qkv = torch.randn(3, 2, 4, tokens, 16, generator=torch.Generator().manual_seed(0))
    assert chosen(host_attention, qkv) == name
    out = host_attention({}, text_length=TEXT)(*qkv)
    expected = scaled_dot_product_attention(*qkv).transpose(1, 2).flatten(2)
    assert (out - expected).abs().max() <= 1e-6


def test_who_asked_for_the_sub_quadratic_one_has_it(
    host_attention: Any, qkv: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy.cli_args import args  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(args, "use_quad_cross_attention", True)
    assert chosen(host_attention, qkv) == "attention_sub_quad"


def test_patches_of_the_output_are_told_where_the_video_lies(host_attention: Any, qkv: Tensor) -> None:
    told = {}

    def patch(out: Tensor, options: dict[str, Any]) -> Tensor:
        told.update(options)
        return out * 2

    plain = host_attention({}, text_length=TEXT)(*qkv)
    patched = host_attention({"patches": {"attn1_output_patch": [patch]}}, text_length=TEXT)(*qkv)
    assert torch.equal(patched, plain * 2)
    assert (told["n_heads"], told["img_slice"]) == (4, [TEXT, 11])
