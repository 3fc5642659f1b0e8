"""Files of adapters: what is read of them, what the report says, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cogvideox_core.weights.errors import CheckpointError
from cogvideox_core.weights.lora import module_shapes, read_lora
from cogvideox_core.weights.lora_file import LoRAFile
from tests.support.adapter_forms import base, lycoris, peft
from tests.support.lora_forms import save

NAME = "transformer_blocks.0.attn1.to_q"
SHAPES = {NAME: (16, 8), "transformer_blocks.1.attn1.to_q": (16, 8), "norm_final": (8,)}
LOKR = {"lokr_w1": (4, 2), "lokr_w2": (4, 4)}


def written(path: Path, shapes: dict[str, tuple[int, ...]], **options: Any) -> Path:
    return save({key: torch.ones(shape) for key, shape in shapes.items()}, path / "a.safetensors", **options)


def parts(shapes: dict[str, tuple[int, ...]], name: str = f"transformer.{NAME}") -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": shape for part, shape in shapes.items()}


# --- The scale ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEFT's folder of a LoRA of rank 8, alpha 2."""
    return peft("LoraConfig", r=8, lora_alpha=2)(base(), tmp_path_factory.mktemp("peft") / "adapter").path


def read(path: Path, **options: Any) -> LoRAFile:
    return read_lora(path, module_shapes(base()), **options)


DECLARED = "LoRA at scale 0.25 (alpha 2, rank 8, by adapter_config.json)"
UNKNOWN = "LoRA at scale 1 (not known: rank 8, no alpha in the file, no adapter_config.json beside it)"


def test_a_configuration_beside_a_file_counts_whatever_the_files_name(adapter: Path, tmp_path: Path) -> None:
    config, tensors = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
    assert read(adapter).report().endswith(DECLARED) and read(tensors).report().endswith(DECLARED)
    alone = shutil.copy(tensors, tmp_path / "x.safetensors")
    assert read(Path(alone)).report().endswith(UNKNOWN)
    (tmp_path / "x").mkdir()
    renamed = Path(shutil.copy(tensors, tmp_path / "x" / "x.safetensors"))
    shutil.copy(config, tmp_path / "x")
    assert read(renamed).report().endswith(DECLARED)
    shutil.copy(tensors, tmp_path / "x")  # then the configuration is about this one
    assert read(renamed).report().endswith(UNKNOWN)


def test_a_configuration_of_another_rank_is_not_the_files(adapter: Path, tmp_path: Path) -> None:
    for file in adapter.iterdir():
        shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 64}))
    assert read(tmp_path).report().endswith("scale 1 (not known: rank 8, and adapter_config.json is about rank 64)")


def test_what_is_asked_for_is_told_and_counts_only_where_nothing_is_known(adapter: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(adapter / "adapter_model.safetensors", tmp_path / "x.safetensors"))
    assert read(alone, divide_by_rank=True).report().endswith("LoRA at scale 0.125 (1 / rank 8, as asked for)")
    assert read(adapter, divide_by_rank=True).report().endswith(DECLARED)


def test_scales_that_differ_are_told_with_how_many_layers_have_them(tmp_path: Path) -> None:
    patterns = {"alpha_pattern": {"to_v": 16}, "rank_pattern": {"norm1.linear": 4}}
    made = peft("LoraConfig", r=8, lora_alpha=2, **patterns)(base(), tmp_path / "adapter")
    said = read(made.path).report()
    assert "LoRA at scales 0.25 (alpha 2, rank 8, by adapter_config.json) for 6, 2 (alpha 16, rank 8" in said
    assert said.endswith("for 2 layers")


# --- What does not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"lokr_w1": (4, 2)}, r"to_q \[16, 8\] it has lokr_w1 \[4, 2\] and no lokr_w2_a\)"),
        ({"lokr_w1": (4, 2), "lokr_w2": (4, 5)}, r"it has lokr_w1 \[4, 2\], lokr_w2 \[4, 5\]\)"),
        ({"lokr_w1": (8, 2), "lokr_w2": (1, 8)}, r"it has lokr_w1 \[8, 2\], lokr_w2 \[1, 8\]\)"),
        ({"hada_w1_a": (16, 2), "hada_w1_b": (2, 8), "hada_w2_a": (16, 2)}, "and no hada_w2_b"),
        ({"oft_blocks": (3, 4, 4)}, r"it has oft_blocks \[3, 4, 4\]\)"),
        ({"oft_R.weight": (3, 6)}, r"it has oft_R \[3, 6\]\)"),
        ({"lora_A.weight": (0, 8), "lora_B.weight": (16, 0)}, r"it has down \[0, 8\], up \[16, 0\]\)"),
        ({"lora_A.weight": (2,), "lora_B.weight": (16, 2)}, r"it has down \[2\], up \[16, 2\]\)"),
        ({"diff": (16, 1)}, r"it has diff \[16, 1\]\)"),
        ({"diff_b": (8,)}, r"it has diff_b \[8\]\)"),
        ({"dora_scale": (16, 1)}, "and no up"),
        ({"alpha": ()}, r"it has alpha \[\]\)"),
    ],
)
def test_parts_that_fit_nothing_are_told_with_their_shapes(
    shapes: dict[str, tuple[int, ...]], said: str, tmp_path: Path
) -> None:
    keys = parts(shapes) | ({"lora_unet_x.lora_up.weight": (1, 1)} if "alpha" in shapes else {})
    with pytest.raises(CheckpointError, match=f"of which nothing fits this transformer .*{said}"):
        read_lora(written(tmp_path, keys), SHAPES)


