"""A real ComfyUI server for tests: a subprocess with a folder of its own, this pack linked into it.

    with Host(tmp_path) as host:
        history = host.run({"1": {"class_type": "EmptyImage", ...}, "2": {"class_type": "SaveImage", ...}})
        print(history.files("2"))

Everything goes through HTTP and the websocket, as for any user of the host.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import websocket

from tests import provision

PACK_NAME = "cogvideox-nodes"
START_TIMEOUT = 180.0
POLL_INTERVAL = 0.1
BASE_FOLDERS = ("custom_nodes", "input", "output", "temp", "user/default")

Prompt = Mapping[str, Any]


class HostError(RuntimeError):
    """The server did not start, has died, or answered what it never should."""


class PromptRejected(Exception):
    """The server refused a prompt (HTTP 400). `.answer` is its JSON."""

    def __init__(self, answer: dict[str, Any]):
        self.answer = answer
        super().__init__("; ".join(self.sentences()) or json.dumps(answer))

    @property
    def type(self) -> str:
        """The error's type, for example `prompt_outputs_failed_validation`."""
        return self.answer.get("error", {}).get("type", "")

    def sentences(self) -> list[str]:
        """Every message a user would read: the prompt's and each node's."""
        errors = [self.answer.get("error") or {}]
        for node in (self.answer.get("node_errors") or {}).values():
            errors += node["errors"]
        return [": ".join(filter(None, (error.get("message"), error.get("details")))) for error in errors if error]


class ExecutionFailed(Exception):
    """A node raised. The exception's text is the node's own sentence; `.details` is the server's message."""

    def __init__(self, history: History):
        self.history = history
        self.details = history.message("execution_error") or history.message("execution_interrupted") or {}
        super().__init__(self.details.get("exception_message", history.status).strip())


class ExecutionInterrupted(ExecutionFailed):
    """The run was cancelled."""


@dataclass(frozen=True)
class History:
    """One finished run, as the server's history has it."""

    prompt_id: str
    entry: dict[str, Any]
    host: Host = field(repr=False)

    @property
    def status(self) -> str:
        """`success` or `error`."""
        return self.entry["status"]["status_str"]

    @property
    def outputs(self) -> dict[str, Any]:
        """What each output node showed, by node id."""
        return self.entry["outputs"]

    @property
    def cached_nodes(self) -> list[str]:
        """The ids of the nodes that did not run because their result was there."""
        return (self.message("execution_cached") or {}).get("nodes", [])

    def message(self, kind: str) -> dict[str, Any] | None:
        """The run's first status message of a kind."""
        return next((data for name, data in self.entry["status"]["messages"] if name == kind), None)

    def files(self, node_id: str) -> list[Path]:
        """The files a node saved, whatever key of its output lists them."""
        listed = [item for items in self.outputs.get(node_id, {}).values() if isinstance(items, list) for item in items]
        return [self.host.saved_path(item) for item in listed if isinstance(item, dict) and "filename" in item]


