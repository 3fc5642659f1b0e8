"""LoRA in the real host: our node and ComfyUI's own on our MODEL, in whole and in part, against the core."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideox_core import CogVideoXPipeline, load_lora, load_pipeline
from tests.support.graphs import HEIGHT, LENGTH, NEGATIVE, PROMPT, WIDTH, Graph, node, saved_latent, text_to_video
from tests.support.host import ExecutionFailed, Host, PromptRejected
from tests.support.lora_forms import FORMS, pairs_of, save, to_peft
from tests.support.parity import assert_parity, relative_difference, snr_db
from tests.support.weight_forms import QUANTIZED

KIND, STRENGTH = "CogVideoX-5B", 0.6
LAYERS = ("attn1.to_q", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj")


@pytest.fixture(scope="module")
def files(host: Host, toys: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One LoRA in three forms in models/loras, and one that fits nothing."""
    folder, generator = tmp_path_factory.mktemp("loras"), torch.Generator().manual_seed(4)
    state = load_file(toys[KIND] / "transformer" / "diffusion_pytorch_model.safetensors")
    peft, kohya = {}, {}
    for block in range(2):
        for layer in LAYERS:
            name = f"transformer_blocks.{block}.{layer}"
            rows, columns = state[f"{name}.weight"].shape
            up, down = (
                0.4 * torch.randn(rows, 4, generator=generator),
                0.4 * torch.randn(4, columns, generator=generator),
            )
            peft |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
            flat = "lora_unet__" + name.replace(".", "_")
            kohya |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
            kohya[f"{flat}.alpha"] = torch.tensor(4.0)
    bare = {key.removeprefix("transformer."): tensor for key, tensor in peft.items()}
    strange = {"transformer.other.lora_A.weight": torch.ones(2, 2), "transformer.other.lora_B.weight": torch.ones(2, 2)}
    made = {}
    for name, tensors in {
        "peft": peft,
        "VideoX-Fun": kohya,
        "Ordner/bare \u6a21\u578b": bare,
        "strange": strange,
    }.items():
        made[name] = folder / f"{name}.safetensors"
        made[name].parent.mkdir(exist_ok=True)
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, made[name])
        host.add_model("loras", made[name], f"{name}.safetensors")
    return made


@pytest.fixture(scope="module")
def wanted(toys: dict[str, Path], files: dict[str, Path]) -> Callable[[float], Tensor]:
    """z of the core with the LoRA at a strength."""
    made: dict[float, Tensor] = {}

    def get(strength: float) -> Tensor:
        if strength not in made:
            pipeline: CogVideoXPipeline = load_pipeline(toys[KIND], device="cpu")
            load_lora(pipeline.transformer, files["peft"], strength)
            made[strength] = sampled(pipeline)
        return made[strength]

    return get


def with_lora(node_type: str, name: str, *strengths: float, **more: str) -> Graph:
    graph = text_to_video(KIND)
    link = ["model", 0]
    field = "strength" if node_type == "CogVideoXLoadLoRA" else "strength_model"
    for index, strength in enumerate(strengths or (STRENGTH,)):
        graph[f"lora{index}"] = node(
            node_type, model=link, lora_name=f"{name}.safetensors", **{field: strength}, **more
        )
        link = [f"lora{index}", 0]
    graph["sampler"]["inputs"]["model"] = link
    return graph


@pytest.mark.parametrize("node_type", ["CogVideoXLoadLoRA", "LoraLoaderModelOnly"])
@pytest.mark.parametrize("name", ["peft", "VideoX-Fun", "Ordner/bare \u6a21\u578b"])
def test_both_nodes_do_what_the_core_does(host: Host, files, wanted, node_type: str, name: str) -> None:
    latent = saved_latent(host, host.run(with_lora(node_type, name)))
    assert relative_difference(wanted(STRENGTH), wanted(0.0)) > 0.05
    assert_parity(latent, wanted(STRENGTH), 2e-5, f"{name} by {node_type}")


