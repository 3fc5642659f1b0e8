"""Every node of ComfyUI that changes a MODEL, on ours, in the real host: docs/other-nodes.md is true."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.support.graphs import Graph, ksampler, node, saved_latent, text_to_video
from tests.support.host import ExecutionFailed, Host
from tests.support.parity import relative_difference

REPO = Path(__file__).resolve().parents[2]
PAGE = REPO / "docs" / "other-nodes.md"
KIND, STEPS = "CogVideoX-5B", 4
WORKS, NOTHING, SILENT, STOPS, ELSEWHERE, NOT_TRIED = "works", "nothing", "silent", "stops", "elsewhere", "not tried"
HEADINGS = {
    "Work": (WORKS, ELSEWHERE),
    "Do nothing, and the log says so": (NOTHING,),
    "Do nothing, without a word": (SILENT,),
    "Stop the run with one sentence": (STOPS,),
    "Not tried": (NOT_TRIED,),
}
# Newer than the ComfyUI that the tests fetch.
NEWER = {"LTXVSpatioTemporalGuidance", "LTXVModalityGuidance", "ModelAttentionBackend", "WanAnimate2Cache"}


class Row(NamedTuple):
    """What a node does to a run.

    Attributes:
        outcome: one of the words above.
        inputs: other than the node's defaults.
        like: a graph the result must equal, in place of one that differs from the plain run; "plain" for that run.
        says: pattern of the sentence, where it is not the usual one.
    """

    outcome: str
    inputs: dict[str, Any] = {}
    like: str = ""
    says: str = ""


ALL_STEPS = {"start_percent": 0.0, "end_percent": 1.0}
REPLACED = " replaced this MODEL's noise schedule with one .*; CogVideoX-5B predicts v at timesteps 0 to 999: .* out$"
ROWS: dict[str, Row] = {
    # guidance, on predictions
    "APG": Row(WORKS),
    "CFGNorm": Row(WORKS),
    "CFGOverride": Row(WORKS, {"cfg": 2.0}),
    "CFGZeroStar": Row(WORKS),
    "Epsilon Scaling": Row(WORKS),
    "FreSca": Row(WORKS, {"freq_cutoff": 1}),
    "LatentApplyOperationCFG": Row(WORKS, {"operation": ["tonemap", 0]}),
    "Mahiro": Row(WORKS),
    "PerpNeg": Row(WORKS, {"empty_conditioning": ["positive", 0]}),
    "RenormCFG": Row(WORKS),
    "RescaleCFG": Row(WORKS),
    "TCFG": Row(WORKS),
    "TemporalScoreRescaling": Row(WORKS),
    "VideoLinearCFGGuidance": Row(WORKS),
    "VideoTriangleCFGGuidance": Row(WORKS),
    # guidance, in the transformer
    "NAGuidance": Row(WORKS),
    "ScaleROPE": Row(WORKS, {"scale_t": 0.5}),
    "SkipLayerGuidanceDiT": Row(WORKS, {"double_layers": "1", "single_layers": "", **ALL_STEPS}),
    "SkipLayerGuidanceDiTSimple": Row(WORKS, {"double_layers": "1", "single_layers": "", **ALL_STEPS}),
    "SkipLayerGuidanceSD3": Row(WORKS, {"layers": "1", **ALL_STEPS}),
    "UNetSelfAttentionMultiply": Row(WORKS, {"out": 0.5}),
    "UNetTemporalAttentionMultiply": Row(WORKS, {"self_structural": 0.5}),
    "LTXVSpatioTemporalGuidance": Row(WORKS, {"blocks": "1"}),
    # how sampling goes
    "ContextWindowsManual": Row(WORKS, {"context_length": 3, "context_overlap": 1, "dim": 2}),
    "LTXVContextWindows": Row(WORKS, {"context_length": 17, "context_overlap": 8}),
    "WanContextWindowsManual": Row(WORKS, {"context_length": 9, "context_overlap": 4}),
    "DifferentialDiffusion": Row(WORKS, {}, says="masked"),
    "EasyCache": Row(WORKS, {"reuse_threshold": 3.0, **ALL_STEPS}),
    "LazyCache": Row(WORKS, ALL_STEPS),
    "ModelSamplingDiscrete": Row(WORKS, {"sampling": "v_prediction"}),
    "TorchCompileModel": Row(ELSEWHERE, says="tests/nodes/test_sampling.py"),
    # weights and devices
    "LoraLoader": Row(WORKS, {"lora_name": "other-nodes.safetensors"}),
    "LoraLoaderBypass": Row(WORKS, {"lora_name": "other-nodes.safetensors"}),
    "LoraLoaderBypassModelOnly": Row(WORKS, {"lora_name": "other-nodes.safetensors"}),
    "LoraLoaderModelOnly": Row(WORKS, {"lora_name": "other-nodes.safetensors"}),
    "ModelAttentionBackend": Row(WORKS, like="plain"),
    "ModelComputeDtype": Row(WORKS, {"dtype": "bf16"}),
    "ModelMergeAdd": Row(WORKS),
    "ModelMergeSimple": Row(WORKS, {"ratio": 0.5}),
    "ModelMergeSubtract": Row(WORKS),
    "MultiGPU_WorkUnits": Row(WORKS, like="plain"),
    "SelectModelDevice": Row(WORKS, like="plain"),
    # parts of other models
    "ARVideoI2V": Row(NOTHING, {"start_image": ["image", 0], "width": 96, "height": 64, "length": 17}),
    "ChromaRadianceOptions": Row(NOTHING, {"nerf_tile_size": 0}),
    "FluxKVCache": Row(NOTHING),
    "HyperTile": Row(NOTHING),
    "HypernetworkLoader": Row(NOTHING, {"hypernetwork_name": "other-nodes.pt"}, says="load_hypernetwork_patch"),
    "LTXVModalityGuidance": Row(NOTHING),
    "PatchModelAddDownscale": Row(NOTHING),
    "PerturbedAttentionGuidance": Row(NOTHING),
    "SelfAttentionGuidance": Row(NOTHING),
    "TomePatchModel": Row(NOTHING),
    "WanAnimate2Cache": Row(NOTHING),
    "UNetCrossAttentionMultiply": Row(SILENT, {"out": 0.5}),
    "wanBlockSwap": Row(SILENT),
    # what cannot be
    "FreeU": Row(STOPS, says="CogVideoX has no 'model_channels', which a node asked for that is for U-Nets; take"),
    "FreeU_V2": Row(STOPS, says="CogVideoX has no 'model_channels', which a node asked for that is for U-Nets; take"),
    "HiDreamO1PatchSeamSmoothing": Row(STOPS, says="noise schedule has no 'multiplier', .*: take that node out"),
    "MiniMaxH3SigmaShift": Row(STOPS, says=REPLACED),
    "ModelNoiseScale": Row(STOPS, says="noise schedule has no 'set_parameters', .*: take that node out"),
    "ModelSamplingAuraFlow": Row(STOPS, says=REPLACED),
    "ModelSamplingContinuousEDM": Row(STOPS, says=REPLACED),
    "ModelSamplingContinuousV": Row(STOPS, says=REPLACED),
    "ModelSamplingFlux": Row(STOPS, says=REPLACED),
    "ModelSamplingLTXV": Row(STOPS, says=REPLACED),
    "ModelSamplingSD3": Row(STOPS, says=REPLACED),
    "ModelSamplingStableCascade": Row(STOPS, says=REPLACED),
    "TripoSplatSamplingPreview": Row(STOPS, says="transformer has no 'q_token_length', .*: take that node out"),
    # what needs a file or a sound of its own
    **dict.fromkeys(
        (
            "AnimaLLLiteApply",
            "LTXVReferenceAudio",
            "LoraModelLoader",
            "QwenImageDiffsynthControlnet",
            "SUPIRApply",
            "USOStyleReference",
            "WanInfiniteTalkToVideo",
            "WanUni3CControlnetApply",
            "ZImageFunControlnet",
        ),
        Row(NOT_TRIED),
    ),
}
MERGES = "ModelMerge"  # of one other model each: their first slider counts for all of ours that no slider names


@pytest.fixture(scope="module")
def files(host: Host, toys: dict, pictures: dict, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A LoRA and a hypernetwork by the names that rows give."""
    folder = tmp_path_factory.mktemp("other-nodes")
    weights = load_file(next((toys[KIND] / "transformer").glob("*.safetensors")))
    width = weights["transformer_blocks.0.attn1.to_v.weight"].shape[0]
    key = "diffusion_model.transformer_blocks.0.attn1.to_v"
    draw = torch.Generator().manual_seed(0)
    pair = {"lora_A": torch.randn(2, width, generator=draw), "lora_B": torch.randn(width, 2, generator=draw)}
    save_file({f"{key}.{name}.weight": part for name, part in pair.items()}, folder / "other-nodes.safetensors")
    torch.save({"activation_func": "linear", "is_layer_norm": False}, folder / "other-nodes.pt")
    host.add_model("loras", folder / "other-nodes.safetensors")
    host.add_model("hypernetworks", folder / "other-nodes.pt")


