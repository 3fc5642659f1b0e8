"""The causal VAE against diffusers: encoding, decoding and streaming; float32, random weights."""

from __future__ import annotations

import pytest
import torch

from cogvideox_core.models.vae.autoencoder import AutoencoderCausal3D
from tests.support.checkpoints import toy_vae_config
from tests.support.parity import assert_parity
from tests.support.vae_pair import BOUND, Pair, assert_encodes_alike, latent_frames, latents, video

FRAMES = (1, 5, 8, 9, 13, 16, 17, 25, 49)
KIND = "CogVideoX-5B"


@pytest.mark.parametrize("frames", FRAMES)
def test_encoding_equals_the_reference(pair: Pair, frames: int) -> None:
    pixels = video(frames)
    assert pair.ours.encode(pixels).mean.shape == (1, 16, latent_frames(frames), 4, 6)
    assert_encodes_alike(pair, pixels, f"vae encode {frames} frames")


@pytest.mark.parametrize("frames", FRAMES)
def test_decoding_equals_the_reference(pair: Pair, frames: int) -> None:
    count = latent_frames(frames)
    z = latents(count)
    ours = pair.ours.decode(z)
    assert ours.shape == (1, 3, 4 * count if count % 2 == 0 else 4 * (count - 1) + 1, 32, 48)
    assert_parity(ours, pair.reference.decode(z).sample, BOUND, f"vae decode {count} latents")


@pytest.mark.parametrize("batch", [2, 3])
def test_a_batch_equals_the_reference(pair: Pair, batch: int) -> None:
    assert_encodes_alike(pair, video(9, batch=batch), f"vae encode batch {batch}")
    z = latents(3, batch=batch)
    assert_parity(pair.ours.decode(z), pair.reference.decode(z).sample, BOUND, f"vae decode batch {batch}")


def test_more_layers_and_an_official_latent_clamp_equal_the_reference() -> None:
    deep = Pair(toy_vae_config(KIND, layers_per_block=3))
    loud = deep.reference.encoder.conv_out.conv.bias
    with torch.no_grad():
        loud[16:24] -= 60.0  # below the floor of the log-variance
        loud[24:] += 40.0  # above its ceiling
    deep.ours.load_state_dict(deep.reference.state_dict(), strict=True)
    posterior = deep.ours.encode(video(9))
    assert (posterior.logvar.min(), posterior.logvar.max()) == (-30.0, 20.0)
    assert_encodes_alike(deep, video(9), "vae encode deep, clamped")
    assert_parity(deep.ours.decode(latents(5)), deep.reference.decode(latents(5)).sample, BOUND, "vae decode deep")


def test_quiet_activations_equal_the_reference() -> None:
    """Where activations are hardly larger than the norms' epsilon, 1e-6 everywhere, it counts."""
    quiet = Pair(toy_vae_config(KIND))
    for name, weight in quiet.reference.named_parameters():
        if "norm" not in name:
            weight.mul_(0.002)
    quiet.ours.load_state_dict(quiet.reference.state_dict(), strict=True)
    assert_encodes_alike(quiet, video(9), "vae encode quiet")
    assert_parity(quiet.ours.decode(latents(3)), quiet.reference.decode(latents(3)).sample, BOUND, "vae decode quiet")


def test_half_a_picture_of_one_colour_equals_the_reference(pair: Pair) -> None:
    """Where the same value is added up again and again, rounding does not average out."""
    pixels = video(17, 64, 96)
    pixels[..., 48:] = -1
    assert_encodes_alike(pair, pixels, "vae encode half of one colour")
    z = latents(5, 8, 12)
    z[..., 6:] = 1.5
    assert_parity(pair.ours.decode(z), pair.reference.decode(z).sample, BOUND, "vae decode half of one colour")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 13])
def test_a_stream_gives_the_numbers_of_the_reference_in_official_chunks(pair: Pair, count: int) -> None:
    z = latents(count)
    chunks = list(pair.ours.decode_stream(z))
    first = count if count < 4 else 2 + count % 2
    latents_per_chunk = [first] + [2] * ((count - first) // 2)
    assert [chunk.shape[2] for chunk in chunks] == [4 * n if n % 2 == 0 else 4 * (n - 1) + 1 for n in latents_per_chunk]
    assert_parity(torch.cat(chunks, dim=2), pair.reference.decode(z).sample, BOUND, f"vae stream of {count}")


def test_a_frame_depends_on_no_later_one_and_stays_as_it_was_handed_out(pair: Pair) -> None:
    z = latents(7)
    handed_out = [(chunk, chunk.clone()) for chunk in pair.ours.decode_stream(z)]
    for chunk, then in handed_out:
        assert torch.equal(chunk, then)
    for count in (3, 5):
        frames = 4 * (count - 1) + 1
        until = torch.cat([chunk for chunk, _ in handed_out], dim=2)[:, :, :frames]
        assert torch.equal(pair.ours.decode(z[:, :, :count]), until)


def test_a_stream_is_lazy_and_leaves_nothing_behind(pair: Pair) -> None:
    z = latents(5)
    expected = pair.ours.decode(z)
    abandoned = pair.ours.decode_stream(z)
    next(abandoned)
    assert torch.equal(pair.ours.decode(z), expected)
    interleaved = [torch.cat(both, dim=1) for both in zip(*(pair.ours.decode_stream(z) for _ in "ab"), strict=True)]
    assert torch.equal(torch.cat(interleaved, dim=2), torch.cat([expected, expected], dim=1))


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 3, 5, 36, 48), "48 x 36"), ((1, 4, 5, 32, 48), "takes"), ((3, 5, 32, 48), "takes")]
)
def test_a_video_that_does_not_fit_is_refused(pair: Pair, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair.ours.encode(torch.zeros(shape))


def test_latents_with_another_number_of_channels_are_refused(pair: Pair) -> None:
    with pytest.raises(ValueError, match="16"):
        pair.ours.decode(torch.zeros(1, 4, 2, 4, 6))


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
