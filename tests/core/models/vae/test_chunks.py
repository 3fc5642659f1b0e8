"""How a clip is cut into chunks."""

from __future__ import annotations

import pytest

from cogvideox_core.models.vae.chunks import FRAMES_PER_CHUNK, LATENTS_PER_CHUNK, frame_chunks


@pytest.mark.parametrize(
    ("count", "size", "lengths"),
    [(13, 2, [3, 2, 2, 2, 2, 2]), (12, 2, [2] * 6), (1, 2, [1]), (49, 8, [9, 8, 8, 8, 8, 8]), (7, 8, [7])],
)
def test_the_remainder_is_joined_to_the_first_chunk(count: int, size: int, lengths: list[int]) -> None:
    chunks = frame_chunks(count, size)
    assert [chunk.stop - chunk.start for chunk in chunks] == lengths
    assert [index for chunk in chunks for index in range(count)[chunk]] == list(range(count))


def test_chunks_of_frames_and_latents_belong_together() -> None:
    for latents in range(1, 40):
        frames = 4 * (latents - 1) + 1
        in_frames, in_latents = frame_chunks(frames, FRAMES_PER_CHUNK), frame_chunks(latents, LATENTS_PER_CHUNK)
        if latents % 2:  # an even number of latents is of no video, and decodes to 4 frames each
            assert len(in_frames) == len(in_latents)
