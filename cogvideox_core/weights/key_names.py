"""Key names of the programs that write CogVideoX files, as tables: from theirs to diffusers' names.

A layout is a list of rules. The first rule whose pattern is the whole key applies; a key without a rule keeps its name,
and shows up as unexpected later on. A rule may cut a tensor into blocks of rows, put them in another order, or drop it.

Sources: diffusers' `convert_cogvideox_to_diffusers.py` for SAT, ComfyUI's `comfy/ldm/cogvideo/model.py`, and gguf's
`TENSOR_NAMES` for T5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from torch import Tensor

from .entries import Entry, Shape, Weights
from .errors import CheckpointError, shown
from .packed_weight import joined_rows
from .recognize import Component


class Rows(NamedTuple):
    """Some of `of` equal blocks of rows, in this order."""

    blocks: tuple[int, ...]
    of: int


class Rule(NamedTuple):
    """Where a tensor goes: names with the groups of `pattern`, each with all its rows or some. No target drops it."""

    pattern: str
    targets: Mapping[str, Rows | None]


@dataclass(frozen=True)
class Layout:
    """One program's names for one component.

    Attributes:
        telling: pattern of a key that only this layout has, without prefix.
        finish: what is left to do when everything has its name.
    """

    name: str
    component: Component
    telling: str
    rules: tuple[Rule, ...] = ()
    finish: Callable[[dict[str, Entry]], dict[str, Entry]] = dict


def _renamed(pairs: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules that only rename: modules on the left, with {} for a number, to modules on the right."""
    rules = []
    for old, new in pairs.items():
        pattern = re.escape(old).replace(r"\{\}", r"(\d+)") + r"\.(weight|bias)"
        groups = [rf"\g<{index + 1}>" for index in range(old.count("{}") + 1)]
        rules.append(Rule(pattern, {new.format(*groups[:-1]) + "." + groups[-1]: None}))
    return tuple(rules)


def _sat_vae_level(half: str, way: str, level: int, place: int) -> tuple[Rule, ...]:
    """Rules for one level of the VAE; SAT counts those of the decoder from the other end."""
    old, new = rf"{half}\.{way}\.{level}\.", f"{half}.{way}_blocks.{place}."
    return (
        Rule(old + r"block\.(\d+)\.nin_shortcut\.(.*)", {new + r"resnets.\1.conv_shortcut.\2": None}),
        Rule(old + r"block\.(\d+)\.(.*)", {new + r"resnets.\1.\2": None}),
        Rule(old + rf"{way}sample\.(.*)", {new + way + r"samplers.0.\1": None}),
    )


_SAT_BLOCK = r"transformer\.layers\.(\d+)\."
_BLOCK = r"transformer_blocks.\1."


