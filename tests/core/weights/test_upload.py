"""Weights to a device by way of two buffers arrive as they are, however they fall on the buffers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cogvideox_core import load_transformer
from cogvideox_core.weights.upload import Uploads
from tests.support.checkpoints import random_transformer, toy_transformer_config

CPU = torch.device("cpu")
SHAPES = [(3,), (), (0, 4), (7, 5), (64, 33), (2, 3, 4, 5), (1000,)]


def tensors(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def check(device: torch.device, nbytes: int) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        for wanted in (None, torch.float32, torch.bfloat16, torch.float16):
            uploads = Uploads(device, nbytes)
            copies = [uploads.copy(tensor, wanted) for tensor in tensors(dtype)]
            for copy, tensor in zip(copies, tensors(dtype), strict=True):
                assert copy.device.type == device.type
                assert torch.equal(copy.cpu(), tensor.to(wanted or dtype))
                assert copy.dtype == (wanted or dtype)


@pytest.mark.parametrize("nbytes", [256, 1000, 1024, 1 << 20])
def test_all_arrive(nbytes: int) -> None:
    check(CPU, nbytes)


def test_a_copy_is_nobody_elses() -> None:
    (tensor,) = (torch.arange(5.0),)
    uploads = Uploads(CPU, 256)
    copy = uploads.copy(tensor)
    uploads.copy(torch.zeros(500))
    assert torch.equal(copy, torch.arange(5.0))


def test_what_does_not_lie_in_order() -> None:
    tensor = torch.arange(60.0).view(6, 10).t()
    assert torch.equal(Uploads(CPU, 256).copy(tensor), tensor)


@pytest.mark.gpu
def test_all_arrive_on_a_gpu() -> None:
    for nbytes in (256, 1000, 1 << 20):
        check(torch.device("cuda"), nbytes)


@pytest.mark.gpu
def test_a_model_loads_onto_a_gpu(tmp_path: Path) -> None:
    peer = random_transformer(toy_transformer_config("CogVideoX-5B"))
    peer.save_pretrained(tmp_path)
    loaded = load_transformer(tmp_path, device="cuda").state_dict()
    assert all(
        torch.equal(loaded[key].cpu(), tensor) for key, tensor in load_transformer(tmp_path).state_dict().items()
    )
