"""Which file of a folder holds its weights: in folders of models and adapters, and in those that training leaves.

Names alone decide; nothing is opened but `latest`, which names a folder. Sources: `save_pretrained` of diffusers and
transformers, accelerate's `save_state` and `save_model`, the checkpoints of DeepSpeed and SAT, PyTorch's DCP.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from .errors import CheckpointError, listed, shown

# What libraries call one whole set of weights, in the order they are looked for; pickles after all others.
_MODELS = ("diffusion_pytorch_model", "model", "pytorch_model", "pytorch_model_fsdp")
_ADAPTERS = ("pytorch_lora_weights", "adapter_model")
_ENDINGS = (".safetensors", ".bin")
_INDEX = re.compile(r".+\.(safetensors|bin)\.index(\.\w+)?\.json")  # with or without a variant
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})(?P<rest>(\.\w+)?\.(safetensors|bin))")
_PIPELINE = "model_index.json"
_COMPONENTS = ("transformer", "vae", "text_encoder")

ENDINGS = (".safetensors", ".gguf", ".pt", ".pth", ".bin", ".ckpt")
"""The endings of file names that are read, the preferred ones first."""

# DeepSpeed, whose checkpoints are SAT's too: `latest` names the folder of the newest state.
_LATEST, _STATES = "latest", "mp_rank_00_model_states.pt"
_STATE_OF_TRAINING = re.compile(
    r"(optimizer|scheduler|sampler|scaler|dl_state_dict|random_states|rng_state|training_args|custom_checkpoint)"
    r"(_\w+)?\.(bin|pt|pth|pkl)|.*optim_states\.pt"
)
_RUN = re.compile(r"(checkpoint-|global_step|finetrainers_step_)?\d+|(lora|model)_weights")

NO_PLAIN_NAME = re.compile(r"[/\\:\0]|^\.|^$")
"""What a name that comes from a file must not hold, on any system: it must not lead out of its folder."""


class _Part(NamedTuple):
    """A file that holds a part of a model.

    Attributes:
        levels: from the file up to the folder that all parts are of.
        how: they are divided and can be joined; `{at}` is that folder.
    """

    pattern: re.Pattern[str]
    levels: int
    how: str


_PARTS = (
    _Part(
        re.compile(r"zero_pp_rank_\d+_mp_rank_\d+_model_states\.pt"),
        2,
        "as DeepSpeed divides them with ZeRO stage 3; join them with "
        '`python -m deepspeed.utils.zero_to_fp32 "{at}" "{at}-joined" --safe_serialization` and give {at}-joined',
    ),
    _Part(
        re.compile(r"__\d+_\d+\.distcp"),
        1,
        "as FSDP divides them; join them with "
        '`python -m torch.distributed.checkpoint.format_utils dcp_to_torch "{at}" "{at}.pt"` and give {at}.pt',
    ),
    _Part(
        re.compile(r"pytorch_model_fsdp_\d+_rank\d+\.bin"),
        1,
        "as FSDP divides them; save {at} again with accelerate's fsdp_state_dict_type FULL_STATE_DICT and give that",
    ),
    _Part(
        re.compile(r"z3_rank_\d+_model_states\.pt"),
        2,
        "as SAT divides them with ZeRO stage 3; load {at} in SAT, save it there with ZeRO stage 2 and give that",
    ),
    _Part(
        re.compile(r"mp_rank_(?!00_)\d+_model_states\.pt"),
        2,
        "as they were divided among several GPUs; load {at} in the program that trained it, save it there for one GPU "
        "(model_parallel_size 1) and give that",
    ),
)


def weights_in(folder: Path) -> Path:
    """The file or index that holds the weights of a folder.

    Raises: CheckpointError if there is none, or several, or only parts that nothing here joins.
    """
    files = {path.name: path for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    found = _named_by_libraries(files, _MODELS) or _named_by_libraries(files, _ADAPTERS)
    if found is None and (component := _only_component(folder)):
        return weights_in(component)
    if found is None and (folder / _LATEST).is_file():
        found = _whole_states(_newest_state(folder))
    if found is None and _STATES in files:
        found = _whole_states(folder)
    found = found or _only_set(folder, [name for name in files if not _is_part(name)])
    if found is None:
        _refuse_parts(folder)
        raise CheckpointError(_why_nothing(folder))
    return found


def refuse_part(path: Path, given: Path | None = None) -> None:
    """Refuse a file that holds no whole set of weights whatever is in it, by its name.

    Args: given: the folder that was given, if the file was found in one.
    Raises: CheckpointError that says what it is, and how weights come of it.
    """
    if is_state_of_training(path.name):
        raise CheckpointError(f"{path} holds the state of a training run and no weights; give the file that has them")
    for part in _PARTS:
        if part.pattern.fullmatch(path.name):
            how = part.how.format(at=path.absolute().parents[part.levels - 1])
            raise CheckpointError(
                f"{given} holds the weights in parts, {how}" if given else f"{path} holds a part of the weights, {how}"
            )


def is_state_of_training(name: str) -> bool:
    """Whether programs give this name to what they need to go on training, such as an optimizer's state."""
    return _STATE_OF_TRAINING.fullmatch(name) is not None


