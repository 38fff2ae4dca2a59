"""How near a loaded layer is to the layer of transformers that it was loaded from."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from tests.hf.load_cases import Call, calls
from torch import Tensor, nn

import regard
from regard.hf.load_layer import read
from regard.masks import padding
from regard.positions import Rotary

EPS = torch.finfo(torch.float32).eps
MOST = 4.0
"""How many times the error of the original, with four roundings of the largest number beside it, regard's may be."""


@dataclass
class Found:
    """Errors of a loaded layer, in units of what the original's own float32 gives, by what was compared."""

    case: str
    name: str
    kind: str
    traits: list[str]
    """What the loaded layer has, in words."""
    errors: dict[str, float] = field(default_factory=dict)

    def note(self, what: str, ours: Tensor, theirs: Tensor, truth: Tensor, *, scale: float = 0.0) -> None:
        """Keep the largest error of ours over that of theirs plus four roundings of the largest number."""
        error = (ours.double() - truth).abs().max().item() if truth.numel() else 0.0
        own = (theirs.double() - truth).abs().max().item() if truth.numel() else 0.0
        unit = own + 4 * EPS * max(truth.abs().max().item(), scale)
        assert torch.isfinite(truth).all()
        self.errors[what] = max(self.errors.get(what, 0.0), error / unit if error == error else float("inf"))


def examined(case: str) -> Iterator[Found]:
    """Every known layer of a case's model: forward, gradients, decoding, a padded batch."""
    padded = {call.name: call for call in calls(case, padding="right")}
    shared: dict[str, Any] = {}
    for call in calls(case):
        positions = shared.get(call.name.partition(".")[0]) if _shares(call) else None
        layer = regard.hf.load(call.layer, positions=positions)
        found = Found(case, call.name, type(call.layer).__name__, list(_traits(call, layer)))
        if getattr(call.layer, "has_relative_attention_bias", False):
            shared[call.name.partition(".")[0]] = layer.positions
        _compare(found, "forward", call, layer, positions)
        if layer.mask is not None and not getattr(layer.mask, "right", 0):
            _decode(found, call, layer)
        if call.name in padded:
            _compare(found, "padded", padded[call.name], layer, positions)
        yield found


def _traits(call: Call, layer: Any) -> Iterator[str]:
    """What the table says of a layer."""
    if call.context is not None:
        yield "context"
    if layer.mask is not None:
        left = getattr(layer.mask, "left", None)
        yield "causal" if left is None else "window" if layer.mask.right == 0 else "window on both sides"
    positions = layer.positions
    if isinstance(positions, Rotary):
        scaled = "" if positions.scaling is None else f" ({type(positions.scaling).__name__})"
        yield f"{'partly ' if positions.rotary_dim < positions.dim else ''}{positions.pairing} rotary{scaled}"
    elif positions is not None:
        yield "relative bias"
    if isinstance(layer, regard.LatentAttention):
        yield "latents"
        return
    if layer.num_kv_heads < layer.num_heads:
        yield "grouped heads"
    if layer.norm is not None:
        over = "all heads together" if layer.norm.over == "all" else "each head"
        yield f"{type(layer.norm.q).__name__} of {over}{' after rotating' if layer.norm.when == 'after' else ''}"
    for name in ("scale", "softcap", "sinks", "gate"):
        if getattr(layer, name) is not None:
            yield name


def _shares(call: Call) -> bool:
    return hasattr(call.layer, "has_relative_attention_bias") and not (
        call.layer.has_relative_attention_bias or call.context is not None
    )


