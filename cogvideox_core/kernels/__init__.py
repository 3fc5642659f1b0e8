"""Layers and operations by the fastest way a device has: Triton on NVIDIA cards, oneDNN on CPUs, PyTorch elsewhere."""
