"""CogVideoX weights in the forms people have them in, written from diffusers' state dicts.

Each writer is the reverse of what the core reads, made from the published descriptions alone and with none of its code:
SAT's key names, ComfyUI's, scaled 8-bit floats and integers, "GGUF" blocks in .safetensors, true .gguf files, and the
files of bitsandbytes, torchao and quanto.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]
Writer = Callable[[State, Path], Path]

# --- Names --------------------------------------------------------------------------------------------------------


def prefixed(prefix: str) -> Writer:
    def write(state: State, folder: Path) -> Path:
        return _save({prefix + key: tensor for key, tensor in state.items()}, folder / "prefixed.safetensors")

    return write


_COMFYUI = {
    "transformer_blocks.": "blocks.",
    ".attn1.to_q.": ".q.",
    ".attn1.to_k.": ".k.",
    ".attn1.to_v.": ".v.",
    ".attn1.to_out.0.": ".attn_out.",
    ".attn1.norm_": ".norm_",
    ".ff.net.0.proj.": ".ff_proj.",
    ".ff.net.2.": ".ff_out.",
    "time_embedding.linear_": "time_embedding_linear_",
    "ofs_embedding.linear_": "ofs_embedding_linear_",
}


def comfyui_name(key: str) -> str:
    """What ComfyUI's own CogVideoX calls a weight."""
    for old, new in _COMFYUI.items():
        key = key.replace(old, new)
    return key


def comfyui(state: State, folder: Path) -> Path:
    """The names of ComfyUI's own CogVideoX."""
    return _save({comfyui_name(key): tensor for key, tensor in state.items()}, folder / "comfyui.safetensors")


_SAT = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "ofs_embedding.linear_1": "ofs_embed.0",
    "ofs_embedding.linear_2": "ofs_embed.2",
    "patch_embed.proj": "mixins.patch_embed.proj",
    "patch_embed.text_proj": "mixins.patch_embed.text_proj",
    "norm_final": "transformer.final_layernorm",
    "norm_out.norm": "mixins.final_layer.norm_final",
    "norm_out.linear": "mixins.final_layer.adaLN_modulation.1",
    "proj_out": "mixins.final_layer.linear",
}
_SAT_BLOCK = {
    "norm1.norm": "transformer.layers.{}.input_layernorm",
    "norm2.norm": "transformer.layers.{}.post_attention_layernorm",
    "attn1.to_out.0": "transformer.layers.{}.attention.dense",
    "ff.net.0.proj": "transformer.layers.{}.mlp.dense_h_to_4h",
    "ff.net.2": "transformer.layers.{}.mlp.dense_4h_to_h",
    "attn1.norm_q": "mixins.adaln_layer.query_layernorm_list.{}",
    "attn1.norm_k": "mixins.adaln_layer.key_layernorm_list.{}",
}


def sat(state: State, folder: Path) -> Path:
    """A folder as SAT trains: latest, and the states of 1000 steps."""
    tensors: State = {}
    count = len({key.split(".")[1] for key in state if key.startswith("transformer_blocks.")})
    for leaf in ("weight", "bias"):
        for ours, theirs in _SAT.items():
            if f"{ours}.{leaf}" in state:
                tensors[f"{theirs}.{leaf}"] = state[f"{ours}.{leaf}"]
        for block in range(count):
            own = f"transformer_blocks.{block}."
            for ours, theirs in _SAT_BLOCK.items():
                tensors[f"{theirs.format(block)}.{leaf}"] = state[f"{own}{ours}.{leaf}"]
            qkv = [state[f"{own}attn1.to_{part}.{leaf}"] for part in "qkv"]
            tensors[f"transformer.layers.{block}.attention.query_key_value.{leaf}"] = torch.cat(qkv)
            first, second = (state[f"{own}norm{number}.linear.{leaf}"].chunk(6) for number in (1, 2))
            video, text = first[:3] + second[:3], first[3:] + second[3:]
            tensors[f"mixins.adaln_layer.adaLN_modulations.{block}.1.{leaf}"] = torch.cat(video + text)
    width = len(state["norm_final.weight"])
    tensors |= {f"mixins.pos_embed.freqs_{wave}": torch.zeros(9, 64) for wave in ("sin", "cos")}
    # Learned by 5B-I2V, the sines of 2B, and in no other file; one too many must not matter.
    tensors["mixins.pos_embed.pos_embedding"] = state.get("patch_embed.pos_embedding", torch.zeros(1, 30, width))
    tensors["transformer.word_embeddings.weight"] = torch.zeros(1, width)
    states = folder / "1000" / "mp_rank_00_model_states.pt"
    states.parent.mkdir(parents=True)
    torch.save({"module": {"model.diffusion_model." + key: tensor for key, tensor in tensors.items()}}, states)
    (folder / "latest").write_text("1000")
    return folder


