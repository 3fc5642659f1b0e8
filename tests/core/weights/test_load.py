"""Loading transformers and VAEs: official folders of all five models, in place, in another dtype, and refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from cogvideox_core.models.variants import VARIANTS
from cogvideox_core.weights.detect import find_variant
from cogvideox_core.weights.diffusers_folder import folder_variant
from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.fill import fill
from cogvideox_core.weights.load import load_transformer, load_vae, read_transformer, read_vae

Checkpoint = Callable[..., Path]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
KINDS = list(VARIANTS)
TOY = "CogVideoX1.5-5B-I2V"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def tensors_of(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def assert_same_weights(model: nn.Module, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    state = model.state_dict()
    assert set(state) == set(tensors)
    for key, tensor in tensors.items():
        assert state[key].dtype == dtype and state[key].device.type == "cpu"
        assert torch.equal(state[key], tensor.to(dtype)), key


def changed(folder: Path, target: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """A copy of a component's folder with other tensors."""
    shutil.copytree(folder, target)
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, target / WEIGHTS)
    return target


def mapped(model: nn.Module, folder: Path) -> bool:
    """Whether every weight lies in a mapping of a file of this folder."""
    rows = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    spans = [[int(end, 16) for end in row.split("-")] for row in rows]
    places = [tensor.data_ptr() for tensor in model.state_dict().values()]
    return all(any(start <= place < end for start, end in spans) for place in places)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sharded", [False, True])
def test_an_official_folder_loads(checkpoint: Checkpoint, kind: str, sharded: bool) -> None:
    folder = checkpoint(kind, sharded=sharded)
    assert (len(list((folder / "transformer").glob("*.safetensors"))) > 1) == sharded
    for path in (folder, folder / "transformer"):
        model = load_transformer(path)
        assert model.variant is VARIANTS[kind] and find_variant(model.config) is VARIANTS[kind]
        assert_same_weights(model, tensors_of(folder / "transformer"), torch.float32)
        assert not model.training and not any(weight.requires_grad for weight in model.parameters())
    vae = load_vae(folder)
    assert_same_weights(vae, tensors_of(folder / "vae"), torch.float32)
    assert not vae.training and not any(weight.requires_grad for weight in vae.parameters())
    assert vae.config.scaling_factor == VARIANTS[kind].vae.scaling_factor
    assert folder_variant(model.variant, folder) is VARIANTS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_configuration_is_the_one_the_folder_declares(checkpoint: Checkpoint, kind: str) -> None:
    folder = checkpoint(kind)
    for component, config in (("transformer", load_transformer(folder).config), ("vae", load_vae(folder).config)):
        declared = json.loads((folder / component / "config.json").read_text())
        found = json.loads(json.dumps(asdict(config)))
        assert set(found) <= set(declared)
        assert found == {name: declared[name] for name in found}


def test_weights_in_the_file_dtype_are_the_mapped_file(checkpoint: Checkpoint) -> None:
    folder = checkpoint(TOY, dtype=torch.bfloat16)
    model = load_transformer(folder)
    assert_same_weights(model, tensors_of(folder / "transformer"), torch.bfloat16)
    if sys.platform == "linux":
        assert mapped(model, folder / "transformer")
        assert mapped(load_transformer(folder, dtype="bf16"), folder / "transformer")
        assert mapped(load_vae(folder), folder / "vae")


@pytest.mark.parametrize("dtype", ["float32", "fp16", "BF16", torch.float64])
def test_another_dtype_is_cast_to(checkpoint: Checkpoint, dtype: torch.dtype | str) -> None:
    folder = checkpoint(TOY, dtype=torch.bfloat16)
    wanted = {"float32": torch.float32, "fp16": torch.float16, "BF16": torch.bfloat16}.get(str(dtype), torch.float64)
    assert_same_weights(load_transformer(folder, dtype=dtype), tensors_of(folder / "transformer"), wanted)
    assert_same_weights(load_vae(folder, dtype=dtype), tensors_of(folder / "vae"), wanted)


@LINUX
def test_loading_a_model_of_released_size_costs_no_memory(tmp_path: Path) -> None:
    config = VARIANTS["CogVideoX-2B"].transformer
    header: dict[str, Any] = {}
    end = 0
    for key, tensor in CogVideoXTransformer3D(config, device="meta").state_dict().items():
        offsets = [end, end + 2 * tensor.numel()]
        header[key], end = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": offsets}, offsets[1]
    text = json.dumps(header).encode()
    path = tmp_path / "any name.safetensors"
    with path.open("wb") as file:  # a hole of 3.4 GB
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    before = int(Path("/proc/self/statm").read_text().split()[1])
    model = load_transformer(path)
    grown = (int(Path("/proc/self/statm").read_text().split()[1]) - before) * 4096 / 2**20
    assert model.variant is VARIANTS["CogVideoX-2B"] and model.config == config
    assert next(model.parameters()).dtype == torch.float16
    assert grown < 100, f"{grown:.0f} MiB"


def test_components_in_each_others_place_are_named(checkpoint: Checkpoint) -> None:
    folder = checkpoint(TOY)
    lone = folder / "transformer" / WEIGHTS
    with pytest.raises(CheckpointError, match="is a CogVideoX VAE, not a CogVideoX transformer.*load_vae"):
        load_transformer(_moved(folder / "vae"))
    with pytest.raises(CheckpointError, match="is a T5 text encoder, not a CogVideoX VAE.*load_text_encoder"):
        load_vae(_moved(folder / "text_encoder"))
    assert load_vae(lone).config == load_vae(folder).config  # a file inside a whole folder leads to its siblings


def _moved(folder: Path) -> Path:
    """A component's folder out of its whole folder."""
    target = folder.parent.with_name(f"{folder.parent.name}-{folder.name}-alone")
    return target if target.exists() else Path(shutil.copytree(folder, target))


def test_a_host_reads_without_building(checkpoint: Checkpoint) -> None:
    folder = checkpoint(TOY)
    config, variant, tensors = read_transformer(folder)
    assert variant is VARIANTS[TOY] and isinstance(tensors, dict)
    model = fill(CogVideoXTransformer3D(config, device="meta"), tensors, dtype=torch.float16)
    assert_same_weights(model, tensors, torch.float16)
    vae = read_vae(folder)
    assert vae.config == load_vae(folder).config and set(vae.state_dict) == set(tensors_of(folder / "vae"))


def test_layers_come_from_the_operations_given(checkpoint: Checkpoint) -> None:
    class Operations:
        class Linear(nn.Linear):
            pass

        class LayerNorm(nn.LayerNorm):
            pass

        Conv2d = nn.Conv2d

    model = load_transformer(checkpoint(TOY), operations=Operations)
    assert type(model.proj_out) is Operations.Linear and type(model.norm_final) is Operations.LayerNorm