@pytest.fixture(scope="module")
def plain(host: Host, files: None) -> Tensor:
    """The latent [1, 16, T, h, w] of a run without any other node."""
    return saved_latent(host, host.run(run_of(["model", 0])))


def run_of(model: list) -> Graph:
    """KSampler on a toy, and what rows take besides."""
    graph = text_to_video(KIND)
    graph["sampler"] = ksampler()
    graph["sampler"]["inputs"] |= {"steps": STEPS, "model": model}
    return graph


def with_node(host: Host, name: str, inputs: dict[str, Any]) -> Graph:
    """A run behind the node, with its default inputs except for `inputs`."""
    told = host.object_info(name)
    filled = {}
    for key, (kind, *options) in told["input"].get("required", {}).items():
        filled[key] = inputs[key] if key in inputs else _default(key, kind, options[0] if options else {})
    graph = run_of(["other", told["output"].index("MODEL")])
    return graph | {
        "other": node(name, **filled),
        "added": node("ModelMergeAdd", model1=["model", 0], model2=["model", 0]),
        "tonemap": node("LatentOperationTonemapReinhard", multiplier=0.5),
        "image": node("LoadImage", image="first.png"),
    }


def _default(key: str, kind: Any, options: dict[str, Any]) -> Any:
    linked = {"MODEL": "added" if key == "model2" else "model", "CONDITIONING": "negative", "VAE": "vae", "CLIP": "t5"}
    if isinstance(kind, list):
        return kind[0]
    if kind in linked:
        return [linked[kind], 0]
    return options.get("default", (options.get("options") or [None])[0])


