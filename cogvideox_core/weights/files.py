"""Opening weights: a file, a component's folder, or shards with an index. Nothing is copied and nothing executed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from .config_json import read_json
from .entries import OpenWeights, TensorEntry
from .errors import CheckpointError, listed, shown
from .gguf_file import GGUFFile
from .safetensors_file import SafetensorsFile
from .torch_file import TorchFile


class TensorFile(Protocol):
    """What a reader of one file format offers. Its entries read no numbers before they are asked to."""

    path: Path
    entries: dict[str, TensorEntry]
    metadata: dict[str, str]


Reader = Callable[[Path], TensorFile]

# How the files of a format begin, whatever their name. A new format is a new row here and in _READERS.
_BEGINNINGS: tuple[tuple[bytes, Reader], ...] = (
    (b"GGUF", GGUFFile),
    (b"PK\x03\x04", TorchFile),  # a pickle in a zip archive
    (b"\x80", TorchFile),  # a bare pickle
)
# The reader for a name, where the beginning shows nothing; it says what is wrong with a file that is something else.
_READERS: dict[str, Reader] = {
    ".safetensors": SafetensorsFile,
    ".gguf": GGUFFile,
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), TorchFile),
}
ENDINGS = tuple(_READERS)
"""The endings of file names that are read."""

# diffusers' name for its models, transformers' for T5.
_STEMS = ("diffusion_pytorch_model", "model")
_FILE = ".safetensors"
_INDEX = ".safetensors.index.json"
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors")
_SAT_LATEST, _SAT_STATES = "latest", "mp_rank_00_model_states.pt"
_FORMS = (
    "a .safetensors, .gguf or .pt file, a folder with diffusion_pytorch_model.safetensors or model.safetensors, or a "
    ".safetensors index with its shards"
)


def open_weights(path: str | Path) -> OpenWeights:
    """Map the weights at `path`.

    Args:
        path: a weight file, a component's folder, an index, or one of the shards next to their index.
    Raises: CheckpointError if anything is missing, damaged or of a form that is not read.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give {_FORMS}")
    if path.name.endswith(_INDEX):
        return _open_index(path)
    index = _index_of_shard(path)
    return _open_index(index) if index else _joined(path, [read_file(path)])


def read_file(path: Path) -> TensorFile:
    """Map one file with the reader of its format, known by its first bytes, else by the ending of its name."""
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise CheckpointError(f"{path} is of a form that is not read ({suffix or 'no ending'}); give {_FORMS}")
    return _reader(path, _READERS[suffix])(path)


def _reader(path: Path, named: Reader) -> Reader:
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error}); check that it is a file you may read") from error
    if head[8:9] == b"{":  # the 8 bytes before it are a length, and may look like the beginning of another format
        return SafetensorsFile
    return next((reader for beginning, reader in _BEGINNINGS if head.startswith(beginning)), named)


def _joined(path: Path, files: Sequence[TensorFile], *form: str) -> OpenWeights:
    """What several files hold together. Raises: CheckpointError if two of them hold the same key."""
    owner: dict[str, TensorFile] = {}
    entries: dict[str, TensorEntry] = {}
    metadata: dict[str, str] = {}
    for file in files:
        for key, entry in file.entries.items():
            if key in owner:
                raise CheckpointError(
                    f"{path} holds {shown(key)} twice, in {owner[key].path.name} and in {file.path.name}; "
                    "the folder has shards of two models, download it again"
                )
            owner[key], entries[key] = file, entry
        metadata = {**file.metadata, **metadata}
    return OpenWeights(path, entries, metadata, (*sorted({file.path.suffix.lower() for file in files}), *form))


def is_official_name(name: str) -> bool:
    """Whether diffusers or transformers give a file this name: then the config.json next to it is about it."""
    return name.removesuffix(".index.json").removesuffix(_FILE).split("-")[0].split(".")[0] in _STEMS


def _open_folder(folder: Path) -> OpenWeights:
    for stem in _STEMS:
        if (folder / (stem + _FILE)).exists():
            return _joined(folder, [read_file(folder / (stem + _FILE))])
        if (folder / (stem + _INDEX)).exists():
            return _open_index(folder / (stem + _INDEX))
    if (folder / _SAT_LATEST).is_file():
        return _open_sat(folder)
    # Names with a variant ("diffusion_pytorch_model.fp16.safetensors"), or a name of the author's own.
    for pattern in ("*" + _INDEX, *("*" + ending for ending in ENDINGS)):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return open_weights(found[0])
        if found:
            raise CheckpointError(f"{folder} holds {len(found)} sets of weights ({_names(found)}); give one of them")
    if (folder / "model_index.json").exists():
        raise CheckpointError(
            f"{folder} is a whole diffusers folder; give one of its components, such as {folder / 'transformer'}"
        )
    names = [f"{stem}{_FILE}, {stem}{_INDEX}" for stem in _STEMS]
    raise CheckpointError(
        f"{folder} holds no weights; looked for {', '.join(names)}; give a folder or a file that has them"
    )


def _open_sat(folder: Path) -> OpenWeights:
    """SAT's folder: the file `latest` names the folder of the newest state."""
    name = (folder / _SAT_LATEST).read_text(encoding="utf-8", errors="replace").strip()
    if not name.isalnum():
        raise CheckpointError(f"{folder / _SAT_LATEST} names no folder next to it ({shown(name)}); download it again")
    states = folder / name / _SAT_STATES
    if not states.is_file():
        raise CheckpointError(f"{states} is missing, though {_SAT_LATEST} names its folder; download it again")
    return _joined(folder, [read_file(states)])


def _names(files: Sequence[Path]) -> str:
    return listed([file.name for file in files], 3)


def _index_of_shard(path: Path) -> Path | None:
    """The index that lists this shard; None if the file is no shard."""
    match = _SHARD.fullmatch(path.name)
    if match is None or int(match["count"]) < 2:
        return None
    index = path.with_name(match["stem"] + _INDEX)
    if not index.exists():
        raise CheckpointError(
            f"{path} is one of {int(match['count'])} parts and {index.name} is not next to it; "
            "download the whole folder"
        )
    return index


def _open_index(index: Path) -> OpenWeights:
    """Map all shards that an index names, and check that they hold what it says."""
    shard_of = _weight_map(index)
    files = []
    for name in sorted(set(shard_of.values())):
        shard = index.with_name(name)
        if not shard.exists():
            raise CheckpointError(f"{shard} is missing, though {index.name} lists it; download it again")
        files.append(read_file(shard))
    held = {file.path.name: file.entries for file in files}
    absent = [f"{key} ({name})" for key, name in shard_of.items() if key not in held[name]]
    if absent:
        raise CheckpointError(
            f"{index} lists tensors in shards that lack them: {listed(absent)}; index and shards are not of one "
            "model, download the folder again"
        )
    return _joined(index.parent, files, "sharded")


def _weight_map(index: Path) -> dict[str, str]:
    """The file name of each key's shard, as an index lists them."""
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise CheckpointError(f'{index} has no "weight_map"; download it again')
    for name in shard_of.values():
        # Every separator of every system: an index from the network must not lead out of its folder.
        if not isinstance(name, str) or not name or re.search(r"[/\\:\0]|^\.", name):
            raise CheckpointError(
                f"{index} names the shard {shown(repr(name))}, which is no plain file name; shards are in the "
                "folder of their index, download it again"
            )
    return shard_of