def sat_after_training(state: State, folder: Path) -> Path:
    """The same folder as a user's own training leaves it."""
    return _train_with_sat(_sat_module(state, folder), folder)


def sat_with_t5_and_vae(transformer: State, vae: State, text_encoder: State, folder: Path) -> Path:
    """A full fine-tune with SAT: everything that its model consists of is in the one file."""
    module = _sat_module(transformer, folder)
    theirs = torch.load(sat_vae(vae, folder))["state_dict"]
    module |= {f"first_stage_model.{key}": tensor for key, tensor in theirs.items()}
    module |= {f"conditioner.embedders.0.transformer.{key}": tensor for key, tensor in text_encoder.items()}
    return _train_with_sat(module, folder)


def _sat_module(state: State, folder: Path) -> State:
    return torch.load(next(sat(state, folder / "official").rglob("*.pt")))["module"]


def _train_with_sat(module: State, folder: Path) -> Path:
    states = folder / "run" / "1000" / "mp_rank_00_model_states.pt"
    states.parent.mkdir(parents=True)
    schedule = {"start_lr": 1e-4, "warmup_iter": 1, "num_iters": 0, "decay_style": "linear"}
    torch.save(deepspeed_states(module, iteration=1000, client_lr_scheduler=schedule, **random_states()), states)
    (folder / "run" / "latest").write_text("1000")
    (folder / "run" / "model_config.json").write_text('{"model_class": "SATVideoDiffusionEngine"}')
    return folder / "run"


def random_states() -> dict[str, Any]:
    """What SAT stores beside the weights unless `no_save_rng` is set."""
    return {
        "random_rng_state": random.getstate(),
        "np_rng_state": np.random.get_state(),
        "torch_rng_state": torch.get_rng_state(),
        "cuda_rng_state": torch.get_rng_state()[:16],
    }


def deepspeed_states(module: dict[str, Tensor], **client: Any) -> dict[str, Any]:
    """The dict that DeepSpeed 0.19 stores with ZeRO 2; `client` is what the program that trains adds."""
    shapes = {key: tensor.shape for key, tensor in module.items()}
    nothing = ("optimizer", "lr_scheduler", "data_sampler", "random_ltd")
    counts = ("skipped_steps", "global_steps", "global_samples")
    return {
        "module": module,
        "buffer_names": [],
        "param_shapes": [shapes],
        "frozen_param_shapes": {},
        "shared_params": {},
        "frozen_param_fragments": {},
        "ds_config": {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}},
        "ds_version": "0.19.8",
        **dict.fromkeys(nothing),
        **dict.fromkeys(counts, 500),
        **dict.fromkeys(("dp_world_size", "mp_world_size"), 1),
        **client,
    }


