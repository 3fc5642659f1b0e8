"""The core's models as ComfyUI's types, one file per type, and what several of them share."""
