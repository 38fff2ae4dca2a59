"""Where a token stands: rotations of query and key, biases of the scores, vectors added to embeddings.

An attention layer asks its ``positions=`` three things, each with an answer that does nothing: what query and key
become (:meth:`Positions.rotate`), what is added to the scores (:meth:`Positions.bias`), and whether they fit the layer
(:meth:`Positions.check_layer`).
"""

from __future__ import annotations

from regard.positions.base import NoPositions, Positions
from regard.positions.interleaving import interleave
from regard.positions.learned import LearnedPositions
from regard.positions.linear_biases import ALiBi
from regard.positions.relative import RelativeBias
from regard.positions.rotary import Rotary
from regard.positions.rotary2d import Rotary2d
from regard.positions.scalings import DynamicNTK, LinearScaling, Llama3Scaling, Scaling
from regard.positions.scalings_long import LongRoPE, YaRN
from regard.positions.sinusoidal import PositionalEncoding, sinusoids

__all__ = [
    "ALiBi",
    "DynamicNTK",
    "LearnedPositions",
    "LinearScaling",
    "Llama3Scaling",
    "LongRoPE",
    "NoPositions",
    "PositionalEncoding",
    "Positions",
    "RelativeBias",
    "Rotary",
    "Rotary2d",
    "Scaling",
    "YaRN",
    "interleave",
    "sinusoids",
]
