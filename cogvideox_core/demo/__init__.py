"""The model that travels with the code, so that a fresh clone makes a video without a download.

It is an official-layout folder like any other and takes the same path through the code.
"""

from __future__ import annotations

from pathlib import Path

DEMO_MODEL: Path = Path(__file__).resolve().parent / "model"

# For `load_pipeline(None)` to log once, as a warning. The trained demo model will leave nothing to say here.
DEMO_NOTICE: str = (
    "The demo model of this version has random weights: its video is noise. "
    "Give the folder of a CogVideoX checkpoint (--model, or load_pipeline(path)) for a real one."
)
