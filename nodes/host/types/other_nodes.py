"""What nodes of ComfyUI and of other packs put on a MODEL: the options that are read, and a sentence for what is not.

Such a node attaches functions and options under the names of a model's parts, and a model ignores names that it does
not know, those of a U-Net's parts for example. The video would be as if the node were not there, without a word.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ....cogvideox_core.models.transformer.positions import TRAINED_AXES, Axis, RotaryAxes

logger = logging.getLogger("cogvideox")

# Keys of a run's transformer options.
NOTICES = "cogvideox_notices"  # the run's Notices
VALUES_ONLY = "stg_self_attn_blocks"  # blocks in which attention gives each token's own value
_ROPE = "rope_options"
_LOCAL = ".<locals>"  # in the names of functions that were defined while another one ran

_CALLED = ("double_block", "attn1_output_patch")  # kinds of patches that the transformer calls
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
    "animate2_cache": "WanAnimate2Cache",
}


class Notices:
    """Logs each sentence once in a run."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, sentence: str | None) -> None:
        """Log a sentence that is new in this run, if it is one."""
        if sentence and sentence not in self._said:
            self._said.add(sentence)
            logger.warning(sentence)


def rotary_axes(options: Mapping[str, Any]) -> RotaryAxes:
    """The changes to rotary positions that the node ScaleROPE put into a run's transformer options."""
    given = options.get(_ROPE)
    if not given:
        return TRAINED_AXES
    t, h, w = (Axis(given.get(f"scale_{name}", 1.0), given.get(f"shift_{name}", 0.0)) for name in ("t", "y", "x"))
    return t, h, w


def without_effect(options: Mapping[str, Any], name: str, blocks: int, rotates: bool) -> Iterator[str]:
    """A sentence for each part of a run's transformer options that has no effect on the model `name`.

    Args:
        blocks: how many the model has.
        rotates: whether it has rotary positions.
    """
    for node, parts in _foreign_parts(options).items():
        yield f"{node} does nothing on {name}: it changes what only {parts} have; take it out"
    yield from _missing_blocks(options, name, blocks)
    if not rotates and rotary_axes(options) != TRAINED_AXES:
        yield f"ScaleROPE does nothing on {name}, which has no rotary positions; take it out"
    for option, node in _OF_OTHER_MODELS.items():
        if option in options:
            yield f"{node} does nothing on {name}: it is for another model; take it out"


def take_out_halves(model_options: dict[str, Any]) -> None:
    """Remove from a run's own options the other functions of a node whose attention patch is not called.

    They rely on that patch: the second function of TomePatchModel and HyperTile undoes the first, and that of
    SelfAttentionGuidance reads what the first recorded.
    """
    options = model_options["transformer_options"]
    patches, replaced = options.get("patches", {}), options.get("patches_replace", {})
    not_called = {_maker(patch) for patch in [*patches.get("attn1_patch", ()), *replaced.get("attn1", {}).values()]}
    not_called.discard(None)
    for holder, kind in ((patches, "attn1_output_patch"), (model_options, "sampler_post_cfg_function")):
        if kind in holder:
            holder[kind] = [patch for patch in holder[kind] if _maker(patch) not in not_called]


def node_of(patch: Any) -> str:
    """The node that defined a function or class when it ran, going by the name of what it defined."""
    name = getattr(patch, "__qualname__", type(patch).__qualname__)
    return name.partition(".")[0] if _LOCAL in name else f"A node ({name})"


def _maker(patch: Callable[..., Any]) -> tuple[str, str] | None:
    """Module and name of the function in which another one was defined; None if it was not."""
    if not inspect.isfunction(patch) or _LOCAL not in patch.__qualname__:
        return None
    return patch.__module__, patch.__qualname__.partition(_LOCAL)[0]


def _foreign_parts(options: Mapping[str, Any]) -> dict[str, str]:
    """Each node that patches parts which this transformer lacks, and what has them."""
    found: dict[str, str] = {}
    for kind, patches in options.get("patches", {}).items():
        for patch in () if kind in _CALLED else patches:
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