def sat_vae(state: State, folder: Path) -> Path:
    """3d-vae.pt."""

    def renamed(key: str) -> str:
        if match := re.match(r"decoder\.up_blocks\.(\d)\.", key):
            key = key.replace(match[0], f"decoder.up.{3 - int(match[1])}.")
        key = re.sub(r"encoder\.down_blocks\.(\d)\.", r"encoder.down.\1.", key)
        key = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", key)
        key = re.sub(r"\.resnets\.(\d)", r".block.\1", key)
        key = re.sub(r"\.(down|up)samplers\.0\.", r".\1sample.", key)
        return key.replace("conv_shortcut", "nin_shortcut")

    tensors = {renamed(key): tensor for key, tensor in state.items()}
    tensors["loss.discriminator.weight"] = torch.zeros(3)
    torch.save({"state_dict": tensors}, folder / "3d-vae.pt")
    return folder / "3d-vae.pt"


# --- Numbers ------------------------------------------------------------------------------------------------------


def is_quantizable(key: str) -> bool:
    """The matrices of attention and feed-forward: what quantized files hold in few bits."""
    of_transformer, of_t5 = (
        r"to_[qkv]|to_out\.0|ff\.net\.0\.proj|ff\.net\.2",
        r"SelfAttention\.[qkvo]|DenseReluDense\.w\w+",
    )
    return bool(re.search(rf"\.({of_transformer}|{of_t5})\.weight$", key))


def fp8(state: State, folder: Path) -> Path:
    """Plain e4m3fn, everything, biases too."""
    return _save({key: tensor.to(torch.float8_e4m3fn) for key, tensor in state.items()}, folder / "fp8.safetensors")


def fp8_matrices(state: State, folder: Path) -> Path:
    """Plain e4m3fn for the large matrices only."""
    tensors = {key: tensor.to(torch.float8_e4m3fn) if is_quantizable(key) else tensor for key, tensor in state.items()}
    return _save(tensors, folder / "fp8_matrices.safetensors")


def fp8_scaled(state: State, folder: Path) -> Path:
    """ComfyUI's: a scale and a note beside each weight."""
    tensors = dict(state)
    for key in filter(is_quantizable, state):
        scale = state[key].float().abs().max() / 448
        tensors[key] = (state[key].float() / scale).to(torch.float8_e4m3fn)
        tensors[key.replace(".weight", ".weight_scale")] = scale
        tensors[key.replace(".weight", ".comfy_quant")] = _note("float8_e4m3fn")
    return _save(tensors, folder / "fp8_scaled.safetensors")


def fp8_scaled_older(state: State, folder: Path) -> Path:
    """ComfyUI's of before: `scale_weight`, and a marker for the file."""
    tensors = {**state, "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for key in filter(is_quantizable, state):
        scale = state[key].float().abs().max() / 448
        tensors[key] = (state[key].float() / scale).to(torch.float8_e4m3fn)
        tensors[key.replace(".weight", ".scale_weight")] = scale.reshape(1)
        tensors[key.replace(".weight", ".scale_input")] = torch.ones(1)
    return _save(tensors, folder / "fp8_scaled_older.safetensors")


def int8(state: State, folder: Path) -> Path:
    """ComfyUI's int8_tensorwise, a scale for each row."""
    tensors = dict(state)
    for key in filter(is_quantizable, state):
        scale = state[key].float().abs().amax(dim=1, keepdim=True) / 127
        tensors[key] = (state[key].float() / scale).round().to(torch.int8)
        tensors[key.replace(".weight", ".weight_scale")] = scale
        tensors[key.replace(".weight", ".comfy_quant")] = _note("int8_tensorwise")
    return _save(tensors, folder / "int8.safetensors")


def blocks_in_safetensors(name: str) -> Writer:
    """The "GGUF" files of the CogVideoX wrapper: blocks under <module>.<name>_qweight."""

    def write(state: State, folder: Path) -> Path:
        tensors = dict(state)
        for key in filter(is_quantizable, state):
            blocks = gguf.quants.quantize(tensors.pop(key).float().numpy(), gguf.GGMLQuantizationType[name])
            tensors[key.replace(".weight", f".{name}_qweight")] = torch.from_numpy(blocks)
        return _save(tensors, folder / f"{name}.safetensors")

    return write


def _write_gguf(path: Path, arch: str, tensors: dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType | None]]) -> Path:
    """A .gguf file of arrays, each plain or the blocks of a type."""
    writer = gguf.GGUFWriter(path, arch)
    for key, (array, kind) in tensors.items():
        writer.add_tensor(key, np.ascontiguousarray(array), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def true_gguf(name: str, rename: Callable[[str], str] = lambda key: key, arch: str = "cogvideox") -> Writer:
    """A .gguf file: large matrices in blocks or 16 bits, the rest in float32."""

    def write(state: State, folder: Path) -> Path:
        kind, tensors = gguf.GGMLQuantizationType[name], {}
        for key, tensor in state.items():
            numbers = tensor.float().numpy()
            is_small = is_quantizable(key) or key == "shared.weight"
            tensors[rename(key)] = (gguf.quants.quantize(numbers, kind), kind) if is_small else (numbers, None)
        return _write_gguf(folder / f"{name}.gguf", arch, tensors)

    return write


# Where a block has its 16-bit scales, if that is not its first two bytes.
_BLOCK_SCALES = {
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,)},
}


