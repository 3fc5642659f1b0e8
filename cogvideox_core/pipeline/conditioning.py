"""Images and videos as the model takes them: pixels fitted to the size, and latents for its extra channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.config import VAEConfig
from ..models.shapes import LatentSize, VideoSize
from ..videos.background import WHITE, opaque_image

if TYPE_CHECKING:
    from PIL.Image import Image

Fit = Literal["refuse", "stretch", "crop"]
"""What to do with pictures of another aspect ratio than the video's."""

ImageScale = Literal["diffusers", "sat", "scaled"]
"""Which multiple of z the transformer is given as image latents (see `image_latent_factor`)."""

_SAME_ASPECT = 0.02  # 1920 x 1080 for 1360 x 768 is meant to fit


def video_pixels(video: Any, size: VideoSize, *, fit: Fit = "refuse", background: str = WHITE) -> Tensor:
    """The first `size.num_frames` frames as [B, 3, F, height, width] in [-1, 1].

    Args:
        video: a list of PIL images, or a tensor in [0, 1] of shape [F, 3, H, W], [B, 3, F, H, W] or [B, F, 3, H, W].
        fit: for another aspect ratio: "refuse", "stretch" it, or "crop" its middle.
        background: the colour behind what is transparent in PIL images.
    Raises: ValueError for anything else, or for another aspect ratio with "refuse".
    """
    if isinstance(video, Tensor):
        return _resize_tensor(_as_video(video)[:, :, : size.num_frames], size, fit) * 2.0 - 1.0
    frames = [_pil_pixels(frame, size, fit, background) for frame in video[: size.num_frames]]
    return torch.stack(frames, dim=1)[None] * 2.0 - 1.0


