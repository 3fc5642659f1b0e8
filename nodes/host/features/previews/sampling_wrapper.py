"""Live previews: the clips so far, moving, on the node that samples; under every sampler that takes our MODEL.

`preview_sampling` runs around the sampling of each MODEL. After a step it turns x0 into frames on the device and hands
them to a thread, which encodes and sends them, so that neither sampling nor the server's event loop waits. Whatever
fails here ends the previews of that sampling and nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.utils
import latent_preview
from torch import Tensor

from ...types.sampling_call import Callback, SamplingCall, by_name
from ...types.sampling_wrappers import add_sampling_wrapper
from .reports import Reports


def install() -> None:
    """Show previews of every MODEL that is loaded from now on."""
    add_sampling_wrapper("cogvideox_preview", preview_sampling)


@by_name
def preview_sampling(executor: Any, call: SamplingCall) -> Tensor:
    """An OUTER_SAMPLE wrapper: after each step the prompt's client gets a message and the clip so far.

    Returns: what the sampler makes, [B, C, T, h, w].
    """
    reports = None if call.callback is None else Reports.begin(executor.class_obj.model_patcher)
    if call.callback is None or reports is None:
        return call.run(executor)
    host = HostCallback(call.callback, len(call.sigmas) - 1) if reports.has_pictures else call.callback

    def after_step(step: int, x0: Tensor, x: Tensor, steps: int) -> None:
        host(step, x0, x, steps)  # first: it raises if the prompt was cancelled
        reports.after(step + 1, steps, x0)

    done = False
    try:
        samples = replace(call, callback=after_step).run(executor)
        if isinstance(host, HostCallback) and host.left is not None:
            _, x0, x, steps = host.left
            after_step(steps - 1, x0, x, steps)
        done = True
    finally:
        reports.end(wait=done)
    return samples


class HostCallback:
    """A sampler's callback while our previews are shown: ComfyUI's own is called for the last step alone.

    ComfyUI's callback moves the progress bar, keeps x0 for SamplerCustom's second output, and shows a still preview of
    the first frame. Here the bar is moved without it. The last step's call keeps the right x0; the preview that comes
    with it is replaced by ours at once. A callback that another pack made is called at every step.

    Attributes: left: the last arguments that ComfyUI's callback has not had; some samplers never report a last step.
    """

    def __init__(self, callback: Callback, steps: int) -> None:
        self.callback = callback
        self.is_comfyuis = getattr(callback, "__module__", None) == latent_preview.__name__
        self.bar = comfy.utils.ProgressBar(steps) if self.is_comfyuis else None
        self.left: tuple[int, Tensor, Tensor, int] | None = None

    def __call__(self, step: int, x0: Tensor, x: Tensor, steps: int) -> None:
        """x0 and x are [B, C, T, h, w]. Raises: ComfyUI's exception for a prompt that was cancelled."""
        if self.bar is None or step + 1 == steps:
            self.callback(step, x0, x, steps)
            self.left = None
        else:
            self.bar.update_absolute(step + 1, steps)
            self.left = (step, x0, x, steps)
