"""Sixty random videos through the API: size, length, frame rate, rotation and alpha as they come."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogvideox_core.videos.video_io import read_video
from tests.support.any_videos import COUNT, assert_shows, drawn
from tests.support.graphs import loaders, node, sampler
from tests.support.host import ExecutionFailed, Host

LONGEST = 49  # frames that the demo model is said to take


@pytest.mark.parametrize("seed", range(COUNT))
def test_any_video_of_the_api_is_made_anew_or_refused(host: Host, tmp_path: Path, seed: int) -> None:
    """One step over the least noise, so that the new video shows the old one."""
    video = drawn(seed)
    source = video.write(tmp_path / f"clip{seed}")
    size = {"width": video.width, "height": video.height, "length": video.length}
    how = {"video_fps": video.rate, "image_fit": video.fit, "tiling": "auto"}
    graph = {
        **loaders("demo"),
        "model": node("CogVideoXLoadModel", model_name="demo/text-to-video"),
        "video": node("LoadVideo", file=host.upload_image(source, source.name)),
        "encode": node("CogVideoXVAEEncode", video=["video", 0], vae=["vae", 0], model=["model", 0], **size, **how),
        "sampler": sampler(latent_image=["encode", 0], steps=50, cfg=1.0, denoise=0.02),
        "decode": node("CogVideoXVAEDecode", samples=["sampler", 0], vae=["vae", 0], tiling="auto"),
        "player": node(
            "CogVideoXVideoPlayer", images=["decode", 0], fps=8.0, filename_prefix=f"any/{seed}", save_output=True
        ),
    }
    width, height = video.width or video.size[0], video.height or video.size[1]
    if faults := video.faults(width, height):
        with pytest.raises(ExecutionFailed, match="|".join(faults)) as refused:
            host.run(graph)
        assert "\n" not in str(refused.value)
        return
    (path, *_) = host.run(graph).files("player")
    frames, _ = read_video(path)
    assert frames.shape[3:] == (height, width)
    assert_shows(frames, video, video.taken(video.length or LONGEST))