@pytest.mark.parametrize("form", FORMS)
def test_a_lora_of_every_form_does_what_it_does_in_the_core(
    form: str, host: Host, toys: dict[str, Path], tmp_path: Path
) -> None:
    write, layers, *_ = FORMS[form]
    pipeline: CogVideoXPipeline = load_pipeline(toys[KIND], device="cpu")
    path = write(pairs_of(pipeline.transformer, layers), tmp_path / "lora.safetensors")
    files = [path] if path.is_file() else sorted(path.iterdir())
    for file in files:  # an adapter's configuration lies beside it
        host.add_model("loras", file, f"{form}/{file.name}")
    graph = text_to_video(KIND, steps=1)
    name = f"{form}/{files[-1].name}"
    graph["lora"] = node("CogVideoXLoadLoRA", model=["model", 0], lora_name=name, strength=STRENGTH)
    graph["sampler"]["inputs"]["model"] = ["lora", 0]
    found = saved_latent(host, host.run(graph))
    plain = sampled(pipeline, steps=1)
    load_lora(pipeline.transformer, path, STRENGTH)
    assert relative_difference(sampled(pipeline, steps=1), plain) > 0.01
    assert_parity(found, sampled(pipeline, steps=1), 3e-5, f"LoRA, {form}, in the host")


def test_a_scale_no_file_declares_can_be_one_over_the_rank(host: Host, toys: dict[str, Path], tmp_path: Path) -> None:
    pipeline: CogVideoXPipeline = load_pipeline(toys[KIND], device="cpu")
    path = save(to_peft(pairs_of(pipeline.transformer)), tmp_path / "lora.safetensors")
    host.add_model("loras", path, "plain.safetensors")
    graph = text_to_video(KIND, steps=1)
    choice = dict(lora_name="plain.safetensors", strength=STRENGTH, divide_by_rank=True)
    graph["lora"] = node("CogVideoXLoadLoRA", model=["model", 0], **choice)
    graph["sampler"]["inputs"]["model"] = ["lora", 0]
    found = saved_latent(host, host.run(graph))
    load_lora(pipeline.transformer, path, STRENGTH, divide_by_rank=True)
    assert_parity(found, sampled(pipeline, steps=1), 3e-5, "divided by the rank in the host")


def sampled(pipeline: CogVideoXPipeline, steps: int = 4) -> Tensor:
    """z of the core, with the settings of graphs.py."""
    latents = pipeline(
        PROMPT,
        NEGATIVE,
        height=HEIGHT,
        width=WIDTH,
        num_frames=LENGTH,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(7),
        sampler="ddim",
        output_type="latent",
    )
    return latents / pipeline.variant.vae.scaling_factor


def test_loras_stack_and_change_their_strength(host: Host, files, wanted) -> None:
    loaded = host.log_text().count("model_type V_PREDICTION")
    for strengths in ((0.2, 0.4), (1.0, -0.4), (0.0,), (STRENGTH,)):
        latent = saved_latent(host, host.run(with_lora("CogVideoXLoadLoRA", "peft", *strengths)))
        assert_parity(latent, wanted(round(sum(strengths), 6)), 3e-5, f"strengths {strengths}")
    again = host.log_text().count("model_type V_PREDICTION") - loaded
    assert again <= 1, "a change of strength has loaded the model again"


def test_it_tells_what_it_did(host: Host, files) -> None:
    graph = with_lora("CogVideoXLoadLoRA", "peft")
    graph["report"] = node("PreviewAny", source=["lora0", 1])
    (said,) = host.run(graph).outputs["report"]["text"]
    unknown = "not known: rank 4, no alpha in the file, no adapter_config.json beside it"
    assert said == f"16 keys matched, for 8 layers; LoRA at scale 1 ({unknown})"


def test_a_renamed_adapter_keeps_its_scale_when_its_configuration_lies_beside_it(
    host: Host, toys: dict[str, Path], tmp_path: Path
) -> None:
    pipeline: CogVideoXPipeline = load_pipeline(toys[KIND], device="cpu")
    folder = FORMS["PEFT folder"][0](pairs_of(pipeline.transformer), tmp_path / "a")
    host.add_model("loras", folder / "adapter_model.safetensors", "x/x.safetensors")
    host.add_model("loras", folder / "adapter_config.json", "x/adapter_config.json")
    graph = with_lora("CogVideoXLoadLoRA", "x/x")
    graph["report"] = node("PreviewAny", source=["lora0", 1])
    (said,) = host.run(graph).outputs["report"]["text"]
    assert said.endswith("LoRA at scale 0.5 (alpha 2, rank 4, by adapter_config.json)")


