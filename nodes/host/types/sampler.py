"""SAMPLER: the official step rules under ComfyUI's guiders.

ComfyUI's samplers work on x scaled by sqrt(1 + sigma^2) and are told x0. The official rules work on the
variance-preserving x and on v; this class stands between the two, so that their numbers are the reference's.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import comfy.samplers
import torch
from torch import Tensor
from tqdm.auto import trange

from ....cogvideox_core.models.noise import draw_latents
from ....cogvideox_core.models.variants import SamplerName
from ....cogvideox_core.sampling.guidance import DynamicBy, dynamic_scale, guide
from ....cogvideox_core.sampling.noise_schedule import NoiseSchedule, Step
from ....cogvideox_core.sampling.samplers import check_finite, make_sampler
from .model import CogVideoXModel


class OfficialSampler(comfy.samplers.Sampler):
    """DDIM or DPM-Solver++ 2M SDE as published, with constant or dynamic guidance.

    Noise of the stochastic rule comes from the seed and follows the initial noise in the stream, as in the reference.

    Args:
        rule: "ddim" or "dpm".
        dynamic_by: vary the guider's cfg by timestep (as published) or by step; None leaves it constant.
        leading_noise: noise of the frames that go in front (see leading_frames.py), where the caller has drawn it.
    """

    def __init__(
        self, rule: SamplerName, dynamic_by: DynamicBy | None = None, leading_noise: Tensor | None = None
    ) -> None:
        self.rule = rule
        self.dynamic_by: DynamicBy | None = dynamic_by
        self.leading_noise = leading_noise

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        model = _cogvideox(model_wrap.inner_model)
        dtype = model.get_dtype_inference()
        latent_image = torch.zeros_like(noise) if latent_image is None else latent_image
        steps = steps_of(sigmas, model)
        if not steps:
            return latent_image if not sigmas.any() else noise * sigmas[0] + latent_image
        rule = make_sampler(self.rule, _noise_source(noise, extra_args.get("seed"), dtype))
        guidance = _DynamicGuidance(self.dynamic_by, len(steps))
        options = guidance.add_to(extra_args["model_options"])

        denoiser = comfy.samplers.KSamplerX0Inpaint(model_wrap, sigmas)
        denoiser.noise = noise
        denoiser.latent_image = latent_image
        x = model.schedule.add_noise(latent_image, noise, steps[0].timestep)
        if not noise.any():  # a later stage: the latent is noisy already, and scaled as ComfyUI's samplers do
            x = latent_image / torch.sqrt(1 + sigmas[0] ** 2)
        for index in trange(len(steps), disable=disable_pbar):
            step = guidance.now(steps[index], index)
            sigma = sigmas[index]
            x0 = denoiser(
                x * torch.sqrt(1 + sigma**2),
                sigma.expand(len(x)),
                denoise_mask,
                model_options=options,
                seed=extra_args.get("seed"),
            )
            x = rule.step(x, _v_pred(x, x0, sigma), step)
            check_finite(x, step, dtype, model.diffusion_model)
            if callback is not None:
                callback(index, rule.x0_pred, x, len(steps))
        # A run that stops early hands its latent on as ComfyUI's samplers do: scaled by sqrt(1 + sigma^2).
        return x * torch.sqrt(1 + sigmas[-1] ** 2)


def steps_of(sigmas: Tensor, model: CogVideoXModel) -> list[Step]:
    """The steps that sigmas ask for; the official stride where they are (part of) an official run.

    An official step leads to t - 1000 // N, which is not always the next timestep of the list.

    Raises: ValueError for sigmas that stand still or rise.
    """
    if len(sigmas) < 2:
        return []
    ending = float(sigmas[-1]) == 0.0
    visited = sigmas[:-1] if ending else sigmas
    timesteps = [int(model.model_sampling.timestep(sigma)) for sigma in visited]
    following = [*timesteps[1:], *([-1] if ending else [])]
    timesteps = timesteps[: len(following)]
    if any(after >= timestep for timestep, after in zip(timesteps, following, strict=True)):
        raise ValueError(
            f"sigmas that stand still or rise (timesteps {timesteps}); the official samplers take falling ones: take "
            "them from CogVideoX Scheduler, or another sampler"
        )
    schedule = model.schedule
    number = _official_run(schedule, tuple(timesteps), None if ending else following[-1])
    if number is not None:
        stride = schedule.config.num_train_timesteps // number
        following = [timestep - stride for timestep in timesteps]
    back: list[int | None] = [None, *timesteps[:-1]]
    return [
        Step(t, after, schedule.alpha(t), schedule.alpha(after), None if b is None else schedule.alpha(b))
        for t, after, b in zip(timesteps, following, back, strict=True)
    ]


@lru_cache(maxsize=8)
def _official_run(schedule: NoiseSchedule, timesteps: tuple[int, ...], then: int | None) -> int | None:
    """N of an official run of N steps that holds these timesteps in a row and goes on with `then` (None: ends)."""
    wanted = [*timesteps] if then is None else [*timesteps, then]
    for number in range(len(timesteps), schedule.config.num_train_timesteps + 1):
        run = schedule.timesteps(number)
        if wanted[0] not in run:
            continue
        start = run.index(wanted[0])
        part = run[start : start + len(wanted)]
        if part == wanted and (then is not None or start + len(wanted) == len(run)):
            return number
    return None


class _DynamicGuidance:
    """Recomputes the guided x0 of each step with the scale of that step."""

    def __init__(self, by: DynamicBy | None, count: int) -> None:
        self.by: DynamicBy | None = by
        self.count = count
        self.step: Step | None = None
        self.index = 0

    def now(self, step: Step, index: int) -> Step:
        self.step, self.index = step, index
        return step

    def add_to(self, model_options: dict[str, Any]) -> dict[str, Any]:
        """The options of this run with the guidance put before other patches of the same kind."""
        if self.by is None:
            return model_options
        if "sampler_cfg_function" in model_options:
            raise ValueError(
                "dynamic cfg on a MODEL that has a cfg function of its own (RescaleCFG, say); set dynamic_cfg to off, "
                "or take that node out"
            )
        others = model_options.get("sampler_post_cfg_function", [])
        return {**model_options, "sampler_post_cfg_function": [self._guide, *others]}

    def _guide(self, args: dict[str, Any]) -> Tensor:
        cfg = args["cond_scale"]
        if self.by is None or self.step is None or cfg <= 1.0 or args["uncond_denoised"] is None:
            return args["denoised"]
        scale = dynamic_scale(
            cfg,
            timestep=self.step.timestep,
            step_index=self.index,
            num_inference_steps=self.count,
            by=self.by,
        )
        return guide(args["uncond_denoised"], args["cond_denoised"], scale)


def _cogvideox(model: Any) -> CogVideoXModel:
    if not isinstance(model, CogVideoXModel):
        raise ValueError(
            f"a model of type {type(model).__name__}; the CogVideoX samplers take a MODEL from CogVideoX Load Model"
        )
    return model


def _noise_source(noise: Tensor, seed: int | None, dtype: torch.dtype) -> Any:
    """Step noise from the seed, past the draw of the initial noise."""
    generator = torch.Generator().manual_seed(seed or 0)

    def draw(like: Tensor) -> Tensor:
        return draw_latents(like.shape, generator, like.device, dtype).float()

    draw(noise)
    return draw


def _v_pred(x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """The network's v, from the x0 that was computed with the a of this sigma."""
    alpha = 1.0 / (1.0 + float(sigma) ** 2)
    return (math.sqrt(alpha) * x - x0) / math.sqrt(1.0 - alpha)
