"""The models that travel with the code: small, and open to diffusers as they are."""

from __future__ import annotations

import diffusers
import make_demo
import pytest
import torch
from parity import assert_parity
from PIL import Image

from cogvideox_core import load_pipeline
from cogvideox_core.demo import DEMO_MODELS

PIPELINES = {"text-to-video": "CogVideoXPipeline", "image-to-video": "CogVideoXImageToVideoPipeline"}


@pytest.mark.parametrize("task", DEMO_MODELS)
def test_diffusers_makes_the_same_video_with_a_demo_model(task: str) -> None:
    given = {"prompt": "a red circle", "num_inference_steps": 2, "num_frames": 9, "guidance_scale": 6.0}
    if task == "image-to-video":
        given |= {"image": Image.linear_gradient("L").resize((96, 96)).convert("RGB"), "num_frames": 17}
    theirs = getattr(diffusers, PIPELINES[task]).from_pretrained(DEMO_MODELS[task], dtype=torch.float32)
    theirs.text_encoder.float()
    theirs.set_progress_bar_config(disable=True)
    wanted = theirs(**given, generator=torch.Generator().manual_seed(0), output_type="pt").frames  # [B, F, 3, H, W]
    ours = load_pipeline(DEMO_MODELS[task], dtype=torch.float32, device="cpu")
    found = ours(**given, generator=torch.Generator().manual_seed(0))
    assert_parity(found, wanted.transpose(1, 2), 1e-4, f"demo, {task}")


def test_the_demo_models_are_small_enough_to_travel() -> None:
    size = sum(file.stat().st_size for folder in DEMO_MODELS.values() for file in folder.rglob("*") if file.is_file())
    assert size <= make_demo.LIMIT