def masked(graph: Graph) -> Graph:
    """Half of the noise is kept out everywhere by a mask of 0.5."""
    mask = node("SolidMask", value=0.5, width=96, height=64)
    graph["sampler"]["inputs"]["latent_image"] = ["masked", 0]
    return graph | {"mask": mask, "masked": node("SetLatentNoiseMask", samples=["latent", 0], mask=["mask", 0])}


def rows(*outcomes: str) -> list[str]:
    return [name for name, row in ROWS.items() if row.outcome in outcomes]


def known(host: Host, name: str) -> bool:
    """Whether this ComfyUI has the node; one that is not newer must be there."""
    return name in host.object_info() or name not in NEWER


@pytest.mark.parametrize("name", rows(WORKS))
def test_a_node_that_works_changes_the_video(host: Host, plain: Tensor, name: str) -> None:
    row, before = ROWS[name], len(host.log_text())
    if not known(host, name):
        return
    graph = with_node(host, name, row.inputs)
    if row.says == "masked":
        plain = saved_latent(host, host.run(masked(run_of(["model", 0]))))
        graph = masked(graph)
    latent = saved_latent(host, host.run(graph))
    assert latent.isfinite().all()
    difference = relative_difference(latent, plain)
    assert difference < 1e-5 if row.like else difference > 1e-4, f"{name} changes the video by {difference:.1e}"
    assert "does nothing" not in host.log_text()[before:]