class Host:
    """A ComfyUI server process. Use as a context manager, or call start() and stop().

    Args:
        folder: the server's base directory; made if missing, kept afterwards.
        arguments: more command line arguments, for example ["--disable-api-nodes"].
        extra_packs: more node packs (folders or .py files) to link in, besides this one.
        link_pack: whether this repository is linked in at all.
        settings: frontend settings to add to the seeded ones.
        environment: environment variables to add.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str] = (),
        *,
        extra_packs: Iterable[Path] = (),
        link_pack: bool = True,
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        self.folder = Path(folder).resolve()
        self.comfyui = provision.comfyui()
        self.arguments = list(arguments)
        self.environment = dict(environment or {})
        self.port = 0
        self.log_file = self.folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        for name in BASE_FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for picture in (self.comfyui / "input").glob("*.png"):  # what every installation's workflows can count on
            shutil.copy(picture, self.folder / "input")  # ComfyUI follows no link out of this folder
        if link_pack:
            link(provision.REPO, self.folder / "custom_nodes" / PACK_NAME)
        for pack in extra_packs:
            link(Path(pack), self.folder / "custom_nodes" / Path(pack).name)
        self._seed_settings(settings or {})

    # ---- life

    def __enter__(self) -> Host:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.port = self.port or free_port()
        command = [sys.executable, str(self.comfyui / "main.py"), "--cpu", "--port", str(self.port)]
        command += ["--base-directory", str(self.folder), "--disable-auto-launch"]
        command += ["--database-url", f"sqlite:///{self.folder / 'comfyui.db'}", *self.arguments]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **self.environment}
        environment.pop("PYTHONPATH", None)  # the server finds its modules itself, as in a user's installation
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server; harmless when it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop and start again, with the same folder and on the same port."""
        self.stop()
        self.start()

    @property
    def url(self) -> str:
        """The server's address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id, for measuring its memory."""
        if self._process is None:
            raise HostError("The server is not running.")
        return self._process.pid

    def log_text(self) -> str:
        """Everything the server has printed so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def describe(self) -> str:
        """The end of its log, for the report of a failed test."""
        return self._log_tail()

    # ---- files

    def add_model(self, kind: str, path: Path, name: str | None = None) -> Path:
        """Link a model file or folder into models/<kind>/ (under another name, if given)."""
        target = self.folder / "models" / kind / (name or Path(path).name)
        link(Path(path), target)
        return target

    def output_path(self, *parts: str) -> Path:
        """A path below the output folder."""
        return self.folder.joinpath("output", *parts)

    def saved_path(self, item: Mapping[str, str]) -> Path:
        """The path of a file named in a node's output."""
        return self.folder / item.get("type", "output") / item.get("subfolder", "") / item["filename"]

    def upload_image(self, path: Path, name: str | None = None) -> str:
        """Upload an image (or video) as the canvas does; the result is what LoadImage takes."""
        boundary = uuid.uuid4().hex
        disposition = f"--{boundary}\r\nContent-Disposition: form-data;"
        head = f'{disposition} name="overwrite"\r\n\r\ntrue\r\n'
        head += f'{disposition} name="image"; filename="{name or Path(path).name}"\r\n'
        head += "Content-Type: application/octet-stream\r\n\r\n"
        body = head.encode() + Path(path).read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        answer = self.request("/upload/image", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"})
        return "/".join(filter(None, (answer["subfolder"], answer["name"])))

    # ---- HTTP

    def request(self, route: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Any:
        """GET, or POST when there is a body; the answer's JSON, or None if it is empty.

        Raises: urllib.error.HTTPError on an error status.
        """
        request = urllib.request.Request(self.url + route, data=body, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content.strip() else None

    def post(self, route: str, data: Any = None) -> Any:
        """POST JSON."""
        return self.request(route, json.dumps(data or {}).encode(), {"Content-Type": "application/json"})

    def object_info(self, node_id: str | None = None) -> dict[str, Any]:
        """The description of one node, or of all nodes by id. A node the server does not know is a KeyError."""
        if node_id is None:
            return self.request("/object_info")
        return self.request("/object_info/" + urllib.parse.quote(node_id))[node_id]

    def queue(self, prompt: Prompt, client_id: str | None = None, **more: Any) -> str:
        """Queue a prompt in API format; the prompt id. `more` goes into the request (extra_data, front, ...).

        Raises: PromptRejected if the server does not accept it.
        """
        data = {"prompt": prompt, **({"client_id": client_id} if client_id else {}), **more}
        try:
            return self.post("/prompt", data)["prompt_id"]
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise HostError(f"/prompt answered {error.code}\n{self._log_tail()}") from error
            raise PromptRejected(json.load(error)) from None

    def wait(self, prompt_id: str, timeout: float = 300.0) -> History:
        """Wait until a prompt has run, well or not."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            entry = self._alive(lambda: self.request(f"/history/{prompt_id}")).get(prompt_id)
            if entry:
                return History(prompt_id, entry, self)
            time.sleep(POLL_INTERVAL)
        raise TimeoutError(f"Prompt {prompt_id} has not run within {timeout:.0f} s.\n{self._log_tail()}")

    def run(self, prompt: Prompt, timeout: float = 300.0, client_id: str | None = None, **more: Any) -> History:
        """Queue a prompt and wait for it; `more` as for `queue`.

        Raises: PromptRejected, ExecutionFailed (its text is the node's sentence), ExecutionInterrupted.
        """
        history = self.wait(self.queue(prompt, client_id, **more), timeout)
        if history.message("execution_interrupted"):
            raise ExecutionInterrupted(history)
        if history.status != "success":
            raise ExecutionFailed(history)
        return history

    def interrupt(self) -> None:
        """Cancel the prompt that is running."""
        self.post("/interrupt")

    def events(self, client_id: str | None = None) -> Events:
        """Listen on the websocket; queue prompts with the result's `.client_id` to have their previews."""
        return Events(self, client_id or uuid.uuid4().hex)

    # ---- inside

    def _seed_settings(self, settings: Mapping[str, Any]) -> None:
        """Spare the canvas its first-visit dialogs."""
        seeded = {"Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": frontend_version(), **settings}
        path = self.folder / "user" / "default" / "comfy.settings.json"
        path.write_text(json.dumps(seeded, indent=2))

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            try:
                self._alive(lambda: self.request("/system_stats"))
                return
            except OSError:
                time.sleep(POLL_INTERVAL)
        raise HostError(f"ComfyUI has not answered within {START_TIMEOUT:.0f} s.\n{self._log_tail()}")

    def _alive(self, ask: Any) -> Any:
        """Ask the server; if it has died, say so with the end of its log."""
        try:
            return ask()
        except OSError:
            if self._process is None or self._process.poll() is not None:
                status = "was stopped" if self._process is None else f"exited with status {self._process.returncode}"
                raise HostError(f"ComfyUI {status}.\n{self._log_tail()}") from None
            raise

    def _log_tail(self, lines: int = 40) -> str:
        return f"End of {self.log_file}:\n" + "\n".join(self.log_text().splitlines()[-lines:])


class Events:
    """What the server sends to one client: `messages` (JSON) and `previews` (binary frames), each in order.

    `arrivals` has the types of both, in the order they came; a preview's is "preview".
    """

    PREVIEW_WITH_METADATA = 4

    def __init__(self, host: Host, client_id: str):
        self.client_id = client_id
        self.messages: list[dict[str, Any]] = []
        self.previews: list[tuple[dict[str, Any], bytes]] = []  # (metadata, image file)
        self.arrivals: list[str] = []
        address = f"ws://127.0.0.1:{host.port}/ws?clientId={client_id}"
        self._socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self._socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        self._thread.join(timeout=5)

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """The data of every message of a type so far, for example `progress`."""
        return [message["data"] for message in list(self.messages) if message["type"] == kind]

    def wait_for(self, kind: str, timeout: float = 60.0) -> dict[str, Any]:
        """The data of the first message of a type, once it is there."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = self.of_type(kind)
            if found:
                return found[0]
            time.sleep(POLL_INTERVAL)
        raise TimeoutError(f"No `{kind}` message within {timeout:.0f} s.")

    def _listen(self) -> None:
        while True:
            try:
                message = self._socket.recv()
            except websocket.WebSocketTimeoutException:
                continue
            except (websocket.WebSocketException, OSError):
                return
            if isinstance(message, str) and message:
                self.messages.append(json.loads(message))
                self.arrivals.append(self.messages[-1]["type"])
            elif message:
                self._take_binary(message)

    def _take_binary(self, message: bytes) -> None:
        """Frames are: type (4 bytes, big endian); for type 4 then metadata length, metadata JSON, image."""
        if int.from_bytes(message[:4], "big") == self.PREVIEW_WITH_METADATA:
            end = 8 + int.from_bytes(message[4:8], "big")
            self.previews.append((json.loads(message[8:end]), message[end:]))
            self.arrivals.append("preview")


def link(source: Path, target: Path) -> None:
    """Symlink `target` to `source`, replacing an older link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink():
        target.unlink()
    target.symlink_to(source.resolve(), target_is_directory=source.is_dir())


def free_port() -> int:
    """A TCP port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def frontend_version() -> str:
    """The version of the installed frontend, without which the canvas opens its release notes."""
    try:
        return metadata.version("comfyui-frontend-package")
    except metadata.PackageNotFoundError:
        raise HostError("ComfyUI's requirements are not installed in this Python; see tests/run_all.py.") from None
