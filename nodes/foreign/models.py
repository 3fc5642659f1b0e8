"""Loaders: one node of theirs, with LoRAs and settings linked into it, is several behind each other here."""

from __future__ import annotations

from .context import Context
from .graph import Link, Node
from .names import DIVIDED_BY_RANK, MODELS, PRECISIONS, QUANTIZATIONS, VAE_FILE, PublishedModel

# Loaders of folders, with the VAE beside the transformer in them, and of single files.
FOLDER_LOADERS = ("DownloadAndLoadCogVideoModel",)
LOADERS = (*FOLDER_LOADERS, "DownloadAndLoadCogVideoGGUFModel", "CogVideoXModelLoader")
LORAS = ("CogVideoLoraSelect", "CogVideoLoraSelectComfy")


def rewrite_model(context: Context, name: str, node: Node) -> None:
    """A loader of theirs as CogVideoX Load Model, with what follows it."""
    graph, given = context.graph, node.inputs
    takers = graph.consumers(Link(name, 0))
    published = MODELS.get(given["model"], PublishedModel((given["model"],)))
    _add_vae(context, name, (*published.names, VAE_FILE) if node.type in FOLDER_LOADERS else (VAE_FILE,))
    end = _with_loras(context, name)
    if method := QUANTIZATIONS.get(given.get("quantization", "")):
        end = Link(graph.add("CogVideoXQuantizeINT8", name, {"model": end, "method": method}), 0)
    if settings := context.settings_at(name, "compile_args", "CogVideoXTorchCompileSettings"):
        backend = graph.nodes[settings].inputs["backend"]
        end = context.add_for(settings, "TorchCompileModel", {"model": end, "backend": backend})
    for taker, key in takers:
        graph.nodes[taker].inputs[key] = end
    chosen = context.named(name, "transformer", published.names)
    precision = PRECISIONS.get(given.get("precision", given.get("base_precision", "")), "default")
    graph.become(name, "CogVideoXLoadModel", {"model_name": chosen, "weight_dtype": precision})


def rewrite_vae(context: Context, name: str, node: Node) -> None:
    """CogVideoXVAELoader as CogVideoX Load VAE."""
    chosen = context.named(name, "vae", (node.inputs["model_name"],))
    context.graph.become(name, "CogVideoXLoadVAE", {"vae_name": chosen})


def follows_video(context: Context, model: object) -> bool:
    """Whether the model that a link begins at is one that takes a video to follow."""
    loader = context.source_of(model, *LOADERS)
    name = context.graph.nodes[loader].inputs["model"] if loader else None
    return not isinstance(name, Link) and name in MODELS and MODELS[name].control


def _add_vae(context: Context, name: str, names: tuple[str, ...]) -> None:
    """The second output of a loader, a loader of its own here if anything takes it."""
    if takers := context.graph.consumers(Link(name, 1)):
        loader = context.graph.add("CogVideoXLoadVAE", name, {"vae_name": context.named(name, "vae", names)})
        for taker, key in takers:
            context.graph.nodes[taker].inputs[key] = Link(loader, 0)


def _with_loras(context: Context, loader: str) -> Link:
    """The model of a loader behind the LoRAs linked to it, the first one chosen first."""
    chain: list[str] = []
    taker, key = loader, "lora"
    while (name := context.settings_at(taker, key, *LORAS)) and name not in chain:
        chain.insert(0, name)
        taker, key = name, "prev_lora"
    model = Link(loader, 0)
    for name in chain:
        given = context.graph.nodes[name].inputs
        file = given["lora"]
        needs_division = any(part in str(file).lower() for part in DIVIDED_BY_RANK)
        inputs = {
            "model": model,
            "lora_name": context.named(name, "lora", (file,)),
            "strength": given["strength"],
            "divide_by_rank": needs_division and given["fuse_lora"] is True,
        }
        model = context.add_for(name, "CogVideoXLoadLoRA", inputs)
    return model
