"""The colours of every picture: one ramp for weights, and a grey for what is not allowed.

The ramp runs in even steps of lightness and of perceived difference, so that equal steps of value look equally
large, and it can be told apart without colour vision. Light surroundings start it at paper white; dark ones run it
the other way round, so that "no weight" is always the colour of the page.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

RGB = tuple[int, int, int]

#: A weight smaller than this is drawn as none on a logarithmic scale.
LOG_FLOOR = 1e-4

#: Fill and lines of the region that a mask forbids, (light, dark).
FORBIDDEN_FILL = ("#ebebe9", "#24272c")
FORBIDDEN_LINE = ("#d2d2ce", "#373b42")

# Stations of the ramp as lightness, chroma and hue (degrees) in OKLCh: paper, mint, teal, blue, ink.
_STATIONS = (
    (0.985, 0.006, 140.0),
    (0.860, 0.060, 165.0),
    (0.710, 0.085, 195.0),
    (0.545, 0.095, 238.0),
    (0.380, 0.115, 276.0),
    (0.220, 0.070, 295.0),
)

# Paper and the two ends of the signed ramp, (below 0, above 0), by whether the surroundings are dark.
_SIGNED = {
    False: (_STATIONS[0], ((0.470, 0.120, 255.0), (0.470, 0.120, 48.0))),
    True: ((0.199, 0.009, 265.0), ((0.800, 0.103, 250.0), (0.800, 0.103, 62.0))),
}


@lru_cache(maxsize=1)
def ramp() -> tuple[RGB, ...]:
    """The 256 colours from no weight (paper) to all the weight (ink).

    Example:
        >>> from regard.look.colours import ramp
        >>> len(ramp()), ramp()[0] > ramp()[255]
        (256, True)

    Returns:
        256 triples of red, green and blue in 0..255.
    """
    path = [_oklab(_station(step / 1000)) for step in range(1001)]
    lengths = [0.0]
    for before, after in pairwise(path):
        lengths.append(lengths[-1] + math.dist(before, after))
    colours, at = [], 0
    for step in range(256):
        wanted = lengths[-1] * step / 255
        while at < 999 and lengths[at + 1] < wanted:
            at += 1
        share = (wanted - lengths[at]) / (lengths[at + 1] - lengths[at])
        lab = [a + share * (b - a) for a, b in zip(path[at], path[at + 1], strict=True)]
        colours.append(_srgb(lab[0], lab[1], lab[2]))
    return tuple(colours)


@lru_cache(maxsize=2)
def signed_ramp(*, dark: bool = False) -> tuple[RGB, ...]:
    """The 256 colours of a difference: blue at -1, paper at 0 (between 127 and 128), orange at +1.

    Both arms are straight lines from paper in OKLab, equally long and equally light at equal distance from 0, so that a
    difference looks as large whichever its sign, and blue and orange are told apart without red or green.

    Example:
        >>> from regard.look.colours import signed_ramp
        >>> (r, _, b), (red, _, blue) = signed_ramp()[0], signed_ramp()[255]
        >>> b > r, red > blue
        (True, True)

    Args:
        dark: on dark paper, which the arms leave towards light colours.

    Returns:
        256 triples of red, green and blue in 0..255.
    """
    middle, ends = _SIGNED[dark]
    start = _oklab(middle)
    colours = []
    for step in range(256):
        value = (step - 127.5) / 127.5
        end = _oklab(ends[value > 0])
        lab = [a + abs(value) * (b - a) for a, b in zip(start, end, strict=True)]
        colours.append(_srgb(lab[0], lab[1], lab[2]))
    return tuple(colours)


def colour(share: float) -> RGB:
    """The ramp's colour at a share of its length.

    Args:
        share: 0 (no weight) to 1 (all the weight); values outside are clipped, NaN counts as 0.

    Returns:
        Red, green and blue in 0..255.
    """
    share = 0.0 if math.isnan(share) else min(max(share, 0.0), 1.0)
    return ramp()[round(share * 255)]


def _station(at: float) -> tuple[float, float, float]:
    """Lightness, chroma and hue at a share of the way through the stations, interpolated smoothly."""
    last = len(_STATIONS) - 1
    left = min(int(at * last), last - 1)
    share = at * last - left
    points = [_STATIONS[min(max(left + k, 0), last)] for k in (-1, 0, 1, 2)]
    return tuple(_catmull(share, *(point[axis] for point in points)) for axis in range(3))  # type: ignore[return-value]


def _catmull(t: float, a: float, b: float, c: float, d: float) -> float:
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def _oklab(lch: tuple[float, float, float]) -> tuple[float, float, float]:
    lightness, chroma, hue = lch
    return lightness, chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))


def _srgb(lightness: float, a: float, b: float) -> RGB:
    """One OKLab colour as 8-bit sRGB (Ottosson 2020)."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short
    green = -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short
    blue = -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short
    return _eight_bits(red), _eight_bits(green), _eight_bits(blue)


def _eight_bits(linear: float) -> int:
    linear = min(max(linear, 0.0), 1.0)
    encoded = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return round(255 * encoded)
