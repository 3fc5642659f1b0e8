"""CogVideoX for ComfyUI: the door. Nodes live in `nodes/`, the model itself in `cogvideox_core/`."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called once by ComfyUI; everything is imported here, so that importing the pack alone does nothing."""
    from .nodes import CogVideoXExtension

    return CogVideoXExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
