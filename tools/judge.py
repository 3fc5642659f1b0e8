"""What a video of the demo world shows, by classical image analysis: it gets no prompt and no network is trained.

The colour of a background depends on the row only, so the median of a row over all columns and frames is the
background, and an object is what differs from it. Its colour is the nearest known one. Its shape is the outline that is
most similar at the same position and size. Its motion is the simple law that explains most of the changes of position
and size.

Letters: F frames, H W rows and columns. Lengths are fractions of the shorter side, as in `demo_world.world`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from cogvideox_core.training.demo_world.world import (
    BACKGROUNDS,
    COLOURS,
    FPS,
    HORIZONS,
    LIGHTS,
    SHAPES,
    Scene,
    Thing,
    background_rows,
    render,
)

MIN_FRAMES = 5
MIN_SIDE = 48  # pixels

# Finding objects. Distances are Euclidean, of RGB colours with channels in [0, 1].
_FAMILIAR = 0.2  # largest distance from a known background of pixels that may belong to it
_MIN_FAMILIAR = 0.5  # share of a video that must differ from a background by less than _CONTRAST to name it
_MIN_OUTSIDE = 0.15  # share of a row that must be free of objects, so that its median is the background
_CONTRAST = 0.12  # smallest distance of an object from its background; in the world it is at least 0.24
_MIN_RADIUS = 0.035  # of a disc of the object's area, a fraction of the shorter side; in the world at least 0.065
_MAX_RADIUS = 0.4  # the same; in the world at most 0.26
_MIN_PRESENCE = 0.6  # share of the frames an object is seen in

# Colours, in the same distances.
_VIVID = 0.6  # share of an object's pixels, those most like the background, that its colour is not taken from
_GREY_WEIGHT = 0.7  # weight of a difference of lightness; that of hue and saturation is 1
_MAX_COLOUR_DISTANCE = 0.3  # two colours of the world are at least 0.3 apart

# Shapes.
_PATCH = 32  # samples per side of the patch that an object is resampled to
_PATCH_REACH = 1.9  # half the side of the patch, in radii of a disc of the object's area
_SOFTNESS = (0.0, 0.1, 0.2)  # blurs of the outlines to compare with: standard deviations in those radii
_MIN_LIKENESS = 0.9  # correlation with the outline; at least 0.96 in videos of the world, blurred or not

# Motion.
_GROWTH_WEIGHT = 0.25  # the length that a change of log(radius) by 1 counts as
_STILL = 0.06 / math.sqrt(12)  # standard deviation, in lengths, of a steady motion by 0.06
_MIN_EXPLAINED = 0.5  # share of the variance of position and size
_BOUNCES = (0.85, 1.0, 1.15)  # bounces a second
_TURNS = (-0.6, -0.5, -0.4, 0.4, 0.5, 0.6)  # turns a second, positive is clockwise


@dataclass(frozen=True)
class Verdict:
    """What is seen; None for what could not be recognized.

    `track`: (frame, x, y, radius) for each frame that shows the object. x and y are its centre, the radius is that of a
    disc of the same area; all three are fractions of the shorter side.
    """

    colour: str | None = None
    shape: str | None = None
    motion: str | None = None
    background: str | None = None
    track: tuple[tuple[int, float, float, float], ...] = ()

    def matches(
        self,
        colour: str | None = None,
        shape: str | None = None,
        motion: str | None = None,
        background: str | None = None,
    ) -> bool:
        """Whether every word given is what is seen: `matches("red", "ball")`, `matches(motion="bouncing")`."""
        pairs = (colour, self.colour), (shape, self.shape), (motion, self.motion), (background, self.background)
        return all(wanted is None or wanted == seen for wanted, seen in pairs)


def judge(video: Tensor) -> Verdict:
    """What a video shows; of several objects the largest is judged.

    Args:
        video: [3, F, H, W] or [1, 3, F, H, W] in [0, 1], floating point, 8 frames a second; F >= 5, H and W >= 48.
    Raises: ValueError for anything else.
    """
    video, background, behind, objects = _find(_checked(video))
    return _judge_object(video, background, behind, objects[0]) if objects else Verdict(background=background)


def judge_all(video: Tensor) -> list[Verdict]:
    """One verdict for each object of a video, the largest first.

    Args:
        video: [3, F, H, W], as in `judge`.
    Raises: ValueError as `judge` does.
    """
    video, background, behind, objects = _find(_checked(video))
    return [_judge_object(video, background, behind, mask) for mask in objects]


def _judge_object(video: Tensor, background: str | None, behind: Tensor, mask: Tensor) -> Verdict:
    colour = _colour(video, behind, mask)
    alpha = _alpha(video, behind, mask, colour)
    frames, track = _track(alpha)
    return Verdict(
        _name_colour(colour),
        _name_shape(alpha[frames], track),
        _name_motion(frames, track),
        background,
        tuple((int(frame), *position) for frame, position in zip(frames, track.tolist(), strict=True)),
    )


def _checked(video: Tensor) -> Tensor:
    """[3, F, H, W], float32."""
    if video.ndim == 5 and video.shape[0] == 1:
        video = video[0]
    shape = tuple(video.shape)
    fits = len(shape) == 4 and shape[0] == 3 and shape[1] >= MIN_FRAMES and min(shape[2:]) >= MIN_SIDE
    if not fits or not video.is_floating_point():
        raise ValueError(
            f"a video of shape {list(shape)} and {str(video.dtype).removeprefix('torch.')}; give floating point "
            f"of shape [3, F, H, W] with at least {MIN_FRAMES} frames and {MIN_SIDE} rows and columns"
        )
    video = video.detach().float().cpu()
    if not (video.min() >= -0.01 and video.max() <= 1.01):  # not, so that NaN is refused too
        raise ValueError(f"a video with values from {video.min():g} to {video.max():g}; give values from 0 to 1")
    return video


# --- Finding objects ---------------------------------------------------------------------------------------------


def _find(video: Tensor) -> tuple[Tensor, str | None, Tensor, list[Tensor]]:
    """The video without flicker, its background's name and pixels, and a mask [F, H, W] for each object.

    The largest object comes first.
    """
    background, expected = _name_background(video)
    rows = _rows(video, _length(video - expected) > _FAMILIAR)
    video = _steadied(video, rows)
    rows = _rows(video, _length(video - rows) > _CONTRAST)
    behind = _behind(video, rows)
    count, height, width = video.shape[1:]
    objects = []
    for mask in _components(_length(video - behind) > _CONTRAST):
        present = mask.flatten(1).any(dim=1).sum().item()
        radius = math.sqrt(mask.sum().item() / (math.pi * present)) / min(height, width)
        if present >= _MIN_PRESENCE * count and _MIN_RADIUS <= radius <= _MAX_RADIUS:
            objects.append(mask)
    return video, background, behind, objects


def _name_background(video: Tensor) -> tuple[str | None, Tensor]:
    """The background that most pixels are close to, and its rows [3, 1, H, 1].

    Distances are clamped, so that it does not matter how far away the other pixels are.
    """
    few = video[:, ::4, :, ::8]
    names, profiles = _profiles(video.shape[2])
    best = int(torch.stack([_length(few - rows).clamp_max(_FAMILIAR).mean() for rows in profiles]).argmin())
    familiar = (_length(few - profiles[best]) < _CONTRAST).float().mean()
    return names[best] if familiar >= _MIN_FAMILIAR else None, profiles[best]


@lru_cache(maxsize=4)
def _profiles(height: int) -> tuple[list[str], Tensor]:
    """Names [N] and rows [N, 3, 1, H, 1] of the backgrounds at each horizon and light."""
    choices = list(product(BACKGROUNDS, HORIZONS, LIGHTS))
    profiles = torch.stack([background_rows(Scene((), *choice), height) for choice in choices])
    return [name for name, _, _ in choices], profiles[:, :, None, :, None]


def _rows(video: Tensor, mask: Tensor) -> Tensor:
    """[3, 1, H, 1]: the median colour of each row outside of a mask [F, H, W], or of all of it if little is outside."""
    mask = mask & (mask.float().mean(dim=(0, 2)) < 1 - _MIN_OUTSIDE)[:, None]
    rows = video.masked_fill(mask, math.nan).transpose(1, 2).flatten(2).nanmedian(dim=2).values
    return rows[:, None, :, None]


def _steadied(video: Tensor, rows: Tensor) -> Tensor:
    """The video with the background of each frame as light as that of the others."""
    excess = (video - rows)[:, :, ::4, ::4].flatten(2).median(dim=2).values
    return video - excess[:, :, None, None]


def _behind(video: Tensor, rows: Tensor) -> Tensor:
    """[3, F, H, W]: the background of each pixel. Where a horizon is not quite straight, that of a row near by."""
    behind = rows.expand_as(video).clone()
    odd = _length(video - rows) > _CONTRAST
    shifts = torch.arange(-_reach(video), _reach(video) + 1)[:, None]
    choices = rows[:, 0, (odd.nonzero()[:, 1] + shifts).clamp(0, rows.shape[2] - 1), 0]  # [3, shifts, odd pixels]
    nearest = _length(video[:, odd][:, None] - choices).argmin(dim=0)
    behind[:, odd] = choices.gather(1, nearest.expand(3, 1, -1))[:, 0]
    return behind


def _reach(video: Tensor) -> int:
    """By how many pixels an edge may be off."""
    return max(1, min(video.shape[-2:]) // 48)


def _length(difference: Tensor) -> Tensor:
    """The distance of colours: [...] of differences [3, ...]."""
    return difference.square().sum(dim=0).sqrt()  # norm(dim=0) takes ten times as long


def _components(mask: Tensor) -> list[Tensor]:
    """The parts of a mask [F, H, W] that are connected in space and time, largest first, without specks.

    Every pixel starts with its own index as its label. The labels of two neighbours become the lower one of both; then
    each label is replaced by the label of the pixel with that index, so that long parts need few rounds. This goes on
    until nothing changes.
    """
    index = torch.full(mask.shape, -1)
    labels = torch.arange(int(mask.sum()))
    index[mask] = labels
    pairs = []
    for dim, step in ((0, 1), (0, 2), (1, 1), (2, 1)):  # two frames on, for objects that are gone for one
        size = mask.shape[dim] - step
        here, there = index.narrow(dim, 0, size), index.narrow(dim, step, size)
        both = (here >= 0) & (there >= 0)
        pairs.append(torch.stack([here[both], there[both]]))
    one, other = torch.cat(pairs, dim=1)
    while not torch.equal(labels[one], labels[other]):
        lower = torch.minimum(labels[one], labels[other])
        joined = labels.scatter_reduce(0, labels[one], lower, "amin").scatter_reduce(0, labels[other], lower, "amin")
        labels = joined[joined]
    names, counts = labels.unique(return_counts=True)
    order = counts.argsort(descending=True)
    index[mask] = labels
    return [index == name for name in names[order][counts[order] >= mask.shape[0] * MIN_FRAMES]]


def _spread(mask: Tensor, pixels: int) -> Tensor:
    """A mask [F, H, W] grown by some pixels in each frame."""
    return F.max_pool2d(mask.float()[:, None], 2 * pixels + 1, 1, pixels)[:, 0] > 0


def _colour(video: Tensor, behind: Tensor, mask: Tensor) -> Tensor:
    """[3]: the median colour of an object where its contrast is highest, away from edges and motion blur."""
    contrast = _length(video - behind)
    return video[:, mask & (contrast >= contrast[mask].quantile(_VIVID))].median(dim=1).values


def _alpha(video: Tensor, behind: Tensor, mask: Tensor, colour: Tensor) -> Tensor:
    """[F, H, W] in [0, 1]: how much of each pixel the object covers; soft edges give positions below a pixel."""
    towards = colour[:, None, None, None] - behind
    share = ((video - behind) * towards).sum(dim=0) / towards.square().sum(dim=0).clamp_min(_CONTRAST**2)
    return share.clamp(0.0, 1.0) * _spread(mask, _reach(mask))


def _track(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The frames the object is in [N], and its x, y and radius there [N, 3], in fractions of the shorter side."""
    height, width = alpha.shape[1:]
    unit = min(height, width)
    area = alpha.sum(dim=(1, 2))
    frames = (area > math.pi * (0.5 * _MIN_RADIUS * unit) ** 2).nonzero()[:, 0]
    x = (alpha.sum(dim=1) @ (torch.arange(width) + 0.5))[frames] / area[frames]
    y = (alpha.sum(dim=2) @ (torch.arange(height) + 0.5))[frames] / area[frames]
    return frames, torch.stack([x, y, (area[frames] / math.pi).sqrt()], dim=1) / unit


