"""The mp4 that the player node writes, decoded again."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
from graphs import Graph, node
from host import Host


def video_graph(**inputs) -> Graph:
    graph = {
        "dark": node("EmptyImage", width=64, height=48, batch_size=3, color=0x202020),
        "bright": node("EmptyImage", width=64, height=48, batch_size=2, color=0xE0E0E0),
        "frames": node("ImageBatch", image1=["dark", 0], image2=["bright", 0]),
        "video": node("CogVideoXVideoPlayer", images=["frames", 0], fps=16.0, filename_prefix="v", save_output=True),
    }
    graph["video"]["inputs"] |= inputs
    return graph


def brightness(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]


def test_the_mp4_has_the_frames_size_and_rate(host: Host) -> None:
    (path,) = host.run(video_graph(filename_prefix="folder/name")).files("video")
    assert path.parent.name == "folder"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (64, 48, 16)
        assert stream.codec_context.name == "h264"
    assert brightness(path) == pytest.approx([32, 32, 32, 224, 224], abs=8)


def test_the_mp4_carries_the_prompt_and_the_workflow(host: Host) -> None:
    graph, workflow = video_graph(), {"nodes": [], "note": "bär"}
    prompt_id = host.queue(graph, extra_data={"extra_pnginfo": {"workflow": workflow}})
    (path,) = host.wait(prompt_id).files("video")
    with av.open(str(path)) as container:
        metadata = dict(container.metadata)
    assert json.loads(metadata["workflow"]) == workflow
    assert json.loads(metadata["prompt"]).keys() == graph.keys()


def test_a_preview_is_temporary(host: Host) -> None:
    history = host.run(video_graph(save_output=False))
    assert history.outputs["video"]["images"][0]["type"] == "temp"


def test_a_video_passes_through_with_its_own_rate(host: Host) -> None:
    graph = video_graph()
    graph["made"] = node("CreateVideo", images=["frames", 0], fps=24.0)
    graph["video"] = node("CogVideoXVideoPlayer", video=["made", 0], fps=8.0, filename_prefix="v", save_output=True)
    graph["again"] = node("CogVideoXVideoPlayer", images=["video", 1], fps=8.0, filename_prefix="w", save_output=True)
    history = host.run(graph)
    with av.open(str(history.files("video")[0])) as container:
        assert container.streams.video[0].average_rate == 24
    assert len(brightness(history.files("again")[0])) == 5
