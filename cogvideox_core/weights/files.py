"""Opening weights: a file, a component's folder, or shards with an index. Nothing is copied and nothing executed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from .config_json import read_json
from .entries import OpenWeights, TensorEntry
from .errors import CheckpointError, listed, shown
from .folder_files import ENDINGS, NO_PLAIN_NAME, indexes_for, is_index, refuse_part, weights_in
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
    **dict.fromkeys(ENDINGS, TorchFile),
    ".safetensors": SafetensorsFile,
    ".gguf": GGUFFile,
}
_FORMS = (
    "a .safetensors, .gguf or .pt file, a folder with diffusion_pytorch_model.safetensors or model.safetensors, or an "
    "index with its shards"
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
    return _open_file(path)


def _open_file(path: Path) -> OpenWeights:
    refuse_part(path)
    index = path if is_index(path.name) else _index_of_shard(path)
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


def _open_folder(folder: Path) -> OpenWeights:
    try:
        found = weights_in(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error}); check that it is a folder you may read") from error
    return _open_file(found)


def _index_of_shard(path: Path) -> Path | None:
    """The index that lists this shard; None if the file is no shard."""
    indexes = indexes_for(path)
    listing = [index for index in indexes if path.name in _weight_map(index).values()]
    if indexes and not listing:
        raise CheckpointError(f"{path} is not listed in {indexes[0].name} next to it; download the whole folder")
    return listing[0] if listing else None


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
        if not isinstance(name, str) or NO_PLAIN_NAME.search(name):
            raise CheckpointError(
                f"{index} names the shard {shown(repr(name))}, which is no plain file name; shards are in the "
                "folder of their index, download it again"
            )
    return shard_of