# --- Naming ------------------------------------------------------------------------------------------------------


def _name_colour(colour: Tensor) -> str | None:
    """The nearest colour; differences of hue and saturation count more than those of lightness."""
    difference = torch.tensor(list(COLOURS.values())) / 255.0 - colour
    grey = difference.mean(dim=1, keepdim=True)
    distance = (difference - grey + _GREY_WEIGHT * grey).norm(dim=1)
    return list(COLOURS)[int(distance.argmin())] if distance.min() <= _MAX_COLOUR_DISTANCE else None


def _patches(alpha: Tensor, track: Tensor) -> Tensor:
    """[N, P, P]: the objects of [N, H, W], resampled to the same position and size."""
    height, width = alpha.shape[1:]
    unit = min(height, width)
    x, y, radius = (track * unit).unbind(dim=1)
    affine = torch.zeros(len(track), 2, 3)
    affine[:, 0, 0], affine[:, 0, 2] = 2 * _PATCH_REACH * radius / width, 2 * x / width - 1
    affine[:, 1, 1], affine[:, 1, 2] = 2 * _PATCH_REACH * radius / height, 2 * y / height - 1
    grid = F.affine_grid(affine, [len(track), 1, _PATCH, _PATCH], align_corners=False)
    return F.grid_sample(alpha[:, None], grid, align_corners=False)[:, 0]


