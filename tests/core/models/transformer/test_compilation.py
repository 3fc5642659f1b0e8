"""Compiled blocks give the numbers of others, one compiled block serves for all, and nothing is done without it."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from cogvideox_core import CogVideoXTransformer3D, load_lora, load_pipeline, load_transformer
from cogvideox_core.models.transformer.adaln_table import tabulated
from cogvideox_core.models.transformer.attention import cudnn_first, sdpa
from cogvideox_core.models.transformer.compilation import check_compiler, compile_blocks
from cogvideox_core.pipeline.offload import OffloadedModule
from cogvideox_core.weights.quantize import quantize_model
from tests.support.checkpoints import OFFICIAL
from tests.support.lora_forms import ALL, pairs_of, peft
from tests.support.parity import assert_parity, relative_difference

BOUND = 1e-5
LEVELS_BOUND = 4e-3  # in int8, where what float32 rounds otherwise may come to the next of 255 levels
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch._dynamo.reset()


@pytest.fixture
def counter() -> CompileCounterWithBackend:
    """A backend that does everything but write machine code, and counts."""
    return CompileCounterWithBackend("aot_eager")


@torch.no_grad()
def step(
    transformer: CogVideoXTransformer3D,
    *,
    schedule: tuple[int, ...] = (999, 640, 20),
    width: int = 12,
    device: str = "cpu",
    **options: Any,
) -> Tensor:
    config, generator = transformer.config, torch.Generator().manual_seed(3)
    latents = torch.randn(2, config.in_channels, 2 * config.frame_patch, 8, width, generator=generator)
    embeds = torch.randn(2, config.max_text_seq_length, config.text_embed_dim, generator=generator)
    latents, embeds = (part.to(device, next(transformer.parameters()).dtype) for part in (latents, embeds))
    with tabulated(transformer, schedule, latents):
        return transformer(latents, embeds, torch.full((2,), schedule[-1], device=device), **options)


@pytest.mark.parametrize("kind", list(OFFICIAL))
def test_every_model_compiles_without_a_break(
    kind: str, checkpoint: Callable[..., Path], counter: CompileCounterWithBackend
) -> None:
    plain, compiled = (load_transformer(checkpoint(kind), dtype="float32") for _ in range(2))
    compile_blocks(compiled, backend=counter, fullgraph=True)
    assert_parity(step(compiled), step(plain), BOUND, f"compiled {kind}")
    assert counter.frame_count == 1


def test_the_whole_transformer_compiles_without_a_break(checkpoint: Callable[..., Path]) -> None:
    plain = load_transformer(checkpoint("CogVideoX-5B"), dtype="float32")
    compiled: Any = torch.compile(plain, backend="aot_eager", fullgraph=True)
    latents, embeds, timestep = torch.randn(1, 16, 2, 8, 12), torch.randn(1, 226, 32), torch.tensor([640])
    with torch.no_grad():
        assert_parity(compiled(latents, embeds, timestep), plain(latents, embeds, timestep), BOUND, "compiled whole")


def test_a_schedule_of_about_as_many_steps_takes_the_same_block(toy: Path, counter: CompileCounterWithBackend) -> None:
    plain, compiled = (load_transformer(toy, dtype="float32") for _ in range(2))
    compile_blocks(compiled, backend=counter, fullgraph=True)
    for schedule in [(999, 640, 20), (640, 20, 10, 5), (999, 20, 3)]:
        assert_parity(step(compiled, schedule=schedule), step(plain, schedule=schedule), BOUND, f"{schedule}")
    assert counter.frame_count == 1
    assert_parity(step(compiled, width=16), step(plain, width=16), BOUND, "another size")
    assert counter.frame_count == 2


@pytest.mark.parametrize("small", [False, True], ids=["float32", "int8"])
def test_loras_come_and_go(small: bool, toy: Path, tmp_path: Path, counter: CompileCounterWithBackend) -> None:
    """torch.compile does not look at hooks, and one compiled block serves for all: neither may mix LoRAs up."""
    bound = LEVELS_BOUND if small else BOUND
    plain, compiled = (load_transformer(toy, dtype="float32") for _ in range(2))
    files = [
        peft("transformer.")(pairs_of(plain, ALL, seed=seed), tmp_path / f"{seed}.safetensors") for seed in range(2)
    ]
    if small:
        quantize_model(plain, "int8")
        quantize_model(compiled, "int8")
    compile_blocks(compiled, backend=counter, fullgraph=True)
    without = step(plain)
    assert_parity(step(compiled), without, bound, "without a LoRA")
    loras = [[load_lora(model, file) for model in (plain, compiled)] for file in files]
    assert relative_difference(step(plain), without) > 0.01
    assert_parity(step(compiled), step(plain), bound, "two LoRAs")
    for lora in loras[0]:
        lora.strength = 0.3
    assert_parity(step(compiled), step(plain), bound, "another strength")
    for pair in loras:
        for lora in pair:
            lora.remove()
    assert_parity(step(compiled), without, bound, "without them again")


def test_adapters_that_change_weights_compile_too(
    toy: Path, tmp_path: Path, counter: CompileCounterWithBackend
) -> None:
    plain, compiled = (load_transformer(toy, dtype="float32") for _ in range(2))
    name, width = "transformer_blocks.{}.attn1.to_{}", plain.config.width
    lokr = {f"{name.format(block, 'q')}.lokr_w1": torch.randn(4, 4) for block in range(2)}
    lokr |= {key.replace("w1", "w2"): torch.randn(width // 4, width // 4) for key in lokr}
    oft = {f"{name.format(block, 'v')}.oft_R.weight": torch.randn(width // 4, 6) for block in range(2)}
    save_file(lokr | oft, tmp_path / "both.safetensors")
    compile_blocks(compiled, backend=counter, fullgraph=True)
    without = step(plain)
    loras = [load_lora(model, tmp_path / "both.safetensors", 0.2) for model in (plain, compiled)]
    assert relative_difference(step(plain), without) > 0.01
    assert_parity(step(compiled), step(plain), BOUND, "LoKr and OFT")
    for lora in loras:
        lora.remove()
    assert_parity(step(compiled), without, BOUND, "without them again")


def test_blocks_whose_weights_come_and_go_are_compiled_once(toy: Path, counter: CompileCounterWithBackend) -> None:
    """Hooks bring them (pipeline/offload.py), other hooks in every run: they are called around the compiled code."""
    plain: Any = load_transformer(toy, dtype="float32")
    compiled: Any = load_transformer(toy, dtype="float32")
    compile_blocks(compiled, backend=counter, fullgraph=True)
    offloaded = OffloadedModule(compiled, CPU, torch.float32, blocks=compiled.transformer_blocks)
    for run in range(2):
        with offloaded.on_device():
            for _ in range(2):
                assert_parity(step(compiled), step(plain), BOUND, f"run {run}")
        for model in (plain, compiled):
            with torch.no_grad():
                model.transformer_blocks[0].attn1.to_q.weight.mul_(1.5)
    assert counter.frame_count == 1


def test_a_copy_of_a_compiled_block_has_its_own_weights(toy: Path, counter: CompileCounterWithBackend) -> None:
    transformer = load_transformer(toy, dtype="float32")
    compile_blocks(transformer, backend=counter, fullgraph=True)
    before = step(transformer)
    other: Any = copy.deepcopy(transformer)
    with torch.no_grad():
        other.transformer_blocks[0].attn1.to_q.weight.mul_(1.5)
    assert relative_difference(step(other), before) > 1e-4
    assert torch.equal(step(transformer), before)
    assert transformer.state_dict().keys() == load_transformer(toy, dtype="float32").state_dict().keys()


def test_an_attention_with_an_order_of_its_own_compiles(toy: Path, counter: CompileCounterWithBackend) -> None:
    plain, compiled = (load_transformer(toy, dtype="float32") for _ in range(2))
    compile_blocks(compiled, backend=counter, fullgraph=True)
    assert_parity(step(compiled, attention=cudnn_first), step(plain, attention=sdpa), BOUND, "cudnn first")


def test_a_compiled_pipeline_in_low_memory_gives_the_numbers_of_a_plain_one() -> None:
    """With PyTorch's own compiler, which writes C++ and needs somebody to compile that."""
    try:
        check_compiler(CPU)
    except ValueError as error:
        pytest.skip(str(error))
    asked: dict[str, Any] = dict(height=32, width=32, num_frames=9, num_inference_steps=2, output_type="latent")

    def run(**options: Any) -> Tensor:
        pipeline = load_pipeline(device="cpu", dtype="float32", **options)
        return pipeline("a red ball", generator=torch.Generator().manual_seed(1), **asked)

    assert_parity(run(compile=True, low_memory=True), run(), 1e-4, "compiled, in low memory")


def test_a_machine_without_a_compiler_is_told(tmp_path: Path) -> None:
    """In a process of its own, where nothing is compiled yet."""
    compilation = "cogvideox_core.models.transformer.compilation"
    script = f"import torch; from {compilation} import check_compiler as check; check(torch.device('cpu'))"
    environment = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    told = (
        r"ValueError: torch.compile does not work here \(.+\); it needs a C\+\+ compiler for a CPU and Triton for a GPU"
    )
    assert re.search(told, done.stderr), done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("small", [False, True], ids=["bfloat16", "int8"])
@pytest.mark.parametrize("attention", [sdpa, cudnn_first])
def test_a_gpu_gives_the_numbers_of_a_plain_model(small: bool, attention: Any, toy: Path) -> None:
    plain, compiled = (load_transformer(toy, dtype="bfloat16", device="cuda") for _ in range(2))
    if small:
        quantize_model(plain, "int8")
        quantize_model(compiled, "int8")
    compile_blocks(compiled, fullgraph=True)
    wanted = step(plain, attention=attention, device="cuda")
    assert_parity(step(compiled, attention=attention, device="cuda").float(), wanted.float(), 0.05, "on a GPU")
