"""Prompts."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from .host.types.clip import MAX_LENGTH, tokenize

logger = logging.getLogger("cogvideox")


class CogVideoXT5Encode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXT5Encode",
            display_name="CogVideoX T5 Encode",
            category="CogVideoX/conditioning",
            description=(
                f"Encodes a prompt as CogVideoX was trained: exactly {MAX_LENGTH} tokens, padding included. Long "
                "English descriptions work best. What does not fit is cut, logged, and given out."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="A T5-XXL: from CogVideoX Load T5, or Load CLIP with type cogvideox."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="The prompt."),
                io.Boolean.Input(
                    "prompt_weights",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip='Read "(word:1.2)" as a weight. Off, brackets are text, as in the reference.',
                ),
            ],
            outputs=[
                io.Conditioning.Output(tooltip="The encoded prompt."),
                io.Int.Output("tokens", tooltip=f"Tokens of the whole prompt; {MAX_LENGTH} fit."),
                io.String.Output("cut", tooltip="The end of the prompt that did not fit; empty if all of it did."),
            ],
            search_aliases=["prompt", "text encode", "CLIPTextEncode", "CogVideoTextEncode"],
        )

    @classmethod
    def execute(cls, clip, text: str, prompt_weights: bool = False) -> io.NodeOutput:
        tokens, count, cut = tokenize(clip, text, prompt_weights=prompt_weights)
        if cut:
            logger.warning("the prompt has %d tokens and %d fit; this was cut: %s", count, MAX_LENGTH, cut)
        return io.NodeOutput(clip.encode_from_tokens_scheduled(tokens), count, cut)