def test_one_layer_that_does_not_fit_leaves_the_others(tmp_path: Path) -> None:
    keys = parts(LOKR) | parts({"lokr_w1": (4, 2)}, "transformer.transformer_blocks.1.attn1.to_q")
    file = read_lora(written(tmp_path, keys), SHAPES)
    assert list(file.deltas) == [NAME] and len(file.matched) == 2
    assert file.unmatched == ["transformer.transformer_blocks.1.attn1.to_q.lokr_w1"]
    assert file.report().startswith("2 keys matched, for 1 layers; 1 unmatched (transformer.transformer_blocks.1")


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (
            {"lora_A": (2, 8), "lora_B": (16, 2), "lora_E": (2, 1)},
            f"has lora_E for {NAME}, which is not read; LoRA, DoRA",
        ),
        (LOKR | {"lora_A.weight": (2, 8)}, f"has down with lokr_w1 with lokr_w2 for {NAME}, which is not read"),
        ({"lora_A.weight": (2, 8), "lora_A.bias": (2,)}, f"has down_bias for {NAME}, which is not read"),
        ({"a1.weight": (8, 2), "bm.weight": (2, 2), "lora_A.weight": (2, 8)}, "which is not read"),
        ({"boft_R": (2, 2, 4, 4), "boft_s": (16, 1)}, "has BOFT of PEFT with more than one butterfly factor for"),
    ],
)
def test_parts_of_other_adapters_are_refused(shapes: dict[str, tuple[int, ...]], said: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=said):
        read_lora(written(tmp_path, parts(shapes)), SHAPES)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("VeraConfig", {"r": 4, "target_modules": ["to_q"]}),
        ("HRAConfig", {"r": 4}),
        ("FourierFTConfig", {"n_frequency": 40}),
        ("LNTuningConfig", {"target_modules": ["norm_q"]}),
        ("AdaLoraConfig", {"init_r": 4, "target_r": 4, "total_step": 9, "tinit": 1, "tfinal": 1}),
    ],
)
def test_other_kinds_of_peft_are_named(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    made = peft(kind, **options)(base(), tmp_path / "adapter")
    named = kind.removesuffix("Config").upper().replace("LNTUNING", "LN_TUNING")
    said = "has lora_E for .*" if kind == "AdaLoraConfig" else f"holds an adapter of PEFT's kind {named}, "
    with pytest.raises(CheckpointError, match=f"{said}which is not read; LoRA, DoRA, LoHa"):
        read(made.path)


def test_constrained_rotations_of_an_older_peft_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, parts({"oft_r": (4, 4, 4)}))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "OFT", "r": 4, "coft": True}))
    with pytest.raises(CheckpointError, match=r"has constrained OFT \(coft\) of PEFT before 0.16 for"):
        read_lora(path, SHAPES)


def test_lycoris_tlora_is_refused(tmp_path: Path) -> None:
    made = lycoris("tlora")(base(), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="has lambda_layer with p_layer.weight with q_layer.weight for"):
        read(made.path)


def test_two_adapters_of_one_layer_in_one_file_are_refused(tmp_path: Path) -> None:
    keys = {f"{NAME}.lora_{part}.{name}.weight": shape for name in ("one", "two") for part, shape in _PAIR.items()}
    with pytest.raises(CheckpointError, match=f"has two adapters for {NAME} .*; save them one by one"):
        read_lora(written(tmp_path, keys), SHAPES)


_PAIR = {"A": (2, 8), "B": (16, 2)}


def test_a_base_model_in_the_same_file_is_ignored(tmp_path: Path) -> None:
    """What `state_dict()` of a transformer with PEFT's layers in it holds."""
    keys = {f"{NAME}.lora_{part}.default.weight": shape for part, shape in _PAIR.items()}
    others = {f"{NAME}.base_layer.weight": (16, 8), f"{NAME}.base_layer.bias": (16,), "norm_final.weight": (8,)}
    file = read_lora(written(tmp_path, keys | others), SHAPES)
    assert list(file.deltas) == [NAME] and not file.biases and sorted(file.ignored) == sorted(others)


DAMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "has NaN or infinite numbers under": lambda tensor: torch.full_like(tensor, float("nan")),
    "has whole numbers under": lambda tensor: tensor.to(torch.int32),
}


@pytest.mark.parametrize("said", DAMAGES)
@pytest.mark.parametrize("kind", ["lokr_w1", "oft_R.weight", "diff_b", "lora_magnitude_vector"])
def test_numbers_that_are_none_are_told(kind: str, said: str, tmp_path: Path) -> None:
    sets: list[dict[str, tuple[int, ...]]] = [
        LOKR,
        {"oft_R.weight": (2, 6)},
        {"diff": (16, 8), "diff_b": (16,)},
        {"lora_A.weight": (2, 8), "lora_B.weight": (16, 2), "lora_magnitude_vector": (16,)},
    ]
    path = written(tmp_path, parts(next(shapes for shapes in sets if kind in shapes)))
    tensors = load_file(path)
    key = f"transformer.{NAME}.{kind}"
    with pytest.raises(CheckpointError, match=f"{said} {key}; download it again"):
        read_lora(save(tensors | {key: DAMAGES[said](tensors[key])}, path), SHAPES)


def test_a_report_names_every_kind(tmp_path: Path) -> None:
    keys = parts(LOKR) | {"lycoris_norm_final.w_norm": (8,), "lycoris_norm_final.b_norm": (8,)}
    file = read_lora(written(tmp_path, keys | {f"transformer.{NAME}.alpha": ()}), SHAPES)
    assert file.report() == "5 keys matched, for 2 layers; differences and LoKr at scale 1 (whole matrices)"
    assert file.kinds == {"LoKr": 1, "differences": 1} and list(file.biases) == ["norm_final"]
    assert not file.is_sum
