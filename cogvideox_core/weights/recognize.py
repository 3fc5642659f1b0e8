"""What a set of weights is, by its keys: a transformer, a VAE, a T5, or something that belongs elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .errors import CheckpointError, listed

Component = Literal["transformer", "vae", "text_encoder"]
"""What a CogVideoX model consists of; each has a subfolder of that name in diffusers' layout."""


@dataclass(frozen=True)
class Kind:
    """A kind of weights that people have in files.

    Attributes:
        what: its name, with an article.
        pattern: a regular expression that some key of such weights contains, and no key of others.
        advice: what to do with such weights.
    """

    what: str
    pattern: str
    advice: str


COMPONENTS: dict[Component, Kind] = {
    "transformer": Kind(
        "a CogVideoX transformer",
        r"(^|\.)patch_embed\.(text_)?proj\.|(^|\.)transformer_blocks\.\d+\.attn1\.norm_q\.|"
        r"(^|\.)transformer\.layers\.\d+\.attention\.query_key_value\.|(^|\.)blocks\.\d+\.attn_out\.",
        "load it as the model (load_transformer)",
    ),
    "vae": Kind(
        "a CogVideoX VAE",
        r"(^|\.)(encoder|decoder)\.conv_(in|out)\.conv\.|\.norm1\.conv_y\.",
        "load it as the VAE (load_vae)",
    ),
    "text_encoder": Kind(
        "a T5 text encoder",
        r"\.SelfAttention\.(q|k|v|o|relative_attention_bias)\.|^enc\.blk\.\d+\.attn_rel_b\.",
        "load it as the text encoder (load_text_encoder)",
    ),
}

_NOT_YET = "which is not supported yet"
_ELSEWHERE = "ComfyUI's Load Diffusion Model opens it, for its own nodes"
_OTHER_VAE = Kind(
    "a VAE of another layout or model",
    r"^([\w.]+\.)?(encoder|decoder)\.(conv_in|down|up|mid)\b",
    "give CogVideoX's own, in diffusers' layout",
)
_READS_T5 = "CogVideoX reads its prompts with T5 v1.1 XXL, give that"
# The first match counts, so what is made from a component and has its keys too comes before the component.
_KINDS: tuple[Kind, ...] = (
    Kind(
        "a LoRA",
        r"(^|[._])lora_(A|B|down|up)\b|^lora_(unet|te)|\.lora\.(up|down)\.|\.matrix_A\.\d|^lycoris_|"
        r"\.(lokr_w[12]|hada_w[12]|oft_blocks|oft_[Rr]|boft_R|ia3_l)\b|\.(lokr|hada)_w[12]_a\b",
        "load the base model first and the LoRA on top of it (load_lora)",
    ),
    Kind(
        "a ControlNet", r"^(controlnet_encode_|out_projectors\.|controlnet\.)", f"a ControlNet is a helper {_NOT_YET}"
    ),
    Kind("a Tora trajectory model", r"flow_(gamma|beta)_(spatial|temporal)", f"it is a derived model {_NOT_YET}"),
    Kind(
        "a ConsisID model",
        r"^(local_facial_extractor|perceiver_cross_attention)\.",
        f"it is a derived model {_NOT_YET}",
    ),
    Kind(
        "weights quantized by bitsandbytes",
        r"\A(?![\s\S]*\.quant_state\.\w+$)[\s\S]*\.(absmax|quant_map)$",
        "it lacks their quant_state, without which nothing is known of them, download it again",
    ),
    Kind("an LTX-Video model", r"(^|\.)transformer_blocks\.\d+\.(attn2\.|scale_shift_table)", _ELSEWHERE),
    # CogVideoX's VAE has no attention, and names its stages where others number them.
    replace(
        _OTHER_VAE,
        pattern=r"^([\w.]+\.)?(encoder|decoder)\.(mid\.attn_1|mid_block\.attentions|(middle|(down|up)samples)\.\d)\b",
    ),
    # T5 has a position bias in its first block only.
    Kind(
        "Wan's UMT5 text encoder",
        r"\.block\.[1-9]\d*\.layer\.0\.SelfAttention\.relative_attention_bias\.|"
        r"^enc\.blk\.[1-9]\d*\.attn_rel_b\.|^blocks\.\d+\.pos_embedding\.embedding\.",
        _READS_T5,
    ),
    *COMPONENTS.values(),
    _OTHER_VAE,
    Kind("a CLIP text encoder", r"\btext_model\.", _READS_T5),
    Kind("a Wan model", r"(^|\.)blocks\.\d+\.(cross_attn|attn2)\.", _ELSEWHERE),
    Kind("a HunyuanVideo or FLUX model", r"(^|\.)(double_blocks|single_(transformer_)?blocks)\.\d+\.", _ELSEWHERE),
    Kind("a Stable Diffusion model", r"(^|\.)input_blocks\.\d+\.", "ComfyUI's Load Checkpoint opens it"),
)


def recognize(keys: Iterable[str]) -> Kind | None:
    """The kind of weights that have these keys; None if it is none of the known ones."""
    text = "\n".join(keys)
    return next((kind for kind in _KINDS if re.search(kind.pattern, text, re.MULTILINE)), None)


def components_in(keys: Iterable[str]) -> list[Component]:
    """The components of a CogVideoX model that weights hold: often one, all of them in a fine-tune of SAT's.

    None for weights that are something else, such as a LoRA, even with a component in the same file.
    """
    keys = list(keys)
    if component_of(recognize(keys)) is None:
        return []
    text = "\n".join(keys)
    return [name for name, kind in COMPONENTS.items() if re.search(kind.pattern, text, re.MULTILINE)]


def component_of(kind: Kind | None) -> Component | None:
    """The component that a kind of weights is; None if it is none of a CogVideoX model."""
    for name, row in COMPONENTS.items():
        if row is kind:
            return name
    return None


def expect_kind(keys: Iterable[str], component: Component, source: str | Path) -> None:
    """Refuse weights that are something else than the component asked for.

    Raises: CheckpointError that says what they are and what to do with them.
    """
    keys = list(keys)
    wanted, found = COMPONENTS[component], recognize(keys)
    if found is None:
        first = f"its {len(keys)} tensors begin with {listed(keys, 3)}" if keys else "it holds no tensors at all"
        raise CheckpointError(f"{source} is not {wanted.what}: {first}; give another file or folder")
    if found != wanted:
        raise CheckpointError(f"{source} is {found.what}, not {wanted.what}; {found.advice}")
