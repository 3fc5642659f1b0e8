"""Devices by their names, and what each may be asked for; cards that are not here are stood in for."""

from __future__ import annotations

import pytest
import torch

from cogvideox_core.kernels import devices
from cogvideox_core.kernels.devices import (
    accelerators,
    copies_aside,
    default_device,
    dtype_fault,
    free_bytes,
    give_back_memory,
    is_nvidia,
    named_device,
)

CPU, CUDA, XPU = torch.device("cpu"), torch.device("cuda"), torch.device("xpu")
SIXTEEN_AND_MORE = (torch.float16, torch.float32)


def card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None = None, name: str = "") -> None:
    """Have PyTorch say that "cuda" is such a card."""
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    properties = type("Properties", (), {"gcnArchName": name})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)


def test_the_default_device_is_one_that_is_here() -> None:
    torch.zeros(1, device=default_device())
    assert named_device(default_device()) == default_device()
    assert all(device.type == default_device().type for device in accelerators())


def test_the_default_device_is_pytorchs_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: XPU)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)
    assert default_device() == XPU
    assert accelerators() == [torch.device("xpu:0"), torch.device("xpu:1")]
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert default_device() == CPU and not accelerators()


def test_a_device_of_any_kind_that_is_here_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 1)
    for name in ("cpu", "cuda", "cuda:1", "xpu", "xpu:0"):
        assert named_device(name) == torch.device(name)
    for name in ("cuda:2", "xpu:1", "cpu:1"):
        with pytest.raises(ValueError, match=f"device={name}; this machine, or this build of PyTorch, has no such"):
            named_device(name)


@pytest.mark.parametrize("name", ["npu", "gpu", "cuda:x", "", "cuda:-1"])
def test_a_kind_that_pytorch_does_not_know_is_told(name: str) -> None:
    with pytest.raises(ValueError, match=f"^text_encoder_device={name}; there is no such kind; use cpu"):
        named_device(name, "text_encoder_device")


@pytest.mark.parametrize("name", ["meta", "hpu", "xla"])
def test_a_kind_without_devices_is_told(name: str) -> None:
    with pytest.raises(ValueError, match=f"^device={name}; this machine, or this build of PyTorch, has no such device"):
        named_device(name)


def test_amds_cards_are_not_nvidias(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, (9, 4))
    assert is_nvidia(CUDA) and not is_nvidia(CPU) and not is_nvidia(XPU)
    card(monkeypatch, (9, 4), hip="6.4")
    assert not is_nvidia(CUDA)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_only_cuda_and_rocm_copy_while_they_compute(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert copies_aside(torch.device(device))
    assert not any(copies_aside(torch.device(kind)) for kind in ("cpu", "mps", "xpu", "meta"))


@pytest.mark.parametrize(
    ("capability", "hip", "name", "told"),
    [
        ((6, 1), None, "", "its compute capability is 6.1, below 8.0"),
        ((7, 0), None, "", "its compute capability is 7.0, below 8.0"),
        ((7, 5), None, "", "its compute capability is 7.5, below 8.0"),
        ((8, 0), None, "", None),
        ((8, 9), None, "", None),
        ((12, 0), None, "", None),
        ((9, 4), "6.4", "gfx942", None),
        ((9, 0), "6.4", "gfx90a:sramecc+:xnack-", None),
        ((9, 0), "6.4", "gfx906:sramecc+:xnack-", "its architecture is older than RDNA 3 and CDNA"),
        ((10, 3), "6.4", "gfx1030", "its architecture is older than RDNA 3 and CDNA"),
        ((11, 0), "6.4", "gfx1100", None),
    ],
)
def test_cards_without_arithmetic_for_bfloat16(
    capability: tuple[int, int], hip: str | None, name: str, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    card(monkeypatch, capability, hip, name)
    assert dtype_fault(CUDA, torch.bfloat16) == told
    assert not any(dtype_fault(CUDA, dtype) for dtype in SIXTEEN_AND_MORE)


def test_a_processor_computes_in_everything() -> None:
    assert not any(dtype_fault(CPU, dtype) for dtype in (*SIXTEEN_AND_MORE, torch.bfloat16, torch.float64))


def test_other_devices_are_asked_and_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.xpu, "is_bf16_supported", lambda: False, raising=False)
    assert dtype_fault(XPU, torch.bfloat16) == "it has no arithmetic for it"
    monkeypatch.setattr(torch.xpu, "is_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(devices, "_computes", lambda device, dtype: dtype != torch.float64)
    assert dtype_fault(XPU, torch.bfloat16) is None
    assert dtype_fault(torch.device("mps"), torch.float64) == "PyTorch has no products in it there"


def test_a_trial_shows_what_a_device_computes_in() -> None:
    assert devices._computes(CPU, torch.bfloat16) and devices._computes(CPU, torch.float64)
    assert not devices._computes(torch.device("meta"), torch.float32)  # which has no numbers


def test_memory_of_an_accelerator_is_known_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_bytes(torch.device("meta")) is None
    monkeypatch.setattr(torch.xpu, "mem_get_info", lambda device: (100, 1000), raising=False)
    monkeypatch.setattr(torch.xpu, "memory_reserved", lambda device: 30, raising=False)
    monkeypatch.setattr(torch.xpu, "memory_allocated", lambda device: 10, raising=False)
    assert free_bytes(XPU) == 120

    def refuse(device: torch.device) -> None:
        raise RuntimeError("The device does not support querying the available free memory")

    monkeypatch.setattr(torch.xpu, "mem_get_info", refuse, raising=False)
    assert free_bytes(XPU) is None


def test_memory_is_given_back_where_there_is_a_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.xpu, "empty_cache", lambda: asked.append("xpu"), raising=False)
    for device in (CPU, torch.device("meta"), XPU):
        give_back_memory(device)
    assert asked == ["xpu"]
