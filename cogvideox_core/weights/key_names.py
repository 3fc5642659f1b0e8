"""Key names of the programs that write CogVideoX files, as tables: from theirs to diffusers' names.

`KeyNames` is a list of rules. The first rule whose pattern is the whole key applies; a key without a rule keeps its
name, and is reported as unexpected later. A rule may cut a tensor into blocks of rows, reorder them, or drop it.

Sources: diffusers' `convert_cogvideox_to_diffusers.py` for SAT, ComfyUI's `comfy/ldm/cogvideo/model.py`, and gguf's
`TENSOR_NAMES` for T5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import NamedTuple

from torch import Tensor

from .entries import OpenWeights, Shape, TensorEntry
from .errors import CheckpointError, shown
from .packed_weight import concatenated_rows
from .recognize import Component


class RowBlocks(NamedTuple):
    """Some of the `count` equal blocks that the rows of a tensor are divided into, in this order."""

    blocks: tuple[int, ...]
    count: int


class KeyRule(NamedTuple):
    """What becomes of the keys that match `pattern`.

    Attributes:
        targets: new names, which may use the groups of `pattern`, with the rows each takes (None: all). Without a
            target the tensor is dropped.
    """

    pattern: str
    targets: Mapping[str, RowBlocks | None]


@dataclass(frozen=True)
class KeyNames:
    """One program's names for one component.

    Attributes:
        program: who writes files with these names.
        signature: pattern of a key, without prefix, that files with these names have and no others.
        finish: a last change of the entries when all have diffusers' names.
    """

    program: str
    component: Component
    signature: str
    rules: tuple[KeyRule, ...] = ()
    finish: Callable[[dict[str, TensorEntry]], dict[str, TensorEntry]] = dict


def _renamed(pairs: Mapping[str, str]) -> tuple[KeyRule, ...]:
    """Rules that rename weight and bias of modules, from the left to the right; {} is a number."""
    rules = []
    for old, new in pairs.items():
        pattern = re.escape(old).replace(r"\{\}", r"(\d+)") + r"\.(weight|bias)"
        groups = [rf"\g<{index + 1}>" for index in range(old.count("{}") + 1)]
        rules.append(KeyRule(pattern, {new.format(*groups[:-1]) + "." + groups[-1]: None}))
    return tuple(rules)


def _sat_vae_level(half: str, way: str, level: int, ours: int) -> tuple[KeyRule, ...]:
    """Rules for one level of the VAE: SAT's number and ours. SAT counts the decoder's levels from the other end."""
    old, new = rf"{half}\.{way}\.{level}\.", f"{half}.{way}_blocks.{ours}."
    return (
        KeyRule(old + r"block\.(\d+)\.nin_shortcut\.(.*)", {new + r"resnets.\1.conv_shortcut.\2": None}),
        KeyRule(old + r"block\.(\d+)\.(.*)", {new + r"resnets.\1.\2": None}),
        KeyRule(old + rf"{way}sample\.(.*)", {new + way + r"samplers.0.\1": None}),
    )


_SAT_BLOCK = r"transformer\.layers\.(\d+)\."
_BLOCK = r"transformer_blocks.\1."


def _without_computed_table(entries: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Drop a position table that diffusers computes.

    SAT stores a table for 2B too, which is made of sines. Only models that take an image have learned theirs: those
    whose patch embedding takes more numbers than the model predicts.
    """
    proj, out = entries.get("patch_embed.proj.weight"), entries.get("proj_out.weight")
    if proj and out and len(proj.shape) == 4 and prod(proj.shape[1:]) > out.shape[0]:
        return entries
    return {key: entry for key, entry in entries.items() if key != "patch_embed.pos_embedding"}


