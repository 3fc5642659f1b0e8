"""Opening weights: one file, a component's folder, or shards with an index. Nothing is copied, nothing executed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from .declared import read_json
from .errors import CheckpointError, listed, shown
from .safetensors_file import PICKLE_ADVICE, SafetensorsFile


class TensorFile(Protocol):
    """What a reader of one file format offers; shapes and dtypes must not touch tensor data."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]
    metadata: dict[str, str]

    def tensor(self, key: str) -> Tensor: ...


# A new format is a new row here.
READERS: dict[str, Callable[[Path], TensorFile]] = {".safetensors": SafetensorsFile}
_PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")

# diffusers' name for its models, transformers' for T5.
_STEMS = ("diffusion_pytorch_model", "model")
_FILE = ".safetensors"
_INDEX = ".safetensors.index.json"
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors")
_FORMS = (
    "a .safetensors file, a folder with diffusion_pytorch_model.safetensors or model.safetensors, or a .safetensors "
    "index with its shards"
)


class Weights(Mapping[str, Tensor]):
    """Mapped tensors by key, of one file or several. Shapes and dtypes come from the headers alone.

    Args:
        path: what was opened, for messages.
        files: the files that make it up.
    Raises: CheckpointError if two files hold the same key.
    """

    def __init__(self, path: Path, files: Sequence[TensorFile]) -> None:
        self.path = path
        self._owner: dict[str, TensorFile] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.metadata: dict[str, str] = {}
        for file in files:
            self._add(file)

    def _add(self, file: TensorFile) -> None:
        for key in file.shapes:
            if key in self._owner:
                raise CheckpointError(
                    f"{self.path} holds {shown(key)} twice, in {self._owner[key].path.name} and in {file.path.name}; "
                    "shards of two models lie together, download the folder again"
                )
            self._owner[key] = file
        self.shapes.update(file.shapes)
        self.dtypes.update(file.dtypes)
        self.metadata = {**file.metadata, **self.metadata}

    def __getitem__(self, key: str) -> Tensor:
        return self._owner[key].tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._owner)

    def __len__(self) -> int:
        return len(self._owner)


def open_weights(path: str | Path) -> Weights:
    """Map the weights at `path`.

    Args:
        path: a weight file, a component's folder, an index, or one shard that lies beside its index.
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
    return _open_index(index) if index else Weights(path, [read_file(path)])


def read_file(path: Path) -> TensorFile:
    """Map one file with the reader of its format."""
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise CheckpointError(f"{path} is a pickle by its name ({suffix}); {PICKLE_ADVICE}")
    if suffix not in READERS:
        raise CheckpointError(f"{path} is of a form that is not read ({suffix or 'no ending'}); give {_FORMS}")
    return READERS[suffix](path)


def is_official_name(name: str) -> bool:
    """Whether a file of this name speaks for its folder: diffusers' or transformers' name, a shard or an index."""
    return name.removesuffix(".index.json").removesuffix(_FILE).split("-")[0].split(".")[0] in _STEMS


def _open_folder(folder: Path) -> Weights:
    for stem in _STEMS:
        if (folder / (stem + _FILE)).exists():
            return Weights(folder, [read_file(folder / (stem + _FILE))])
        if (folder / (stem + _INDEX)).exists():
            return _open_index(folder / (stem + _INDEX))
    # Names with a variant ("diffusion_pytorch_model.fp16.safetensors"), or a name of the author's own.
    for pattern in ("*" + _INDEX, "*" + _FILE):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return open_weights(found[0])
        if found:
            raise CheckpointError(f"{folder} holds {len(found)} sets of weights ({_names(found)}); give one of them")
    raise CheckpointError(_nothing_in(folder))


def _nothing_in(folder: Path) -> str:
    if (folder / "model_index.json").exists():
        return f"{folder} is a whole diffusers folder; give one of its components, such as {folder / 'transformer'}"
    pickles = sorted(file for file in folder.iterdir() if file.suffix.lower() in _PICKLES)
    if pickles:
        return f"{folder} holds only pickles ({_names(pickles)}); {PICKLE_ADVICE}"
    looked_for = ", ".join(stem + ending for stem in _STEMS for ending in (_FILE, _INDEX))
    return f"{folder} holds no weights; looked for {looked_for}; give a folder or a file that has them"


def _names(files: Sequence[Path]) -> str:
    return listed([file.name for file in files], 3)


def _index_of_shard(path: Path) -> Path | None:
    """The index that lists this shard; None when the file is no shard."""
    match = _SHARD.fullmatch(path.name)
    if match is None or int(match["count"]) < 2:
        return None
    index = path.with_name(match["stem"] + _INDEX)
    if not index.exists():
        raise CheckpointError(
            f"{path} is one of {int(match['count'])} parts and {index.name} does not lie beside it; "
            "download the whole folder"
        )
    return index


def _open_index(index: Path) -> Weights:
    """Map all shards an index names, and hold the index to its word."""
    placed = _weight_map(index)
    files = []
    for name in sorted(set(placed.values())):
        shard = index.with_name(name)
        if not shard.exists():
            raise CheckpointError(f"{shard} is missing, though {index.name} lists it; download it again")
        files.append(read_file(shard))
    shapes = {file.path.name: file.shapes for file in files}
    absent = [f"{key} ({name})" for key, name in placed.items() if key not in shapes[name]]
    if absent:
        raise CheckpointError(
            f"{index} places tensors in shards that lack them: {listed(absent)}; index and shards are not of one "
            "model, download the folder again"
        )
    return Weights(index.parent, files)


def _weight_map(index: Path) -> dict[str, str]:
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f'{index} has no "weight_map"; download it again')
    for name in placed.values():
        # Every separator of every system: an index from the network must not lead out of its folder.
        if not isinstance(name, str) or not name or re.search(r"[/\\:\0]|^\.", name):
            raise CheckpointError(
                f"{index} names the shard {shown(repr(name))}, which is no plain file name; shards lie beside their "
                "index, download the folder again"
            )
    return placed
