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
    return importlib.import_module(f"{pack.__name__}.nodes.host.types.transformer").HostAttention


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
        core = importlib.import_module(f"{pack.__name__}.cogvideox_core.kernels.cpu_attention")
        monkeypatch.setattr(core, "has_onednn_linear", lambda: False)
    qkv = torch.randn(3, 2, 4, tokens, 16, generator=torch.Generator().manual_seed(0))
    assert chosen(host_attention, qkv) == name
    out = host_attention({}, text_length=TEXT)(*qkv)
    q, k, v = qkv
    expected = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    assert (out - expected).abs().max() <= 1e-6


@pytest.mark.parametrize("asked", ["mask", "whole heads", "heads together", "scale"])
def test_another_packs_override_may_ask_for_more(host_attention: Any, asked: str) -> None:
    """What ComfyUI's own functions take, whichever of them the override is handed."""
    q, k, v = torch.randn(3, 2, 4, 900, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(900, 900, generator=torch.Generator().manual_seed(1)) * 4
    changes: dict[str, Any] = {
        "mask": {"mask": mask},
        "whole heads": {"skip_output_reshape": True},
        "heads together": {"skip_reshape": False},
        "scale": {"scale": 0.5},
    }[asked]

    def override(function: Any, *args: Any, **kwargs: Any) -> Tensor:
        q, k, v, heads = args
        if asked == "heads together":
            q, k, v = (part.transpose(1, 2).flatten(2) for part in (q, k, v))
        return function(q, k, v, heads, **{**kwargs, **changes})

    out = host_attention({"optimized_attention_override": override}, text_length=TEXT)(q, k, v)
    expected = scaled_dot_product_attention(
        q, k, v, attn_mask=changes.get("mask"), scale=changes.get("scale")
    ).transpose(1, 2)
    expected = expected.transpose(1, 2) if asked == "whole heads" else expected.flatten(2)
    assert out.shape == expected.shape and (out - expected).abs().max() <= 2e-6


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
