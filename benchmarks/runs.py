"""What the benchmarks run: ours and each peer's, from the same weights and inputs, at sizes for a CPU or a GPU."""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cogvideox_core import Request, load_pipeline
from cogvideox_core.demo import DEMO_GUIDANCE, DEMO_MODEL, DEMO_STEPS
from cogvideox_core.kernels import layers
from cogvideox_core.models.config import TransformerConfig, VAEConfig
from cogvideox_core.models.transformer.adaln_table import tabulated
from cogvideox_core.models.transformer.attention import choose_attention
from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from cogvideox_core.models.transformer.positions import rotary_table
from cogvideox_core.models.vae.autoencoder import AutoencoderCausal3D
from cogvideox_core.models.vae.tiling import Tiling
from cogvideox_core.models.variants import VARIANTS
from cogvideox_core.pipeline.offload import Offload
from cogvideox_core.pipeline.pipeline import CogVideoXPipeline
from cogvideox_core.weights.quantize import Method, quantize_model
from tests.support.checkpoints import OFFICIAL
from tests.support.weight_forms import comfyui_name

REPO = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Run:
    """Something that can be computed again and again; `model` is what holds its weights."""

    call: Callable[[], Tensor]
    model: Any = None


Maker = Callable[[torch.device], Run]


@dataclass(frozen=True)
class Step:
    """A guided step: two latents [C, T, h, w] of `size`, 226 tokens of text each.

    `stored`: the number format of weights and inputs, if they are computed with in another.
    """

    kind: str
    size: tuple[int, int, int]
    dtype: torch.dtype
    changes: dict[str, Any] = field(default_factory=dict)
    stored: torch.dtype | None = None

    @property
    def config(self) -> TransformerConfig:
        return _config(TransformerConfig, OFFICIAL[self.kind].transformer | self.changes)

    @property
    def tokens(self) -> int:
        """Of text and video together."""
        return 226 + math.prod(self.size) // self.config.frame_patch // self.config.patch_size**2

    def peer(self, device: torch.device) -> Any:
        """diffusers' transformer with random weights."""
        from diffusers import CogVideoXTransformer3DModel

        torch.manual_seed(0)
        with device:
            model: Any = CogVideoXTransformer3DModel(**OFFICIAL[self.kind].transformer | self.changes)
        return model.eval().requires_grad_(False).to(self.stored or self.dtype).to(self.dtype)

    def inputs(self, device: torch.device) -> list[Tensor]:
        """Latents, embeddings and timesteps."""
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn(1, self.config.in_channels, *self.size, generator=generator).repeat(2, 1, 1, 1, 1)
        embeds = torch.randn(2, 226, self.config.text_embed_dim, generator=generator)
        timesteps = torch.tensor([500, 500], device=device)
        latents, embeds = (x.to(self.stored or self.dtype).to(device, self.dtype) for x in (latents, embeds))
        return [latents, embeds, timesteps]

    def own(self, device: torch.device, quantize: Method = "none") -> CogVideoXTransformer3D:
        model = CogVideoXTransformer3D(self.config, dtype=self.dtype, device=device).eval().requires_grad_(False)
        model.load_state_dict(self.peer(device).state_dict())
        quantize_model(model, quantize)
        return model

    def ours(self, device: torch.device, quantize: Method = "none") -> Run:
        """As a run computes it: modulation from the table of its schedule."""
        model, inputs = self.own(device, quantize), self.inputs(device)
        attention = choose_attention("auto", device, self.dtype)

        def call() -> Tensor:
            with tabulated(model, [500], inputs[0]):
                return model(*inputs, attention=attention)

        return Run(call, model)

    def attention(self, device: torch.device, name: str = "auto") -> Run:
        """Attention of one block, by a backend of ours."""
        attend, qkv = choose_attention(name, device, self.dtype), self._qkv(device)
        return Run(lambda: attend(*qkv))

    def _qkv(self, device: torch.device) -> Tensor:
        """Random numbers [3, 2, heads, S, d] in the order a block has them in."""
        heads, head_dim = self.config.num_attention_heads, self.config.attention_head_dim
        numbers = torch.randn(3, 2, self.tokens, heads, head_dim, generator=torch.Generator().manual_seed(1))
        return numbers.to(self.stored or self.dtype).to(device, self.dtype).transpose(2, 3)

    def diffusers(self, device: torch.device, *, compiled: bool = False, quantize: Method = "none") -> Run:
        model = self.peer(device)
        quantize_model(model, quantize)
        latents, embeds, timestep = self.inputs(device)
        grid = (self.size[0] // self.config.frame_patch, self.size[1] // 2, self.size[2] // 2)
        rotary = tuple(part.repeat_interleave(2, dim=-1) for part in rotary_table(grid, self.config, device))
        if compiled:
            for block in model.transformer_blocks:
                block.compile()

        def call() -> Tensor:
            return model(latents.transpose(1, 2), embeds, timestep, image_rotary_emb=rotary).sample.transpose(1, 2)

        return Run(call, model)

    def reference(self, device: torch.device) -> Run:
        """diffusers in float32, with the weights of our number format."""
        return replace(self, dtype=torch.float32, stored=self.dtype).diffusers(device)

    def comfyui(self, device: torch.device) -> Run:
        """ComfyUI's own CogVideoX, which computes the 1.5 family as the others do."""
        _import_comfyui(device)
        import comfy.ops
        from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel

        peer = self.peer(device)
        known = set(CogVideoXTransformer3DModel.__init__.__code__.co_varnames)
        arguments = {key: value for key, value in dict(peer.config).items() if key in known}
        arguments |= {"dtype": self.dtype, "device": device, "operations": comfy.ops.disable_weight_init}
        model = CogVideoXTransformer3DModel(**arguments)
        model.load_state_dict({comfyui_name(key): tensor for key, tensor in peer.state_dict().items()})
        model.eval().requires_grad_(False)
        latents, embeds, timestep = self.inputs(device)
        return Run(lambda: model(latents, timestep, embeds), model)

    def floor(self, device: torch.device) -> Run:
        """The matrices and the attention of a step, and nothing else: no arrangement of the rest goes below."""
        config = self.config
        width = config.width
        where: dict[str, Any] = {"device": device, "dtype": self.dtype}
        shapes = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
        matrices = [layers.Linear(*shape, **where).requires_grad_(False) for shape in shapes]
        inputs = [torch.randn(2, self.tokens, layer.in_features, **where) for layer in matrices]
        attention = self.attention(device)

        def call() -> Tensor:
            for _ in range(config.num_layers):
                for layer, x in zip(matrices, inputs, strict=True):
                    layer(x)
                attention.call()
            return inputs[0]

        return Run(call)


def _import_comfyui(device: torch.device) -> None:
    from tests import provision

    sys.path.insert(0, str(provision.comfyui()))
    sys.argv = [sys.argv[0], *(["--cpu"] if device.type == "cpu" else [])]
    import comfy.options

    comfy.options.enable_args_parsing()


@dataclass(frozen=True)
class Video:
    """A clip of F x H x W pixels through the VAE at full width; `stored` as in `Step`."""

    size: tuple[int, int, int]
    dtype: torch.dtype
    stored: torch.dtype | None = None

    def peer(self, device: torch.device) -> Any:
        from diffusers import AutoencoderKLCogVideoX

        torch.manual_seed(0)
        with device:
            model: Any = AutoencoderKLCogVideoX(**OFFICIAL["CogVideoX-5B"].vae)
        return model.eval().requires_grad_(False).to(self.stored or self.dtype).to(self.dtype)

    def own(self, device: torch.device) -> AutoencoderCausal3D:
        peer = self.peer(device)
        config = _config(VAEConfig, peer.config)
        model = AutoencoderCausal3D(config, dtype=self.dtype, device=device).eval().requires_grad_(False)
        model.load_state_dict(peer.state_dict())
        return model

    def in_float32(self) -> Video:
        """The same numbers, computed with in float32."""
        return replace(self, dtype=torch.float32, stored=self.dtype)

    def pixels(self, device: torch.device) -> Tensor:
        video = torch.rand(1, 3, *self.size, generator=torch.Generator().manual_seed(1)) * 2 - 1
        return video.to(self.stored or self.dtype).to(device, self.dtype)

    def z(self, device: torch.device) -> Tensor:
        frames, height, width = self.size
        shape = 1, 16, (frames - 1) // 4 + 1, height // 8, width // 8
        z = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        return z.to(self.stored or self.dtype).to(device, self.dtype)

    def our_decode(self, device: torch.device, *, carry: str | None = None, tiling: bool = False) -> Run:
        model, z = self.own(device), self.z(device)
        tiles = Tiling.of(model.config) if tiling else None
        carry_device = None if carry is None else torch.device(carry)
        return Run(lambda: model.decode(z, tiles, device=torch.device("cpu"), cache_device=carry_device), model)

    def diffusers_decode(self, device: torch.device, *, tiling: bool = False) -> Run:
        model, z = self.peer(device), self.z(device)
        if tiling:
            model.enable_tiling()
        return Run(lambda: model.decode(z).sample.cpu(), model)

    def our_encode(self, device: torch.device) -> Run:
        model, video = self.own(device), self.pixels(device)
        return Run(lambda: model.encode(video).mean, model)

    def diffusers_encode(self, device: torch.device) -> Run:
        model, video = self.peer(device), self.pixels(device)
        return Run(lambda: model.encode(video).latent_dist.mean, model)


_PROMPT = "a red ball bouncing in front of a meadow"


def our_run(device: torch.device, num_steps: int = DEMO_STEPS, **options: Any) -> Run:
    """The demo model from a prompt to frames."""
    pipeline = load_pipeline(DEMO_MODEL, dtype=torch.float32, device=device)
    asked = {"num_inference_steps": num_steps, "guidance_scale": DEMO_GUIDANCE, **options}
    return Run(lambda: pipeline(_PROMPT, generator=torch.Generator().manual_seed(1), **asked))


def diffusers_run(device: torch.device, num_steps: int = DEMO_STEPS) -> Run:
    """The same of diffusers."""
    import diffusers

    pipeline: Any = diffusers.CogVideoXPipeline.from_pretrained(DEMO_MODEL, torch_dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": num_steps, "guidance_scale": DEMO_GUIDANCE, "num_frames": 17, "output_type": "pt"}
    return Run(lambda: pipeline(_PROMPT, generator=torch.Generator().manual_seed(1), **asked).frames.transpose(1, 2))


@dataclass(frozen=True)
class Whole:
    """A whole run from embeddings to frames, with random weights."""

    step: Step
    video: Video
    num_steps: int

    def asked(self, device: torch.device) -> dict[str, Any]:
        _, embeds, _ = self.step.inputs(device)
        frames, height, width = self.video.size
        size = {"num_frames": frames, "height": height, "width": width, "num_inference_steps": self.num_steps}
        return {"prompt_embeds": embeds[:1], "negative_prompt_embeds": embeds[1:], "guidance_scale": 6.0, **size}

    def ours(self, device: torch.device, *, quantize: Method = "none", low_memory: bool = False) -> Run:
        weights_on = torch.device("cpu") if low_memory else device
        transformer = self.step.own(device, quantize).to(weights_on)
        vae = self.video.own(device).to(weights_on)
        offload = Offload(device, self.step.dtype) if low_memory else None
        pipeline = CogVideoXPipeline(transformer, vae, None, VARIANTS[self.step.kind], offload=offload)
        asked = self.asked(device)

        def call() -> Tensor:
            generator = torch.Generator().manual_seed(1)
            return torch.cat([chunk.cpu() for chunk in pipeline.stream(Request(generator=generator, **asked))], dim=2)

        return Run(call, None if low_memory else nn.ModuleList([transformer, vae]))

    def diffusers(self, device: torch.device) -> Run:
        import diffusers

        transformer, vae = self.step.peer(device), self.video.peer(device)
        scheduler = diffusers.CogVideoXDDIMScheduler(**OFFICIAL[self.step.kind].scheduler)
        parts: list[Any] = [None, None, vae, transformer, scheduler]
        pipeline: Any = diffusers.CogVideoXPipeline(*parts)
        pipeline.set_progress_bar_config(disable=True)
        asked = {**self.asked(device), "output_type": "pt"}

        def call() -> Tensor:
            found = pipeline(generator=torch.Generator().manual_seed(1), **asked)
            return found.frames.transpose(1, 2).float().cpu()

        return Run(call, nn.ModuleList([transformer, vae]))


def our_text(device: torch.device) -> Run:
    pipeline = load_pipeline(DEMO_MODEL, dtype=torch.float32, device=device)
    encode = pipeline.text_encoder
    assert encode is not None
    return Run(lambda: encode([_PROMPT] * 4))


def diffusers_text(device: torch.device) -> Run:
    import diffusers

    pipeline: Any = diffusers.CogVideoXPipeline.from_pretrained(DEMO_MODEL, torch_dtype=torch.float32).to(device)
    length = pipeline.transformer.config.max_text_seq_length
    asked = {"do_classifier_free_guidance": False, "max_sequence_length": length, "device": device}
    return Run(lambda: pipeline.encode_prompt([_PROMPT] * 4, **asked)[0])


def written(step: Step, device: torch.device) -> Path:
    """A folder with diffusers' transformer of random weights."""
    folder = Path(tempfile.gettempdir()) / f"cogvideox-benchmark-{step.kind}-{step.config.num_layers}"
    if not (folder / "config.json").exists():
        step.peer(device).save_pretrained(folder)
    return folder


def _config(kind: Any, values: Any) -> Any:
    """One of our configurations from a diffusers configuration."""
    known = {item.name for item in fields(kind)}
    chosen = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key in known}
    return kind(**chosen)


def weight_bytes(model: Any) -> int:
    """Bytes of all weights of a model, as they are stored."""
    if model is None:
        return 0
    tensors: Iterator[Tensor] = itertools.chain(model.parameters(), model.buffers())
    return sum(tensor.nbytes for tensor in tensors)
