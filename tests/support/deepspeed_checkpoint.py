"""Saves tensors as DeepSpeed saves a model that it trains, on a CPU and in one process.

    python tests/support/deepspeed_checkpoint.py STATE FOLDER STAGE TAG

STATE is a file of tensors by key, STAGE the stage of ZeRO (0 to 3), and TAG the folder that `latest` names.
"""

from __future__ import annotations

import os
import socket
import sys

import torch
from torch import Tensor, nn


def one_process() -> None:
    """What a launcher would set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ["DS_ACCELERATOR"] = "cpu"


def module_of(state: dict[str, Tensor]) -> nn.Module:
    """A module with these parameters."""
    root = nn.Module()
    for key, tensor in state.items():
        *path, leaf = key.split(".")
        owner = root
        for name in path:
            if not hasattr(owner, name):
                owner.add_module(name, nn.Module())
            owner = owner.get_submodule(name)
        owner.register_parameter(leaf, nn.Parameter(tensor.clone()))
    return root


def main(source: str, folder: str, stage: str, tag: str) -> None:
    one_process()
    import deepspeed  # pyright: ignore[reportMissingImports] (on Linux alone)
    import deepspeed.comm.torch  # pyright: ignore[reportMissingImports]

    deepspeed.comm.torch.build_shm_op = lambda: None  # which would be compiled, for several processes
    module = module_of(torch.load(source))
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": int(stage)},
        "optimizer": {"type": "AdamW", "params": {"torch_adam": True}},
        "scheduler": {"type": "WarmupLR", "params": {}},
    }
    engine, *_ = deepspeed.initialize(model=module, config=settings, model_parameters=list(module.parameters()))
    engine.save_checkpoint(folder, tag=tag)


if __name__ == "__main__":
    main(*sys.argv[1:])
