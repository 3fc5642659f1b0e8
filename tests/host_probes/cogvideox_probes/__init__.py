"""Test-only nodes: look at tensors exactly, and make the host load a model in part as it does on a small card."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, ClassVar

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import folder_paths
import safetensors.torch
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import ComfyExtension, io, ui


def save(tensor, name):
    """Write a tensor, bit for bit, and show where."""
    file = f"{name}.safetensors"
    safetensors.torch.save_file({"tensor": tensor.contiguous()}, f"{folder_paths.get_output_directory()}/{file}")
    return io.NodeOutput(ui={"tensors": [ui.SavedResult(file, "", io.FolderType.output)]})


class ProbeSaveImages(io.ComfyNode):
    """Saves an IMAGE as floats."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeSaveImages",
            category="probes",
            inputs=[io.Image.Input("images"), io.String.Input("name")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images, name):
        return save(images, name)


class ProbeSaveConditioning(io.ComfyNode):
    """Saves the embeddings of a CONDITIONING."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeSaveConditioning",
            category="probes",
            inputs=[io.Conditioning.Input("conditioning"), io.String.Input("name")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, conditioning, name):
        return save(conditioning[0][0], name)


class ProbePartialLoad(io.ComfyNode):
    """Gives a MODEL of which only so many bytes are loaded to the device; the rest streams while sampling."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbePartialLoad",
            category="probes",
            inputs=[io.Model.Input("model"), io.Int.Input("loaded_bytes", min=1, max=1 << 40)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, loaded_bytes):
        comfy.model_management.unload_all_models()  # a model that is loaded whole stays so
        partial = model.clone()
        load = partial.load

        def load_in_part(device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
            return load(device_to, loaded_bytes, force_patch_weights, full_load=False)

        partial.load = load_in_part
        return io.NodeOutput(partial)


class ProbeStreamedModules(io.ComfyNode):
    """How many modules of a MODEL keep their weights off the device now, after whatever `after` computed."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeStreamedModules",
            category="probes",
            inputs=[io.Model.Input("model"), io.Latent.Input("after")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model, after):
        streamed = [
            name for name, module in model.model.named_modules() if getattr(module, "comfy_cast_weights", False)
        ]
        return io.NodeOutput(ui={"streamed": streamed})


class ProbeWatchMemory(io.ComfyNode):
    """Once `after` is there, notes what ComfyUI is asked to make room for; and tells it that so many bytes are free, if
    above 0. A ProbeMemoryAsked ends it.
    """

    mm = comfy.model_management
    genuine = mm.load_models_gpu, mm.get_free_memory
    asked: ClassVar[list[int]] = []

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeWatchMemory",
            category="probes",
            inputs=[io.Vae.Input("vae"), io.AnyType.Input("after"), io.Int.Input("free", min=0, max=1 << 50)],
            outputs=[io.Vae.Output()],
            not_idempotent=True,
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return float("nan")  # never cached

    @classmethod
    def execute(cls, vae, after, free):
        load, get_free = cls.genuine
        cls.asked.clear()

        def noted(models, memory_required=0, **options):
            cls.asked.append(memory_required)
            return load(models, memory_required=memory_required, **options)

        cls.mm.load_models_gpu = noted
        if free:
            cls.mm.get_free_memory = lambda device=None, torch_free_too=False: (free, free) if torch_free_too else free
        else:
            cls.mm.get_free_memory = get_free
        return io.NodeOutput(vae)


class ProbeMemoryAsked(io.ComfyNode):
    """What ComfyUI was asked to make room for until `after` was there."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeMemoryAsked",
            category="probes",
            inputs=[io.AnyType.Input("after")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, after):
        watch = ProbeWatchMemory
        watch.mm.load_models_gpu, watch.mm.get_free_memory = watch.genuine
        return io.NodeOutput(ui={"asked": list(watch.asked)})


class ProbePoisonLatent(io.ComfyNode):
    """Puts one NaN into a latent."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbePoisonLatent",
            category="probes",
            inputs=[io.Latent.Input("samples")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples):
        poisoned = samples["samples"].clone()
        poisoned.view(-1)[0] = float("nan")
        return io.NodeOutput({**samples, "samples": poisoned})


class ProbeSlowSteps(io.ComfyNode):
    """A MODEL each of whose steps takes so many seconds more, and can be cancelled meanwhile."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeSlowSteps",
            category="probes",
            inputs=[io.Model.Input("model"), io.Float.Input("seconds", default=1.0, min=0.0, max=60.0)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, seconds):
        def slowly(executor, *args, **kwargs):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                comfy.model_management.throw_exception_if_processing_interrupted()
                time.sleep(0.01)
            return executor(*args, **kwargs)

        slow = model.clone()
        slow.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "probe_slow_steps", slowly)
        return io.NodeOutput(slow)