@pytest.mark.parametrize("name", rows(NOTHING, SILENT))
def test_a_node_that_does_nothing_says_so_once_a_run(host: Host, plain: Tensor, name: str) -> None:
    row, before = ROWS[name], len(host.log_text())
    if not known(host, name):
        return
    latent = saved_latent(host, host.run(with_node(host, name, row.inputs)))
    assert relative_difference(latent, plain) < 1e-4
    said = re.findall(rf"{row.says or name} does nothing on {KIND}.*; take it out", host.log_text()[before:])
    assert len(said) == (row.outcome == NOTHING), said


@pytest.mark.parametrize("name", rows(STOPS))
def test_a_node_that_cannot_be_ends_in_one_sentence(host: Host, files: None, name: str) -> None:
    with pytest.raises(ExecutionFailed) as caught:
        host.run(with_node(host, name, ROWS[name].inputs))
    assert re.search(ROWS[name].says, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def test_the_merges_of_other_models_are_a_simple_one_by_their_first_slider(
    host: Host, files: None, toys: dict[str, Path]
) -> None:
    names = load_file(next((toys[KIND] / "transformer").glob("*.safetensors"))).keys()
    simple = saved_latent(host, host.run(with_node(host, "ModelMergeSimple", {"ratio": 0.5})))
    for name in merges_of_others(host):
        first, *sliders = [key for key in host.object_info(name)["input"]["required"] if not key.startswith("model")]
        ours = [key for key in sliders if any(name.startswith(key) for name in names)]
        latent = saved_latent(host, host.run(with_node(host, name, dict.fromkeys([first, *ours], 0.5))))
        assert relative_difference(latent, simple) < 1e-5, name


def merges_of_others(host: Host) -> Iterator[str]:
    for name in changing(host):
        if name.startswith(MERGES) and name not in ROWS:
            yield name


def changing(host: Host) -> list[str]:
    """ComfyUI's own nodes that take a MODEL and give one."""
    found = []
    for name, told in host.object_info().items():
        inputs = [*told["input"].get("required", {}).values(), *told["input"].get("optional", {}).values()]
        own = not told["python_module"].startswith("custom_nodes")
        if own and "MODEL" in told["output"] and any(given[0] == "MODEL" for given in inputs):
            found.append(name)
    return found


def this_node() -> tuple[Any, ...]:
    return (lambda *given: given), (lambda out, given: out), (lambda given: given)


def other_node() -> tuple[Any, ...]:
    return (lambda *given: given), (lambda out, given: out), (lambda given: given)


def test_only_functions_of_the_node_whose_patch_is_not_called_are_taken_out(pack: ModuleType) -> None:
    taken, kept = this_node(), other_node()
    patches = {"attn1_patch": [taken[0], partial(max, 1)], "attn1_output_patch": [taken[1], kept[1], partial(min)]}
    options = {"transformer_options": {"patches": patches}, "sampler_post_cfg_function": [taken[2], kept[2]]}
    module = importlib.import_module(f"{pack.__name__}.nodes.host.types.other_nodes")
    before = patches["attn1_output_patch"]
    module.take_out_halves(options)
    assert patches["attn1_output_patch"] == [kept[1], before[2]]
    assert options["sampler_post_cfg_function"] == [kept[2]]


def test_every_node_that_changes_a_model_is_in_the_table(host: Host) -> None:
    missing = {name for name in changing(host) if name not in ROWS and not name.startswith(MERGES)}
    assert not missing, "try these on our MODEL, and add them to ROWS and docs/other-nodes.md"
    assert set(ROWS) <= set(changing(host)) | NEWER


def test_the_page_lists_every_node_under_what_it_does() -> None:
    listed: dict[str, set[str]] = {heading: set() for heading in HEADINGS}
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        heading = line.removeprefix("## ") if line.startswith("## ") else heading
        if line.startswith("| `"):
            assert heading in listed, line
            listed[heading] |= set(re.findall(r"`([^`]+)`", line.split("|")[1]))
    for heading, outcomes in HEADINGS.items():
        assert listed[heading] - {f"{MERGES}…"} == set(rows(*outcomes)), heading


@pytest.mark.parametrize("name", rows(ELSEWHERE))
def test_what_is_tested_elsewhere_is(name: str) -> None:
    assert f'"{name}"' in (REPO / ROWS[name].says).read_text(encoding="utf-8")