SAT_TRANSFORMER = KeyNames(
    "SAT",
    "transformer",
    r"transformer\.layers\.0\.attention\.query_key_value\.weight",
    (
        KeyRule(
            _SAT_BLOCK + r"attention\.query_key_value\.(weight|bias)",
            {_BLOCK + rf"attn1.to_{part}.\2": RowBlocks((index,), 3) for index, part in enumerate("qkv")},
        ),
        # Twelve blocks: shift, scale and gate of attention, then of the feed-forward, for video; the same for text.
        KeyRule(
            r"mixins\.adaln_layer\.adaLN_modulations\.(\d+)\.1\.(weight|bias)",
            {
                _BLOCK + r"norm1.linear.\2": RowBlocks((0, 1, 2, 6, 7, 8), 12),
                _BLOCK + r"norm2.linear.\2": RowBlocks((3, 4, 5, 9, 10, 11), 12),
            },
        ),
        *_renamed(
            {
                "time_embed.0": "time_embedding.linear_1",
                "time_embed.2": "time_embedding.linear_2",
                "ofs_embed.0": "ofs_embedding.linear_1",
                "ofs_embed.2": "ofs_embedding.linear_2",
                "mixins.patch_embed.proj": "patch_embed.proj",
                "mixins.patch_embed.text_proj": "patch_embed.text_proj",
                "transformer.layers.{}.input_layernorm": "transformer_blocks.{}.norm1.norm",
                "transformer.layers.{}.post_attention_layernorm": "transformer_blocks.{}.norm2.norm",
                "transformer.layers.{}.attention.dense": "transformer_blocks.{}.attn1.to_out.0",
                "transformer.layers.{}.mlp.dense_h_to_4h": "transformer_blocks.{}.ff.net.0.proj",
                "transformer.layers.{}.mlp.dense_4h_to_h": "transformer_blocks.{}.ff.net.2",
                "mixins.adaln_layer.query_layernorm_list.{}": "transformer_blocks.{}.attn1.norm_q",
                "mixins.adaln_layer.key_layernorm_list.{}": "transformer_blocks.{}.attn1.norm_k",
                "transformer.final_layernorm": "norm_final",
                "mixins.final_layer.norm_final": "norm_out.norm",
                "mixins.final_layer.adaLN_modulation.1": "norm_out.linear",
                "mixins.final_layer.linear": "proj_out",
            }
        ),
        # 2B's table is in the file though it is computed; `_without_computed_table` drops it.
        KeyRule(r"mixins\.pos_embed\.pos_embedding", {"patch_embed.pos_embedding": None}),
        KeyRule(r"mixins\.pos_embed\.freqs_(sin|cos)", {}),
        KeyRule(r"transformer\.(word|position)_embeddings\..*|embed_tokens\..*", {}),
    ),
    _without_computed_table,
)

SAT_VAE = KeyNames(
    "SAT",
    "vae",
    r"encoder\.down\.0\.block\.0\.conv1\.conv\.weight",
    (
        *chain.from_iterable(_sat_vae_level("encoder", "down", level, level) for level in range(4)),
        *chain.from_iterable(_sat_vae_level("decoder", "up", level, 3 - level) for level in range(4)),
        KeyRule(r"(encoder|decoder)\.mid\.block_1\.(.*)", {r"\1.mid_block.resnets.0.\2": None}),
        KeyRule(r"(encoder|decoder)\.mid\.block_2\.(.*)", {r"\1.mid_block.resnets.1.\2": None}),
        KeyRule(r"loss\..*", {}),
    ),
)

