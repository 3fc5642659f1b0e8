"""The demo models, which travel with the code: a fresh clone makes a video with no download.

They are folders in the official layout like any other and take the same path through the code. What they were trained
on is in `training/demo_world`; docs/demo-models.md says how.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["DEMO_GUIDANCE", "DEMO_LORAS", "DEMO_MODEL", "DEMO_MODELS", "DEMO_STEPS", "PROMPT_GRAMMAR"]

_HERE = Path(__file__).resolve().parent

DEMO_MODELS: dict[str, Path] = {task: _HERE / task for task in ("text-to-video", "image-to-video")}
DEMO_MODEL: Path = DEMO_MODELS["text-to-video"]
DEMO_LORAS: dict[str, Path] = {"old-film": _HERE / "loras" / "old-film.safetensors"}
"""For the text-to-video model. `tools/old_film.py` writes the clips it was trained on."""

DEMO_STEPS = 25
"""Sampling steps that do for a world this simple."""

DEMO_GUIDANCE = 3.0
"""Guidance that suits them; the 6 of the released models exaggerates what they draw."""

PROMPT_GRAMMAR: dict[str, list[str] | str] = {
    "colour": ["red", "orange", "yellow", "green", "blue", "purple", "pink", "white"],
    "shape": ["ball", "square", "triangle", "star", "ring"],
    "motion": [
        "moving left",
        "moving right",
        "moving up",
        "moving down",
        "standing still",
        "bouncing",
        "going in a circle",
        "growing",
        "shrinking",
    ],
    "background": ["a meadow", "a desert", "the sea", "the night sky", "a wooden wall", "a sunset"],
    "template": "a {colour} {shape} {motion} in front of {background}",
}
"""The prompts the demo models understand: `template.format(...)` with any choice of the words above."""
