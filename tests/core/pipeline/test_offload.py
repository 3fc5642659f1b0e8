"""Low memory: modules that come to the device for their work give the numbers they give when they live there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import Linear

from cogvideox_core import CogVideoXPipeline, Progress, load_lora, load_pipeline
from cogvideox_core.models.transformer.model import ExpertLayerNorm, FinalLayerNorm
from cogvideox_core.pipeline.offload import Offload, OffloadedModule
from cogvideox_core.weights.packed_weight import PackedWeight
from cogvideox_core.weights.quantize import quantize_model
from tests.support.checkpoints import OFFICIAL
from tests.support.lora_forms import ALL, pairs_of, peft
from tests.support.parity import assert_parity

Checkpoint = Callable[..., Path]
CPU = torch.device("cpu")
# The 5B-I2V's table holds one size.
TABLE = dict(sample_height=4, sample_width=6)


@pytest.fixture
def folder(checkpoint: Checkpoint) -> Callable[[str], Path]:
    def get(kind: str) -> Path:
        has_table = OFFICIAL[kind].transformer.get("use_learned_positional_embeddings")
        return checkpoint(kind, **dict(transformer=TABLE) if has_table else {})

    return get


def load(path: Path | None = None, **options: Any) -> CogVideoXPipeline:
    options = {"device": "cpu", "dtype": "float32", **options}
    return load_pipeline(path, **options)


def run(pipeline: CogVideoXPipeline, **changes: Any) -> Tensor:
    request: dict[str, Any] = dict(prompt="a red circle", height=32, width=48, num_frames=9)
    request |= dict(num_inference_steps=2, guidance_scale=1.0)
    if pipeline.variant.conditioning == "image":
        request |= dict(image=Image.new("RGB", (48, 32), (200, 30, 60)), num_frames=17)
    request |= changes
    return pipeline(**request, generator=torch.Generator().manual_seed(2))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor for owner in (module.named_parameters, module.named_buffers) for key, tensor in owner()}


def assert_untouched(module: nn.Module, before: dict[str, Tensor]) -> None:
    after = weights(module)
    assert list(after) == list(before)
    assert all(after[key] is tensor for key, tensor in before.items())


@pytest.mark.parametrize("kind", list(OFFICIAL))
def test_every_model_gives_the_numbers_of_a_resident_one(kind: str, folder: Callable[[str], Path]) -> None:
    streamed = load(folder(kind), low_memory=True)
    parts = (streamed.transformer, streamed.vae, streamed.text_encoder.model)  # type: ignore[union-attr]
    before = [weights(part) for part in parts]
    wanted = run(load(folder(kind)))
    assert torch.equal(run(streamed), wanted)
    for part, tensors in zip(parts, before, strict=True):
        assert_untouched(part, tensors)
    assert torch.equal(run(streamed), wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_stay_in_their_numbers_and_are_cast_on_the_way(dtype: str, checkpoint: Checkpoint) -> None:
    path = checkpoint("CogVideoX-2B", dtype=torch.float16)
    streamed = load(path, dtype=dtype, low_memory=True)
    before = weights(streamed.transformer)
    assert {tensor.dtype for tensor in before.values()} == {torch.float16}
    assert str(streamed.dtype) == f"torch.{dtype}"
    assert torch.equal(run(streamed), run(load(path, dtype=dtype)))
    assert_untouched(streamed.transformer, before)


def test_guidance_in_two_halves_gives_the_numbers_of_one_batch(folder: Callable[[str], Path]) -> None:
    path, rows = folder("CogVideoX-5B"), []
    streamed = load(path, low_memory=True)
    streamed.transformer.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    wanted = run(load(path), guidance_scale=6.0, negative_prompt="a wall")
    assert_parity(run(streamed, guidance_scale=6.0, negative_prompt="a wall"), wanted, 1e-5, "split guidance")
    assert rows == [1, 1, 1, 1]
    prompts = ["a red circle", "a blue square"]
    wanted = run(load(path), prompt=prompts, negative_prompt="a wall", guidance_scale=6.0)
    rows.clear()
    found = run(streamed, prompt=prompts, negative_prompt="a wall", guidance_scale=6.0)
    assert_parity(found, wanted, 1e-5, "split guidance of two")
    assert rows == [2, 2, 2, 2]


def test_small_numbers_travel_small(folder: Callable[[str], Path]) -> None:
    path = folder("CogVideoX-5B")
    resident, streamed = load(path), load(path, low_memory=True)
    for pipeline in (resident, streamed):  # after the pipeline was made: it looks at its weights before each run
        quantize_model(pipeline.transformer, "int8")
        quantize_model(pipeline.text_encoder.model, "int8")  # type: ignore[union-attr]
    seen: list[Tensor] = []
    block: Any = streamed.transformer.transformer_blocks[1]
    layer = block.ff.net[2]
    layer.register_forward_pre_hook(lambda layer, inputs: seen.append(layer.weight))
    assert torch.equal(run(streamed), run(resident))
    assert all(isinstance(weight, PackedWeight) and weight is not layer.weight for weight in seen) and seen
    assert isinstance(layer.weight, PackedWeight)


def test_loras_go_along(folder: Callable[[str], Path], tmp_path: Path) -> None:
    path = folder("CogVideoX-5B")
    resident, streamed = load(path), load(path, low_memory=True)
    plain = run(resident)
    file = peft("transformer.")(pairs_of(resident.transformer, ALL), tmp_path / "lora.safetensors")
    for pipeline in (resident, streamed):
        load_lora(pipeline.transformer, file, 0.5)
    wanted = run(resident)
    assert torch.equal(run(streamed), wanted)
    assert not torch.allclose(wanted, plain, atol=1e-3)


def test_the_adaptive_norms_matrices_stay_where_they_are(folder: Callable[[str], Path]) -> None:
    streamed = load(folder("CogVideoX-5B"), low_memory=True)
    transformer, seen = streamed.transformer, []
    block: Any = transformer.transformer_blocks[0]
    layers = [block.norm1.linear, block.norm2.linear, transformer.norm_out.linear]
    places = [layer.weight.data_ptr() for layer in layers]

    def look(layer: Any, inputs: Any, output: Any) -> None:
        seen.append((layer.weight.data_ptr(), len(inputs[0])))

    for layer in layers:
        layer.register_forward_hook(look)
    run(streamed)
    assert seen == [(place, 2) for place in places]  # once a schedule, for its two timesteps


@pytest.mark.parametrize("stage", ["text", "sampling", "decoding"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_everything_as_it_was(
    stage: str, error: type[BaseException], folder: Callable[[str], Path]
) -> None:
    path = folder("CogVideoX-5B")
    streamed = load(path, low_memory=True)
    parts = (streamed.transformer, streamed.vae, streamed.text_encoder.model)  # type: ignore[union-attr]
    before = [weights(part) for part in parts]

    def stop(progress: Progress) -> None:
        if progress.stage == stage:
            raise error

    with pytest.raises(error):
        run(streamed, callback=stop)
    for part, tensors in zip(parts, before, strict=True):
        assert_untouched(part, tensors)
    assert torch.equal(run(streamed), run(load(path)))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_inside_a_block_leaves_everything_as_it_was(
    error: type[BaseException], folder: Callable[[str], Path]
) -> None:
    path = folder("CogVideoX-5B")
    streamed = load(path, low_memory=True)
    before = weights(streamed.transformer)

    def stop(*call: Any) -> None:
        raise error

    block: Any = streamed.transformer.transformer_blocks[1]
    hook = block.ff.register_forward_pre_hook(stop)
    with pytest.raises(error):
        run(streamed)
    hook.remove()
    assert_untouched(streamed.transformer, before)
    assert torch.equal(run(streamed), run(load(path)))


class Chain(nn.Module):
    """Blocks of different sizes one behind the other, and a layer after them."""

    def __init__(self, widths: list[int], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks: Any = nn.ModuleList(
            nn.Sequential(Linear(8, width, dtype=dtype), nn.Tanh(), Linear(width, 8, dtype=dtype)) for width in widths
        )
        self.last = Linear(8, 8, dtype=dtype)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.last(x)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
def test_blocks_pass_through_two_buffers(count: int) -> None:
    chain, x = Chain([16, 4, 32, 8, 64, 1][:count]), torch.randn(3, 8)
    wanted, buffers = chain(x), set()
    for block in chain.blocks:
        block[2].register_forward_hook(
            lambda layer, inputs, output: buffers.add(layer.weight.untyped_storage().data_ptr())
        )
    offloaded = OffloadedModule(chain, CPU, blocks=chain.blocks)
    for _ in range(2):
        with offloaded.on_device():
            assert torch.equal(chain(x), wanted) and torch.equal(chain(x), wanted)
        assert len(buffers) == min(count, 2)
        buffers.clear()


def test_blocks_may_run_in_any_order_and_alone() -> None:
    chain, x = Chain([16, 4, 32, 8]), torch.randn(3, 8)
    order = [2, 0, 0, 3, 1, 2]
    wanted = [chain.blocks[index](x) for index in order]
    with OffloadedModule(chain, CPU, blocks=chain.blocks).on_device():
        found = [chain.blocks[index](x) for index in order]
    assert all(map(torch.equal, found, wanted))


def test_a_layer_that_stays_takes_no_room_in_the_buffers() -> None:
    chain, x = Chain([16, 4, 32]), torch.randn(3, 8)
    wanted, sizes = chain(x), set()
    for block in chain.blocks:
        block[0].register_forward_hook(lambda layer, inputs, output: sizes.add(layer.weight.untyped_storage().nbytes()))
    resting = [block[2] for block in chain.blocks]
    with OffloadedModule(chain, CPU, blocks=chain.blocks, resting=resting).on_device():
        assert torch.equal(chain(x), wanted)
    assert sizes == {sum(tensor.nbytes for tensor in chain.blocks[2][0].parameters())}  # of the largest


def test_weights_of_another_kind_are_refused(folder: Callable[[str], Path]) -> None:
    pytest.importorskip("bitsandbytes")
    pipeline = load(folder("CogVideoX-5B"))
    quantize_model(pipeline.transformer, "llm.int8")
    offload = Offload(CPU, torch.float32)
    with pytest.raises(ValueError, match="weights of the kind Int8Params cannot be streamed; take int8, or do"):
        CogVideoXPipeline(pipeline.transformer, pipeline.vae, None, pipeline.variant, offload=offload)


def test_weights_on_a_device_are_refused() -> None:
    with pytest.raises(ValueError, match="weights on meta; for low memory the model is loaded on the CPU"):
        OffloadedModule(Linear(2, 2, device="meta"), CPU)


# --- With a GPU ------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("small", [False, True], ids=["bfloat16", "int8"])
def test_a_gpu_gives_the_numbers_of_a_resident_model(small: bool, folder: Callable[[str], Path]) -> None:
    options: dict[str, Any] = dict(device="cuda", dtype="bfloat16", attention="sdpa")
    options["quantize"] = "int8" if small else "none"
    resident, streamed = (load(folder("CogVideoX-5B"), **options, low_memory=low) for low in (False, True))
    for module in resident.transformer.modules():  # both multiply these on the CPU, so that they round alike
        if isinstance(module, ExpertLayerNorm | FinalLayerNorm):
            module.linear.to(CPU)
    wanted = run(resident)
    assert torch.equal(run(streamed), wanted) and torch.equal(run(streamed), wanted)
    assert {tensor.device.type for tensor in weights(streamed.transformer).values()} == {"cpu"}


@pytest.mark.gpu
@torch.no_grad()
def test_copies_wait_for_the_computation_and_it_for_them() -> None:
    """Large blocks, and work enough before each that copies run far ahead: a buffer overwritten too early shows."""
    device = torch.device("cuda")
    chain, x = Chain([200_000] * 12), torch.randn(2_000, 8, device=device)
    wanted = Chain([200_000] * 12).to(device)(x)
    offloaded = OffloadedModule(chain, device, blocks=chain.blocks, pin=True)
    for _ in range(3):
        with offloaded.on_device():
            assert torch.equal(chain(x), wanted)
            assert torch.equal(chain(x), wanted)


@pytest.mark.gpu
@torch.no_grad()
def test_no_more_than_two_blocks_are_on_the_gpu() -> None:
    device = torch.device("cuda")
    chain, x = Chain([2_000_000] * 6), torch.randn(1, 8, device=device)
    block = sum(tensor.nbytes for tensor in chain.blocks[0].parameters())
    offloaded = OffloadedModule(chain, device, blocks=chain.blocks, pin=True)
    chain.last.to(device)(x)  # what PyTorch keeps for its own use is there before
    chain.last.to(CPU)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    with offloaded.on_device():
        chain(x)
    assert 2 * block <= torch.cuda.max_memory_allocated(device) - before < 2.5 * block
    assert torch.cuda.memory_allocated(device) <= before
