"""Write what OFT of PEFT before 0.16 made of a layer: its tensors, the weight before and after, as older_peft.json.

    pip install --no-deps --target 0.13 peft==0.13.2 && pip install --no-deps --target 0.15 peft==0.15.2
    PYTHONPATH=0.13 python tests/golden/adapters/make_older_peft.py
    PYTHONPATH=0.15 python tests/golden/adapters/make_older_peft.py

Each run adds the rows of the PEFT that is imported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import torch
from torch.nn import Linear, ModuleDict

PATH = Path(__file__).with_name("older_peft.json")


def row(**options: Any) -> dict[str, Any]:
    """One layer [12, 8] with an adapter, merged by PEFT itself."""
    torch.manual_seed(0)
    model: Any = ModuleDict({"layer": Linear(8, 12)})
    before = model["layer"].weight.detach().clone()
    adapted: Any = peft.get_peft_model(model, peft.OFTConfig(target_modules=["layer"], r=2, **options))  # type: ignore[arg-type]
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape)
    saved = {key.split("layer.")[1]: tensor for key, tensor in peft.get_peft_model_state_dict(adapted).items()}
    adapted.merge_adapter()
    return {
        "tensors": {key: _rounded(tensor) for key, tensor in saved.items()},
        "before": _rounded(before),
        "after": _rounded(model["layer"].base_layer.weight),
    }


def _rounded(tensor: torch.Tensor) -> Any:
    return json.loads(json.dumps(tensor.tolist()), parse_float=lambda text: round(float(text), 7))


def main() -> None:
    rows = json.loads(PATH.read_text()) if PATH.exists() else {}
    for name, options in {"each": {}, "shared": {"block_share": True}}.items():
        rows[f"{peft.__version__} {name}"] = row(**options)
    PATH.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
