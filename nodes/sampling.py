"""The sampler, and its parts for ComfyUI's SamplerCustom nodes."""

from __future__ import annotations

from comfy_api.latest import io

from ..cogvideox_core.models.variants import SamplerName
from ..cogvideox_core.sampling.approximation import Approximation
from ..cogvideox_core.sampling.guidance import DynamicBy
from .host.types.official_sampling import SamplerSettings, official_sigmas, sample_official
from .host.types.sampler import OfficialSampler

_SAMPLERS: dict[str, SamplerName] = {"ddim": "ddim", "dpm++ 2m sde": "dpm"}
_DYNAMIC_CFG: dict[str, DynamicBy | None] = {"off": None, "published": "timestep", "by step": "step"}
_STEPS = io.Int.Input("steps", default=50, min=1, max=1000, tooltip="Denoising steps; 50 is usual.")
_DENOISE = io.Float.Input(
    "denoise",
    default=1.0,
    min=0.01,
    max=1.0,
    step=0.01,
    tooltip="How much of the given video is replaced: 1 for all of it, 0.8 is usual for video to video. Of 20 steps, "
    "0.8 runs the last 16.",
)


def _sampler_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "sampler",
            options=list(_SAMPLERS),
            default="ddim",
            tooltip="The two official samplers: ddim for 2B, dpm++ 2m sde for the 5B and 1.5 models.",
        ),
        io.Combo.Input(
            "dynamic_cfg",
            options=list(_DYNAMIC_CFG),
            default="off",
            tooltip="Vary cfg over the steps: by the published formula (it jumps about), or as it was evidently meant "
            "(falling smoothly from 1 + cfg to 1). The authors advise it with dpm++ 2m sde.",
        ),
    ]


class CogVideoXSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXSampler",
            display_name="CogVideoX Sampler",
            category="CogVideoX/sampling",
            description="Samples a video as the reference does: official schedule, step rules and noise order.",
            inputs=[
                io.Model.Input("model", tooltip="From CogVideoX Load Model."),
                io.Conditioning.Input("positive", tooltip="What to show."),
                io.Conditioning.Input("negative", tooltip="What to avoid; used where cfg is above 1."),
                io.Latent.Input("latent_image", tooltip="An empty latent, or a video to start from (denoise below 1)."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives the same video, here and in diffusers.",
                ),
                _STEPS,
                io.Float.Input(
                    "cfg", default=6.0, min=0.0, max=100.0, step=0.1, tooltip="How strongly the prompt counts."
                ),
                *_sampler_inputs(),
                _DENOISE,
            ],
            outputs=[io.Latent.Output(tooltip="The clean latent, for CogVideoX VAE Decode or VAE Decode.")],
            search_aliases=["ksampler", "generate video", "ddim", "dpm++", "CogVideoSampler"],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        latent_image: dict,
        seed: int,
        steps: int,
        cfg: float,
        sampler: str,
        dynamic_cfg: str,
        denoise: float,
    ) -> io.NodeOutput:
        rule, dynamic_by = _SAMPLERS[sampler], _DYNAMIC_CFG[dynamic_cfg]
        settings = SamplerSettings(seed, steps, cfg, rule, dynamic_by, denoise)
        return io.NodeOutput(sample_official(model, positive, negative, latent_image, settings))


class CogVideoXScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXScheduler",
            display_name="CogVideoX Scheduler",
            category="CogVideoX/sampling",
            description="The official timesteps of the model as sigmas.",
            inputs=[
                io.Model.Input("model", tooltip="From CogVideoX Load Model; its schedule is used."),
                _STEPS,
                _DENOISE,
            ],
            outputs=[io.Sigmas.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
            search_aliases=["sigmas", "timesteps", "BasicScheduler"],
        )

    @classmethod
    def execute(cls, model, steps: int, denoise: float) -> io.NodeOutput:
        return io.NodeOutput(official_sigmas(model, steps, denoise))


class CogVideoXSamplerSelect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXSamplerSelect",
            display_name="CogVideoX Sampler Select",
            category="CogVideoX/sampling",
            description="The official step rules as a sampler.",
            inputs=_sampler_inputs(),
            outputs=[io.Sampler.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
            search_aliases=["ddim", "dpm++ 2m sde", "dynamic cfg", "KSamplerSelect"],
        )

    @classmethod
    def execute(cls, sampler: str, dynamic_cfg: str) -> io.NodeOutput:
        return io.NodeOutput(OfficialSampler(_SAMPLERS[sampler], _DYNAMIC_CFG[dynamic_cfg]))


class CogVideoXSpeed(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXSpeed",
            display_name="CogVideoX Speed",
            category="CogVideoX/sampling",
            description="Trades exactness for speed, under any sampler; everything is off until it is set. Figures are "
            "of the demo model against the exact run (docs/approximations.md); where steps are long, a step that is "
            "not computed is time saved.",
            inputs=[
                io.Model.Input("model", tooltip="From CogVideoX Load Model, or with LoRAs on it."),
                io.Float.Input(
                    "cache_budget",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.005,
                    tooltip="Predict steps while their estimated error, a mean over the run, stays below this; 0 "
                    "computes them all. 50 steps of ddim: 0.01 computes 46 % of them at a PSNR of 66 dB, 0.03 31 % "
                    "at 51 dB, 0.1 21 % at 43 dB. dpm++ 2m sde bears less: 0.01 75 % at 64 dB, 0.03 41 % at 43 dB.",
                ),
                io.Float.Input(
                    "teacache",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="TeaCache's rule in place of cache_budget, with this threshold; 0 is off. Its polynomials "
                    "were fitted to the official weights. 50 steps of ddim: 0.1 computes 62 % at 66 dB, 0.2 40 % at "
                    "59 dB.",
                ),
                io.Float.Input(
                    "guidance_until",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Compute the negative prompt in this part of the steps only; 1 is off. 0.8 saves 10 % of "
                    "the work at 44 dB, 0.6 20 % at 41 dB: cache_budget saves more at that cost.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for any sampler.")],
            search_aliases=["cache", "teacache", "easycache", "faster", "CogVideoXTeaCache", "CogVideoXFasterCache"],
        )

    @classmethod
    def execute(cls, model, cache_budget: float, teacache: float, guidance_until: float) -> io.NodeOutput:
        from .host.features.speed import accelerate  # a feature: the other nodes are there without it

        return io.NodeOutput(accelerate(model, Approximation(cache_budget, teacache, guidance_until)))
