"""Official weights: what `cogvideox check-weights` does with each model folder of COGVIDEOX_WEIGHTS.

COGVIDEOX_WEIGHTS=~/models pytest tests/test_real_weights.py --weights -rA
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from cogvideox_core.cli.check_weights import Check, check_weights


def test_official_weights_are_whole_and_close_to_diffusers(official_weights: Path) -> None:
    folders = [official_weights, *sorted(official_weights.iterdir())]
    checks = [check_weights(folder) for folder in folders if (folder / "model_index.json").is_file()]
    print("\n".join(check.table() for check in checks))
    assert checks, f"no folder with a model_index.json in {official_weights}"
    assert [check.table() for check in checks if not passed(check)] == []


def passed(check: Check) -> bool:
    """Whole, and compared wherever diffusers is there to compare with."""
    return check.fault is None and (check.latents is not None or find_spec("diffusers") is None)
