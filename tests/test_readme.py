"""The pages: README's speeds are those that were measured, and files that pages name are there."""

from __future__ import annotations

import json
import re
import subprocess
from statistics import median

import pytest

from tests.provision import REPO

README = (REPO / "README.md").read_text(encoding="utf-8")
DEVICES = ("cpu", "cuda")
# The rows of the table of speeds: for the CPU and the GPU, the ratios of a cell as (scene, peer, what is compared).
ROWS = {
    "a transformer step, against diffusers": (
        [("step", "diffusers", "time"), ("step-bf16", "diffusers", "time")],
        [("step", "diffusers", "time")],
    ),
    "a step of the 1.5 kind, against ComfyUI's own CogVideoX": (
        [("step-1.5", "ComfyUI's own", "time")],
        [("step-1.5", "ComfyUI's own", "time")],
    ),
    "a step in INT8, against bitsandbytes' INT8": (
        [("step-int8", "diffusers with bitsandbytes INT8", "time")]
        + [("step-int8-bf16", "diffusers with bitsandbytes INT8", "time")],
        [],
    ),
    "VAE decode, against diffusers": tuple(
        [("decode", "diffusers", "time"), ("decode", "diffusers", "memory")] for _ in DEVICES
    ),
    "prompt to frames, against diffusers": ([("run", "diffusers", "time")], [("run", "diffusers", "time")]),
    "the same with CogVideoX Speed (50 steps, budget 0.03, PSNR 52 dB)": ([("run-cached", "diffusers", "time")], []),
}


def measured(device: str) -> dict[str, dict]:
    return json.loads((REPO / "docs" / f"performance-{device}.json").read_text(encoding="utf-8"))["scenes"]


def ratio(scene: dict, peer: str, what: str) -> str:
    """Ours over the peer's, as it is printed."""
    if what == "memory":
        return f"{scene['peaks']['ours'] / scene['peaks'][peer]:.2f}x"
    return f"{median(scene['seconds']['ours']) / median(scene['seconds'][peer]):.2f}x"


@pytest.mark.parametrize("name", ROWS)
def test_speeds_are_those_that_were_measured(name: str):
    (cells,) = re.findall(rf"^\| {re.escape(name)} \|(.*)\|$", README, re.MULTILINE)
    for device, cell, expected in zip(DEVICES, cells.split("|"), ROWS[name], strict=True):
        scenes = measured(device)
        assert re.findall(r"\d\.\d\dx", cell) == [ratio(scenes[scene], peer, what) for scene, peer, what in expected]


def test_ranges_are_those_of_all_machines():
    """The machine of performance-cpu.md, and those of machines.md, quiet and beside a neighbour."""
    text = " ".join(README.split())
    machines = json.loads((REPO / "docs" / "machines.json").read_text(encoding="utf-8")).values()
    for scene in ("step", "step-bf16", "decode", "run"):
        elsewhere = [f"{row[state][scene]['diffusers']:.2f}x" for row in machines for state in ("quiet", "busy")]
        least, *_, most = sorted([ratio(measured("cpu")[scene], "diffusers", "time"), *elsewhere])
        assert f"{least} to {most}" in text, scene


def test_the_table_of_speeds_has_no_other_row():
    table = README.partition("## How fast")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (.+?) \| .*\d\.\d\dx", table, re.MULTILINE) == list(ROWS)
    assert f"PSNR {measured('cpu')['run-cached']['db']:.0f} dB" in table


def test_the_index_lists_every_page():
    index = (REPO / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (REPO / "docs").glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\(([\w-]+\.md)\)", index))


def test_pages_name_files_that_are_there():
    """Code in back quotes that looks like a file of this repository, by the end of its path."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        text=True,
        capture_output=True,
        check=True,
    )
    files = [f"/{line}" for line in listing.stdout.splitlines() if (REPO / line).is_file()]
    wrong = []
    for page in (REPO / "README.md", REPO / "CHANGELOG.md", *(REPO / "docs").glob("*.md")):
        for name in re.findall(r"`(?:python3? )?([\w./-]+\.(?:py|js|mjs))\b", page.read_text(encoding="utf-8")):
            if not any(file.endswith(f"/{name}") for file in files):
                wrong.append(f"{page.name}: {name}")
    assert wrong == []