def random_blocks(name: str, rows: int, count: int, largest: float = 1e-4, seed: int = 0) -> np.ndarray:
    """Rows of so many blocks of random bits, [rows, bytes], with scales up to `largest`: most types are only read by
    the package gguf. Types whose scales have 8 bits get small ones too."""
    draw = np.random.default_rng(seed)
    nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    blocks = draw.integers(0, 256, (rows, count, nbytes), dtype=np.uint8)

    def scales() -> np.ndarray:
        return draw.uniform(-largest, largest, (rows, count, 1)).astype(np.float16).view(np.uint8)

    if name == "MXFP4":  # exponents
        blocks[..., 0] = draw.integers(90, 110, (rows, count))
    elif name == "NVFP4":  # floats without a sign
        blocks[..., :4] = draw.integers(0, 0x7F, (rows, count, 4))
    elif name == "IQ1_M":  # a float16 in four pieces
        pieces = np.stack([(half := scales()) & 15, half >> 4], axis=-1).reshape(rows, count, 4)
        blocks[..., 49::2] = (blocks[..., 49::2] & 15) | (pieces << 4)
    else:
        for start in _BLOCK_SCALES.get(name, (0,)):
            blocks[..., start : start + 2] = scales()
    return blocks.reshape(rows, -1)


def k_blocks(name: str) -> Writer:
    """A .gguf file whose matrices are in blocks that the gguf package only reads, where their rows are whole blocks."""

    def write(state: State, folder: Path) -> Path:
        kind, tensors = gguf.GGMLQuantizationType[name], {}
        block = gguf.GGML_QUANT_SIZES[kind][0]
        for key, tensor in state.items():
            tensors[key] = (tensor.float().numpy(), None)
            if is_quantizable(key) and tensor.shape[1] % block == 0:
                tensors[key] = (random_blocks(name, tensor.shape[0], tensor.shape[1] // block), kind)
        return _write_gguf(folder / f"{name}.gguf", "cogvideox", tensors)

    return write


def t5_q5_k_m(state: State, folder: Path) -> Path:
    """A T5 as llama.cpp mixes its type Q5_K_M: Q6_K for values and the embedding, Q5_K for other matrices, Q5_1 where
    rows are no whole blocks of 256, float16 for the position bias, and float32 for norms."""
    tensors = {}
    for key, tensor in state.items():
        numbers = tensor.float().numpy()
        name = "Q6_K" if key.endswith(("SelfAttention.v.weight", "shared.weight")) else "Q5_K"
        if "relative_attention_bias" in key:
            tensors[gguf_t5_name(key)] = (numbers.astype(np.float16), None)
        elif numbers.ndim == 2 and numbers.shape[1] % 256 == 0:
            blocks = random_blocks(name, numbers.shape[0], numbers.shape[1] // 256, seed=len(tensors))
            tensors[gguf_t5_name(key)] = (blocks, gguf.GGMLQuantizationType[name])
        elif numbers.ndim == 2:
            fallback = gguf.GGMLQuantizationType.Q5_1
            tensors[gguf_t5_name(key)] = (gguf.quants.quantize(numbers, fallback), fallback)
        else:
            tensors[gguf_t5_name(key)] = (numbers, None)
    return _write_gguf(folder / "t5-Q5_K_M.gguf", "t5encoder", tensors)


def dequantized(path: Path) -> State:
    """All tensors of a .gguf file as the gguf package decodes them, by the names they have there."""
    return {
        part.name: torch.from_numpy(np.array(gguf.quants.dequantize(part.data, part.tensor_type)))
        for part in gguf.GGUFReader(path).tensors
    }


# --- Other libraries --------------------------------------------------------------------------------------------------


def bitsandbytes_4_bits(quant_type: str, nested: bool = False, blocksize: int = 64) -> Writer:
    """bitsandbytes' own numbers and notes, as diffusers saves them; `nested` quantizes the scales too."""

    def write(state: State, folder: Path) -> Path:
        from bitsandbytes.functional import quantize_4bit

        tensors = dict(state)
        for key in filter(is_quantizable, state):
            options = dict(blocksize=blocksize, compress_statistics=nested, quant_type=quant_type)
            tensors[key], note = quantize_4bit(state[key].float(), **options)
            tensors |= {f"{key}.{name}": part for name, part in note.as_dict(packed=True).items()}
        return _save(tensors, folder / f"bitsandbytes_{quant_type}.safetensors")

    return write


def bitsandbytes_int8(state: State, folder: Path) -> Path:
    """LLM.int8, as diffusers saves it."""
    from bitsandbytes.functional import int8_vectorwise_quant

    tensors = dict(state)
    for key in filter(is_quantizable, state):
        tensors[key], tensors[key.replace(".weight", ".SCB")], _ = int8_vectorwise_quant(state[key].half())
        tensors[key.replace(".weight", ".weight_format")] = torch.tensor(0, dtype=torch.uint8)
    return _save(tensors, folder / "bitsandbytes_int8.safetensors")


def torchao(kind: str, columns: int | None = None) -> Writer:
    """torchao's `Int8Tensor` or `Float8Tensor`, with a scale for each row or for so many columns of it."""
    largest, dtype = (127, torch.int8) if kind == "Int8Tensor" else (448, torch.float8_e4m3fn)

    def write(state: State, folder: Path) -> Path:
        tensors, notes = dict(state), {key: json.dumps({"_type": "Tensor"}) for key in state}
        for key in filter(is_quantizable, state):
            group = columns or state[key].shape[1]
            numbers = tensors.pop(key).float().unflatten(1, (-1, group))
            scale = numbers.abs().amax(dim=2) / largest
            data = numbers / scale[..., None]
            parts = {"qdata": (data.round() if largest == 127 else data).to(dtype).flatten(1), "scale": scale}
            if kind == "Int8Tensor":
                parts["zero_point"] = torch.zeros_like(scale, dtype=torch.int8)
            tensors |= {key.replace(".weight", f"._weight_{name}"): part for name, part in parts.items()}
            note = {"_type": kind, "_data": {"block_size": [1, group]}, "_tensor_data_names": sorted(parts)}
            notes[key] = json.dumps(note)
        notes["tensor_names"] = json.dumps([*state])
        return _save(tensors, folder / f"torchao_{kind}.safetensors", notes)

    return write


def quanto(dtype: torch.dtype) -> Writer:
    """optimum-quanto's int8 or float8: a scale for each row, in the dtype of the weight, and two for activations."""
    largest = 127 if dtype == torch.int8 else 448

    def write(state: State, folder: Path) -> Path:
        tensors = dict(state)
        for key in filter(is_quantizable, state):
            weight = tensors.pop(key).float()
            scale = weight.abs().amax(dim=1, keepdim=True) / largest
            data = (weight / scale).round() if dtype == torch.int8 else weight / scale
            tensors |= {f"{key}._data": data.to(dtype), f"{key}._scale": scale}
            module = key.removesuffix(".weight")
            tensors |= {f"{module}.input_scale": torch.ones(()), f"{module}.output_scale": torch.ones(())}
        return _save(tensors, folder / "quanto.safetensors")

    return write


_GGUF_T5 = {
    "layer.0.layer_norm": "attn_norm",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    **{f"layer.0.SelfAttention.{part}": f"attn_{part}" for part in "qkvo"},
    "layer.1.layer_norm": "ffn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
}


def gguf_t5_name(key: str) -> str:
    """llama.cpp's name of a tensor of T5's encoder."""
    key = key.replace("shared.", "token_embd.").replace("encoder.final_layer_norm.", "enc.output_norm.")
    key = key.replace("encoder.block.", "enc.blk.")
    for old, new in _GGUF_T5.items():
        key = key.replace(old, new)
    return key


RENAMED: dict[str, Writer] = {
    "prefix model.diffusion_model.": prefixed("model.diffusion_model."),
    "prefix diffusion_model.": prefixed("diffusion_model."),
    "prefix transformer.": prefixed("transformer."),
    "prefix module.": prefixed("module."),
    "comfyui": comfyui,
    "sat": sat,
    "sat after training": sat_after_training,
}
QUANTIZED: dict[str, tuple[Writer, float]] = {
    # With the dB a whole model's output keeps at least, of random weights in two blocks.
    "fp8": (fp8, 22),
    "fp8_matrices": (fp8_matrices, 26),
    "fp8_scaled": (fp8_scaled, 26),
    "fp8_scaled_older": (fp8_scaled_older, 26),
    "int8": (int8, 38),
    "Q8_0 in safetensors": (blocks_in_safetensors("Q8_0"), 40),
    "Q4_0 in safetensors": (blocks_in_safetensors("Q4_0"), 15),
    "Q8_0.gguf": (true_gguf("Q8_0"), 40),
    "Q5_0.gguf": (true_gguf("Q5_0"), 21),
    "Q4_0.gguf": (true_gguf("Q4_0"), 15),
    "Q4_1.gguf": (true_gguf("Q4_1"), 16),
    "Q5_1.gguf": (true_gguf("Q5_1"), 22),
    "F16.gguf": (true_gguf("F16"), 60),
    "BF16.gguf": (true_gguf("BF16"), 42),
    "nf4 of bitsandbytes": (bitsandbytes_4_bits("nf4"), 15),
    "nf4 of bitsandbytes, nested": (bitsandbytes_4_bits("nf4", nested=True), 15),
    "int8 of bitsandbytes": (bitsandbytes_int8, 38),
    "int8 of torchao": (torchao("Int8Tensor"), 38),
    "int8 of torchao, in groups": (torchao("Int8Tensor", 32), 38),
    "fp8 of torchao": (torchao("Float8Tensor"), 26),
    "int8 of quanto": (quanto(torch.int8), 38),
    "fp8 of quanto": (quanto(torch.float8_e4m3fn), 26),
}
IN_INT8_ROWS = ("int8", "int8 of bitsandbytes", "int8 of torchao", "int8 of quanto")
"""Forms with a scale for each row, in which ComfyUI rounds activations to 8 bits as well."""


def _note(name: str) -> Tensor:
    return torch.tensor(list(json.dumps({"format": name}).encode()), dtype=torch.uint8)


def _save(tensors: State, path: Path, metadata: dict[str, str] | None = None) -> Path:
    save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, path, metadata)
    return path
