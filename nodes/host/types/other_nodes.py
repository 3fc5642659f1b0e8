"""What nodes of ComfyUI and of other packs put on a MODEL: what is read of it, and a sentence for what is not.

Such nodes hand functions and options to parts of a model by the parts' names, and a model ignores the names it does not
know, those of a U-Net's parts for example. The user would get a video on which the node had no effect, without a word.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ....cogvideox_core.models.transformer.positions import TRAINED_AXES, Axis, RotaryAxes

logger = logging.getLogger("cogvideox")

NOTICES = "cogvideox_notices"  # among the transformer options of a run: what was said in it
VALUES_ONLY = "stg_self_attn_blocks"  # blocks whose attention is weakened, for spatio-temporal guidance
_ROPE = "rope_options"

_TAKEN = ("double_block", "attn1_output_patch")  # kinds of patches that the transformer calls
_OF_UNETS = (
    "attn1",
    "attn2",
    "attn2_patch",
    "attn2_output_patch",
    "input_block_patch",
    "input_block_patch_after_skip",
    "middle_block_patch",
    "middle_block_after_patch",
    "output_block_patch",
    "emb_patch",
    "forward_timestep_embed_patch",
)
# Options that ComfyUI's nodes set for one other model, and those nodes.
_OF_OTHER_MODELS = {
    "chroma_radiance_options": "ChromaRadianceOptions",
    "a2v_cross_attn": "LTXVModalityGuidance",
    "ar_config": "ARVideoI2V",
    "audio_embeds": "WanInfiniteTalkToVideo",
}


class Notices:
    """What one run has said; a second time it says nothing."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, sentence: str) -> None:
        """Log a sentence, unless it was in this run; an empty one never."""
        if sentence and sentence not in self._said:
            self._said.add(sentence)
            logger.warning(sentence)


def rotary_axes(options: Mapping[str, Any]) -> RotaryAxes:
    """What the node ScaleROPE asks, from a run's transformer options."""
    given = options.get(_ROPE)
    if not given:
        return TRAINED_AXES
    t, h, w = (Axis(given.get(f"scale_{name}", 1.0), given.get(f"shift_{name}", 0.0)) for name in ("t", "y", "x"))
    return t, h, w


def without_effect(options: Mapping[str, Any], name: str, blocks: int, rotates: bool) -> Iterator[str]:
    """A sentence for each thing among a run's transformer options that the model `name` does nothing with.

    Args:
        blocks: how many the model has.
        rotates: whether it has rotary positions.
    """
    for node, parts in _foreign_parts(options).items():
        yield f"{node} does nothing on {name}: it changes what only {parts} have; take it out"
    yield from _missing_blocks(options, name, blocks)
    if not rotates and rotary_axes(options) != TRAINED_AXES:
        yield f"ScaleROPE does nothing on {name}, which has no rotary positions; take it out"
    for option in _OF_OTHER_MODELS.keys() & options.keys():
        yield f"{_OF_OTHER_MODELS[option]} does nothing on {name}: it is for another model; take it out"


def take_out_halves(model_options: dict[str, Any]) -> None:
    """Take out of a run's own options what belongs to a node whose attention patch is not called.

    Such a node counts on it: TomePatchModel and HyperTile put together what they took apart, and SelfAttentionGuidance
    looks at what it recorded.
    """
    options = model_options["transformer_options"]
    patches, replaced = options.get("patches", {}), options.get("patches_replace", {})
    not_called = {_maker(patch) for patch in [*patches.get("attn1_patch", ()), *replaced.get("attn1", {}).values()]}
    for holder, kind in ((patches, "attn1_output_patch"), (model_options, "sampler_post_cfg_function")):
        if kind in holder:
            holder[kind] = [patch for patch in holder[kind] if _maker(patch) not in not_called]


def node_of(patch: Any) -> str:
    """The node that made a function or class while it ran, as far as its name tells."""
    name = getattr(patch, "__qualname__", type(patch).__qualname__)
    return name.partition(".")[0] if "<locals>" in name else f"A node ({name.removeprefix('<lambda>') or 'of a pack'})"


def _maker(patch: Callable[..., Any]) -> tuple[str, str]:
    """The function inside of which another was made, or the function itself."""
    patch = patch if inspect.isfunction(patch) else type(patch)
    return patch.__module__, patch.__qualname__.partition(".<locals>")[0]


def _foreign_parts(options: Mapping[str, Any]) -> dict[str, str]:
    """Each node that patches parts which this transformer lacks, and what has them."""
    found: dict[str, str] = {}
    for kind, patches in options.get("patches", {}).items():
        for patch in () if kind in _TAKEN else patches:
            found[node_of(patch)] = "U-Nets" if kind in _OF_UNETS else "other models"
    for kind, replaced in options.get("patches_replace", {}).items():
        for patch in () if kind == "dit" else replaced.values():
            found[node_of(patch)] = "U-Nets" if kind in _OF_UNETS else "other models"
    return found


def _missing_blocks(options: Mapping[str, Any], name: str, blocks: int) -> Iterator[str]:
    missing: dict[str, list[str]] = {}
    for (kind, index, *_), patch in options.get("patches_replace", {}).get("dit", {}).items():
        if kind != "double_block" or index not in range(blocks):
            missing.setdefault(node_of(patch), []).append(f"{kind} {index}")
    skipped = sorted(set(options.get(VALUES_ONLY, ())) - set(range(blocks)))
    if skipped:
        missing["Spatio-temporal guidance"] = [f"double_block {index}" for index in skipped]
    for node, which in missing.items():
        has = f"which {name} does not have: its blocks are double_block 0 to {blocks - 1}"
        yield f"{node} changes {', '.join(which)}, {has}"
