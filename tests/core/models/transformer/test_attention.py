"""Backends of attention: chosen by name, watched over, and never silently different."""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from cogvideox_core import CogVideoXPipeline, load_pipeline
from cogvideox_core.kernels import cpu_attention
from cogvideox_core.models.transformer.attention import (
    BACKENDS,
    Attention,
    Backend,
    choose_attention,
    cudnn_first,
    sdpa,
)
from tests.support.parity import assert_parity

CPU = torch.device("cpu")
ASKED: dict[str, Any] = dict(height=32, width=32, num_frames=9, num_inference_steps=2, output_type="latent")


def not_finite(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return sdpa(q, k, v) * torch.nan


def unscaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return sdpa(8 * q, k, v)


class OverflowsLater:
    """Right on a trial and in the first forwards, then not finite in one block."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.calls += 1
        return sdpa(q, k, v) * (torch.inf if self.calls == 9 else 1)


@pytest.fixture
def register() -> Iterator[Callable[[str, Backend], None]]:
    """`register(name, backend)` adds a row to BACKENDS for the time of a test."""
    before = dict(BACKENDS)
    yield BACKENDS.__setitem__
    BACKENDS.clear()
    BACKENDS.update(before)


@pytest.fixture(scope="module")
def pipeline() -> CogVideoXPipeline:
    return load_pipeline(device="cpu", dtype="float32")


def run(pipeline: CogVideoXPipeline, attention: Attention) -> Tensor:
    pipeline.attention = attention
    return pipeline("a red ball", generator=torch.Generator().manual_seed(1), **ASKED)


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, 2, 4, 40, 16, generator=torch.Generator().manual_seed(0)).to(dtype)


needs_onednn = pytest.mark.skipif(not cpu_attention.is_available(), reason="no oneDNN for this processor")


@needs_onednn
def test_auto_takes_onednns_on_the_cpu_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    def names() -> list[str]:
        return [choose_attention("auto", CPU, dtype).name for dtype in (torch.float32, torch.bfloat16, torch.float64)]

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert names() == ["onednn", "onednn", "sdpa"]
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert names() == ["onednn", "sdpa", "sdpa"]
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert names() == ["onednn", "sdpa", "sdpa"]


def test_auto_takes_pytorchs_own_on_the_cpu_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "has_onednn_linear", lambda: False)
    chosen = choose_attention("auto", CPU, torch.float32)
    assert (chosen.name, chosen.may_fall_back) == ("sdpa", False)
    told = (
        f"attention='onednn' needs the package torch with oneDNN for x86-64 (this is {torch.__version__} for "
        f"{platform.machine()}); install it, or take 'sdpa' or 'auto'"
    )
    with pytest.raises(ImportError, match=re.escape(told)):
        choose_attention("onednn", CPU, torch.float32)


@needs_onednn
def test_onednns_is_not_blamed_where_it_is_pytorchs_own() -> None:
    chosen = choose_attention("onednn", CPU, torch.float32)
    chosen.probe(cpu_attention.SHORTEST, 16, torch.float32, CPU)
    assert chosen.may_fall_back
    chosen.probe(cpu_attention.SHORTEST - 1, 16, torch.float32, CPU)
    assert not chosen.may_fall_back


def test_auto_takes_no_approximate_backend() -> None:
    assert [name for name, backend in BACKENDS.items() if not backend.exact] == ["sage"]


def test_cudnn_first_is_pytorchs_attention_with_another_order() -> None:
    q, k, v = inputs()
    assert torch.equal(cudnn_first(q, k, v), sdpa(q, k, v))


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("fast", ValueError, "attention='fast'; there are auto, sdpa, onednn, cudnn, flash, sage"),
        ("flash", ValueError, "attention='flash' runs on cuda and this is cpu; take 'sdpa' or 'auto'"),
    ],
)
def test_what_cannot_be_taken_is_told_in_a_sentence(name: str, error: type, told: str) -> None:
    with pytest.raises(error) as caught:
        choose_attention(name, CPU, torch.float32)
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("capability", "hip", "chosen"), [((9, 0), None, "cudnn"), ((8, 0), None, "sdpa"), ((9, 4), "6.4", "sdpa")]
)
def test_auto_takes_cudnns_on_nvidias_hopper_alone(
    capability: tuple[int, int], hip: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AMD's MI200 and MI300 say 9 too, and PyTorch calls their library cuDNN."""
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    cuda = torch.device("cuda")
    assert choose_attention("auto", cuda, torch.bfloat16).name == chosen
    if hip is not None:
        with pytest.raises(ValueError, match="attention='cudnn' runs on NVIDIA's cards and this is AMD's; take 'sdpa'"):
            choose_attention("cudnn", cuda, torch.bfloat16)


def test_a_missing_package_is_named(register: Callable[[str, Backend], None]) -> None:
    def load() -> Any:
        import no_such_attention  # pyright: ignore[reportMissingImports]

        return no_such_attention.attend

    register("rare", Backend(load, package="rare-attention"))
    with pytest.raises(ImportError, match=r"attention='rare' needs the package rare-attention \(.*\); install it, or"):
        load_pipeline(device="cpu", attention="rare")


def test_a_dtype_a_backend_does_not_take_is_told(register: Callable[[str, Backend], None]) -> None:
    register("narrow", Backend(lambda: sdpa, dtypes=(torch.float16, torch.bfloat16)))
    with pytest.raises(ValueError, match=r"attention='narrow' in float32; it takes float16 or bfloat16: choose"):
        choose_attention("narrow", CPU, torch.float32)


def not_for_this_card(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nand more")


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (
            not_for_this_card,
            "The attention backend broken does not run here (RuntimeError: FlashAttention only supports Ampere GPUs or "
            "newer.); PyTorch's own (sdpa) is taken",
        ),
        (not_finite, "The attention backend broken gives numbers that are not finite; PyTorch's own (sdpa) is taken"),
        (unscaled, "The attention backend broken is off by"),
    ],
)
def test_a_broken_backend_falls_back_before_the_first_step(
    function: Any,
    told: str,
    register: Callable[[str, Backend], None],
    pipeline: CogVideoXPipeline,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted = run(pipeline, Attention())
    register("broken", Backend(lambda: function))
    with caplog.at_level(logging.WARNING, "cogvideox"):
        found = run(pipeline, choose_attention("broken", CPU, torch.float32))
        again = run(pipeline, pipeline.attention)
    assert [message[: len(told)] for message in caplog.messages if "attention" in message] == [told]
    assert torch.equal(found, wanted) and torch.equal(again, wanted)


def test_a_step_that_is_not_finite_is_computed_again(
    pipeline: CogVideoXPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = run(pipeline, Attention())
    broken = OverflowsLater()
    with caplog.at_level(logging.WARNING, "cogvideox"):
        found = run(pipeline, Attention("late", broken, off_by=0.03))
    assert broken.calls == 13  # the trial, six blocks of each step
    assert any("late gives numbers that are not finite at timestep" in message for message in caplog.messages)
    assert torch.equal(found, wanted)


def test_a_backend_that_rounds_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    def coarse(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(*(part.bfloat16() for part in (q, k, v))).float()

    attention = Attention("coarse", coarse, off_by=0.03)
    attention.probe(300, 64, torch.float32, CPU)
    assert attention.may_fall_back and not caplog.messages


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["auto", "cudnn"])
def test_cudnns_kernel_gives_pytorchs_numbers(name: str) -> None:
    cuda = torch.device("cuda")
    attention = choose_attention(name, cuda, torch.bfloat16)
    attention.probe(17_776, 64, torch.bfloat16, cuda)
    hopper = torch.cuda.get_device_capability(cuda)[0] == 9
    assert attention.name == ("cudnn" if name == "cudnn" or hopper else "sdpa")
    q, k, v = (part.repeat(1, 1, 8, 4) for part in inputs(torch.bfloat16).to(cuda))
    assert_parity(attention(q, k, v).float(), sdpa(q, k, v).float(), 1e-2, name)
