"""Which settings made a picture, read from the prompt that is running: its nodes, walked against the links.

The prompt is there for every client, headless ones too; a workflow is not. Nothing here knows a node's name: what a
node has is read from the names of its inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Prompt = Mapping[str, Mapping[str, Any]]  # node id: {"class_type": ..., "inputs": {name: value or [id, output]}}

SAMPLER_INPUT = "latent_image"  # what samplers take, and nothing else does

# A setting and the inputs that hold it, in the order they are shown. The nearest node that has one counts.
SETTINGS = {
    "model": ("model_name", "unet_name", "ckpt_name"),
    "seed": ("seed", "noise_seed"),
    "steps": ("steps",),
    "cfg": ("cfg",),
    "sampler": ("sampler", "sampler_name"),
    "scheduler": ("scheduler",),
    "dynamic_cfg": ("dynamic_cfg",),
    "denoise": ("denoise",),
}
PROMPTS = ("positive", "negative")
PROMPT_INPUTS = ("text", "prompt")
LORA, LORA_STRENGTHS = "lora_name", ("strength", "strength_model")
VALUE = "value"  # of the nodes that hold one number or text for others


def read_settings(prompt: Prompt, node_id: str) -> dict[str, str]:
    """Settings of the sampler nearest upstream of a node, as text by name: "model", "seed", ...; only what is found.

    Values are text because a seed can be larger than the whole numbers of JavaScript.
    """
    samplers = (
        node for node in _upstream(prompt, node_id) if _is_link(prompt, _inputs(prompt, node).get(SAMPLER_INPUT))
    )
    start = next(samplers, node_id)
    found = {name: value for name, inputs in SETTINGS.items() if (value := _nearest(prompt, start, inputs)) is not None}
    if loras := list(_loras(prompt, start)):
        found["lora"] = ", ".join(reversed(loras))  # in the order they go on the model
    for name in PROMPTS:
        text = _nearest(prompt, start, PROMPT_INPUTS, along=name)
        if text:
            found[name] = text
    return found


def _upstream(prompt: Prompt, node_id: str, along: str | None = None) -> Iterator[str]:
    """A node and all it depends on, nearest first, in the order of the inputs. `along`: where a node has an input of
    this name, only that one is followed.
    """
    waiting, seen = [node_id], {node_id}
    while waiting:
        node = waiting.pop(0)
        yield node
        inputs = _inputs(prompt, node)
        for name, value in inputs.items():
            wanted = along is None or along not in inputs or name == along
            if wanted and _is_link(prompt, value) and value[0] not in seen:
                seen.add(value[0])
                waiting.append(value[0])


def _nearest(prompt: Prompt, start: str, names: tuple[str, ...], along: str | None = None) -> str | None:
    for node in _upstream(prompt, start, along):
        for name in names:
            value = _literal(prompt, node, name)
            if value is not None:
                return value
    return None


def _loras(prompt: Prompt, start: str) -> Iterator[str]:
    for node in _upstream(prompt, start):
        name = _literal(prompt, node, LORA)
        if name is not None:
            strengths = (_literal(prompt, node, strength) for strength in LORA_STRENGTHS)
            yield f"{name}:{next((one for one in strengths if one is not None), '1')}"


def _literal(prompt: Prompt, node: str, name: str) -> str | None:
    """An input's value as text, from the node that holds it if it is linked; None if there is none."""
    value = _inputs(prompt, node).get(name)
    if isinstance(value, list) and _is_link(prompt, value):
        value = _inputs(prompt, value[0]).get(VALUE)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    return f"{value:g}" if isinstance(value, float) else str(value)


def _inputs(prompt: Prompt, node: str) -> Mapping[str, Any]:
    return prompt.get(node, {}).get("inputs", {})  # a node that another one has made is not in the prompt


def _is_link(prompt: Prompt, value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and value[0] in prompt