COMFYUI_MODULES = {
    "time_embedding_linear_1": "time_embedding.linear_1",
    "time_embedding_linear_2": "time_embedding.linear_2",
    "ofs_embedding_linear_1": "ofs_embedding.linear_1",
    "ofs_embedding_linear_2": "ofs_embedding.linear_2",
    "blocks.{}.q": "transformer_blocks.{}.attn1.to_q",
    "blocks.{}.k": "transformer_blocks.{}.attn1.to_k",
    "blocks.{}.v": "transformer_blocks.{}.attn1.to_v",
    "blocks.{}.attn_out": "transformer_blocks.{}.attn1.to_out.0",
    "blocks.{}.norm_q": "transformer_blocks.{}.attn1.norm_q",
    "blocks.{}.norm_k": "transformer_blocks.{}.attn1.norm_k",
    "blocks.{}.ff_proj": "transformer_blocks.{}.ff.net.0.proj",
    "blocks.{}.ff_out": "transformer_blocks.{}.ff.net.2",
    "blocks.{}.norm1.linear": "transformer_blocks.{}.norm1.linear",
    "blocks.{}.norm1.norm": "transformer_blocks.{}.norm1.norm",
    "blocks.{}.norm2.linear": "transformer_blocks.{}.norm2.linear",
    "blocks.{}.norm2.norm": "transformer_blocks.{}.norm2.norm",
}
COMFYUI_TRANSFORMER = KeyNames("ComfyUI", "transformer", r"blocks\.0\.attn_out\.weight", _renamed(COMFYUI_MODULES))

# DiffSynth-Studio's names, which LoRAs that were trained with it have.
DIFFSYNTH_MODULES = {
    "patchify.proj": "patch_embed.proj",
    "context_embedder": "patch_embed.text_proj",
    "time_embedder.timestep_embedder.0": "time_embedding.linear_1",
    "time_embedder.timestep_embedder.2": "time_embedding.linear_2",
    **{f"blocks.{{}}.attn1.to_{part}": f"transformer_blocks.{{}}.attn1.to_{part}" for part in "qkv"},
    "blocks.{}.attn1.to_out": "transformer_blocks.{}.attn1.to_out.0",
    **{f"blocks.{{}}.norm_{part}": f"transformer_blocks.{{}}.attn1.norm_{part}" for part in "qk"},
    "blocks.{}.ff.0": "transformer_blocks.{}.ff.net.0.proj",
    "blocks.{}.ff.2": "transformer_blocks.{}.ff.net.2",
    **{
        f"blocks.{{}}.norm{norm}": f"transformer_blocks.{{}}.norm{norm}"
        for norm in ("1.linear", "1.norm", "2.linear", "2.norm")
    },
}

_T5_BLOCK = "encoder.block.{}.layer."
GGUF_T5 = KeyNames(
    "GGUF",
    "text_encoder",
    r"enc\.blk\.0\.attn_rel_b\.weight",
    _renamed(
        {
            "token_embd": "shared",
            "enc.output_norm": "encoder.final_layer_norm",
            "enc.blk.{}.attn_norm": _T5_BLOCK + "0.layer_norm",
            "enc.blk.{}.attn_rel_b": _T5_BLOCK + "0.SelfAttention.relative_attention_bias",
            "enc.blk.{}.attn_q": _T5_BLOCK + "0.SelfAttention.q",
            "enc.blk.{}.attn_k": _T5_BLOCK + "0.SelfAttention.k",
            "enc.blk.{}.attn_v": _T5_BLOCK + "0.SelfAttention.v",
            "enc.blk.{}.attn_o": _T5_BLOCK + "0.SelfAttention.o",
            "enc.blk.{}.ffn_norm": _T5_BLOCK + "1.layer_norm",
            "enc.blk.{}.ffn_gate": _T5_BLOCK + "1.DenseReluDense.wi_0",
            "enc.blk.{}.ffn_up": _T5_BLOCK + "1.DenseReluDense.wi_1",
            "enc.blk.{}.ffn_down": _T5_BLOCK + "1.DenseReluDense.wo",
        }
    ),
)

