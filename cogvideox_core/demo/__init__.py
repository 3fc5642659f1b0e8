"""The models that travel with the code, so that a fresh clone makes a video with no download, and the world they know.

They are official-layout folders like any other and take the same path through the code. `world` renders what they were
trained on, `captions` says it in words, and `judge` tells what a video shows; `old_film` is what a LoRA for them was
shown. How they were trained is told in docs/demo-models.md.
"""

from __future__ import annotations

from pathlib import Path

from .captions import PROMPT_GRAMMAR

__all__ = ["DEMO_GUIDANCE", "DEMO_LORAS", "DEMO_MODEL", "DEMO_MODELS", "DEMO_STEPS", "PROMPT_GRAMMAR"]

_HERE = Path(__file__).resolve().parent

DEMO_MODELS: dict[str, Path] = {task: _HERE / task for task in ("text-to-video", "image-to-video")}
DEMO_MODEL: Path = DEMO_MODELS["text-to-video"]
DEMO_LORAS: dict[str, Path] = {"old-film": _HERE / "loras" / "old-film.safetensors"}
"""For the text-to-video model: `old_film` tells what it was shown."""

DEMO_STEPS = 25
"""Sampling steps that do for a world this simple."""

DEMO_GUIDANCE = 3.0
"""Guidance that suits them; the 6 of the released models exaggerates what they draw."""