class ProbeBreakPreviews(io.ComfyNode):
    """Hands on a MODEL; from then on the pack's previews cannot be encoded, or can again."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeBreakPreviews",
            category="probes",
            inputs=[io.Model.Input("model"), io.Boolean.Input("broken")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, broken):
        film: Any
        (film,) = [module for name, module in sys.modules.items() if name.endswith(".previews.film")]
        (pictures,) = [module for name, module in sys.modules.items() if name.endswith(".previews.pictures")]

        def fail(*_):
            raise OSError("the encoder is broken")

        film.animated_webp = fail if broken else pictures.animated_webp
        return io.NodeOutput(model)


class ProbeQuietSampler(io.ComfyNode):
    """A SAMPLER that reports every step but the last."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeQuietSampler",
            category="probes",
            inputs=[io.Sampler.Input("sampler")],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, sampler):
        class Quiet(comfy.samplers.Sampler):
            def sample(self, model_wrap, sigmas, extra_args, callback, noise, *rest, **options):
                def reported(step, x0, x, steps):
                    if step + 1 < steps:
                        callback(step, x0, x, steps)

                return sampler.sample(model_wrap, sigmas, extra_args, callback and reported, noise, *rest, **options)

        return io.NodeOutput(Quiet())


class ProbeForeign(io.ComfyNode):
    """A MODEL and a CLIP of another family: Stable Diffusion's U-Net in little, and its real tokenizer."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="ProbeForeign", category="probes", outputs=[io.Model.Output(), io.Clip.Output()])

    @classmethod
    def execute(cls):
        size = dict(image_size=32, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1], num_heads=1)
        size |= dict(channel_mult=[1], transformer_depth=[0], transformer_depth_output=[0, 0])
        size |= dict(transformer_depth_middle=-1, use_spatial_transformer=True, context_dim=32, adm_in_channels=None)
        cpu = comfy.model_management.torch.device("cpu")
        model = comfy.supported_models.SD15(size).get_model({}, device=cpu)
        clip = comfy.sd.CLIP(no_init=True)
        clip.tokenizer, clip.tokenizer_options = comfy.sd1_clip.SD1Tokenizer(), {}
        return io.NodeOutput(comfy.model_patcher.ModelPatcher(model, cpu, cpu), clip)


class ProbeCutConditioning(io.ComfyNode):
    """The first tokens of a CONDITIONING."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeCutConditioning",
            category="probes",
            inputs=[io.Conditioning.Input("conditioning"), io.Int.Input("tokens", min=1)],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning, tokens):
        return io.NodeOutput([[embeds[:, :tokens], values] for embeds, values in conditioning])


class ProbeBrokenModel(io.ComfyNode):
    """A MODEL that predicts NaN, as some attention kernels do."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeBrokenModel",
            category="probes",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model):
        broken = model.clone()
        broken.set_model_unet_function_wrapper(
            lambda apply, given: apply(given["input"], given["timestep"], **given["c"]) * float("nan")
        )
        return io.NodeOutput(broken)


class ProbeGuidance(io.ComfyNode):
    """Leads away from what the model predicts under further transformer options (JSON), as guidance nodes do."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeGuidance",
            category="probes",
            inputs=[io.Model.Input("model"), io.String.Input("options"), io.Float.Input("scale", min=0.0, max=100.0)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, options, scale):
        guided = model.clone()

        def guide(told):
            more = {**told["model_options"]["transformer_options"], **json.loads(options)}
            weak = {**told["model_options"], "transformer_options": more}
            question = told["model"], [told["cond"]], told["input"], told["sigma"], weak
            (weaker,) = comfy.samplers.calc_cond_batch(*question)
            return told["denoised"] + scale * (told["cond_denoised"] - weaker)

        guided.set_model_sampler_post_cfg_function(guide)
        return io.NodeOutput(guided)


class Probes(ComfyExtension):
    async def get_node_list(self):
        return [
            ProbeSaveImages,
            ProbeSaveConditioning,
            ProbePartialLoad,
            ProbeStreamedModules,
            ProbeWatchMemory,
            ProbeMemoryAsked,
            ProbePoisonLatent,
            ProbeSlowSteps,
            ProbeBreakPreviews,
            ProbeQuietSampler,
            ProbeForeign,
            ProbeCutConditioning,
            ProbeBrokenModel,
            ProbeGuidance,
        ]


async def comfy_entrypoint():
    return Probes()
