"""ComfyUI's model folders, for whoever is not inside ComfyUI: found by COMFYUI_PATH, read as ComfyUI would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

VARIABLE = "COMFYUI_PATH"
_EXTRA_PATHS = "extra_model_paths.yaml"
# Kinds of models whose folders have other names than they, below ComfyUI's `models`; the first are the kind's own.
_FOLDERS = {"diffusion_models": ("diffusion_models", "unet"), "text_encoders": ("text_encoders", "clip")}
_KIND_OF = {folder: kind for kind, folders in _FOLDERS.items() for folder in folders}
_OWN_FOLDER = Path(__file__).absolute().parents[3]


def comfyui_folder() -> Path | None:
    """The folder that COMFYUI_PATH names, else the ComfyUI in whose custom_nodes this code is, else None."""
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser()
    host = _OWN_FOLDER.parent.parent
    return host if _OWN_FOLDER.parent.name == "custom_nodes" and (host / "models").is_dir() else None


def model_folders(kind: str) -> list[Path]:
    """The folders that hold a kind of models ("diffusion_models", "loras"...), those of extra_model_paths.yaml too.

    Raises: CheckpointError if that file cannot be read.
    """
    comfyui = comfyui_folder()
    if comfyui is None:
        return []
    own = [comfyui / "models" / name for name in _FOLDERS.get(kind, (kind,))]
    return [folder for folder in [*own, *_extra_folders(comfyui, kind)] if folder.is_dir()]


def t5_tokenizer() -> Path | None:
    """The tokenizer of T5 that ComfyUI carries with its code."""
    comfyui = comfyui_folder()
    folder = comfyui and comfyui / "comfy" / "text_encoders" / "t5_tokenizer"
    return folder if folder and folder.is_dir() else None


def from_home(path: str | Path) -> Path:
    """A path with its `~` in place of which the user's folder is meant, also where another folder was put before it.

    ComfyUI does that to `diffusers: ~/models` in extra_model_paths.yaml.
    """
    text = str(path)
    before, tilde, after = text.partition(f"{os.sep}~{os.sep}")
    return Path(f"~{os.sep}{after}" if tilde and not Path(text).exists() else text).expanduser()


def _extra_folders(comfyui: Path, kind: str) -> Iterator[Path]:
    for group in _extra_paths(comfyui / _EXTRA_PATHS).values():
        base = comfyui / from_home(os.path.expandvars(str(group.get("base_path") or ".")))
        for name, folders in group.items():
            if isinstance(folders, str) and _KIND_OF.get(name, name) == kind:
                yield from (from_home(base / folder.strip()) for folder in folders.splitlines() if folder.strip())


def _extra_paths(file: Path) -> dict[str, dict[str, Any]]:
    """The groups of an extra_model_paths.yaml; none if there is no such file."""
    if not file.is_file():
        return {}
    import yaml  # huggingface_hub needs it, and transformers that

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); repair it, ComfyUI needs it too") from error
    groups = content if isinstance(content, dict) else {}
    return {name: group for name, group in groups.items() if isinstance(group, dict)}
