"""The command's frame: subcommands, exit codes, one sentence for what does not fit, a traceback on request."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cogvideox_core.cli import main as cli
from tests.provision import REPO

Captured = pytest.CaptureFixture[str]


def test_help_names_every_subcommand_and_each_has_help_of_its_own(capsys: Captured) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    for name in cli.SUBCOMMANDS:
        assert f"cogvideox {name} --help" in " ".join(shown.split())
        with pytest.raises(SystemExit, match="0"):
            cli.main([name, "--help"])
        assert f"usage: cogvideox {name}" in capsys.readouterr().out


def test_a_subcommand_imports_no_other() -> None:
    """In a process of its own, where nothing is imported yet."""
    script = "import sys, cogvideox_core.cli.main; print(*[name for name in sys.modules if name.startswith('torch')])"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], "the command's frame waits for PyTorch before it says anything"


def test_a_sentence_of_the_core_names_the_option_that_was_typed() -> None:
    assert cli._in_options("num_frames=50; use 49, or give image") == "--frames 50; use 49, or give --image"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("num_frames=50; use 49"), "--frames 50; use 49"),
        (FileNotFoundError("no such file"), "no such file"),
        (ImportError("it needs a package"), "it needs a package"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "the GPU's memory is full; .* or use --device cpu"),
        (MemoryError(), "memory is full; ask for a smaller size or fewer frames"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory is full"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_exit_code_2(
    error: Exception, sentence: str, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cogvideox_core.cli import file_commands

    def broken(options: object) -> str:
        raise error

    monkeypatch.setitem(file_commands.COMMANDS, "inspect", (lambda parser: None, broken))
    assert cli.main(["inspect"]) == 2
    told = capsys.readouterr().err
    assert re.fullmatch(f"cogvideox: {sentence}.*\n", told)
    with pytest.raises(type(error)):
        cli.main(["inspect", "--traceback"])


def test_what_libraries_print_is_no_part_of_the_answer(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    from cogvideox_core.cli import file_commands

    def talking(options: object) -> tuple[str, int]:
        print("a library greets")
        return "the answer", 1

    monkeypatch.setitem(file_commands.COMMANDS, "inspect", (lambda parser: None, talking))
    assert cli.main(["inspect"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("the answer\n", "a library greets\n")
