"""INT8: products against exact integers, models against their 16 bits, memory counted, bad input as one sentence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Linear
from torch.nn import functional as F

from cogvideox_core import load_lora, load_pipeline, load_text_encoder, load_transformer
from cogvideox_core.demo import DEMO_GUIDANCE, DEMO_MODEL
from cogvideox_core.kernels import layers
from cogvideox_core.models.config import TransformerConfig
from cogvideox_core.models.text_encoder import t5_model
from cogvideox_core.models.transformer.model import CogVideoXTransformer3D
from cogvideox_core.weights import quantize as quantize_module
from cogvideox_core.weights.packed_weight import PackedWeight, is_quantizable, quantize
from cogvideox_core.weights.quantize import Int8Linear, quantize_model, quantize_tensors, will_quantize
from tests.support.checkpoints import OFFICIAL, random_transformer, toy_transformer_config
from tests.support.lora_forms import pairs_of, save, to_peft
from tests.support.parity import assert_parity, relative_difference, snr_db
from tests.support.weight_forms import QUANTIZED, prefixed

METHODS = ["int8", "llm.int8"]
T5_XXL = dict(vocab_size=32_128, d_model=4096, d_kv=64, d_ff=10_240, num_heads=64, num_layers=24)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return random_transformer(toy_transformer_config("CogVideoX1.5-5B", text_embed_dim=64)).state_dict()


@pytest.fixture(scope="module")
def base(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prefixed("")(state, tmp_path_factory.mktemp("base"))


def run(model: CogVideoXTransformer3D) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    latents, prompt = torch.randn(2, 16, 4, 6, 8, generator=generator), torch.randn(2, 7, 64, generator=generator)
    dtype = model.proj_out.weight.dtype
    with torch.no_grad():
        return model(latents.to(dtype), prompt.to(dtype), torch.tensor([300, 900]))


# --- Layers and models ------------------------------------------------------------------------------------------------


def test_a_layer_decodes_where_8_bits_are_not_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    plain = Linear(96, 200).requires_grad_(False)
    layer = Int8Linear(96, 200, device="meta")
    layer.weight, layer.bias = nn.Parameter(quantize(plain.weight, "int8"), requires_grad=False), plain.bias
    decoded = F.linear(torch.ones(3, 96), layer.weight.dequantize(), plain.bias)  # type: ignore[operator]
    x = torch.ones(3, 96, requires_grad=True)
    assert_parity(layer(x), decoded, 1e-6, "with gradients")
    layer(x).sum().backward()
    assert x.grad is not None
    monkeypatch.setattr(quantize_module, "can_multiply_int8", lambda *_: False)
    assert_parity(layer(x.detach()), decoded, 1e-6, "decoded")
    assert_parity(layers.linear_gelu(layer, x.detach()), F.gelu(decoded, approximate="tanh"), 1e-6, "decoded, GELU")


def test_large_matrices_become_small_and_sensitive_layers_stay(base: Path, state: dict[str, Tensor]) -> None:
    model = load_transformer(base, quantize="int8")
    modulation = {key for key in state if key.split(".")[-3:-1] in (["norm1", "linear"], ["norm2", "linear"])}
    for key, tensor in model.state_dict().items():
        if key.endswith("weight") and (is_quantizable(key) or key in modulation):
            assert isinstance(tensor, PackedWeight), key
            wanted = quantize(state[key], "int8").stored
            assert all(torch.equal(tensor.stored[part], wanted[part]) for part in wanted), key
        else:
            assert not isinstance(tensor, PackedWeight) and torch.equal(tensor, state[key]), key
    in_8_bits = {name for name, module in model.named_modules() if isinstance(module, Int8Linear)}
    assert in_8_bits == {key.removesuffix(".weight") for key in state if is_quantizable(key)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_transformer_computes_nearly_the_same(method: Any, dtype: str, base: Path) -> None:
    wanted, found = run(load_transformer(base)), run(load_transformer(base, dtype=dtype, quantize=method))
    assert 25 < snr_db(found, wanted) < 60


def test_a_video_of_the_demo_model_comes_within_35_db() -> None:
    asked: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": DEMO_GUIDANCE}
    videos = [
        load_pipeline(DEMO_MODEL, dtype="float32", device="cpu", quantize=method)(
            "a red ball bouncing in front of a meadow", generator=torch.Generator().manual_seed(1), **asked
        )
        for method in ("none", "int8")
    ]
    error = (videos[0] - videos[1]).square().mean()
    assert -10 * torch.log10(error) > 35


@pytest.mark.parametrize("method", METHODS)
def test_a_lora_goes_on_top(method: Any, base: Path, tmp_path: Path) -> None:
    plain = load_transformer(base)
    path = save(to_peft(pairs_of(plain)), tmp_path / "lora.safetensors")
    before = run(plain)
    load_lora(plain, path, 0.6)
    wanted = run(plain)
    assert relative_difference(wanted, before) > 0.05
    model = load_transformer(base, quantize=method)
    bare = run(model)
    lora = load_lora(model, path, 0.6)
    assert snr_db(run(model), wanted) > 22
    lora.remove()
    assert torch.equal(run(model), bare)


def test_a_file_in_int8_multiplies_in_8_bits_when_asked(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = QUANTIZED["int8"][0](state, tmp_path)
    decoded, asked = load_transformer(path, dtype="float32"), load_transformer(path, dtype="float32", quantize="int8")
    assert not any(isinstance(module, Int8Linear) for module in decoded.modules())
    assert sum(isinstance(module, Int8Linear) for module in asked.modules()) == sum(map(is_quantizable, state))
    assert 30 < snr_db(run(asked), run(decoded)) < 80


@pytest.mark.parametrize("method", METHODS)
def test_a_text_encoder_rounds_its_weights(method: Any, checkpoint: Callable[..., Path]) -> None:
    folder, prompts = checkpoint("CogVideoX-5B"), ["a red circle", ""]
    wanted = load_text_encoder(folder, dtype="float32")(prompts)
    encoder = load_text_encoder(folder, dtype="float32", quantize=method)
    assert 25 < snr_db(encoder(prompts), wanted) < 60
    if method == "int8":
        for name, module in encoder.model.named_modules():
            if isinstance(module, nn.Linear):
                assert isinstance(module.weight, PackedWeight) == is_quantizable(f"{name}.weight"), name
        half = load_text_encoder(folder, dtype="float16", quantize=method)
        assert all(
            module.weight.dtype == torch.float32 and isinstance(module.weight, PackedWeight)
            for name, module in half.model.named_modules()
            if name.endswith(".wo")
        )
        assert snr_db(half(prompts), wanted) > 25


def test_what_is_small_already_stays_as_it_is(state: dict[str, Tensor]) -> None:
    mixed = {key: quantize(tensor, "Q8_0") if "to_q.weight" in key else tensor for key, tensor in state.items()}
    made = quantize_tensors(mixed, torch.bfloat16)
    changed = {key for key in made if made[key] is not mixed[key]}
    assert changed == {key for key in mixed if will_quantize(key, mixed[key], "int8")}
    small = made["transformer_blocks.0.attn1.to_k.weight"]
    assert isinstance(small, PackedWeight) and (small.codec, small.dtype) == ("int8", torch.bfloat16)


# --- Memory -----------------------------------------------------------------------------------------------------------


def bytes_of(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.values())


@pytest.mark.parametrize("kind", OFFICIAL)
def test_a_released_transformer_takes_little_more_than_half(kind: str) -> None:
    known = TransformerConfig.__dataclass_fields__
    config = TransformerConfig(**{key: value for key, value in OFFICIAL[kind].transformer.items() if key in known})
    model = CogVideoXTransformer3D(config, device="meta", dtype=torch.bfloat16).requires_grad_(False)
    plain = bytes_of(model)
    quantize_model(model, "int8")
    assert bytes_of(model) <= 0.55 * plain


def test_t5_xxl_takes_little_more_than_half() -> None:
    model = t5_model(T5_XXL | {"feed_forward_proj": "gated-gelu"}).to(torch.bfloat16)
    plain = bytes_of(model)
    quantize_model(model, "int8")
    assert bytes_of(model) <= 0.55 * plain


def test_matrices_are_rounded_one_at_a_time(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no more than one is ever held in the dtype it is loaded in."""
    cast = []
    original = Tensor.to

    def watched(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        made = original(tensor, *args, **options)
        if made.dtype == torch.bfloat16 and tensor.dtype != torch.bfloat16 and type(made) is Tensor:
            cast.append(tuple(made.shape))
        return made

    monkeypatch.setattr(Tensor, "to", watched)
    load_transformer(base, dtype=torch.bfloat16, quantize="int8")
    assert cast and not {(512, 128), (128, 512)} & set(cast), "a feed-forward matrix was cast and kept"


def test_bitsandbytes_says_everything_but_that_it_casts(
    base: Path, caplog: pytest.LogCaptureFixture, state: dict[str, Tensor]
) -> None:
    """Its logger belongs to the whole process: one sentence is dropped, and nothing else of it."""
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    level = logger.level
    with caplog.at_level(logging.WARNING):
        run(load_transformer(base, dtype="bfloat16", quantize="llm.int8"))
        logger.warning("something else")
    assert [record.getMessage() for record in caplog.records if record.name == logger.name] == ["something else"]
    assert logger.level == level and len(logger.filters) == 1


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_an_unknown_method_is_told(base: Path, checkpoint: Callable[..., Path]) -> None:
    for load in (load_transformer, load_text_encoder, load_pipeline):
        with pytest.raises(ValueError, match=r"quantize='int4'; there are none, int8, llm\.int8"):
            load(checkpoint("CogVideoX-5B"), quantize="int4")


def test_a_missing_package_is_told(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn.modules", None)
    with pytest.raises(ImportError, match=r"llm\.int8 needs the package bitsandbytes; install it \(pip install bits"):
        load_transformer(base, quantize="llm.int8")


class _Damaged:
    """A module whose parts cannot be had."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("CUDA Setup failed despite GPU being available")


def test_a_package_that_does_not_import_is_told(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn.modules", _Damaged())
    told = (
        r"bitsandbytes, which does not work here \(RuntimeError: CUDA Setup failed.*\); install it again, or take int8"
    )
    with pytest.raises(ImportError, match=told):
        load_transformer(base, quantize="llm.int8")


def test_a_package_without_its_library_is_told_before_anything_is_loaded(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = pytest.importorskip("bitsandbytes.nn.modules")

    def multiply(*_: Any) -> Tensor:
        raise RuntimeError("Method 'cint8_matmul' not available in CPU-only version of bitsandbytes.\nReinstall")

    monkeypatch.setattr(modules.Linear8bitLt, "forward", multiply)
    monkeypatch.setattr("cogvideox_core.pipeline.folder.build_transformer", None)
    told = r"quantize='llm.int8' does not run on cpu \(RuntimeError: Method 'cint8_matmul' not .*bytes\.\); take int8"
    with pytest.raises(ValueError, match=told):
        load_pipeline(checkpoint("CogVideoX-5B"), device="cpu", quantize="llm.int8")


@pytest.mark.parametrize(
    ("form", "method", "codec"),
    [("Q8_0.gguf", "int8", "Q8_0"), ("fp8_scaled", "int8", "fp8"), ("int8", "llm.int8", "int8")],
)
def test_a_transformer_in_few_bits_is_told(form: str, method: Any, codec: str, state: dict, tmp_path: Path) -> None:
    path = QUANTIZED[form][0](state, tmp_path)
    with pytest.raises(ValueError, match=f"{method} for .*, whose matrices are in {codec} already; take it as it is"):
        load_transformer(path, quantize=method)
