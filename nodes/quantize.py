"""A CogVideoX model in 8 bits."""

from __future__ import annotations

from typing import Literal

from comfy_api.latest import io

from .host.types.quantize import quantized


class CogVideoXQuantizeINT8(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXQuantizeINT8",
            display_name="CogVideoX Quantize INT8",
            category="CogVideoX/loaders",
            description=(
                "The large matrices of a CogVideoX model in 8-bit integers: half the memory of 16 bits. LoRAs before "
                "it stay on the model; with int8 more can follow, and ComfyUI's Save Model writes it as it is."
            ),
            inputs=[
                io.Model.Input("model", tooltip="From CogVideoX Load Model, with or without LoRAs, in 16 or 32 bits."),
                io.Combo.Input(
                    "method",
                    options=["int8", "llm.int8"],
                    default="int8",
                    tooltip="int8: ComfyUI's own, a scale for each row; it streams, and takes LoRAs. llm.int8: "
                    "bitsandbytes', which keeps outliers in 16 bits; LoRAs must come before it.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model in 8 bits, for any sampler.")],
            search_aliases=["int8", "8 bit", "bitsandbytes", "quantize", "low vram", "less memory"],
        )

    @classmethod
    def execute(cls, model, method: Literal["int8", "llm.int8"]) -> io.NodeOutput:
        return io.NodeOutput(quantized(model, method))
