"""Where models are on this machine: paths, names below ComfyUI's folders, names in Hugging Face's cache."""
