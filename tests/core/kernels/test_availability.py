"""Triton's kernels run only where a trial says so; where it fails, a sentence says why and PyTorch computes.

On a machine without a GPU the trial runs in Triton's interpreter, and a Triton that does not work is a package of that
name which fails: both in processes of their own, since the answer is kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from cogvideox_core.kernels.availability import available, card_reason, reason_against, trial_error, uses_triton
from cogvideox_core.kernels.torch_symbols import constant_when_compiled
from tests.provision import REPO

CPU = torch.device("cpu")
BROKEN = {
    "on import": 'raise OSError("libtriton.so: cannot open shared object file")',
    "on jit": 'def jit(function):\n    raise RuntimeError("Failed to find C compiler. Please specify via CC")',
    "with numbers": """
        import torch
        class _Kernel:
            def __getitem__(self, grid):
                return lambda x, out, *sizes, **options: out.fill_(0.5)
        def jit(function):
            return _Kernel()
    """,
}
SENTENCES = {
    "on import": "OSError: libtriton.so: cannot open shared object file",
    "on jit": "RuntimeError: Failed to find C compiler. Please specify via CC",
    "with numbers": "ArithmeticError: a kernel in torch.float32 is off by",
}
ASK = """
import logging, torch
logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
from cogvideox_core.kernels import availability
for _ in range(3):
    print(availability._runs(torch.device("cpu")))
"""


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., tuple[list[str], list[str]]]:
    """Answers and log of a new process that asks three times; `triton` is the text of a package of that name."""

    def asked(triton: str, **environment: str) -> tuple[list[str], list[str]]:
        package = tmp_path / "stub" / "triton"
        (package / "language").mkdir(parents=True)
        (package / "__init__.py").write_text(dedent(triton))
        (package / "language" / "__init__.py").write_text("constexpr = int\n")
        path = [str(package.parent), str(REPO)]
        variables = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(path)} | environment
        done = subprocess.run([sys.executable, "-c", ASK], env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        told = [line for line in done.stderr.splitlines() if line.startswith(("INFO", "WARNING"))]
        return done.stdout.split(), told

    return asked


def test_a_working_triton_passes_the_trial() -> None:
    pytest.importorskip("triton", reason="no Triton for this system")
    assert trial_error(CPU) is None


@pytest.mark.parametrize("how", list(BROKEN))
def test_a_triton_that_fails_is_left_with_one_sentence(ask: Callable[..., Any], how: str) -> None:
    answers, told = ask(BROKEN[how])
    assert answers == ["False"] * 3
    (sentence,) = told
    assert sentence.startswith(f"WARNING Triton does not work on cpu ({SENTENCES[how]}")
    assert sentence.endswith("COGVIDEOX_KERNELS=off switches the trial and this message off")


def test_the_switch_turns_kernels_off_before_triton_is_imported(ask: Callable[..., Any]) -> None:
    answers, told = ask(BROKEN["on import"], COGVIDEOX_KERNELS="off")
    assert answers == ["False"] * 3
    assert told == ["INFO The Triton kernels are not used on cpu: COGVIDEOX_KERNELS=off"]


@pytest.mark.parametrize("setting", ["off", "OFF", "0", "on", "", "of"])
def test_settings_of_the_switch(
    setting: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("COGVIDEOX_KERNELS", setting)
    reason = reason_against(CPU)
    assert reason == (f"COGVIDEOX_KERNELS={setting}" if setting in ("off", "OFF", "0") else None)
    told = ["COGVIDEOX_KERNELS=of; it takes on or off: the kernels stay on"] if setting == "of" else []
    assert [record.getMessage() for record in caplog.records] == told


@pytest.mark.parametrize(
    ("capability", "hip", "reason"),
    [
        ((6, 1), None, "its compute capability is 6.1, and Triton needs 7.0"),
        ((9, 4), "6.2.41133", "they are written for NVIDIA cards"),
        ((7, 0), None, None),
        ((12, 0), None, None),
    ],
    ids=["Pascal", "AMD", "Volta", "Blackwell"],
)
def test_cards_that_are_not_tried(capability: tuple[int, int], hip: str | None, reason: str | None) -> None:
    assert card_reason(capability, hip) == reason


def test_a_cpu_is_never_asked() -> None:
    assert not available(CPU)
    assert not uses_triton(torch.ones(1))
    assert not available(torch.device("meta"))


def test_torch_compile_does_not_trace_the_trial() -> None:
    """It runs as ordinary code while torch.compile traces what asks for it, and leaves nothing in the graph."""
    pytest.importorskip("triton", reason="no Triton for this system")
    runs = constant_when_compiled(_trial_works)
    nodes = []

    def note(graph: torch.fx.GraphModule, example: list[Any]) -> Any:
        nodes.extend(node.op for node in graph.graph.nodes)
        return graph

    def doubled_where_it_works(x: torch.Tensor) -> torch.Tensor:
        return 2 * x if runs(x.device) else x

    compiled: Any = torch.compile(doubled_where_it_works, backend=note, fullgraph=True)
    assert compiled(torch.ones(3)).tolist() == [2.0] * 3
    assert nodes == ["placeholder", "call_function", "output"]


def _trial_works(device: torch.device) -> bool:
    return trial_error(device) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiler", [True, False], ids=["with a compiler", "without"])
def test_a_gpu_computes_with_and_without_a_compiler(compiler: bool, tmp_path: Path) -> None:
    """Without a C compiler Triton cannot start its kernels: a norm of the transformer gives the same numbers."""
    script = """
import torch
from cogvideox_core.kernels.availability import available
from cogvideox_core.kernels.layers import LayerNorm
from cogvideox_core.models.transformer.block_ops import modulated
norm, (text, video) = LayerNorm(64).requires_grad_(False), torch.randn(2, 1, 7, 64)
modulation = torch.randn(1, 384)
wanted = modulated(norm, text, video, modulation)
there = [part.to(device="cuda") for part in (norm, text, video, modulation)]
assert (modulated(*there).cpu() - wanted).abs().max() < 1e-4
print(available(torch.device("cuda:0")))
"""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(REPO)}
    if not compiler:
        environment |= {"CC": "/nowhere/cc", "PATH": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(compiler)]
