"""LoRAs and other adapters on a CogVideoX model."""

from __future__ import annotations

from comfy_api.latest import io

from .host.types.folders import chosen_lora, fault_of, lora_choices
from .host.types.lora import add_lora


class CogVideoXLoadLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CogVideoXLoadLoRA",
            display_name="CogVideoX Load LoRA",
            category="CogVideoX/loaders",
            description=(
                "Puts a LoRA or another adapter (LoKr, LoHa, DoRA, OFT) on a CogVideoX model, from any usual form of "
                "file. Put several behind each other to stack them. Works on quantized models, too."
            ),
            inputs=[
                io.Model.Input("model", tooltip="From CogVideoX Load Model, or another LoRA."),
                io.Combo.Input(
                    "lora_name",
                    options=list(lora_choices()),
                    tooltip="From models/loras, or the one in the pack, which the demo models take.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How much of it: 0 for none, 1 as trained, negative for its opposite.",
                ),
                io.Boolean.Input(
                    "divide_by_rank",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="For files that do not say their scale and need 1/rank, such as DimensionX's.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The model with the LoRA on it."),
                io.String.Output(
                    "report", tooltip="How many keys of the file matched, which did not, and at which scale."
                ),
            ],
            search_aliases=[
                "lora",
                "adapter",
                "lokr",
                "loha",
                "lycoris",
                "dora",
                "CogVideoLoraSelect",
                "CogVideoLoraSelectComfy",
            ],
        )

    @classmethod
    def validate_inputs(cls, lora_name: str) -> bool | str:
        return fault_of(None, lora_name) or True

    @classmethod
    def execute(cls, model, lora_name: str, strength: float, divide_by_rank: bool = False) -> io.NodeOutput:
        return io.NodeOutput(*add_lora(model, chosen_lora(lora_name), strength, divide_by_rank=divide_by_rank))