def _compare(found: Found, what: str, call: Call, layer: nn.Module, positions: Any) -> None:
    """The output at real positions, the gradients of the inputs and of every parameter."""
    torch.manual_seed(2)
    real = call.real
    rows = None if real is None or call.context is not None else real
    weight = torch.randn(call.x.shape[:-1])[..., None] * torch.randn(layer.d_out)
    if rows is not None:
        weight = weight * rows[..., None]
    options = {} if real is None else {"mask": padding(real)}

    def ours(x: Tensor, context: Tensor | None) -> Tensor:
        out: Tensor = layer(x, **options) if context is None else layer(x, context, **options)
        return out

    wide = copy.deepcopy(call.layer).double()
    runs = [
        _run(ours, call, weight, torch.float32),
        _run(lambda x, c: call.run(call.layer, x, c), call, weight, torch.float32),
        _run(lambda x, c: call.run(wide, x, c), call, weight, torch.float64),
    ]
    keep = slice(None) if rows is None else rows
    found.note(what, *(run[0][keep] for run in runs))
    # Gradients through the scores are differences of numbers as large as those through the values, and vanish where
    # they agree: their rounding is that of the larger ones.
    largest = max(t.abs().max().item() for t in runs[2][1:])
    for i, name in enumerate(("x", "context")[: len(runs[0]) - 1]):
        found.note(f"{what}, gradient of {name}", *(run[1 + i] for run in runs), scale=largest)
    _compare_parameters(found, f"{what}, gradients of parameters", layer, call.layer, wide, positions)


def _run(function: Any, call: Call, weight: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The output and the gradients of x and of a context; those of parameters are left in the layer."""
    given = [t.detach().to(dtype).requires_grad_() for t in (call.x, call.context) if t is not None]
    out = function(given[0], given[1] if len(given) > 1 else None)
    (out * weight.to(dtype)).sum().backward()
    return [out.detach(), *(t.grad for t in given)]  # type: ignore[misc]


def _compare_parameters(
    found: Found, what: str, layer: nn.Module, theirs: nn.Module, wide: nn.Module, positions: Any
) -> None:
    """The gradients of regard's parameters, mapped back to those that they were made of."""
    state = read(theirs, positions=positions).state()
    own = dict(layer.named_parameters())
    named = [(name, p) for name, p in theirs.named_parameters()]
    assert all(own[name].grad is not None for name in state)
    outputs, grads = list(state.values()), [own[name].grad for name in state]
    mapped = torch.autograd.grad(outputs, [p for _, p in named], grads, allow_unused=True)
    truths = dict(wide.named_parameters())
    # So it is for parameters; a bias of the keys shifts all scores of a row and has no gradient but rounding.
    largest = max(t.grad.abs().max().item() for t in truths.values() if t.grad is not None)
    for (name, p), ours in zip(named, mapped, strict=True):
        if p.grad is None:
            assert ours is None, f"{found.case}: {name} has a gradient in regard's layer alone"
            continue
        assert ours is not None, f"{found.case}: {name} has no gradient in regard's layer"
        found.note(what, ours, p.grad, truths[name].grad, scale=largest)  # type: ignore[arg-type]
    for module in (layer, theirs):
        module.zero_grad()


@torch.no_grad()
def _decode(found: Found, call: Call, layer: Any) -> None:
    """A prompt and single tokens against a cache; prompts of unequal length; both against the text as a whole."""
    x, length = call.x, call.x.shape[1]
    theirs = call.run(call.layer, x, None)
    truth = call.run(copy.deepcopy(call.layer).double(), x.double(), None)

    def cache() -> Any:
        if isinstance(layer, regard.LatentAttention):
            return layer.latent_cache(len(x), length)
        return layer.kv_cache(len(x), length)

    kept = cache()
    ours = torch.cat([layer(part, cache=kept) for part in x.split([length - 4, 1, 3], dim=1)], dim=1)
    found.note("decode", ours, theirs, truth)
    lengths, kept = [2, length - 3], cache()
    layer(x[:, : length - 3], cache=kept, lengths=lengths)
    for step in range(2):
        at = torch.tensor(lengths) + step
        each = torch.arange(len(x))
        found.note("decode, unequal", layer(x[each, at][:, None], cache=kept)[:, 0], theirs[each, at], truth[each, at])
    left = getattr(layer.mask, "left", None)
    if left is not None:
        rolling = layer.rolling_cache(len(x), left + 1)
        ours = torch.cat([layer(part, cache=rolling) for part in x.split([length - 4, 1, 3], dim=1)], dim=1)
        found.note("decode, rolling", ours, theirs, truth)
