"""What a decode and an encode take: known beforehand, and constant in the number of frames."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cogvideox_core import AutoencoderCausal3D, Tiling, VAEConfig, VideoSize, decode_memory, encode_memory
from cogvideox_core.models.vae import feature_maps
from cogvideox_core.models.vae.causal_conv import Carry
from cogvideox_core.models.vae.memory_plan import Plan, make_plan
from tests.support.checkpoints import random_vae, toy_vae_config
from tests.support.live_memory import LiveMemory

OFFICIAL = VAEConfig()
CONFIGS = {
    "official": OFFICIAL,
    "narrow": replace(OFFICIAL, block_out_channels=(32, 32, 64, 64), layers_per_block=1),
    "three levels": replace(OFFICIAL, block_out_channels=(64, 128, 256), layers_per_block=2),
}
CPU, META = torch.device("cpu"), torch.device("meta")  # the latter takes bands as a GPU does
MOST = 1.25  # estimate over what was counted


def vae_on_meta(config: VAEConfig, dtype: torch.dtype) -> AutoencoderCausal3D:
    return AutoencoderCausal3D(config, dtype=dtype, device="meta").requires_grad_(False)


def latents_of(size: VideoSize, config: VAEConfig, dtype: torch.dtype) -> Tensor:
    ratio = config.spatial_compression_ratio
    shape = (1, 16, -(-size.num_frames // 4), size.height // ratio, size.width // ratio)
    return torch.empty(shape, dtype=dtype, device="meta")


def counted(work: Callable[[], object]) -> int:
    with torch.no_grad(), LiveMemory() as memory:
        work()
    return memory.peak


def decode_peak(config: VAEConfig, size: VideoSize, dtype: torch.dtype) -> int:
    vae, z = vae_on_meta(config, dtype), latents_of(size, config, dtype)

    def decode() -> None:
        for _ in vae.decode_stream(z):
            pass

    return counted(decode)


def encode_peak(config: VAEConfig, size: VideoSize, dtype: torch.dtype) -> int:
    vae = vae_on_meta(config, dtype)
    video = torch.empty(1, 3, size.num_frames, size.height, size.width, dtype=dtype, device="meta")
    return counted(lambda: vae.encode(video))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bands_of", ["ON_CPU", "ON_GPU"])
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("official", VideoSize(64, 96, 1)),
        ("official", VideoSize(64, 96, 8)),
        ("official", VideoSize(64, 96, 9)),
        ("official", VideoSize(128, 96, 16)),
        ("official", VideoSize(240, 368, 17)),
        ("narrow", VideoSize(64, 96, 17)),
        ("narrow", VideoSize(480, 720, 17)),
        ("three levels", VideoSize(256, 320, 17)),
    ],
)
def test_memory_is_known_beforehand(
    name: str, size: VideoSize, dtype: torch.dtype, bands_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIGS[name]
    monkeypatch.setattr(feature_maps, "ON_GPU", getattr(feature_maps, bands_of))
    for estimate, peak in ((decode_memory, decode_peak), (encode_memory, encode_peak)):
        taken = peak(config, size, dtype)
        assert taken <= estimate(config, size, dtype, META) <= MOST * taken, estimate.__name__


@pytest.mark.parametrize("size", [VideoSize(32, 48, 9), VideoSize(64, 96, 9)])
def test_memory_is_known_on_a_cpu(size: VideoSize) -> None:
    """With real numbers, at full width."""
    torch.manual_seed(0)
    config, dtype = replace(OFFICIAL, layers_per_block=1), torch.float32
    vae = AutoencoderCausal3D(config).eval().requires_grad_(False)
    z = torch.randn(1, 16, -(-size.num_frames // 4), size.height // 8, size.width // 8)
    taken = counted(lambda: list(vae.decode_stream(z)))
    assert taken <= decode_memory(config, size, dtype, CPU) <= MOST * taken
    video = torch.rand(1, 3, size.num_frames, size.height, size.width)
    taken = counted(lambda: vae.encode(video))
    assert taken <= encode_memory(config, size, dtype, CPU) <= MOST * taken


@pytest.mark.parametrize("peak", [decode_peak, encode_peak])
def test_memory_does_not_grow_with_frames(peak: Callable[..., int]) -> None:
    short, long = (peak(CONFIGS["narrow"], VideoSize(64, 64, frames), torch.float32) for frames in (17, 57))
    moments = 2 * 4 * 32 * (57 - 17) // 4 * 8 * 8  # of what was encoded, twice while it is put together
    assert long - short <= (moments if peak is encode_peak else 0)


@pytest.mark.parametrize(("height", "width", "gib"), [(480, 720, 4.8), (768, 1360, 13.9)])
def test_a_decode_of_a_published_size_takes(height: int, width: int, gib: float) -> None:
    """In bfloat16; native ComfyUI asks for 88 GiB at 480 x 720."""
    assert decode_memory(OFFICIAL, VideoSize(height, width, 49), torch.bfloat16, META) < gib * 2**30


def test_what_is_carried_need_not_count() -> None:
    config, size = CONFIGS["narrow"], VideoSize(96, 160, 17)
    vae, z = vae_on_meta(config, torch.float32), latents_of(size, CONFIGS["narrow"], torch.float32)
    carry = Carry()
    vae.decoder(z[:, :, :3], carry)
    carried = sum(frames.nbytes for frames in carry.values())
    rest = decode_peak(config, size, torch.float32) - carried
    assert rest <= decode_memory(config, size, torch.float32, META, keeps_carry=False) <= 1.3 * rest


@pytest.fixture(scope="module")
def vae() -> AutoencoderCausal3D:
    published = toy_vae_config("CogVideoX-5B")
    names = {"block_out_channels", "layers_per_block", "norm_num_groups", "sample_height", "sample_width"}
    values = {name: value for name, value in published.items() if name in names}
    config = VAEConfig(**values | {"block_out_channels": tuple(values["block_out_channels"])})
    ours = AutoencoderCausal3D(config).eval().requires_grad_(False)
    ours.load_state_dict(random_vae(published, seed=0).state_dict())
    return ours


@pytest.mark.parametrize("frames", [1, 5, 8, 17, 24])
@pytest.mark.parametrize("length", [1, 3, 8, 40])
def test_a_video_in_pieces_is_encoded_as_a_whole_one(vae: AutoencoderCausal3D, frames: int, length: int) -> None:
    video = torch.rand(1, 3, frames, 32, 48, generator=torch.Generator().manual_seed(frames)) * 2 - 1
    pieces = vae.encode_stream(video.split(length, dim=2), frames)
    assert torch.equal(pieces.mean, vae.encode(video).mean)


def test_pieces_are_taken_when_they_are_needed(vae: AutoencoderCausal3D) -> None:
    taken, seen = [], []
    hook = vae.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(taken)))

    def pieces():
        for _ in range(25):
            taken.append(1)
            yield torch.zeros(1, 3, 1, 16, 16)

    vae.encode_stream(pieces(), 25)
    hook.remove()
    assert seen == [9, 17, 25]


@pytest.mark.parametrize(("num_frames", "message"), [(10, "end before its num_frames=10"), (8, "go on after")])
def test_another_number_of_frames_than_said_is_refused(vae: AutoencoderCausal3D, num_frames: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vae.encode_stream([torch.zeros(1, 3, 9, 16, 16)], num_frames)


def test_what_is_carried_may_wait_elsewhere(vae: AutoencoderCausal3D) -> None:
    z = torch.randn(1, 16, 5, 4, 6)
    assert torch.equal(torch.cat(list(vae.decode_stream(z, carry_device=CPU)), dim=2), vae.decode(z))
    elsewhere = vae_on_meta(vae.config, torch.float32).decode_stream(z.to("meta"), carry_device=CPU)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta"):  # to the CPU, which is where it goes
        next(elsewhere)


@pytest.mark.gpu
def test_what_a_gpu_keeps_in_main_memory_changes_nothing(
    vae: AutoencoderCausal3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_maps, "ON_GPU", feature_maps.BandSize(1, 1 << 14))  # many bands
    device = torch.device("cuda")
    on_gpu = copy.deepcopy(vae).to(device)
    for _ in range(3):
        z = torch.randn(1, 16, 7, 10, 14, device=device)
        assert torch.equal(on_gpu.decode(z, carry_device=CPU), on_gpu.decode(z))
        video = torch.rand(1, 3, 25, 80, 112, device=device)
        assert torch.equal(on_gpu.encode(video, carry_device=CPU).mean, on_gpu.encode(video).mean)


class TestPlan:
    """What is done depends on what is free."""

    size = VideoSize(480, 720, 49)
    gpu = torch.empty(0, dtype=torch.bfloat16, device="meta")  # not the CPU
    all = decode_memory(OFFICIAL, size, torch.bfloat16, META)
    less = decode_memory(OFFICIAL, size, torch.bfloat16, META, keeps_carry=False)

    def plan(self, choice: str, free: int | None, weight: Tensor | None = None, size: VideoSize | None = None) -> Plan:
        weight = self.gpu if weight is None else weight
        return make_plan("decode", choice, OFFICIAL, size or self.size, weight, free=free)  # type: ignore[arg-type]

    def test_exact_as_long_as_it_fits(self) -> None:
        for choice in ("auto", "exact"):
            assert self.plan(choice, self.all) == self.plan(choice, None) == Plan()
            assert self.plan(choice, self.all - 1) == self.plan(choice, self.less) == Plan(carry_device=CPU)
        assert self.plan("exact", self.less - 1) == Plan(carry_device=CPU)

    def test_blended_where_it_does_not_and_a_sentence_says_so(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, logger="cogvideox"):
            assert self.plan("auto", self.less - 1) == Plan(Tiling())
        (record,) = caplog.records
        assert "720x480, 49 frames" in record.getMessage()
        assert "blended" in record.getMessage()

    def test_a_processor_has_nowhere_else_to_put_what_is_carried(self) -> None:
        weight = torch.empty(0, dtype=torch.bfloat16)
        needed = decode_memory(OFFICIAL, self.size, torch.bfloat16, CPU)
        assert self.plan("auto", needed, weight) == Plan()
        assert self.plan("auto", needed - 1, weight) == Plan(Tiling())
        assert self.plan("exact", 1, weight) == Plan()

    def test_tiles_help_only_a_picture_that_is_larger(self) -> None:
        assert self.plan("auto", 1, size=VideoSize(240, 360, 49)) == Plan(carry_device=CPU)

    def test_blended_is_blended(self) -> None:
        assert self.plan("blended", None) == Plan(Tiling())


def test_tiles_of_any_size_are_whole_latents() -> None:
    assert Tiling.of(OFFICIAL) == Tiling()
    for height, width in ((64, 64), (100, 1000), (8, 16)):
        tiling = Tiling.of(OFFICIAL, height, width)
        assert (tiling.tile_height, tiling.tile_width) == (max(height // 8, 2) * 8, max(width // 8, 2) * 8)
        for side, overlap in ((tiling.tile_height, tiling.overlap_height), (tiling.tile_width, tiling.overlap_width)):
            assert 0 < overlap <= 0.5
            assert side * overlap % 8 == pytest.approx(0)