def _without_computed_table(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Only models that take an image have learned their table; SAT also stores the one of 2B, which is sines."""
    proj, out = entries.get("patch_embed.proj.weight"), entries.get("proj_out.weight")
    if proj and out and len(proj.shape) == 4 and prod(proj.shape[1:]) > out.shape[0]:
        return entries
    return {key: entry for key, entry in entries.items() if key != "patch_embed.pos_embedding"}


SAT_TRANSFORMER = Layout(
    "SAT",
    "transformer",
    r"transformer\.layers\.0\.attention\.query_key_value\.weight",
    (
        Rule(
            _SAT_BLOCK + r"attention\.query_key_value\.(weight|bias)",
            {_BLOCK + rf"attn1.to_{part}.\2": Rows((index,), 3) for index, part in enumerate("qkv")},
        ),
        # Twelve blocks: shift, scale and gate of attention, then of the feed-forward, for video; the same for text.
        Rule(
            r"mixins\.adaln_layer\.adaLN_modulations\.(\d+)\.1\.(weight|bias)",
            {
                _BLOCK + r"norm1.linear.\2": Rows((0, 1, 2, 6, 7, 8), 12),
                _BLOCK + r"norm2.linear.\2": Rows((3, 4, 5, 9, 10, 11), 12),
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
        Rule(r"mixins\.pos_embed\.pos_embedding", {"patch_embed.pos_embedding": None}),
        Rule(r"mixins\.pos_embed\.freqs_(sin|cos)", {}),
        Rule(r"transformer\.(word|position)_embeddings\..*|embed_tokens\..*", {}),
    ),
    _without_computed_table,
)

SAT_VAE = Layout(
    "SAT",
    "vae",
    r"encoder\.down\.0\.block\.0\.conv1\.conv\.weight",
    (
        *(rule for level in range(4) for rule in _sat_vae_level("encoder", "down", level, level)),
        *(rule for level in range(4) for rule in _sat_vae_level("decoder", "up", level, 3 - level)),
        Rule(r"(encoder|decoder)\.mid\.block_1\.(.*)", {r"\1.mid_block.resnets.0.\2": None}),
        Rule(r"(encoder|decoder)\.mid\.block_2\.(.*)", {r"\1.mid_block.resnets.1.\2": None}),
        Rule(r"loss\..*", {}),
    ),
)

COMFYUI_TRANSFORMER = Layout(
    "ComfyUI",
    "transformer",
    r"blocks\.0\.attn_out\.weight",
    _renamed(
        {
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
    ),
)

_T5_BLOCK = "encoder.block.{}.layer."
GGUF_T5 = Layout(
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

LAYOUTS: tuple[Layout, ...] = (
    SAT_TRANSFORMER,
    COMFYUI_TRANSFORMER,
    SAT_VAE,
    GGUF_T5,
    # diffusers' and transformers' own names, which may stand behind a prefix.
    Layout("diffusers", "transformer", r"transformer_blocks\.0\.attn1\.norm_q\.weight"),
    Layout("diffusers", "vae", r"decoder\.conv_in\.conv\.weight"),
    Layout("transformers", "text_encoder", r"encoder\.block\.0\.layer\.0\.SelfAttention\.q\.weight"),
)
# Other components in the same file, by the prefixes whole checkpoints have.
_ELSEWHERE = re.compile(
    r"((model\.)?diffusion_model|transformer|first_stage_model|vae|cond_stage_model|conditioner|text_encoders?|model_ema"
    r")(_\w+)?\..*"
)


def in_own_names(weights: Weights, component: Component) -> Weights:
    """`weights` under diffusers' names (transformers' for T5), whatever program wrote them.

    What a whole checkpoint holds of other components is left out. Weights of no layout that is known are given back
    as they are.
    """
    for layout in LAYOUTS:
        if layout.component != component:
            continue
        prefix = _prefix(weights, layout)
        if prefix is not None:
            return _translated(weights, layout, prefix)
    return weights


def _prefix(weights: Weights, layout: Layout) -> str | None:
    """What stands before this layout's names; None if they are not there."""
    pattern = re.compile(rf"((?:\w+\.)*?){layout.telling}")
    return next((match[1] for key in weights if (match := pattern.fullmatch(key))), None)


def _translated(weights: Weights, layout: Layout, prefix: str) -> Weights:
    entries: dict[str, Entry] = {}
    for key, entry in weights.entries.items():
        if not key.startswith(prefix) and _ELSEWHERE.fullmatch(key):
            continue
        for target, new in _targets(key.removeprefix(prefix), entry, layout, weights).items():
            if target in entries:
                raise CheckpointError(f"{weights.path} holds {shown(target)} twice, once as {shown(key)}; give another")
            entries[target] = new
    told = layout.name + (f" under {prefix}" if prefix else "")
    return weights.with_entries(layout.finish(entries), told)


def _targets(name: str, entry: Entry, layout: Layout, weights: Weights) -> dict[str, Entry]:
    for rule in layout.rules:
        if match := re.fullmatch(rule.pattern, name):
            return {
                match.expand(target): entry if rows is None else _cut(entry, rows, name, weights)
                for target, rows in rule.targets.items()
            }
    return {name: entry}


def _cut(entry: Entry, rows: Rows, name: str, weights: Weights) -> Entry:
    """Blocks of rows; without a copy where they are neighbours."""
    if not entry.shape or entry.shape[0] % rows.of:
        raise CheckpointError(
            f"{weights.path} holds {shown(name)} of shape {list(entry.shape)}, which has no {rows.of} equal parts; "
            "download it again"
        )
    size = entry.shape[0] // rows.of
    shape: Shape = (size * len(rows.blocks), *entry.shape[1:])

    def read() -> Tensor:
        tensor = entry.read()
        parts = [tensor[start * size : end * size] for start, end in _runs(rows.blocks)]
        if len(parts) == 1:
            return parts[0]
        return joined_rows(parts)

    return Entry(shape, entry.dtype, read, entry.codec)


def _runs(blocks: tuple[int, ...]) -> list[tuple[int, int]]:
    """Neighbours together: (0, 1, 2, 6) as [(0, 3), (6, 7)]."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and runs[-1][1] == block:
            runs[-1] = (runs[-1][0], block + 1)
        else:
            runs.append((block, block + 1))
    return runs