def lengthened(frames: Tensor, num_frames: int) -> Tensor:
    """Frames [B, C, F, H, W] with the last one repeated until there are `num_frames`."""
    missing = max(num_frames - frames.shape[2], 0)
    return torch.cat([frames, frames[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2) if missing else frames


def fit_frame(frame: Tensor, size: VideoSize, *, fit: Fit = "refuse") -> Tensor:
    """A frame [3, H, W] in [0, 1] as [3, height, width], still in [0, 1]; `fit` as for `video_pixels`.

    Raises: ValueError for another aspect ratio with "refuse".
    """
    return _resize_tensor(frame[None, :, None], size, fit)[0, :, 0]


def image_pixels(image: Any, size: VideoSize, *, fit: Fit = "refuse", background: str = WHITE) -> Tensor:
    """Images as clips of one frame, [B, 3, 1, height, width] in [-1, 1].

    Args:
        image: a PIL image or a list of them (a batch), or a tensor in [0, 1] of shape [3, H, W] or [B, 3, H, W].
        fit: for another aspect ratio: "refuse", "stretch" it, or "crop" its middle.
        background: the colour behind what is transparent in PIL images.
    Raises: ValueError for anything else, or for another aspect ratio with "refuse".
    """
    if isinstance(image, Tensor):
        return _resize_tensor(_as_images(image), size, fit) * 2.0 - 1.0
    images = [_pil_pixels(one, size, fit, background) for one in _as_list(image)]
    return torch.stack(images)[:, :, None] * 2.0 - 1.0


def mask_pixels(mask: Tensor, size: VideoSize, *, fit: Fit = "refuse") -> Tensor:
    """Masks as [1, 1, F, height, width] in [0, 1], fitted like the frames of their video; one serves every frame.

    Args: mask: [F, H, W] or [H, W], from 0 to 1.
    Raises: ValueError for too few masks, or for another aspect ratio with "refuse".
    """
    masks = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    if 1 < len(masks) < size.num_frames:
        raise ValueError(f"mask has {len(masks)} frames for length={size.num_frames}; give one, or one per frame")
    left, top, right, bottom = _box(mask.shape[-1], mask.shape[-2], size, fit)
    masks = masks[: size.num_frames, :, top:bottom, left:right]
    masks = F.interpolate(masks, (size.height, size.width), mode="nearest")
    return masks.expand(size.num_frames, -1, -1, -1).transpose(0, 1)[None].clamp(0.0, 1.0)


def check_pictures(pictures: Any) -> None:
    """Raises: ValueError unless this is None, a PIL image, a list of them, or a tensor with values from 0 to 1."""
    from PIL import Image as PIL

    if isinstance(pictures, Tensor):
        if not pictures.is_floating_point() or not 0 <= pictures.min() <= pictures.max() <= 1:
            raise ValueError(
                f"a picture tensor of {str(pictures.dtype).removeprefix('torch.')} with values from "
                f"{float(pictures.min()):g} to {float(pictures.max()):g}; give floating point from 0 to 1"
            )
        return
    for picture in _as_list(pictures):
        if picture is not None and not isinstance(picture, PIL.Image):
            raise ValueError(f"a {type(picture).__name__} where a PIL image, a list of them or a tensor is expected")


def image_count(images: Any) -> int:
    """The number of images, in any form that `image_pixels` takes: tensors [3, H, W] or [B, 3, H, W], PIL images."""
    return _as_images(images).shape[0] if isinstance(images, Tensor) else len(_as_list(images))


def frame_count(video: Any) -> int:
    """The number of frames, in any form that `video_pixels` takes: a tensor, such as [F, 3, H, W], or PIL images."""
    return _as_video(video).shape[2] if isinstance(video, Tensor) else len(video)


def check_aspect(picture: Any, size: VideoSize, fit: Fit) -> None:
    """Raises: ValueError if an image or video (any accepted form) has another aspect ratio and `fit` is "refuse"."""
    if isinstance(picture, Tensor):
        sizes = [(picture.shape[-1], picture.shape[-2])]
    else:
        sizes = [one.size for one in _as_list(picture)]
    for width, height in sizes:
        _box(width, height, size, fit)


def image_latent_factor(config: VAEConfig, scale: ImageScale) -> float:
    """The factor from z to image latents; s is the VAE's scaling factor.

    "diffusers": s, or 1 / s where the config says `invert_scale_latents` (1.5). "sat": s, or 1 in 1.5. "scaled": s
    always, as most fine-tuning code trains. Which is best for 1.5 is an open question; diffusers is the reference.
    """
    s = config.scaling_factor
    if scale == "scaled" or not config.invert_scale_latents:
        return s
    return 1.0 if scale == "sat" else 1.0 / s


def image_latents(first: Tensor, last: Tensor | None, size: LatentSize) -> Tensor:
    """Image latents of the whole clip: the first image at index 0, the last one at the end, zeros between.

    With leading frames (1.5) the first image is in the leading frame, which is dropped after sampling, as in the
    reference.

    Args: first, last: scaled latents of one frame each, [B, C, 1, H, W].
    Returns: [B, C, T, H, W].
    """
    ends = [first] if last is None else [first, last]
    between = torch.zeros_like(first).expand(-1, -1, size.frames - len(ends), -1, -1)
    return torch.cat([first, between, *ends[1:]], dim=2)


def control_latents(z: Tensor, size: LatentSize) -> Tensor:
    """Latents of a control video, for the channels after the noise; those of one image serve every frame.

    Args: z: [B, C, T, h, w], or T = 1.
    Returns: [B, C, T, h, w], leading frames like the first.
    """
    clip = z.expand(-1, -1, size.frames - size.leading, -1, -1) if z.shape[2] == 1 else z
    return pad_leading(clip, size.leading)


def masked_video(video: Tensor, mask: Tensor) -> Tensor:
    """A video [B, 3, F, H, W] that is black where the mask asks for new content.

    Args: video: [B, 3, F, H, W] in [-1, 1]. mask: [B, 1, F, H, W], above 0.5 where it is replaced.
    """
    return video.masked_fill(mask > 0.5, -1.0)


def inpaint_latents(mask: Tensor, z_masked: Tensor, size: LatentSize) -> Tensor:
    """Extra channels of an "inpaint" model: one channel that is 1 where pixels are known, then the masked video.

    Args:
        mask: [B, 1, F, H, W], above 0.5 where the video is replaced.
        z_masked: [B, C, T, h, w], the mean of the VAE for `masked_video`.
    Returns: [B, 1 + C, T, h, w]; all zeros if nothing is known. The transformer takes all of it, the mask channel
        too, times the VAE's scaling factor.
    Source: VideoX-Fun's `resize_mask`: the first frame is resized on its own, as the VAE encodes it on its own.
    """
    if mask.amin() > 0.5:
        return pad_leading(torch.zeros_like(torch.cat([z_masked[:, :1], z_masked], dim=1)), size.leading)
    known = 1.0 - (mask > 0.5).to(z_masked)
    frames, rows, columns = z_masked.shape[2:]
    parts = [_resized(known[:, :, :1], (1, rows, columns))]
    if frames > 1:
        parts.append(_resized(known[:, :, 1:], (frames - 1, rows, columns)))
    return pad_leading(torch.cat([torch.cat(parts, dim=2), z_masked], dim=1), size.leading)


def quadmask_videos(video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The two videos that a "quadmask" model is given, both [B, 3, F, H, W] in [-1, 1]: how much of each pixel
    is known, as grey; and the video darkened by the mask.

    Args: video: [B, 3, F, H, W] in [-1, 1]. mask: [B, 1, F, H, W]; 1 is replaced, 0 kept, values between partly kept.
    Source: ComfyUI's `VOIDInpaintConditioning`.
    """
    known = 1.0 - mask
    return known.expand_as(video) * 2.0 - 1.0, (video + 1.0) * known - 1.0


def quadmask_latents(z_known: Tensor, z_masked: Tensor, size: LatentSize) -> Tensor:
    """Extra channels of a "quadmask" model: latents of the two `quadmask_videos`.

    Args: z_known, z_masked: [B, C, T, h, w].
    Returns: [B, 2 C, T, h, w], leading frames like the first.
    """
    return pad_leading(torch.cat([z_known, z_masked], dim=1), size.leading)


def _resized(video: Tensor, size: tuple[int, int, int]) -> Tensor:
    return F.interpolate(video, size, mode="trilinear", align_corners=False)


def pad_leading(latents: Tensor, leading: int) -> Tensor:
    """Repeat the first frame of latents [B, C, T, h, w] `leading` times in front, as 1.5's training does."""
    return torch.cat([latents[:, :, :1].expand(-1, -1, leading, -1, -1), latents], dim=2)


def _as_video(tensor: Tensor) -> Tensor:
    """A video tensor of any accepted shape as [B, 3, F, H, W]."""
    if tensor.ndim == 4 and tensor.shape[1] == 3:
        return tensor.transpose(0, 1)[None]
    if tensor.ndim == 5 and tensor.shape[1] == 3:
        return tensor
    if tensor.ndim == 5 and tensor.shape[2] == 3:
        return tensor.transpose(1, 2)
    raise ValueError(
        f"a video tensor of shape {tuple(tensor.shape)}; give [F, 3, H, W] or [B, 3, F, H, W], values from 0 to 1"
    )


def _as_images(tensor: Tensor) -> Tensor:
    """An image tensor of any accepted shape as [B, 3, 1, H, W]."""
    if tensor.ndim == 3 and tensor.shape[0] == 3:
        return tensor[None, :, None]
    if tensor.ndim == 4 and tensor.shape[1] == 3:
        return tensor[:, :, None]
    if tensor.ndim == 5 and tensor.shape[1:3] == (3, 1):
        return tensor
    raise ValueError(
        f"an image tensor of shape {tuple(tensor.shape)}; give [3, H, W] or [B, 3, H, W], values from 0 to 1"
    )


def _as_list(picture: Any) -> list[Any]:
    return list(picture) if isinstance(picture, Sequence) else [picture]


def _resize_tensor(video: Tensor, size: VideoSize, fit: Fit) -> Tensor:
    height, width = video.shape[3:]
    if (height, width) == (size.height, size.width):
        return video
    left, top, right, bottom = _box(width, height, size, fit)
    frames = video[..., top:bottom, left:right].transpose(1, 2).flatten(0, 1)
    frames = F.interpolate(frames, (size.height, size.width), mode="bicubic", antialias=True).clamp(0, 1)
    return frames.unflatten(0, (video.shape[0], -1)).transpose(1, 2)


def _pil_pixels(image: Image, size: VideoSize, fit: Fit, background: str) -> Tensor:
    """[3, height, width] in [0, 1], resized with Lanczos as diffusers does."""
    from PIL import Image as PIL

    image = opaque_image(image, background)
    if image.size != (size.width, size.height):
        box = _box(*image.size, size, fit)
        image = image.resize((size.width, size.height), PIL.Resampling.LANCZOS, box=box)
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(size.height, size.width, 3).permute(2, 0, 1).float() / 255.0


def _box(width: int, height: int, size: VideoSize, fit: Fit) -> tuple[int, int, int, int]:
    """(left, top, right, bottom), in pixels, of the part of a picture that is kept before it is resized."""
    whole = (0, 0, width, height)
    if fit == "stretch" or abs(width * size.height / (height * size.width) - 1) <= _SAME_ASPECT:
        return whole
    if fit == "refuse":
        raise ValueError(
            f"a picture of {width}x{height} for a video of {size.width}x{size.height}: another aspect ratio; crop it "
            "to that shape, choose a size of its shape, or set image_fit to 'crop' or 'stretch'"
        )
    keep_width = min(width, round(height * size.width / size.height))
    keep_height = min(height, round(width * size.height / size.width))
    left, top = (width - keep_width) // 2, (height - keep_height) // 2
    return left, top, left + keep_width, top + keep_height
