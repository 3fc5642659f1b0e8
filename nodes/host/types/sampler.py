"""SAMPLER: the official samplers under ComfyUI's guiders.

ComfyUI's models take x scaled by sqrt(1 + sigma^2); the official samplers work on the variance-preserving x. Both use
x0, so the core's denoising loop runs here with a guider as its predictor, and gives the reference's numbers.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import comfy.samplers
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ....cogvideox_core.models.noise import draw_latents
from ....cogvideox_core.models.variants import SamplerName
from ....cogvideox_core.sampling.finite import check_finite
from ....cogvideox_core.sampling.guidance import DynamicBy, Guidance, guide
from ....cogvideox_core.sampling.loop import denoise
from ....cogvideox_core.sampling.noise_schedule import NoiseSchedule, Step
from ....cogvideox_core.sampling.samplers import make_sampler
from .model import CogVideoXModel
from .model_sampling import check_official


class OfficialSampler(comfy.samplers.KSAMPLER):
    """DDIM or DPM-Solver++ 2M SDE as published, with constant or dynamic guidance.

    The noise of the stochastic steps comes from the seed and follows the initial noise in the stream, as in the
    reference.

    Args:
        rule: "ddim" or "dpm".
        dynamic_by: vary the guider's cfg by timestep (as published) or by step; None leaves it constant.
        leading_noise: noise [B, C, leading, h, w] of the leading frames (see leading_frames.py), if the caller drew it.
    """

    def __init__(
        self, rule: SamplerName, dynamic_by: DynamicBy | None = None, leading_noise: Tensor | None = None
    ) -> None:
        super().__init__(self._denoise)
        self.rule: SamplerName = rule
        self.dynamic_by: DynamicBy | None = dynamic_by
        self.leading_noise = leading_noise

    def _denoise(
        self, denoiser: Any, noise: Tensor, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, disable: bool
    ) -> Tensor:
        """A sampler function as KSAMPLER calls it.

        Args:
            denoiser: ComfyUI's KSamplerX0Inpaint, which holds the run's noise and latent image.
            noise: the noised latent [B, C, T, h, w], scaled by sqrt(1 + sigma^2); so is the result.
            sigmas: [steps + 1].
        """
        model = _cogvideox(denoiser.inner_model.inner_model)
        steps = steps_of(sigmas, model)
        if not steps:
            return noise
        x = noise / torch.sqrt(1 + sigmas[0] ** 2)  # of a later stage: a latent that is noisy already
        if denoiser.noise.any():
            x = model.schedule.add_noise(denoiser.latent_image, denoiser.noise, steps[0].timestep)
        guidance = _DynamicGuidance(self.dynamic_by, len(steps))
        options = {**extra_args, "model_options": guidance.add_to(extra_args["model_options"])}
        predictor = _GuiderPredictor(denoiser, model, sigmas, options, guidance)
        sampler = make_sampler(self.rule, _noise_source(x, extra_args.get("seed"), model.get_dtype_inference()))
        with tqdm(total=len(steps), disable=disable) as bar:

            def on_step(index: int, x0: Tensor, latents: Tensor) -> None:
                bar.update()
                callback({"i": index, "denoised": x0, "x": latents, "sigma": sigmas[index], "sigma_hat": sigmas[index]})

            x = denoise(predictor, x, steps, sampler, on_step)
        # A run that stops early hands its latent on as ComfyUI's samplers do: scaled by sqrt(1 + sigma^2).
        return x * torch.sqrt(1 + sigmas[-1] ** 2)


class _GuiderPredictor:
    """ComfyUI's guider as the `Predictor` of the core's denoising loop.

    Args:
        denoiser: ComfyUI's denoiser with the guider in it, for masks.
        sigmas: of the run, [steps + 1].
        options: what the denoiser takes besides: `model_options`, `seed`, `denoise_mask`.
        guidance: is told each step before the guider is asked.
    """

    def __init__(
        self,
        denoiser: Any,
        model: CogVideoXModel,
        sigmas: Tensor,
        options: dict[str, Any],
        guidance: _DynamicGuidance,
    ) -> None:
        self.denoiser, self.model = denoiser, model
        self.sigmas, self.options, self.guidance = sigmas, options, guidance

    def __call__(self, latents: Tensor, step: Step, index: int) -> Tensor:
        """Guided x0 of latents, both [B, C, T, h, w]. Raises: FloatingPointError if it is not finite."""
        self.guidance.now(step, index)
        sigma = self.sigmas[index]
        x0 = self.denoiser(latents * torch.sqrt(1 + sigma**2), sigma.expand(len(latents)), **self.options)
        if step.alpha == 0.0:
            x0 = _without_terminal_alpha(latents, x0, sigma)
        check_finite(x0, step.timestep, self.model.get_dtype_inference(), self.model.diffusion_model)
        return x0


def steps_of(sigmas: Tensor, model: CogVideoXModel) -> list[Step]:
    """The steps that sigmas ask for; the official stride where they are (part of) an official run.

    An official step leads to t - 1000 // N, which is not always the next timestep of the list.

    Raises: ValueError for sigmas that stand still or rise, or a model under another noise schedule than its own.
    """
    check_official(model.model_sampling, model.schedule, model.variant.name)
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

    def now(self, step: Step, index: int) -> None:
        """The step that is computed next."""
        self.step, self.index = step, index

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
        scale = Guidance(cfg, dynamic=True, dynamic_by=self.by).at(self.step.timestep, self.index, self.count)
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


def _without_terminal_alpha(latents: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """x0 of the first timestep, whose a(t) is 0.

    That has no finite sigma, so ComfyUI computes x0 = sqrt(a) x - sqrt(1 - a) v with a small a in its place. The
    reference computes x0 = -v.
    """
    alpha = 1.0 / (1.0 + float(sigma) ** 2)
    return (x0 - math.sqrt(alpha) * latents) / math.sqrt(1.0 - alpha)
