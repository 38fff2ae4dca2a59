"""How a mask is handed to a subject: which argument, which polarity, which shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["REACHES", "SHAPES", "MaskForm", "encode", "reach_of", "spell_mask"]

REACHES = ("uniform", "per sequence", "per head")
"""What a mask may depend on: nothing but (L, S), the sequence too, the head too."""

SHAPES: dict[str, tuple[str, ...]] = {
    "uniform": ("LS", "11LS", "1LS"),
    "per sequence": ("B1LS", "BHLS", "BLS", "NLS"),
    "per head": ("BHLS", "NLS"),
}


@dataclass(frozen=True)
class MaskForm:
    """Which argument takes it, what its entries mean, and which axes it has."""

    argument: str
    polarity: str
    shape: str
    block: bool = False
    low: float = -math.inf
    number: bool = False  # 0 and 1, for those who write (1 - mask) * -10000

    def meaning(self, allowed: Tensor, dtype: torch.dtype) -> Tensor:
        """Booleans, or numbers, with the subject's own meaning, from True = may attend."""
        if self.polarity == "additive":
            zeros = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
            return zeros.masked_fill(~allowed, self.low)
        said = allowed.clone() if self.polarity == "allow" else ~allowed
        return said.long() if self.number else said


def reach_of(mask: Tensor) -> str:
    """How far a canonical mask (1 or B, 1 or H, L, S) reaches."""
    batch, heads = (1,) * (2 - min(2, mask.dim() - 2)) + tuple(mask.shape[:-2])
    return "per head" if heads > 1 else "per sequence" if batch > 1 else "uniform"


def encode(allowed: Tensor, form: MaskForm, *, batch: int, heads: int, dtype: torch.dtype) -> Any:
    """A canonical boolean mask as this subject's own argument."""
    full = allowed.expand(batch, heads, *allowed.shape[-2:])  # (B, H, L, S)
    shaped = {
        "LS": lambda: full[0, 0],
        "1LS": lambda: full[0, :1],
        "11LS": lambda: full[:1, :1],
        "B1LS": lambda: full[:, :1],
        "BHLS": lambda: full,
        "BLS": lambda: full[:, 0],
        "NLS": lambda: full.reshape(batch * heads, *full.shape[-2:]),
        "BS": lambda: full[:, 0, 0],
    }[form.shape]().contiguous()
    if form.block:
        return _block_mask(shaped)
    return form.meaning(shaped, dtype)


def _block_mask(full: Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    batch, heads, query_len, key_len = full.shape
    return create_block_mask(
        lambda b, h, q, kv: full[b, h, q, kv], batch, heads, query_len, key_len, device=str(full.device)
    )


def spell_mask(form: MaskForm, name: str = "mask") -> str:
    """How a canonical ``mask`` is written as this argument."""
    index = {"LS": "[0, 0]", "1LS": "[0]", "BLS": "[:, 0]", "NLS": ".flatten(0, 1)", "BS": "[:, 0, 0]"}.get(
        form.shape, ""
    )
    text = f"{name}{index}"
    if form.block:
        return f"create_block_mask(lambda b, h, i, j: {name}[b, h, i, j], *{name}.shape, device={name}.device)"
    if form.polarity == "additive":
        return f"torch.zeros({text}.shape).masked_fill(~{text}, -torch.inf).to(q.dtype)"
    text = text if form.polarity == "allow" else f"~{text}"
    return f"({text}).long()" if form.number else text
