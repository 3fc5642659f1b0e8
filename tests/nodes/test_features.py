"""A feature that this ComfyUI lacks something for: one sentence in the log, and all nodes, in a real server."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.support.graphs import node, text_to_video
from tests.support.host import Host

INTERFACE = json.loads((Path(__file__).parent / "interface.json").read_text(encoding="utf-8"))

# A pack that takes something from ComfyUI just before a module of ours is imported. Its script runs before all packs.
BREAKING = """
import importlib, sys

class Breaking:
    def find_spec(self, name, path=None, target=None):
        if name.endswith({module!r}):
            holder = importlib.import_module({symbol!r}.partition(":")[0])
            *classes, last = {symbol!r}.partition(":")[2].split(".")
            for part in classes:
                holder = getattr(holder, part)
            delattr(holder, last)
            sys.meta_path.remove(self)

sys.meta_path.insert(0, Breaking())
"""

BROKEN = {
    "live previews": ("features.previews.client", "comfy_execution.utils:get_executing_context"),
    "approximations by CogVideoX Speed": ("features.speed", "comfy.patcher_extension:WrappersMP"),
    "CogVideoX names in ComfyUI's own LoRA loaders": ("features.lora_names", "comfy.lora:model_lora_keys_unet"),
    "conversion of the CogVideoX wrapper's workflows": ("features.foreign_workflows", "comfy_api.latest:ComfyAPI"),
    "conversion of the CogVideoX wrapper's prompts": (
        "features.foreign_workflows",
        "server:PromptServer.add_on_prompt_handler",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_a_feature_lacks_costs_no_node(start_host: Callable[..., Host], tmp_path: Path, name: str) -> None:
    module, symbol = BROKEN[name]
    breaker = tmp_path / "breaker"
    breaker.mkdir()
    (breaker / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}")
    (breaker / "prestartup_script.py").write_text(BREAKING.format(module=module, symbol=symbol))
    host = start_host(extra_packs=[breaker])
    assert {node_id for node_id in host.object_info() if node_id.startswith("CogVideoX")} == set(INTERFACE)
    sentences = [line for line in host.log_text().splitlines() if "in this ComfyUI (" in line]
    assert len(sentences) == 1 and f"no {name} in this ComfyUI (" in sentences[0], sentences
    assert symbol.rpartition(".")[2].rpartition(":")[2] in sentences[0]
    if name == "live previews":
        graph = text_to_video("demo", steps=1) | {"show": node("PreviewAny", source=["sampler", 0])}
        graph["model"]["inputs"]["model_name"] = "demo/text-to-video"
        graph["latent"]["inputs"] |= {"width": 96, "height": 96, "length": 9}
        with host.events() as events:
            assert host.run(graph, client_id=events.client_id).status == "success"


def test_the_others_are_installed_when_one_fails(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installation = importlib.import_module(f"{pack.__name__}.nodes.host.features.installation")
    installed: list[str] = []

    def module(name: str, package: str) -> SimpleNamespace:
        if name == ".speed":
            raise ImportError("cannot import name 'of another\n release'")
        return SimpleNamespace(install=lambda: installed.append(name))

    monkeypatch.setattr(installation.importlib, "import_module", module)
    with caplog.at_level(logging.WARNING):
        installation.install_features()
    assert installed == [f".{feature.module}" for feature in installation.FEATURES if feature.module != "speed"]
    assert [record.getMessage() for record in caplog.records] == [
        "no approximations by CogVideoX Speed in this ComfyUI (ImportError: cannot import name 'of another release'); "
        "all nodes of CogVideoX are there"
    ]
