"""CogVideoX Quantize INT8 in the real host: beside the core, with LoRAs, in part, saved and loaded again."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import Linear

from cogvideox_core import load_transformer
from tests.support.graphs import Graph, loaders, node, saved_latent, saved_tensor, text_to_video
from tests.support.host import ExecutionFailed, Host
from tests.support.lora_forms import pairs_of, save, to_peft
from tests.support.parity import assert_parity, snr_db
from tests.support.weight_forms import QUANTIZED

KIND = "CogVideoX-5B"
LORA = "on int8.safetensors"
METHODS = ["int8", "llm.int8"]


@pytest.fixture(scope="module")
def lora(host: Host, toys: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loras") / LORA
    save(to_peft(pairs_of(load_transformer(toys[KIND]))), path)
    host.add_model("loras", path, LORA)
    return path


def sampled(host: Host, *, method: str | None = None, lora: bool = False, streamed: int | None = None) -> torch.Tensor:
    """z of a few steps; the LoRA stands before the quantization, a partial load behind it."""
    graph = quantized_graph(method, lora=lora)
    if streamed is not None:
        link = graph["sampler"]["inputs"]["model"]
        graph["part"] = node("ProbePartialLoad", model=link, loaded_bytes=streamed)
        graph["sampler"]["inputs"]["model"] = ["part", 0]
        graph["streamed"] = node("ProbeStreamedModules", model=["part", 0], after=["sampler", 0])
    history = host.run(graph)
    assert streamed is None or len(history.outputs["streamed"]["streamed"]) > 10
    return saved_latent(host, history)


def quantized_graph(method: str | None, *, lora: bool = False) -> Graph:
    graph, link = text_to_video(KIND), ["model", 0]
    if lora:
        graph["lora"] = node("CogVideoXLoadLoRA", model=link, lora_name=LORA, strength=0.6)
        link = ["lora", 0]
    if method is not None:
        graph["quantize"] = node("CogVideoXQuantizeINT8", model=link, method=method)
        link = ["quantize", 0]
    graph["sampler"]["inputs"]["model"] = link
    return graph


@pytest.mark.parametrize("method", METHODS)
def test_a_model_in_8_bits_samples_nearly_as_before(method: str, host: Host, toys: dict[str, Path]) -> None:
    found, wanted = sampled(host, method=method), sampled(host)
    assert 25 < snr_db(found, wanted) < 80


@pytest.mark.parametrize("method", METHODS)
def test_a_lora_before_it_stays_on_the_model(method: str, host: Host, toys: dict[str, Path], lora: Path) -> None:
    wanted, plain = sampled(host, lora=True), sampled(host)
    found = sampled(host, method=method, lora=True)
    assert snr_db(plain, wanted) < 10, "the LoRA does nothing"
    assert snr_db(found, wanted) > 20


def test_the_model_before_it_stays_as_it_was(host: Host, toys: dict[str, Path]) -> None:
    before = sampled(host)
    sampled(host, method="int8")
    assert torch.equal(sampled(host), before)


@pytest.mark.parametrize("with_lora", [False, True])
def test_a_model_that_is_loaded_in_part_computes_the_same(
    host: Host, toys: dict[str, Path], lora: Path, with_lora: bool
) -> None:
    whole = sampled(host, method="int8", lora=with_lora)
    part = sampled(host, method="int8", lora=with_lora, streamed=50_000)
    if with_lora:  # a streamed layer is not rounded again with its LoRA
        assert snr_db(part, whole) > 20
    else:
        assert_parity(part, whole, 1e-5, "int8 in part")


@pytest.mark.parametrize("method", METHODS)
def test_it_is_saved_and_loaded_again(method: str, host: Host, toys: dict[str, Path]) -> None:
    graph = quantized_graph(method)
    graph["file"] = node("ModelSave", model=["quantize", 0], filename_prefix=f"quantized {method}")
    latent = saved_latent(host, host.run(graph))
    (path,) = (host.folder / "output").glob(f"quantized {method}*.safetensors")
    with safe_open(path, "pt") as file:
        dtypes = {key: file.get_tensor(key).dtype for key in file.keys()}
    assert dtypes["transformer_blocks.0.attn1.to_q.weight"] == torch.int8
    assert dtypes["proj_out.weight"].is_floating_point
    name = f"again {method}.safetensors"
    host.add_model("diffusion_models", path, name)
    again = text_to_video(KIND)
    again["model"]["inputs"]["model_name"] = name
    found = saved_latent(host, host.run(again))
    if method == "int8":
        assert_parity(found, latent, 1e-6, "saved and loaded again")
    else:  # loaded as int8, which rounds the outliers too
        assert snr_db(found, latent) > 25
    assert load_transformer(path).config == load_transformer(toys[KIND]).config


def test_a_lora_behind_llm_int8_is_told_where_to_go(host: Host, toys: dict[str, Path], lora: Path) -> None:
    for loader, strength in (("CogVideoXLoadLoRA", "strength"), ("LoraLoaderModelOnly", "strength_model")):
        graph = quantized_graph("llm.int8")
        graph["behind"] = node(loader, model=["quantize", 0], lora_name=LORA, **{strength: 0.6})
        graph["sampler"]["inputs"]["model"] = ["behind", 0]
        with pytest.raises(ExecutionFailed, match="put it before CogVideoX Quantize INT8, or take int8 there"):
            host.run(graph)
        graph["quantize"]["inputs"]["method"] = "int8"
        host.run(graph)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_in_few_bits_already_is_told(method: str, host: Host, toys: dict[str, Path], tmp_path: Path) -> None:
    state = load_file(toys[KIND] / "transformer" / "diffusion_pytorch_model.safetensors")
    path = QUANTIZED["Q8_0.gguf"][0](state, tmp_path)
    host.add_model("diffusion_models", path, f"small {method}.gguf")
    graph = quantized_graph(method)
    graph["model"]["inputs"]["model_name"] = f"small {method}.gguf"
    with pytest.raises(ExecutionFailed, match="whose matrices are in Q8_0 already; take it as it is"):
        host.run(graph)
    twice = quantized_graph("llm.int8")
    twice["twice"] = node("CogVideoXQuantizeINT8", model=["quantize", 0], method=method)
    twice["sampler"]["inputs"]["model"] = ["twice", 0]
    with pytest.raises(ExecutionFailed, match="a MODEL in llm.int8 already"):
        host.run(twice)


def test_a_t5_in_8_bits_encodes_nearly_as_before(host: Host, toys: dict[str, Path]) -> None:
    def embeds(**options: str) -> torch.Tensor:
        graph = {**loaders(KIND), "probe": node("ProbeSaveConditioning", conditioning=["positive", 0], name="text")}
        del graph["model"], graph["vae"], graph["negative"]
        graph["t5"]["inputs"] |= options
        return saved_tensor(host.run(graph), "probe")

    assert 25 < snr_db(embeds(quantize="int8"), embeds()) < 80


# --- In this process --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def module(pack: ModuleType) -> Callable[[str], Any]:
    return lambda name: importlib.import_module(f"{pack.__name__}.nodes.host.types.{name}")


def test_only_half_the_memory_is_taken(module: Callable[[str], Any], toys: dict[str, Path]) -> None:
    model = module("model").load_model(toys[KIND], torch.bfloat16)
    for method, most in (("int8", 0.75), ("llm.int8", 0.85)):  # a toy has much in the layers that stay
        small = module("quantize").quantized(model, method)
        assert small.model_size() < most * model.model_size()
        for name, layer in small.model.diffusion_model.transformer_blocks[0].named_modules():
            if name in ("attn1.to_q", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"):
                assert sum(part.nbytes for part in layer.state_dict().values()) < 0.75 * 2 * layer.weight.numel()


def test_the_norms_matrices_round_no_activations(module: Callable[[str], Any], toys: dict[str, Path]) -> None:
    small = module("quantize").quantized(module("model").load_model(toys[KIND], torch.float32), "int8")
    block = small.model.diffusion_model.transformer_blocks[0]
    assert block.norm1.linear._full_precision_mm and not block.attn1.to_q._full_precision_mm


def test_another_model_is_told(module: Callable[[str], Any]) -> None:
    import comfy.model_patcher

    other = comfy.model_patcher.ModelPatcher(Linear(2, 2), torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(ValueError, match="a MODEL of type Linear; this node takes one from CogVideoX Load Model"):
        module("quantize").quantized(other, "int8")


def test_a_missing_package_is_told(
    module: Callable[[str], Any], toys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = module("model").load_model(toys[KIND])
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn.modules", None)
    with pytest.raises(ImportError, match=r"llm\.int8 needs the package bitsandbytes; install it"):
        module("quantize").quantized(model, "llm.int8")


def test_without_comfyuis_package_a_sentence_says_what_to_install(
    module: Callable[[str], Any], toys: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed_weights = module("packed_weights")
    monkeypatch.setattr(packed_weights, "_block_layout", packed_weights._block_layout.__wrapped__)  # not a cached one
    monkeypatch.setitem(sys.modules, "comfy_kitchen.tensor", None)
    sentence = "quantized weights need the package comfy-kitchen .*; install ComfyUI's requirements.txt, or take the 16"
    with pytest.raises(ValueError, match=sentence):
        module("model").load_model(toys[KIND], method="int8")
    with pytest.raises(ValueError, match=sentence):
        module("clip").load_clip(toys[KIND] / "text_encoder", "int8")


def test_llm_int8_keeps_what_is_on_the_model_but_the_loras(module: Callable[[str], Any], toys: dict[str, Path]) -> None:
    import comfy.model_patcher

    model = module("model").load_model(toys[KIND])
    model.add_wrapper_with_key("outer_sample", "mine", print)
    model.model_options["transformer_options"]["mine"] = 1
    small = module("quantize").quantized(model, "llm.int8")
    assert isinstance(small, comfy.model_patcher.ModelPatcher) and not small.is_dynamic()
    assert small.get_wrappers("outer_sample", "mine") == [print]
    assert small.model_options["transformer_options"]["mine"] == 1
    assert type(small.clone()) is type(small) and small.clone().model is small.model
    with pytest.raises(ValueError, match=r"a LoRA behind llm\.int8, whose weights take none"):
        small.clone().add_patches({"diffusion_model.proj_out.weight": (torch.zeros(1),)})