@pytest.mark.parametrize("node_type", ["CogVideoXLoadLoRA", "LoraLoaderModelOnly"])
@pytest.mark.parametrize("partial", [False, True])
def test_a_lokr_does_what_it_does_in_the_core(
    host: Host, toys: dict[str, Path], tmp_path: Path, node_type: str, partial: bool
) -> None:
    pipeline: CogVideoXPipeline = load_pipeline(toys[KIND], device="cpu")
    generator, tensors = torch.Generator().manual_seed(1), {}
    for block in range(2):
        for layer in LAYERS:
            module: Any = pipeline.transformer.get_submodule(f"transformer_blocks.{block}.{layer}")
            rows, columns = module.weight.shape
            flat = f"lycoris_transformer_blocks_{block}_{layer.replace('.', '_')}"
            tensors[f"{flat}.lokr_w1"] = 0.3 * torch.randn(4, 4, generator=generator)
            tensors[f"{flat}.lokr_w2_a"] = torch.randn(rows // 4, 2, generator=generator)
            tensors[f"{flat}.lokr_w2_b"] = 0.3 * torch.randn(2, columns // 4, generator=generator)
            tensors[f"{flat}.alpha"] = torch.tensor(1.0)
    path = save(tensors, tmp_path / "lokr.safetensors")
    host.add_model("loras", path, "lokr.safetensors")
    graph = with_lora(node_type, "lokr")
    graph["sampler"]["inputs"]["steps"] = 1
    if partial:
        graph["part"] = node("ProbePartialLoad", model=["lora0", 0], loaded_bytes=100_000)
        graph["sampler"]["inputs"]["model"] = ["part", 0]
    found = saved_latent(host, host.run(graph))
    plain = sampled(pipeline, steps=1)
    load_lora(pipeline.transformer, path, STRENGTH)
    assert relative_difference(sampled(pipeline, steps=1), plain) > 0.01
    assert_parity(found, sampled(pipeline, steps=1), 3e-5, f"LoKr by {node_type}")


def test_a_model_that_is_loaded_in_part_has_it_too(host: Host, files, wanted) -> None:
    graph = with_lora("CogVideoXLoadLoRA", "peft")
    graph["part"] = node("ProbePartialLoad", model=["lora0", 0], loaded_bytes=100_000)
    graph["sampler"]["inputs"]["model"] = ["part", 0]
    graph["streamed"] = node("ProbeStreamedModules", model=["part", 0], after=["sampler", 0])
    history = host.run(graph)
    assert len(history.outputs["streamed"]["streamed"]) > 10
    assert_parity(saved_latent(host, history), wanted(STRENGTH), 2e-5, "LoRA under partial load")


@pytest.mark.parametrize("form", ["Q8_0.gguf", "int8", "fp8_scaled", "Q4_0 in safetensors"])
@pytest.mark.parametrize("partial", [False, True])
def test_a_quantized_model_takes_one(
    host: Host, toys: dict, files, wanted, tmp_path: Path, form: str, partial: bool
) -> None:
    state = load_file(toys[KIND] / "transformer" / "diffusion_pytorch_model.safetensors")
    path = QUANTIZED[form][0](state, tmp_path)
    name = f"{partial} {path.name}"
    host.add_model("diffusion_models", path, name)
    graph = with_lora("CogVideoXLoadLoRA", "peft")
    graph["model"]["inputs"]["model_name"] = name
    if partial:
        graph["part"] = node("ProbePartialLoad", model=["lora0", 0], loaded_bytes=50_000)
        graph["sampler"]["inputs"]["model"] = ["part", 0]
    assert snr_db(saved_latent(host, host.run(graph)), wanted(STRENGTH)) > 20


def test_a_lora_of_another_model_is_told_and_the_queue_goes_on(host: Host, files, wanted) -> None:
    with pytest.raises(ExecutionFailed, match="holds a LoRA of which nothing fits this transformer"):
        host.run(with_lora("CogVideoXLoadLoRA", "strange"))
    with pytest.raises(PromptRejected, match="'gone.safetensors' is not among the LoRAs; put the file"):
        host.run(with_lora("CogVideoXLoadLoRA", "gone"))
    assert_parity(saved_latent(host, host.run(with_lora("CogVideoXLoadLoRA", "peft"))), wanted(STRENGTH), 2e-5, "after")


def test_names_with_backslashes_are_those_of_windows(host: Host, files, wanted) -> None:
    graph = with_lora("CogVideoXLoadLoRA", "Ordner\\bare \u6a21\u578b")
    assert_parity(saved_latent(host, host.run(graph)), wanted(STRENGTH), 2e-5, "a workflow from Windows")
