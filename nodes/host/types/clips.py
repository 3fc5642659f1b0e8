"""Where the clips of an IMAGE end.

A latent of several clips is decoded to one IMAGE, clip after clip, as ComfyUI's own decoders do it and every node for
images takes it. How many there are is noted on that tensor itself. A node that hands the tensor on keeps the note, and
so does ComfyUI's cache; what a node computes from it has none, since it may have mixed the clips. An IMAGE without a
note is one clip: the note is never wrong, only lost, and the `clips` of VAE Decode and of the player do without it.
"""

from __future__ import annotations

from torch import Tensor

_NOTE = "cogvideox_clips"


def joined(clips: Tensor) -> Tensor:
    """Clips [B, F, H, W, C] as an IMAGE [B * F, H, W, C] that knows how many they are."""
    images = clips.flatten(0, 1)
    setattr(images, _NOTE, len(clips))
    return images


def split(images: Tensor, count: int = 0) -> list[Tensor]:
    """The clips of an IMAGE [B * F, H, W, C], each [F, H, W, C]: `count` of them, or as many as are noted on it.

    Raises: ValueError if they would not be of one length.
    """
    count = count or getattr(images, _NOTE, 1)
    if len(images) % count:
        raise ValueError(
            f"{len(images)} frames are not {count} clips of one length; set clips to the latent's batch_size, or to 0"
        )
    return list(images.unflatten(0, (count, -1)).unbind()) if count > 1 else [images]
