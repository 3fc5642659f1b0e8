"""Who is told and shown how a node gets on: the client that queued the running prompt, and nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy_api import feature_flags
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from PIL import Image
from protocol import BinaryEventTypes

_WITH_METADATA = "supports_preview_metadata"  # the feature a client names if it takes a preview with its node


class EncodedPicture(Image.Image):
    """A picture file that ComfyUI's server can "save" without encoding anything in its event loop."""

    def __init__(self, file: bytes) -> None:
        super().__init__()
        self.file = file

    def save(self, fp: Any, format: str | None = None, **options: Any) -> None:
        """Write the file as it is, whatever is asked for."""
        fp.write(self.file)


@dataclass(frozen=True)
class Audience:
    """The client of the running prompt, as seen from the node that runs.

    Attributes:
        server: ComfyUI's PromptServer.
        node: the ids ComfyUI sends with a preview: of the node, of the node it is shown on, of the prompt.
        preview_method: the prompt's own: "none", "auto", "latent2rgb", "taesd"; None where it says nothing.
    """

    server: Any
    client_id: str
    node: dict[str, str | None]
    preview_method: str | None

    @classmethod
    def present(cls) -> Audience | None:
        """The audience of the node that runs in this thread; None outside a prompt, or if it was queued by nobody."""
        context = get_executing_context()
        if context is None:
            return None
        from server import PromptServer  # what runs a prompt has it; elsewhere its import starts half of ComfyUI

        server = PromptServer.instance
        if server.client_id is None:
            return None
        graph = get_progress_state().dynprompt
        node = {
            "node_id": context.node_id,
            "display_node_id": graph.get_display_node_id(context.node_id),
            "parent_node_id": graph.get_parent_node_id(context.node_id),
            "real_node_id": graph.get_real_node_id(context.node_id),
            "prompt_id": context.prompt_id,
        }
        return cls(server, server.client_id, node, _preview_method(server, context.prompt_id))

    @property
    def listens(self) -> bool:
        """Whether the client is connected now."""
        return self.client_id in self.server.sockets

    def tell(self, event: str, **data: Any) -> None:
        """Send a JSON message that names node and prompt. From any thread."""
        ids = {name: self.node[name] for name in ("node_id", "display_node_id", "prompt_id")}
        self.server.send_sync(event, {**ids, **data}, self.client_id)

    def show(self, file: bytes) -> None:
        """Send a picture file as ComfyUI's own preview message. From any thread.

        ComfyUI names two types of pictures; browsers look at the bytes, which may be of any.
        """
        picture = ("JPEG", EncodedPicture(file), None)
        if feature_flags.supports_feature(self.server.sockets_metadata, self.client_id, _WITH_METADATA):
            event = BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA
            self.server.send_sync(event, (picture, dict(self.node)), self.client_id)
        else:
            self.server.send_sync(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, picture, self.client_id)


def _preview_method(server: Any, prompt_id: str) -> str | None:
    """What the client set for this prompt (in the canvas: Settings, Live preview method), if anything.

    ComfyUI's own `args.preview_method` does not tell a "none" that somebody chose from the "none" it starts with.
    """
    running, _ = server.prompt_queue.get_current_queue_volatile()
    extra_data = next((item[3] for item in running if item[1] == prompt_id), {})
    return extra_data.get("preview_method")