KEY_NAMES: tuple[KeyNames, ...] = (
    SAT_TRANSFORMER,
    COMFYUI_TRANSFORMER,
    SAT_VAE,
    GGUF_T5,
    # diffusers' and transformers' own names, which may have a prefix.
    KeyNames("diffusers", "transformer", r"transformer_blocks\.0\.attn1\.norm_q\.weight"),
    KeyNames("diffusers", "vae", r"decoder\.conv_in\.conv\.weight"),
    KeyNames("transformers", "text_encoder", r"encoder\.block\.0\.layer\.0\.SelfAttention\.q\.weight"),
)
# Keys of other components in the same file, by the prefixes that whole checkpoints have.
_OTHER_COMPONENT = re.compile(
    r"((model\.)?diffusion_model|transformer|first_stage_model|vae|cond_stage_model|conditioner|text_encoders?|model_ema"
    r")(_\w+)?\..*"
)


def with_diffusers_names(weights: OpenWeights, component: Component) -> OpenWeights:
    """The weights of a component under diffusers' names (transformers' for T5), whatever program wrote them.

    Other components of the same file are left out. Weights with names that are not known are returned as they are.
    Raises: CheckpointError if two keys become one, or a tensor has no such blocks of rows.
    """
    for names in KEY_NAMES:
        if names.component != component:
            continue
        prefix = _prefix(weights, names)
        if prefix is not None:
            return _renamed_weights(weights, names, prefix)
    return weights


def _prefix(weights: OpenWeights, names: KeyNames) -> str | None:
    """What comes before these names in every key, often nothing; None if the weights do not have these names."""
    pattern = re.compile(rf"((?:\w+\.)*?){names.signature}")
    return next((match[1] for key in weights if (match := pattern.fullmatch(key))), None)


def _renamed_weights(weights: OpenWeights, names: KeyNames, prefix: str) -> OpenWeights:
    entries: dict[str, TensorEntry] = {}
    for key, entry in weights.entries.items():
        if not key.startswith(prefix) and _OTHER_COMPONENT.fullmatch(key):
            continue
        for target, new in _targets(key.removeprefix(prefix), entry, names, weights).items():
            if target in entries:
                raise CheckpointError(f"{weights.path} holds {shown(target)} twice, once as {shown(key)}; give another")
            entries[target] = new
    form = names.program + (f" under {prefix}" if prefix else "")
    return weights.with_entries(names.finish(entries), form)


def _targets(name: str, entry: TensorEntry, names: KeyNames, weights: OpenWeights) -> dict[str, TensorEntry]:
    """The entries that one becomes, by their new names."""
    for rule in names.rules:
        if match := re.fullmatch(rule.pattern, name):
            return {
                match.expand(target): entry if rows is None else _cut(entry, rows, name, weights)
                for target, rows in rule.targets.items()
            }
    return {name: entry}


def _cut(entry: TensorEntry, rows: RowBlocks, name: str, weights: OpenWeights) -> TensorEntry:
    """The rows of some blocks: a view where they follow each other, else a copy."""
    if not entry.shape or entry.shape[0] % rows.count:
        raise CheckpointError(
            f"{weights.path} holds {shown(name)} of shape {list(entry.shape)}, which has no {rows.count} equal parts; "
            "download it again"
        )
    size = entry.shape[0] // rows.count
    shape: Shape = (size * len(rows.blocks), *entry.shape[1:])

    def read() -> Tensor:
        tensor = entry.read()
        parts = [tensor[start * size : end * size] for start, end in _row_ranges(rows.blocks)]
        if len(parts) == 1:
            return parts[0]
        return concatenated_rows(parts)

    return TensorEntry(shape, entry.dtype, read, entry.codec)


def _row_ranges(blocks: tuple[int, ...]) -> list[tuple[int, int]]:
    """Blocks as ranges, those that follow each other in one: (0, 1, 2, 6) as [(0, 3), (6, 7)]."""
    ranges: list[tuple[int, int]] = []
    for block in blocks:
        if ranges and ranges[-1][1] == block:
            ranges[-1] = (ranges[-1][0], block + 1)
        else:
            ranges.append((block, block + 1))
    return ranges
