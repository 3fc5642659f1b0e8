"""Noise schedule and step rules."""

from .noise_schedule import NoiseSchedule, Step, implied_v, predict_x0
from .samplers import DDIM, SAMPLERS, DPMSolverPP2MSDE, Sampler, check_finite, make_sampler, not_finite

__all__ = [
    "DDIM",
    "SAMPLERS",
    "DPMSolverPP2MSDE",
    "NoiseSchedule",
    "Sampler",
    "Step",
    "check_finite",
    "implied_v",
    "make_sampler",
    "not_finite",
    "predict_x0",
]
