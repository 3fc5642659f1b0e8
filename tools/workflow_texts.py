"""What the canvas workflows say and how they are laid out; what they run is in `workflows/api/`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from cogvideox_core.models.variants import VARIANTS, Variant
from tests.support.workflow_files import Download, downloads
from tools.workflow_layout import NOTE, PREVIEW_ROOM, Box, Boxes, Group, Point, column, row

BLUE, GREEN, GREY, PURPLE, BROWN = "#3f789e", "#48754a", "#666666", "#6d4f8a", "#9a6b3c"


def setup(*on_the_model: str) -> Boxes:
    """Loaders and prompts, with what is put on the model under its loader."""
    return column(
        Group("Models", BLUE, column("model", *on_the_model, "vae", "text_encoder")),
        Group("Prompts", GREEN, column("positive", "negative")),
    )


SETUP = setup()
SAMPLING = Group("Sampling", GREY, column("latent", "sampler"), room=PREVIEW_ROOM)
RESULT = Group("Video", PURPLE, column("frames", "video"))


def from_inputs(title: str, inputs: Box) -> Boxes:
    """A workflow that starts from images: the note, below it what makes the images, then all the rest."""
    return row(column(NOTE, Group(title, BROWN, inputs)), SETUP, SAMPLING, RESULT)


MODEL_FOLDERS = (
    "### With the official models\n\nThe demo models know a few coloured shapes, backgrounds and motions. For real "
    "videos, download the **whole folder** of a model into *models/diffusers*, press **R**, choose it in all three "
    "loaders, and set 50 **steps**, 6 **cfg** and:"
)


class Change(NamedTuple):
    """Another value for an input of a node, by its key in the API file."""

    key: str
    name: str
    value: Any


@dataclass(frozen=True)
class Workflow:
    """A canvas workflow: its title, what its note says, and where its nodes are.

    `left_half` is a change of one input: the thumbnail's left half shows a run with it, its right half one without.
    """

    title: str
    task: str
    about: str
    layout: Box
    note_size: Point
    more: str = ""
    left_half: Change | None = None

    @property
    def note(self) -> str:
        """Markdown: what the graph does, then which files it needs, or what to set for the official models."""
        if needed := downloads(self.title):
            return "\n\n".join(filter(None, [self.about, file_table(needed), self.more]))
        variants = [variant for variant in VARIANTS.values() if variant.task == self.task]
        return "\n\n".join(filter(None, [self.about, MODEL_FOLDERS, settings(variants), self.more]))


def file_table(needed: list[Download]) -> str:
    """Where the files of a workflow come from and where they go."""
    lines = [
        "### Files",
        "",
        "ComfyUI names what is missing and offers to download it. By hand:",
        "",
        "| file | folder in *models* | GB |",
        "|---|---|---|",
    ]
    lines += [f"| [{file.name}]({file.url}) | {file.directory} | {file.gigabytes:g} |" for file in needed]
    return "\n".join(lines)


def settings(variants: list[Variant]) -> str:
    """A table of what to set for these models."""
    lines = ["| model | width, height | length | fps | sampler | dynamic_cfg |", "|---|---|---|---|---|---|"]
    for variant in variants:
        use = variant.defaults
        sampler = {"ddim": "ddim", "dpm": "dpm++ 2m sde"}[use.sampler]
        lines.append(
            f"| [{variant.source.split('/')[1]}](https://huggingface.co/{variant.source}) | {use.width}, {use.height} "
            f"| {use.num_frames} | {use.fps} | {sampler} | {'published' if use.use_dynamic_cfg else 'off'} |"
        )
    return "\n".join(lines)


WORKFLOWS = [
    Workflow(
        title="Text to Video",
        task="text-to-video",
        about=(
            "Makes a video from a prompt. **Run** works at once: a small demo model comes with the nodes, for 96 × 96 "
            "pixels and 17 frames at 8 frames a second. The mp4 is saved in *output/CogVideoX*. It carries this "
            "workflow: drop it on the canvas to get the workflow back."
        ),
        more="They understand long English descriptions best: what is seen, how it moves, light, camera.",
        layout=row(NOTE, SETUP, SAMPLING, RESULT),
        note_size=(480, 360),
    ),
    Workflow(
        title="Image to Video",
        task="image-to-video",
        about=(
            "Makes a video that starts with a given image. **Run** works at once: a small demo model comes with the "
            "nodes, for 96 × 96 pixels and 17 frames at 8 frames a second, and the image is drawn by nodes.\n\n"
            "**Your own image:** put a **Load Image** node in place of the group *Start image* and connect it to "
            "*start_image*. Where its shape differs from width and height, *image_fit* decides: crop keeps the middle. "
            "The prompt should describe the image and what happens next."
        ),
        more=(
            "CogVideoX-5b-I2V makes this one size only. CogVideoX1.5-5B-I2V also makes others: the short side 768, the "
            "long one up to 1360, in multiples of 16."
        ),
        layout=from_inputs(
            "Start image (or Load Image)", row(column("background", "square"), column("start_image", "preview"))
        ),
        note_size=(590, 380),
    ),
    Workflow(
        title="First and Last Frame",
        task="image-to-video",
        about=(
            "Makes a video between two given images. **Run** works at once: a small demo model comes with the nodes, "
            "for 96 × 96 pixels and 17 frames at 8 frames a second, and the images are drawn by nodes.\n\n"
            "**Your own images:** put two **Load Image** nodes in place of the group *First and last image* and "
            "connect them to *start_image* and *end_image*. Where their shape differs from width and height, "
            "*image_fit* decides: crop keeps the middle. The prompt should describe the way from one to the other."
        ),
        more=(
            "The official models were trained on first images only. For a given last image there is "
            "[CogvideoX-Interpolation](https://huggingface.co/feizhengcong/CogvideoX-Interpolation), made from "
            "CogVideoX-5b-I2V: same settings."
        ),
        layout=from_inputs(
            "First and last image (or Load Image)",
            column(row("background", "square"), row("start_image", "end_image"), row("start_preview", "end_preview")),
        ),
        note_size=(590, 380),
    ),
    Workflow(
        title="Video to Video",
        task="text-to-video",
        about=(
            "Makes a new video out of another, led by a prompt. **Run** works at once: a small demo model comes with "
            "the nodes, for 96 × 96 pixels and 17 frames at 8 frames a second, and the source is drawn by nodes.\n\n"
            "**denoise** in the sampler says how much is changed: 0.8 is usual, less stays closer to the source.\n\n"
            "**Your own video:** put **Load Video** and **Get Video Components** in place of the group *Source video*, "
            "and connect *images* to *pixels*. The frames must have the size and length below: **Upscale Image** "
            "(it also scales down) and **Get Image from Batch** see to it."
        ),
        layout=from_inputs(
            "Source video (or Load Video)", row(column("background", "path"), column("source", "source_video"))
        ),
        note_size=(630, 400),
    ),
    Workflow(
        title="LoRA",
        task="text-to-video",
        about=(
            "Puts a LoRA on the model: a small file that teaches it something, here to show everything as an old film. "
            "**Run** works at once: the demo model and this LoRA come with the nodes. It was trained in eight minutes, "
            "on the demo's own videos in brown (*docs/demo-models.md* says how), and loses things that are as bright "
            "as what is behind them.\n\n"
            "**strength** says how much of it: 0 is none, 1 as trained, negative the opposite. A change of it loads "
            "nothing again.\n\n"
            "**Your own LoRA:** put the file into *models/loras*, press **R** and choose it, with the model it was "
            "trained for. For more of them, put one **CogVideoX Load LoRA** behind the other. What it says under "
            "*report* is how many keys of the file matched."
        ),
        layout=row(NOTE, setup("lora"), SAMPLING, RESULT),
        note_size=(480, 470),
        left_half=Change("lora", "strength", 0.0),
    ),
    Workflow(
        title="INT8",
        task="text-to-video",
        about=(
            "Makes the model and its text encoder smaller when they are loaded: the large matrices in 8-bit integers "
            "take half the memory of 16 bits. **Run** works at once: a small demo model comes with the nodes, for "
            "96 × 96 pixels and 17 frames at 8 frames a second.\n\n"
            "The picture is close to that of the whole model, but not the same. LoRAs go between **CogVideoX Load "
            "Model** and **CogVideoX Quantize INT8**, or with *int8* behind it. *llm.int8* is bitsandbytes' and needs "
            "that package. What is in 8 or 4 bits already (fp8, GGUF) stays as it is: leave the node out there.\n\n"
            "ComfyUI's **Model Save** behind it writes the small model as a file."
        ),
        layout=row(NOTE, setup("quantized"), SAMPLING, RESULT),
        note_size=(480, 470),
    ),
    Workflow(
        title="Tiled Big Frame",
        task="text-to-video",
        about=(
            "Encodes and decodes a big picture in tiles. The step between pixels and latent takes the most memory, "
            "and *blended* tiles need no more than one tile takes.\n\n"
            "**Run** works at once: a small demo model comes with the nodes. It makes 96 × 96 pixels only, so its "
            "video is enlarged here to 192 × 192, which goes into a latent and back in tiles of 96 × 96. Models that "
            "make big frames themselves need only the last **CogVideoX VAE Decode**; the group *Big frame* is what "
            "video to video does with a big source.\n\n"
            "**tiling**: *exact* is the whole picture, in memory that does not grow with the number of frames; "
            "*blended* takes overlapping tiles, as diffusers does, of *tile_width* × *tile_height* pixels, and comes "
            "close to it; *auto* is exact where that fits, else blended, and the log says so."
        ),
        layout=row(NOTE, SETUP, SAMPLING, Group("Big frame", BROWN, column("small", "enlarged", "big")), RESULT),
        note_size=(480, 500),
    ),
    Workflow(
        title="Faster",
        task="text-to-video",
        about=(
            "Computes fewer steps: **CogVideoX Speed** predicts a step from the ones before where its estimated error "
            "stays within a budget. **Run** works at once: a small demo model comes with the nodes, for 96 × 96 pixels "
            "and 17 frames at 8 frames a second.\n\n"
            "**cache_budget** 0.03 computes about a third of these 50 steps; the video looks the same, and is not: it "
            "is a trade, so nothing of it is on unless you put the node in. 0.01 is nearer to the exact video, 0.1 "
            "further from it. *docs/approximations.md* has what each value saved and cost.\n\n"
            "It bears *ddim* better than *dpm++ 2m sde*, which adds noise in every step."
        ),
        layout=row(NOTE, setup("speed"), SAMPLING, RESULT),
        note_size=(480, 440),
    ),
    Workflow(
        title="Text to Video CogVideoX1.5-5B",
        task="text-to-video",
        about=(
            "Makes a video of 5 seconds from a prompt, 1360 × 768 pixels at 16 frames a second, with the weights of "
            "[CogVideoX1.5-5B](https://huggingface.co/zai-org/CogVideoX1.5-5B) in one file each."
        ),
        more=(
            "Prompts: long English descriptions of what is seen, how it moves, light, camera. Too large for the card? "
            "Take a smaller **width** and **height** first, then **length**."
        ),
        layout=row(NOTE, SETUP, SAMPLING, RESULT),
        note_size=(560, 330),
    ),
    Workflow(
        title="Image to Video CogVideoX1.5-5B-I2V",
        task="image-to-video",
        about=(
            "Makes a video of 5 seconds that starts with your image, 1360 × 768 pixels at 16 frames a second, with the "
            "weights of [CogVideoX1.5-5B-I2V](https://huggingface.co/zai-org/CogVideoX1.5-5B-I2V) in one file each. "
            "Where the image has another shape, *image_fit* decides: crop keeps the middle."
        ),
        more=(
            "The prompt should describe the image and what happens next. Other sizes work too: the short side 768, the "
            "long one up to 1360, in multiples of 16."
        ),
        layout=from_inputs("Image", column("start_image")),
        note_size=(560, 350),
    ),
    Workflow(
        title="First and Last Frame CogVideoX-Interpolation",
        task="image-to-video",
        about=(
            "Makes a video of 6 seconds from one image to another, 720 × 480 pixels at 8 frames a second, with "
            "[CogvideoX-Interpolation](https://huggingface.co/feizhengcong/CogvideoX-Interpolation), which was made "
            "from CogVideoX-5b-I2V, in 4 bits. Where an image has another shape, *image_fit* decides: crop keeps the "
            "middle."
        ),
        more="The prompt should describe the way from one image to the other.",
        layout=from_inputs("First and last image", column("start_image", "end_image")),
        note_size=(600, 340),
    ),
    Workflow(
        title="Video to Video CogVideoX1.5-5B",
        task="text-to-video",
        about=(
            "Makes a new video of 5 seconds out of another, led by a prompt, 1360 × 768 pixels at 16 frames a second, "
            "with the weights of [CogVideoX1.5-5B](https://huggingface.co/zai-org/CogVideoX1.5-5B) in one file each. "
            "The source here is drawn, so that there is one: a disc that becomes a lantern.\n\n"
            "**denoise** in the sampler says how much is changed: 0.8 is usual, less stays closer to the source.\n\n"
            "**Your own video:** put **Load Video** and **Get Video Components** in place of the group *Source video*, "
            "and connect *images* to *pixels*. **Upscale Image** (it also scales down) and **Get Image from Batch** "
            "bring it to this size and length."
        ),
        layout=from_inputs(
            "Source video (or Load Video)", row(column("background", "path"), column("source", "source_video"))
        ),
        note_size=(630, 400),
    ),
    Workflow(
        title="LoRA CogVideoX-5B-I2V",
        task="image-to-video",
        about=(
            "Puts a LoRA on the image-to-video model: DimensionX's, which makes the camera orbit to the left around "
            "your image. 720 × 480 pixels, 6 seconds at 8 frames a second, with "
            "[CogVideoX-5b-I2V](https://huggingface.co/zai-org/CogVideoX-5b-I2V) in 4 bits: LoRAs work on "
            "quantized weights, too."
        ),
        more=(
            "**divide_by_rank** is on since this file does not say its scale, and was trained with 1/rank. Leave it "
            "off for files that say it, as most do. **strength**: 1 as trained."
        ),
        layout=row(column(NOTE, Group("Image", BROWN, column("start_image"))), setup("lora"), SAMPLING, RESULT),
        note_size=(560, 400),
    ),
    Workflow(
        title="INT8 CogVideoX1.5-5B",
        task="text-to-video",
        about=(
            "Makes a video of 5 seconds from a prompt, 1360 × 768 pixels at 16 frames a second, with "
            "[CogVideoX1.5-5B](https://huggingface.co/zai-org/CogVideoX1.5-5B) and its text encoder in 8-bit integers: "
            "half the memory of the files, and a picture that is close to theirs."
        ),
        more=(
            "Still too large for the card? ComfyUI streams what does not fit. Or take a smaller **width** and "
            "**height** first, then **length**."
        ),
        layout=row(NOTE, setup("quantized"), SAMPLING, RESULT),
        note_size=(560, 350),
    ),
    Workflow(
        title="Tiled Big Frame CogVideoX1.5-5B",
        task="text-to-video",
        about=(
            "Makes a video of 5 seconds from a prompt, 1360 × 768 pixels at 16 frames a second, with the weights of "
            "[CogVideoX1.5-5B](https://huggingface.co/zai-org/CogVideoX1.5-5B), and decodes it in *blended* tiles: the "
            "decoder never needs more memory than one tile takes."
        ),
        more=(
            "**tile_width** and **tile_height** 0 are 360 × 240 pixels. Larger ones have fewer seams to blend, smaller "
            "ones take less memory. With *exact* or *auto* in place of *blended* there are no seams at all."
        ),
        layout=row(NOTE, SETUP, SAMPLING, RESULT),
        note_size=(560, 350),
    ),
    Workflow(
        title="Faster CogVideoX1.5-5B",
        task="text-to-video",
        about=(
            "Makes a video of 5 seconds from a prompt, 1360 × 768 pixels at 16 frames a second, with the weights of "
            "[CogVideoX1.5-5B](https://huggingface.co/zai-org/CogVideoX1.5-5B), and predicts a part of the steps "
            "instead of computing them."
        ),
        more=(
            "**cache_budget** 0 computes every step. The more it is, the fewer are computed, and the further the video "
            "is from the exact one; the log says how many were. *docs/approximations.md* says what was measured."
        ),
        layout=row(NOTE, setup("speed"), SAMPLING, RESULT),
        note_size=(560, 350),
    ),
]