def _name_shape(alpha: Tensor, track: Tensor) -> str | None:
    """The shape most like the mean of all frames."""
    if not len(track):
        return None
    likeness = _outlines() @ _standardized(_patches(alpha, track).mean(dim=0))
    best = int(likeness.argmax())
    return SHAPES[best // len(_SOFTNESS)] if likeness[best] >= _MIN_LIKENESS else None


@lru_cache(maxsize=1)
def _outlines() -> Tensor:
    """[N, P * P]: patches of each shape at each softness, standardized."""
    outlines = []
    for shape in SHAPES:
        thing = Thing("white", shape, "standing still", "large", (0.5, 0.5, 0.5))
        video = render(Scene((thing,), "the night sky"), 1, 128, 128)
        behind = video[..., :1].expand_as(video)
        alpha = _alpha(video, behind, (video != behind).any(dim=0), video.amax(dim=(1, 2, 3)))
        patch = _patches(alpha, _track(alpha)[1])
        outlines += [_standardized(_blurred(patch, softness * _PATCH / 2 / _PATCH_REACH)) for softness in _SOFTNESS]
    return torch.stack(outlines)


def _blurred(patch: Tensor, sigma: float) -> Tensor:
    """[1, P, P] blurred by a Gaussian of `sigma` samples."""
    if not sigma:
        return patch
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    kernel = kernel / kernel.sum()
    rows = F.conv2d(patch[None], kernel[None, None, :, None], padding=(reach, 0))
    return F.conv2d(rows, kernel[None, None, None, :], padding=(0, reach))[0]


def _standardized(patch: Tensor) -> Tensor:
    return F.normalize(patch.flatten() - patch.mean(), dim=0)


# --- Motion ------------------------------------------------------------------------------------------------------


def _name_motion(frames: Tensor, track: Tensor) -> str | None:
    """The law that explains most of the variance of a track [N, 3] of x, y, radius; still if there is hardly any."""
    if len(frames) < MIN_FRAMES:
        return None
    x, y, radius = track.unbind(dim=1)
    moves = _centred(torch.stack([x, y, _GROWTH_WEIGHT * radius.log()]))
    variance = moves.square().sum() / len(frames)
    if variance < _STILL**2:
        return "standing still"
    best: tuple[float, str | None] = (_MIN_EXPLAINED * variance.item(), None)
    for backward, forward, courses in _laws(frames / FPS):
        course = _centred(courses).flatten(1).T  # [3 N, K]
        factors = torch.linalg.lstsq(course, moves.flatten()[:, None]).solution
        explained = (course @ factors).square().sum().item() / len(frames)
        best = max(best, (explained, forward if factors[0] > 0 else backward), key=lambda pair: pair[0])
    return best[1]


def _laws(seconds: Tensor) -> Iterator[tuple[str | None, str | None, Tensor]]:
    """Two names of a motion, for a negative and a positive first factor, and its courses [K, 3, N].

    The sum of K factors times courses is the x, y and log(radius) of a motion.
    """
    rest = torch.zeros_like(seconds)
    yield "moving left", "moving right", torch.stack([seconds, rest, rest])[None]
    yield "moving up", "moving down", torch.stack([rest, seconds, rest])[None]
    yield "shrinking", "growing", torch.stack([rest, rest, seconds])[None]
    for rate in _BOUNCES:
        yield "bouncing", None, torch.stack([rest, (math.pi * rate * seconds).sin().abs(), rest])[None]
    for rate in _TURNS:
        cos, sin = (2 * math.pi * rate * seconds).cos(), (2 * math.pi * rate * seconds).sin()
        courses = torch.stack([torch.stack([cos, sin, rest]), torch.stack([-sin, cos, rest])])
        yield "going in a circle", "going in a circle", courses


def _centred(courses: Tensor) -> Tensor:
    return courses - courses.mean(dim=-1, keepdim=True)
