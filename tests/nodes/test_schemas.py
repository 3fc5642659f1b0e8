"""What the host says of our nodes: ids, inputs and outputs are for ever, and every one is explained."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.support.host import Host

# The frozen interface: adding here is a release note, changing or removing breaks people's workflows.
INTERFACE = json.loads((Path(__file__).parent / "interface.json").read_text(encoding="utf-8"))
FILES = ("model_name", "vae_name", "text_encoder_name", "lora_name")  # inputs whose choices are files


def ours(host: Host) -> dict[str, dict]:
    return {name: info for name, info in host.object_info().items() if name.startswith("CogVideoX")}


def test_every_node_is_there_with_the_inputs_and_outputs_it_had(host: Host) -> None:
    nodes = ours(host)
    assert set(nodes) == set(INTERFACE)
    for name, interface in INTERFACE.items():
        assert nodes[name]["input_order"] == interface["inputs"], name
        assert nodes[name]["output"] == interface["outputs"], name


def test_every_input_has_the_default_and_the_choices_it_had(host: Host) -> None:
    """What saved workflows hold. Choices may be added, and one that goes must be read on, as "off" of the VAE's tiling.

    Choices that are files depend on the installation.
    """
    for name, interface in INTERFACE.items():
        assert values(ours(host)[name]) == interface["values"], name


def values(info: dict) -> dict[str, dict]:
    """Default and choices of the inputs of a node that have them."""
    found = {}
    for section in ("required", "optional"):
        for name, (kind, options) in info["input"].get(section, {}).items():
            kept = {"default": options["default"]} if "default" in options else {}
            if kind == "COMBO" and name not in FILES:
                kept["options"] = options["options"]
            if kept:
                found[name] = kept
    return found


def test_everything_has_a_tooltip_and_stands_in_our_menu(host: Host) -> None:
    for name, info in ours(host).items():
        assert info["category"].startswith("CogVideoX/"), name
        assert info["description"], name
        for section in ("required", "optional"):
            for input_name, (_, options) in info["input"].get(section, {}).items():
                assert options.get("tooltip"), f"{name}.{input_name}"
        assert all(info["output_tooltips"]), name


def test_loaders_offer_what_travels_with_the_nodes_first(host: Host) -> None:
    def choices(node: str, name: str) -> list[str]:
        return host.object_info(node)["input"]["required"][name][1]["options"]

    assert choices("CogVideoXLoadModel", "model_name")[:2] == ["demo/text-to-video", "demo/image-to-video"]
    assert choices("CogVideoXLoadVAE", "vae_name")[0] == "demo"
    assert choices("CogVideoXLoadT5", "text_encoder_name")[0] == "demo"
    assert choices("CogVideoXLoadLoRA", "lora_name")[0] == "demo/old-film"


def test_new_files_are_offered_without_a_restart(host: Host, toys: dict[str, Path], tmp_path: Path) -> None:
    def choices() -> list[str]:
        return host.object_info("CogVideoXLoadModel")["input"]["required"]["model_name"][1]["options"]

    weights = toys["CogVideoX-5B"] / "transformer" / "diffusion_pytorch_model.safetensors"
    name = "Ordner/mit Leerzeichen/\u6a21\u578b.safetensors"
    assert name not in choices()
    target = host.folder / "models" / "diffusion_models" / name
    target.parent.mkdir(parents=True)
    os.link(weights, target) if weights.stat().st_dev == target.parent.stat().st_dev else target.write_bytes(
        weights.read_bytes()
    )
    assert name in choices()
    assert "CogVideoX1.5-5B-I2V" in choices(), "a diffusers folder"
    host.add_model("diffusion_models", toys["CogVideoX-2B"] / "transformer", "only-a-transformer")
    assert "only-a-transformer" in choices(), "a component's folder among the files"
