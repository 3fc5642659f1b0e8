"""To whom previews go: the client that queued the prompt that is running, and nobody else."""

from __future__ import annotations

import asyncio
import json
import struct
from dataclasses import dataclass
from typing import Any

from comfy_api import feature_flags
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from protocol import BinaryEventTypes

_WITH_METADATA = "supports_preview_metadata"  # the feature a client names if it takes a preview with its node
_JPEG = 1  # ComfyUI's number for the kind of a picture without metadata; browsers look at the bytes instead
_MOMENT = 0.005  # seconds


@dataclass(frozen=True)
class PreviewClient:
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
    def of_this_node(cls) -> PreviewClient | None:
        """The client of the node that runs in this thread; None outside a prompt, or if no client queued it."""
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
    def is_connected(self) -> bool:
        """Whether the client listens now."""
        return self.client_id in self.server.sockets

    def send(self, event: str, **data: Any) -> None:
        """Send a JSON message that names node and prompt. From any thread."""
        ids = {name: self.node[name] for name in ("node_id", "display_node_id", "prompt_id")}
        self.server.send_sync(event, {**ids, **data}, self.client_id)

    def show(self, webp: bytes) -> None:
        """Send a picture file as ComfyUI's own preview message, and wait until it is sent. Not from the event loop."""
        if feature_flags.supports_feature(self.server.sockets_metadata, self.client_id, _WITH_METADATA):
            about = json.dumps({**self.node, "image_type": "image/webp"}).encode()
            message = struct.pack(">I", len(about)) + about + webp
            sending = self._send_bytes(BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA, message)
        else:
            sending = self._send_bytes(BinaryEventTypes.PREVIEW_IMAGE, struct.pack(">I", _JPEG) + webp)
        asyncio.run_coroutine_threadsafe(sending, self.server.loop).result()

    async def _send_bytes(self, event: int, message: bytes) -> None:
        """`send_sync` would encode a preview itself, so this goes past ComfyUI's queue, once that is empty: what was
        sent before the picture arrives before it.
        """
        while not self.server.messages.empty():
            await asyncio.sleep(_MOMENT)
        await self.server.send_bytes(event, message, self.client_id)


def _preview_method(server: Any, prompt_id: str) -> str | None:
    """What the client set for this prompt (in the canvas: Settings, Live preview method), if anything.

    ComfyUI's own `args.preview_method` does not tell a "none" that somebody chose from the "none" it starts with.
    """
    running, _ = server.prompt_queue.get_current_queue_volatile()
    extra_data = next((item[3] for item in running if item[1] == prompt_id), {})
    return extra_data.get("preview_method")
