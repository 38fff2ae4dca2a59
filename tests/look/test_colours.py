from __future__ import annotations

import numpy as np
import pytest

from regard.look.canvas import colour_map
from regard.look.colours import colour, ramp, signed_ramp


def linear(colours: np.ndarray) -> np.ndarray:
    share = colours / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def oklab(light: np.ndarray) -> np.ndarray:
    to_cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.6806995, 0.10739696],
        [0.08830246, 0.28171884, 0.6299787],
    ]
    to_lab = [
        [0.21045426, 0.7936178, -0.00407205],
        [1.9779985, -2.4285922, 0.45059371],
        [0.02590404, 0.78277177, -0.80867577],
    ]
    return np.cbrt(light @ np.array(to_cones).T) @ np.array(to_lab).T


def test_the_ramp_falls_evenly_from_paper_to_ink() -> None:
    lab = oklab(linear(np.array(ramp(), dtype=float)))
    assert lab[0, 0] > 0.97
    assert lab[-1, 0] < 0.25
    # Over eight steps at a time: single ones are as small as the rounding to 8 bits.
    lightness = lab[::8, 0]
    assert (np.diff(lightness) < 0).all()
    steps = np.linalg.norm(np.diff(lab[::8], axis=0), axis=1)
    assert steps.max() / steps.min() < 1.25


def test_the_ramp_can_be_told_apart_without_colour_vision() -> None:
    # Machado, Oliveira and Fernandes 2009, severity 1: deuteranopia, protanopia, tritanopia.
    for kind in (
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ):
        seen = np.clip(linear(np.array(ramp(), dtype=float)) @ np.array(kind).T, 0, 1)
        assert (np.diff(oklab(seen)[::8, 0]) < 0).all()


def test_a_share_is_a_place_on_the_ramp() -> None:
    assert (colour(-1), colour(0), colour(float("nan"))) == (ramp()[0],) * 3
    assert (colour(1), colour(7)) == (ramp()[255],) * 2
    assert colour(0.5) == ramp()[128]


def test_matplotlib_draws_with_the_same_colours() -> None:
    drawn = colour_map()(np.arange(256))[:, :3] * 255
    assert np.abs(drawn - np.array(ramp())).max() < 1e-6


@pytest.mark.parametrize("dark", [False, True])
def test_the_signed_ramp_is_even_and_as_light_on_both_sides(dark: bool) -> None:
    lab = oklab(linear(np.array(signed_ramp(dark=dark), dtype=float)))
    lightness = lab[:, 0] if not dark else -lab[:, 0]
    assert np.abs(lab[:, 0] - lab[::-1, 0]).max() < 0.006
    assert (np.diff(lightness[:128:8]) > 0).all()
    assert (np.diff(lightness[128::8]) < 0).all()
    for arm in (lab[:128:8], lab[128::8]):
        steps = np.linalg.norm(np.diff(arm, axis=0), axis=1)
        assert steps.max() / steps.min() < 1.2


def test_the_signed_ramp_starts_at_the_paper_of_its_surroundings() -> None:
    assert np.abs(np.array(signed_ramp()[127:129]) - ramp()[0]).max() <= 3
    assert np.abs(np.array(signed_ramp(dark=True)[127:129]) - [0x14, 0x16, 0x1A]).max() <= 3


@pytest.mark.parametrize("dark", [False, True])
def test_the_signs_can_be_told_apart_without_colour_vision(dark: bool) -> None:
    for kind in (
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    ):
        light = linear(np.array(signed_ramp(dark=dark), dtype=float))
        lab = oklab(np.clip(light @ np.array(kind).T, 0, 1))
        apart = np.linalg.norm(lab[:128] - lab[::-1][:128], axis=1)  # -x and +x
        assert apart[0] > 0.15
        assert apart[64] > 0.06
