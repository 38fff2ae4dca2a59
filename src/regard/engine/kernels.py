"""One tile on one device: PyTorch's fused op that returns (out, lse), and its backward given the row's global out and
lse.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.engine import decode

__all__ = ["flash", "flash_backward", "one_width", "positive", "rectangle", "unavailable"]

# More rows are never decoding: not worth a look.
MOST_DECODED = 16


def _op(name: str) -> Any:
    """A private op of PyTorch's, or None in a release that lacks it."""
    return getattr(getattr(torch.ops.aten, name, None), "default", None)


_FORWARD = _op("_scaled_dot_product_flash_attention_for_cpu")
_BACKWARD = _op("_scaled_dot_product_flash_attention_for_cpu_backward")


def unavailable(device: torch.device) -> str | None:
    """Why there is no fused op for this device; None if there is one. The op is private to PyTorch, so it is probed
    for.
    """
    if device.type != "cpu":
        return f"no fused op is used on {device.type} yet"
    if _FORWARD is None or _BACKWARD is None:
        return f"torch {torch.__version__} lacks aten::_scaled_dot_product_flash_attention_for_cpu"
    return None


def rectangle(
    q: Tensor, k: Tensor, v: Tensor, additive: Tensor | None, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """:func:`flash`, or :func:`regard.engine.decode.decode` where so few rows read so many keys that it is faster."""
    if q.shape[2] <= MOST_DECODED and not causal and decode.worthwhile(q, k):
        return decode.decode(q, k, v, additive, scale=scale)
    return flash(q, k, v, additive, causal=causal, scale=scale)


def flash(
    q: Tensor, k: Tensor, v: Tensor, additive: Tensor | None, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention over one tile: q (B, H, R, D), k (B, Hkv, C, D), v (B, Hkv, C, Dv) to (B, H, R, Dv) and lse (B, H, R).

    A causal tile lets row r read keys 0..r. The lse of a row that reads nothing is 0.0 and not -inf: it is the caller's
    to mend.
    """
    assert _FORWARD is not None
    dv = v.shape[-1]
    q, scale, _ = positive(q, scale)
    if q.shape[1] == k.shape[1] and q.shape[-1] == dv:  # nothing to fold or to pad
        out, lse = _FORWARD(
            _dense_rows(q), _dense_rows(k), _dense_rows(v), 0.0, causal, attn_mask=additive, scale=scale
        )
        return out, lse
    folding = _Folding(q, k, additive, causal=causal)
    q, k, v = one_width(q, k, v)
    out, lse = _FORWARD(
        folding.rows(q), folding.keys(k), folding.keys(v), 0.0, causal, attn_mask=folding.mask(additive), scale=scale
    )
    out = folding.unfold(out)  # (B, H, R, max(D, Dv))
    return (out if out.shape[-1] == dv else out[..., :dv]), folding.unfold(lse[..., None])[..., 0]


def flash_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    additive: Tensor | None,
    *,
    causal: bool,
    scale: float,
    grad_lse: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The tile's share of the gradients of q, k, v, given the *global* out (B, H, R, Dv) and lse (B, H, R) of its rows.

    ``dS = P * (grad @ v.mT - rowsum(grad * out) + grad_lse)`` with ``P = exp(S - lse)``: right for any part of the
    keys.
    """
    assert _BACKWARD is not None
    d, dv = q.shape[-1], v.shape[-1]
    q, scale, factor = positive(q, scale)
    if grad_lse is not None:
        # The op knows no grad_lse. A column where grad is 1, out is -grad_lse and v is 0 puts it into rowsum(grad *
        # out).
        grad = torch.cat([grad, torch.ones_like(grad[..., :1])], dim=-1)  # (B, H, R, Dv + 1)
        out = torch.cat([out, -grad_lse[..., None].to(out.dtype)], dim=-1)
        v = F.pad(v, (0, 1))
    folding = _Folding(q, k, additive, causal=causal)
    q, k, v = one_width(q, k, v)
    width = q.shape[-1]
    grad, out = _pad(grad, width), _pad(out, width)
    # A row without keys has lse -inf, and -inf - -inf is NaN; with any finite lse its P is exp(-inf) = 0.
    lse = lse.masked_fill(lse == -torch.inf, 0)
    dq, dk, dvalue = _BACKWARD(
        folding.rows(grad),
        folding.rows(q),
        folding.keys(k),
        folding.keys(v),
        folding.rows(out),
        folding.rows(lse[..., None])[..., 0],
        0.0,
        causal,
        attn_mask=folding.mask(additive),
        scale=scale,
    )
    dq, dk, dvalue = folding.unfold(dq), folding.unfold_keys(dk), folding.unfold_keys(dvalue)
    if factor != 1:
        dq = dq * factor
    return dq[..., :d], dk[..., :d], dvalue[..., :dv]


class _Folding:
    """Grouped heads without a repeated key: a group becomes rows of its key head where every row reads the same keys,
    and otherwise the key head is given with a stride of 0 over its group.
    """

    def __init__(self, q: Tensor, k: Tensor, additive: Tensor | None, *, causal: bool) -> None:
        self.batch, self.heads, self.len = q.shape[0], q.shape[1], q.shape[2]
        self.kv_heads = k.shape[1]
        self.group = self.heads // self.kv_heads
        row_free = additive is None or (additive.shape[1] == 1 and additive.shape[2] == 1)
        self.into_rows = not causal and row_free

    def rows(self, t: Tensor) -> Tensor:
        """(B, H, R, ...) of queries, folded: (B, Hkv, G * R, ...) or (B * Hkv, G, R, ...); the last axis gets stride
        1.
        """
        if self.group > 1:
            width = t.shape[-1]
            if self.into_rows:
                t = t.reshape(self.batch, self.kv_heads, self.group * self.len, width)
            else:
                t = t.reshape(self.batch * self.kv_heads, self.group, self.len, width)
        return _dense_rows(t)

    def keys(self, t: Tensor) -> Tensor:
        """(B, Hkv, C, ...) of keys, folded: as they are, or (B * Hkv, G, C, ...) with stride 0 over G."""
        t = _dense_rows(t)
        if self.group == 1 or self.into_rows:
            return t
        return t.reshape(self.batch * self.kv_heads, 1, *t.shape[2:]).expand(-1, self.group, -1, -1)

    def mask(self, t: Tensor | None) -> Tensor | None:
        """(B or 1, H or 1, R or 1, C or 1), folded like the rows."""
        if t is None or self.group == 1 or self.into_rows:
            return t
        if t.shape[0] == 1 and t.shape[1] == 1:
            return t
        t = t.expand(self.batch, self.heads, -1, -1) if t.shape[1] > 1 else t.expand(self.batch, self.kv_heads, -1, -1)
        return t.reshape(self.batch * self.kv_heads, -1, *t.shape[2:])  # (B * Hkv, G or 1, R or 1, C or 1)

    def unfold(self, t: Tensor) -> Tensor:
        """Folded rows back to (B, H, R, ...)."""
        return t if self.group == 1 else t.reshape(self.batch, self.heads, self.len, t.shape[-1])

    def unfold_keys(self, t: Tensor) -> Tensor:
        """Folded keys back to (B, Hkv, C, ...), summed over the group."""
        if self.group == 1 or self.into_rows:
            return t
        return t.view(self.batch, self.kv_heads, self.group, *t.shape[2:]).sum(2)


def positive(q: Tensor, scale: float) -> tuple[Tensor, float, int]:
    """q, a positive scale, and the factor -1, 0 or 1 that q was multiplied by, which is exact in any dtype.

    The op multiplies by the scale after it has put -inf over the triangle: -inf * 0 is NaN, and * -1 is inf.
    """
    if scale > 0:
        return q, scale, 1
    return (-q, -scale, -1) if scale < 0 else (torch.zeros_like(q), 1.0, 0)


def one_width(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The op wants one width for q, k and v: zeros pad the narrower side, and add nothing to any product."""
    width = max(q.shape[-1], v.shape[-1])
    return _pad(q, width), _pad(k, width), _pad(v, width)


def _pad(t: Tensor, width: int) -> Tensor:
    return t if t.shape[-1] == width else F.pad(t, (0, width - t.shape[-1]))


def _dense_rows(t: Tensor) -> Tensor:
    """The op reads each row as contiguous, whatever the stride of the last axis says."""
    return t if t.stride(-1) == 1 else t.contiguous()
