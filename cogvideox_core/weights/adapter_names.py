"""Which module of a transformer a key of an adapter's file is for, and which part of the adapter it is.

Keys are a module's name, in one of the ways programs write it, and an ending: that of a row of `ENDINGS`.

Sources: the keys of PEFT and diffusers, kohya's sd-scripts and VideoX-Fun, LyCORIS, DiffSynth-Studio, and SAT's `lora`
mixin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain

from .key_names import COMFYUI_MODULES, DIFFSYNTH_MODULES

# Prefixes of the names of a transformer's modules, one or more of them.
_PREFIXES = {"base_model", "diffusion_model", "dit", "model", "module", "pipe", "transformer"}
_FLAT_PREFIX = re.compile(r"(lora_unet_{1,2}|lora_transformer_|lycoris_)")
_TEXT_ENCODER = re.compile(r"(lora_te|text_encoder)")
_SAT = re.compile(r"(?:.*\.)?transformer\.layers\.(\d+)\.attention\.(query_key_value|dense)\.matrix_(A|B)\.(\d)")
_SAT_BASE = re.compile(
    r"(first_stage_model|conditioner)\..*|"
    r"(.*\.)?(mixins|time_embed|ofs_embed|transformer\.(layers|final_layernorm|word_embeddings|position_embeddings))\..*"
)
_BASE = re.compile(r".*\.base_layer\.weight")  # of the model itself, where PEFT's layers were saved with it

_ADAPTER = r"(?:\.\w+)??"  # PEFT's name of the adapter, such as "default"


def _named(*names: str, ending: str = r"(?:\.weight)?") -> dict[str, str]:
    """Rows of ENDINGS for parts whose keys end in their own names."""
    return {name: rf"\.{name}{_ADAPTER}{ending}" for name in names}


# How keys end, by the part of an adapter that they are. The first that fits counts.
ENDINGS: dict[str, str] = {
    "down_bias": rf"[._](?:lora_A{_ADAPTER}|lora[._]down)\.bias",
    "up_bias": rf"[._](?:lora_B{_ADAPTER}|lora[._]up)\.bias",
    "down": rf"[._](?:lora_A{_ADAPTER}(?:\.weight)?|lora[._]down\.weight)",
    "up": rf"[._](?:lora_B{_ADAPTER}(?:\.weight)?|lora[._]up\.weight)",
    "mid": r"\.lora_mid\.weight",
    "alpha": r"\.alpha",
    **_named("dora_scale", "lora_magnitude_vector"),
    **_named("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    **_named("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    **_named("oft_blocks", "rescale", "oft_R", "oft_r", "oft_s", "boft_R", "boft_s", "ia3_l"),
    **_named("a1", "a2", "b1", "b2", "bm", ending=r"\.weight"),
    **_named("on_input", "diff", "diff_b", "w_norm", "b_norm", "set_weight", ending=""),
    "bias": r"(?:\.base_layer)?\.bias",
    "weight": r"\.weight",
}
_GLORA = {"a1", "a2", "b1", "b2"}
_COMMON = {"alpha", "weight", "bias"} | _GLORA  # endings that other weights have, too
_KEYS = {part: re.compile("(.+?)" + ending) for part, ending in ENDINGS.items()}


class Names:
    """Modules by the names that files give them."""

    def __init__(self, modules: Iterable[str]) -> None:
        self.known = set(modules)
        self.elsewhere = {other: name for name in self.known for other in names_elsewhere(name)}
        every = {name: name for name in self.known} | self.elsewhere
        self.flat = {other.replace(".", "_"): name for other, name in every.items()}

    def parse(self, key: str) -> tuple[str, str] | None:
        """The module a key is for, and its part; None if the key is not about an adapter of a transformer.

        A part that has no row is what stands behind the module's name in the key; the module is the key itself if it
        begins with no module's name.
        """
        if _TEXT_ENCODER.match(key) or _BASE.fullmatch(key):
            return None
        if found := _parse_sat(key):
            return found
        for part, pattern in _KEYS.items():
            match = pattern.fullmatch(key)
            if match and (part not in ("weight", "bias") or self.resolve(match[1]) in self.known):
                return self.resolve(match[1]), part
        return None if _SAT_BASE.fullmatch(key) else self._split(key)

    def resolve(self, name: str) -> str:
        """The name of the module that a file calls `name`; `name` itself if there is no such module."""
        if prefix := _FLAT_PREFIX.match(name):
            return self.flat.get(name[prefix.end() :], name)
        parts = name.replace(".processor.", ".").split(".")
        while parts[0] in _PREFIXES and ".".join(parts) not in self.known:
            parts = parts[1:] or [""]
        bare = ".".join(parts)
        if f"{bare}.0" in self.known:  # older diffusers: to_out for to_out.0
            return f"{bare}.0"
        return bare if bare in self.known else self.elsewhere.get(bare, bare)

    def _split(self, key: str) -> tuple[str, str]:
        """A key as the longest name of a module that it begins with, and the rest."""
        words = key.split(".")
        for count in range(len(words) - 1, 0, -1):
            owner = self.resolve(".".join(words[:count]))
            if owner in self.known:
                return owner, ".".join(words[count:])
        return key, ""


def is_adapter(keys: Iterable[str]) -> bool:
    """Whether these are the keys of an adapter of any kind."""
    keys = list(keys)
    parts = {part for part, pattern in _KEYS.items() if any(map(pattern.fullmatch, keys))}
    named = parts - _COMMON or _GLORA <= parts
    return bool(named) or any(_FLAT_PREFIX.match(key) or _SAT.fullmatch(key) for key in keys)


def parts_of_layers(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """The keys of each layer by their parts, as far as they can be told without a transformer."""
    found, names = dict[str, dict[str, str]](), Names(())
    for key in keys:
        name, part = names.parse(key) or (key, "")
        if part:
            found.setdefault(name, {})[part] = key
    return found


def holds_base_model(keys: Iterable[str]) -> bool:
    """Whether the weights that adapters were put on are there, too, as PEFT's layers save them."""
    return any(_BASE.fullmatch(key) for key in keys)


def _parse_sat(key: str) -> tuple[str, str] | None:
    """`Names.parse` for the keys of SAT, which numbers the parts of an attention's one matrix; None for other keys."""
    match = _SAT.fullmatch(key)
    if match is None:
        return None
    block, layer, matrix, index = match.groups()
    name = "to_out.0" if layer == "dense" else f"to_{'qkv'[int(index)]}" if int(index) < 3 else "?"
    return f"transformer_blocks.{block}.attn1.{name}", {"A": "down", "B": "up"}[matrix]


def is_of_sat(key: str) -> bool:
    """Whether a key of an adapter is SAT's, which divides every product by its rank."""
    return _SAT.fullmatch(key) is not None


def names_elsewhere(name: str) -> list[str]:
    """What other programs call a module: DiffSynth-Studio, and ComfyUI's own CogVideoX."""
    return [pattern.sub(theirs, name) for theirs, pattern in _elsewhere() if pattern.fullmatch(name)]


@lru_cache(maxsize=1)
def _elsewhere() -> list[tuple[str, re.Pattern[str]]]:
    """Replacements with patterns of our names; {} in the tables is a number."""
    pairs = chain(DIFFSYNTH_MODULES.items(), COMFYUI_MODULES.items())
    return [
        (theirs.replace("{}", r"\1"), re.compile(re.escape(ours).replace(r"\{\}", r"(\d+)"))) for theirs, ours in pairs
    ]
