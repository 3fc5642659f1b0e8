"""Private names of PyTorch: all are listed and there, and where one goes its public counterpart gives the numbers."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cogvideox_core.kernels import torch_symbols
from cogvideox_core.kernels.layers import Linear, linear_gelu
from cogvideox_core.kernels.torch_symbols import SYMBOLS, find
from tests.provision import REPO
from tests.support.parity import assert_parity

CORE = REPO / "cogvideox_core"
HOME = CORE / "kernels" / "torch_symbols.py"
CPU = torch.device("cpu")
OF_NAMED_TUPLES = {"_replace", "_fields", "_asdict"}  # public, and so named that no field has the name


@pytest.mark.parametrize("name", list(SYMBOLS))
def test_this_pytorch_has(name: str) -> None:
    assert find(name) is not None, f"torch {torch.__version__} has no {name} any more: {SYMBOLS[name]}"


def test_a_name_that_is_gone_is_found_out() -> None:
    with pytest.raises(AttributeError, match="_no_such_product"):
        find("torch.ops.mkldnn._no_such_product")


# --- Where they are used ----------------------------------------------------------------------------------------------


def private_names(path: Path) -> Iterator[str]:
    """Attributes and imports that begin with one underscore and are not defined in that file, as `line name`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        line = getattr(node, "lineno", 0)
        for name in names:
            if name.startswith("_") and not name.startswith("__") and name not in own:
                yield f"{path.relative_to(REPO)}:{line} {name}"


def listed_parts() -> set[str]:
    return {part for name in SYMBOLS for part in name.split(".") if part.startswith("_")}


def test_no_other_private_name_is_used() -> None:
    """Also those of other packages, which have tables of their own next to where they are used."""
    found = [place for path in sorted(CORE.rglob("*.py")) for place in private_names(path)]
    assert any(place.endswith(" _forward_hooks") for place in found)  # so that it looks at all
    unlisted = [place for place in found if place.split()[1] not in listed_parts() | OF_NAMED_TUPLES]
    assert unlisted == []


@pytest.mark.parametrize(
    "name",
    [
        "_linear_pointwise",
        "_addmm_activation",
        "mkldnn_convolution",
        "batch_norm_update_stats",
        "_int_mm",
        "torch.cpu",
    ],
)
def test_what_computes_is_called_in_one_module(name: str) -> None:
    users = [path for path in CORE.rglob("*.py") if name in path.read_text(encoding="utf-8")]
    assert users == [HOME]


# --- Where they are gone ----------------------------------------------------------------------------------------------


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


# A function, where its private operation is, its arguments, and what is public.
CASES: dict[str, tuple[Any, Any, str, tuple[Any, ...]]] = {
    "onednn_linear": (torch_symbols.onednn_linear, torch.ops.mkldnn, "_linear_pointwise", ((3, 16), (8, 16), (8,))),
    "addmm_gelu": (torch_symbols.addmm_gelu, torch.ops.aten, "_addmm_activation", ((3, 16), (8, 16), (8,))),
    "onednn_conv3d": (
        torch_symbols.onednn_conv3d,
        torch,
        "mkldnn_convolution",
        ((1, 4, 3, 5, 6), (2, 4, 3, 3, 3), (2,)),
    ),
    "channel_moments": (torch_symbols.channel_moments, torch, "batch_norm_update_stats", ((2, 4, 3, 5, 5),)),
}


def refuses(*arguments: Any, **options: Any) -> Any:
    raise TypeError("_linear_pointwise() takes 4 positional arguments but 6 were given")


def halves(*arguments: Any, **options: Any) -> Any:
    x = arguments[0]
    return x / 2 if x.ndim < 5 else (x / 2, x / 2)


@pytest.fixture
def untried() -> Iterator[None]:
    """Every operation is tried again, inside and after."""
    torch_symbols._tried.cache_clear()
    yield
    torch_symbols._tried.cache_clear()


@pytest.mark.parametrize("fault", [None, refuses, halves], ids=["gone", "refuses", "other numbers"])
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.usefixtures("untried")
def test_public_operations_take_the_place_of(
    name: str, fault: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    function, owner, symbol, shapes = CASES[name]
    arguments = [numbers(*shape) for shape in shapes]
    wanted = function(*arguments)
    assert torch_symbols.works(name, CPU, torch.float32)
    torch_symbols._tried.cache_clear()
    monkeypatch.setattr(owner, symbol, fault)
    with caplog.at_level(logging.INFO, logger="cogvideox"):
        found = [function(*arguments) for _ in range(3)][-1]
    for ours, theirs in zip(*(part if isinstance(part, tuple) else (part,) for part in (found, wanted)), strict=True):
        # On a CPU, where the core does not ask for it, _addmm_activation's GELU is the one without the tanh.
        assert_parity(ours, theirs, 1e-3 if name == "addmm_gelu" else 1e-5, name)
    (record,) = caplog.records
    assert f"has no usable {torch_symbols._OPERATIONS[name].symbol} for torch.float32 on cpu" in record.getMessage()


@pytest.mark.usefixtures("untried")
def test_integers_are_multiplied_in_float_where_their_product_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (127 * numbers(20, 64)).to(torch.int8), (127 * numbers(64, 8)).to(torch.int8)
    wanted = a.double() @ b.double()
    assert torch.equal(torch_symbols.int_matmul(a, b).double(), wanted)
    torch_symbols._tried.cache_clear()
    monkeypatch.delattr(torch, "_int_mm")
    assert_parity(torch_symbols.int_matmul(a, b).double(), wanted, 1e-6, "in float")


@pytest.mark.usefixtures("untried")
def test_a_layer_gives_its_numbers_without_onednns_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, x = Linear(96, 200).requires_grad_(False), numbers(5, 96)
    wanted = linear(x), linear_gelu(linear, x)
    torch_symbols._tried.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", refuses)
    for ours, theirs in zip((linear(x), linear_gelu(linear, x)), wanted, strict=True):
        assert_parity(ours, theirs, 1e-6, "linear")


def test_a_cpus_features_are_unknown_to_another_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    assert torch_symbols.cpu_has("vnni", if_unknown=False)
    monkeypatch.delattr(torch.cpu, "_is_vnni_supported")
    assert not torch_symbols.cpu_has("vnni", if_unknown=False)
    assert torch_symbols.cpu_has("vnni", if_unknown=True)
