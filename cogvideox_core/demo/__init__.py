"""The models that travel with the code, so that a fresh clone makes a video without a download.

They are official-layout folders like any other and take the same path through the code.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

DEMO_MODELS: dict[str, Path] = {task: _HERE / task for task in ("text-to-video", "image-to-video")}
DEMO_MODEL: Path = DEMO_MODELS["text-to-video"]

# Logged once as a warning by whoever opens a demo model. The trained ones will leave nothing to say here.
DEMO_NOTICE: str = (
    "The demo models of this version have random weights: their video is noise. "
    "Give the folder of a CogVideoX checkpoint for a real one."
)
