"""The toy VAE and diffusers' with the same weights, shared by the tests of this folder."""

from __future__ import annotations

import pytest

from cogvideox_core.models.vae.autoencoder import AutoencoderCausal3D
from tests.support.checkpoints import toy_vae_config
from tests.support.vae_pair import Pair

KIND = "CogVideoX-5B"


@pytest.fixture(scope="session")
def pair() -> Pair:
    return Pair(toy_vae_config(KIND))


@pytest.fixture(scope="session")
def small_tiles() -> Pair:
    """A model whose published tile is 48 x 40 pixels: half of its training size."""
    return Pair(toy_vae_config(KIND, sample_height=96, sample_width=80))


@pytest.fixture(scope="session")
def vae(pair: Pair) -> AutoencoderCausal3D:
    return pair.ours
