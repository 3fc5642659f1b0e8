"""Which optimizer changes which weights: AdamW, or Muon for the matrices inside blocks."""

from __future__ import annotations

import torch
from torch import nn

from .recipe import Optimisation


def make_optimizers(module: nn.Module, settings: Optimisation) -> list[torch.optim.Optimizer]:
    """AdamW for everything that is trained; or Muon for the matrices inside blocks, then AdamW for the rest.

    Raises: ValueError if Muon is asked for and this PyTorch has none.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            by_muon = settings.muon_learning_rate is not None and _is_matrix_of_block(name, parameter)
            (matrices if by_muon else others).append(parameter)
    adam = torch.optim.AdamW(others, settings.learning_rate, settings.betas, weight_decay=settings.weight_decay)
    if settings.muon_learning_rate is None:
        return [adam]
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(
            f"muon_learning_rate with PyTorch {torch.__version__}, which has no Muon; install 2.9 or leave it out"
        )
    options = {"weight_decay": settings.weight_decay, "adjust_lr_fn": "match_rms_adamw"}
    return [torch.optim.Muon(matrices, settings.muon_learning_rate, **options), adam]


def _is_matrix_of_block(name: str, parameter: nn.Parameter) -> bool:
    """Whether it maps tokens to tokens: a matrix in a block that is neither a modulation nor a table of biases."""
    return parameter.ndim == 2 and "block" in name and not any(part in name for part in ("norm", "bias"))
