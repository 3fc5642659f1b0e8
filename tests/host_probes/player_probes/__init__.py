"""Test-only nodes for the video player: frames that say their number, sound, and a sampler that only pretends."""

from __future__ import annotations

import io as bytes_io
import time
from typing import Any

import comfy.model_management
import torch
from comfy.utils import ProgressBar
from comfy_api.latest import ComfyExtension, io
from PIL import Image
from server import PromptServer

BITS = 8  # a frame's number in binary, one column of the picture a bit, the lowest at the left: white is 1


def numbered(frames, width, height):
    """[F, height, width, 3]: frame n shows n."""
    video = torch.zeros(frames, height, width, 3)
    column = width // BITS
    for number in range(frames):
        for bit in range(BITS):
            if number >> bit & 1:
                video[number, :, bit * column : (bit + 1) * column] = 1.0
    return video


class ProbeNumberedFrames(io.ComfyNode):
    """Frames that say their number in black and white columns. `shade` darkens white, for another video of the kind."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeNumberedFrames",
            category="probes",
            inputs=[
                io.Int.Input("frames", min=1, max=1 << BITS),
                io.Int.Input("width", default=64, min=BITS, max=4096),
                io.Int.Input("height", default=48, min=2, max=4096),
                io.Float.Input("shade", default=1.0, min=0.0, max=1.0),
                io.AnyType.Input("after", optional=True),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, frames, width, height, shade, after=None):
        return io.NodeOutput(numbered(frames, width, height) * shade)


class ProbeTone(io.ComfyNode):
    """A sine of so many hertz, as AUDIO."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeTone",
            category="probes",
            inputs=[
                io.Float.Input("seconds", default=1.0, min=0.0, max=60.0),
                io.Float.Input("hertz", default=440.0, min=20.0, max=20000.0),
                io.Int.Input("channels", default=2, min=1, max=8),
            ],
            outputs=[io.Audio.Output()],
        )

    @classmethod
    def execute(cls, seconds, hertz, channels):
        rate = 44100
        wave = torch.sin(torch.arange(int(seconds * rate)) / rate * hertz * 2 * torch.pi) * 0.5
        return io.NodeOutput({"waveform": wave.expand(1, channels, -1).contiguous(), "sample_rate": rate})


class _Encoded(Image.Image):
    """A picture that is a file already."""

    def __init__(self, content):
        super().__init__()
        self.content = content

    def save(self, file, *_, **__):
        file.write(self.content)


def moving_preview(step):
    """A WebP of two frames in the colour of a step."""
    frames = [Image.new("RGB", (32, 24), (40 * step % 256, shade, 120)) for shade in (40, 200)]
    file = bytes_io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], duration=500, loop=0)
    return _Encoded(file.getvalue())


class ProbeLivePreview(io.ComfyNode):
    """Goes through steps as a sampler does: progress, a moving preview and our step event with each."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeLivePreview",
            category="probes",
            inputs=[
                io.Int.Input("steps", min=1, max=1000),
                io.Float.Input("seconds_per_step", min=0.0, max=10.0),
                io.Int.Input("seed", min=0, max=1 << 31),
            ],
            outputs=[io.Int.Output()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, steps, seconds_per_step, seed):
        bar = ProgressBar(steps)
        server: Any = PromptServer.instance  # which sets some of its attributes later
        for step in range(1, steps + 1):
            comfy.model_management.throw_exception_if_processing_interrupted()
            time.sleep(seconds_per_step)
            bar.update_absolute(step, steps, ("JPEG", moving_preview(step), None))
            told = {
                "node_id": cls.hidden.unique_id,
                "display_node_id": cls.hidden.unique_id,
                "prompt_id": server.last_prompt_id,
                "step": step,
                "steps": steps,
                "seconds_per_step": seconds_per_step,
                "seconds_left": (steps - step) * seconds_per_step,
                "peak_bytes": None,
            }
            server.send_sync("cogvideox.step", told, server.client_id)
        return io.NodeOutput(steps)


class Probes(ComfyExtension):
    async def get_node_list(self):
        return [ProbeNumberedFrames, ProbeTone, ProbeLivePreview]


async def comfy_entrypoint():
    return Probes()