def _is_part(name: str) -> bool:
    return is_state_of_training(name) or any(part.pattern.fullmatch(name) for part in _PARTS)


def is_official_name(name: str) -> bool:
    """Whether diffusers or transformers give a file this name: then the config.json next to it is about it."""
    return name.split("-")[0].split(".")[0] in _MODELS


def is_index(name: str) -> bool:
    """Whether this is the name of an index, which lists the shards of a set of weights."""
    return _INDEX.fullmatch(name) is not None


def is_opened_whole(files: Iterable[str]) -> bool:
    """Whether a folder with files of these names is one set of weights, of which no single file is all."""
    return any(name == _LATEST or is_index(name) for name in files)


def indexes_for(path: Path) -> list[Path]:
    """The indexes next to a shard, which may list it; none if the file is no shard.

    Raises: CheckpointError for a shard without an index.
    """
    match = _SHARD.fullmatch(path.name)
    if match is None or int(match["count"]) < 2:
        return []
    indexes = [other for other in sorted(path.parent.glob("*.json")) if is_index(other.name)]
    if not indexes:
        raise CheckpointError(
            f"{path} is one of {int(match['count'])} parts and {match['stem']}{match['rest']}.index.json is not next "
            "to it; download the whole folder"
        )
    return indexes


def _named_by_libraries(files: dict[str, Path], stems: Sequence[str]) -> Path | None:
    names = (f"{stem}{ending}{index}" for ending, stem, index in product(_ENDINGS, stems, ("", ".index.json")))
    return next((files[name] for name in names if name in files), None)


def _only_component(folder: Path) -> Path | None:
    """The subfolder of the one component that there is, as trainers write `checkpoint-500/transformer`."""
    if (folder / _PIPELINE).exists():
        raise CheckpointError(
            f"{folder} is a whole diffusers folder; give one of its components, such as {folder / 'transformer'}"
        )
    found = [folder / name for name in _COMPONENTS if (folder / name).is_dir()]
    if len(found) > 1:
        raise CheckpointError(f"{folder} holds {_names(found)}; give one of them, such as {found[0]}")
    return found[0] if found else None


def _newest_state(folder: Path) -> Path:
    name = (folder / _LATEST).read_text(encoding="utf-8", errors="replace").strip()
    if NO_PLAIN_NAME.search(name):
        raise CheckpointError(f"{folder / _LATEST} names no folder next to it ({shown(name)}); download it again")
    return folder / name


def _whole_states(folder: Path) -> Path:
    """The file of a DeepSpeed folder that holds all weights, as with ZeRO 0 to 2 on any number of GPUs."""
    _refuse_parts(folder)
    states = folder / _STATES
    if not states.is_file():
        raise CheckpointError(f"{states} is missing, though {_LATEST} names its folder; download it again")
    return states


def _refuse_parts(folder: Path) -> None:
    """Refuse a folder that holds parts of weights, also in the subfolders that accelerate makes for FSDP."""
    for path in sorted((*folder.glob("*.*"), *folder.glob("pytorch_model_fsdp_*/*.distcp"))):
        if not is_state_of_training(path.name):
            refuse_part(path, given=folder)


def _only_set(folder: Path, names: Sequence[str]) -> Path | None:
    """The only index, else the only file of the first ending that occurs: a variant, or a name of the author's own."""
    indexes = filter(is_index, names)
    for found in (*_by_ending(indexes, _ENDINGS, r".+{}\.index\..+"), *_by_ending(names, ENDINGS, r".+{}")):
        if len(found) == 1:
            return folder / found[0]
        if found:
            raise CheckpointError(_why_several(folder, found))
    return None


def _by_ending(names: Iterable[str], endings: Sequence[str], pattern: str) -> list[list[str]]:
    """The names that have the first ending, where `pattern` has {}; those that have the second; and so on."""
    names = list(names)
    patterns = [re.compile(pattern.format(re.escape(ending)), re.IGNORECASE) for ending in endings]
    return [list(filter(each.fullmatch, names)) for each in patterns]


def _why_several(folder: Path, names: Sequence[str]) -> str:
    shards = [match for match in map(_SHARD.fullmatch, names) if match]
    if len(shards) < len(names):
        return f"{folder} holds {len(names)} sets of weights ({listed(names, 3)}); give one of them"
    index = f"{shards[0]['stem']}{shards[0]['rest']}.index.json"
    return f"{folder} holds parts of a model ({listed(names, 3)}) and no {index}; download that too"


def _why_nothing(folder: Path) -> str:
    runs = [path for path in sorted(folder.iterdir()) if path.is_dir() and _RUN.fullmatch(path.name)]
    if runs:
        return f"{folder} holds no weights, but folders of a training run ({_names(runs)}); give one of them"
    looked_for = [f"{stem}.safetensors, {stem}.safetensors.index.json" for stem in _MODELS[:2]]
    return f"{folder} holds no weights; looked for {', '.join(looked_for)}; give a folder or a file that has them"


def _names(paths: Sequence[Path]) -> str:
    return listed([path.name for path in paths], 3)
