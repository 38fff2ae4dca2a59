"""Keys and values of a context computed once, and projections that somebody has wrapped or watches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from regard import Context, MultiHeadAttention, QKNorm, masks
from regard.positions import RelativeBias, Rotary

D = torch.float64


def made(**options: object) -> MultiHeadAttention:
    torch.manual_seed(0)
    return MultiHeadAttention(8, 4, num_kv_heads=2, d_k=16, d_v=8, dtype=D, **options)


@pytest.mark.parametrize("d_context", [None, 8, (5, 3)])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_a_projected_context_is_the_context(d_context: object, lead: tuple[int, ...]):
    layer = made(d_context=d_context, norm=QKNorm.rms(4, dtype=D), sinks=True)
    widths = layer.d_context or (8, 8)
    pair = tuple(torch.randn(*lead, 6, width, dtype=D) for width in widths)
    given = pair[0] if widths[0] == widths[1] else pair
    x = torch.randn(*lead, 3, 8, dtype=D)
    context = layer.project_context(given)
    assert isinstance(context, Context)
    assert context.key.shape == (*(lead or (1,)), 2, 6, 4)
    mask = torch.rand(3, 6) < 0.7
    out, weights = layer(x, context=context, mask=mask, need_weights=True)
    wanted, wanted_weights = layer(x, given, mask=mask, need_weights=True)
    assert torch.equal(out, wanted)
    assert torch.equal(weights.to_dense(), wanted_weights.to_dense())
    assert weights.shape == (*lead, 4, 3, 6)


def test_gradients_pass_through_a_projected_context():
    layer, source = made(), torch.randn(2, 6, 8, dtype=D, requires_grad=True)
    x, seed = torch.randn(2, 3, 8, dtype=D), torch.randn(2, 3, 8, dtype=D)
    inputs = (source, *layer.parameters())
    got = torch.autograd.grad(layer(x, context=layer.project_context(source)), inputs, seed)
    for a, b in zip(got, torch.autograd.grad(layer(x, source), inputs, seed), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_what_it_shows_and_which_sequences():
    layer, source, x = made(), torch.randn(3, 6, 8, dtype=D), torch.randn(2, 3, 8, dtype=D)
    context = layer.project_context(source)
    assert repr(context) == "Context(S=6, batch (3,), Hkv=2, D=4, Dv=2)"
    chosen = torch.tensor([2, 2])
    torch.testing.assert_close(layer(x, context=context.select(chosen)), layer(x, source[chosen]), rtol=0, atol=1e-14)


def test_a_context_of_another_layer_or_batch_is_refused():
    layer, source = made(), torch.randn(3, 6, 8, dtype=D)
    context = layer.project_context(source)
    with pytest.raises(ValueError, match=r"context is a Context\(S=6, .*\) of another layer than this one"):
        copy.deepcopy(layer)(source, context=context)
    with pytest.raises(ValueError, match=r"must have the batch axes of x, \(2,\), got Context\(S=6, batch \(3,\)"):
        layer(torch.zeros(2, 3, 8, dtype=D), context=context)
    with pytest.raises(ValueError, match="context brings its own"), torch.no_grad():
        layer(source, context=context, cache=layer.kv_cache(3, 9))
    with pytest.raises(TypeError, match=r"context must be a torch.Tensor, got Context"):
        layer.project_context(context)
    with pytest.raises(ValueError, match=r"context\[0\] and context\[1\] must have the same batch axes"):
        layer.project_context((source, source[:2]))


def test_rotary_positions_with_a_context_need_an_offset():
    layer, x, source = made(positions=Rotary(4)), torch.randn(2, 3, 8, dtype=D), torch.randn(2, 6, 8, dtype=D)
    with pytest.raises(ValueError, match=r"offset must be given with a context, .* positions=Rotary.* S - L = 3 puts"):
        layer(x, source)
    # The last of a text, which reads all of it: the same as self-attention.
    whole = layer(source, mask=masks.causal())
    torch.testing.assert_close(
        layer(source[:, 3:], source, mask=masks.causal(), offset=3), whole[:, 3:], rtol=0, atol=1e-12
    )
    context = layer.project_context(source)
    got = layer(x, context=context, offset=torch.tensor([1, 7]))
    torch.testing.assert_close(got[1], layer(x, source, offset=7)[1], rtol=0, atol=1e-12)
    assert (got[0] - layer(x, source, offset=7)[0]).abs().max() > 1e-3


def test_a_bias_of_positions_with_a_context_stands_at_its_end():
    positions = RelativeBias(4, num_buckets=4, max_distance=5, dtype=D)
    nn.init.normal_(positions.weight)
    layer, x, source = made(positions=positions), torch.randn(2, 3, 8, dtype=D), torch.randn(2, 6, 8, dtype=D)
    whole = layer(source)
    torch.testing.assert_close(layer(source[:, 3:], source, offset=3), whole[:, 3:], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"offset must be S - L = 3 with a context and the bias of .*; got 2"):
        layer(x, source, offset=2)


class LoRA(nn.Module):
    """Somebody's own module in the place of in_proj, which shows no weight."""

    def __init__(self, inner: nn.Module, rank: int = 2) -> None:
        super().__init__()
        self.inner = inner
        rows, width = inner.weight.shape
        self.down = nn.Parameter(torch.randn(rank, width, dtype=inner.weight.dtype))
        self.up = nn.Parameter(torch.randn(rows, rank, dtype=inner.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x @ self.down.T @ self.up.T


def merged(layer: MultiHeadAttention) -> MultiHeadAttention:
    plain = made()
    plain.load_state_dict(
        {n.replace("in_proj.inner", "in_proj"): t for n, t in layer.state_dict().items()}, strict=False
    )
    with torch.no_grad():
        plain.in_proj.weight += layer.in_proj.up @ layer.in_proj.down
    return plain


@pytest.mark.parametrize("kind", ["self", "context", "pair", "projected", "cache"])
def test_a_wrapped_projection_is_called(kind: str):
    layer = made()
    layer.in_proj = LoRA(layer.in_proj)
    plain, x, source = merged(layer), torch.randn(2, 3, 8, dtype=D), torch.randn(2, 6, 8, dtype=D)

    def run(layer: MultiHeadAttention) -> Tensor:
        if kind == "cache":
            with torch.no_grad():
                return layer(x, cache=layer.kv_cache(2, 3))
        if kind == "projected":
            return layer(x, context=layer.project_context(source))
        return layer(x, {"self": None, "context": source, "pair": (source, source.flip(1))}[kind])

    torch.testing.assert_close(run(layer), run(plain), rtol=0, atol=1e-12)
    if kind != "cache":
        run(layer).sum().backward()
        assert layer.in_proj.down.grad.abs().max() > 0


def test_a_wrapper_of_another_width_is_named():
    layer = made()
    layer.in_proj = nn.Linear(8, 5, dtype=D)
    with pytest.raises(ValueError, match=r"in_proj must give the 28 columns \[q \| k \| v\] .* from Linear"):
        layer(torch.zeros(2, 3, 8, dtype=D))


def twice(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
    return 2 * out


def patched(layer: MultiHeadAttention) -> None:
    forward = layer.in_proj.forward
    layer.in_proj.forward = lambda x: 2 * forward(x)


WATCHED = {
    "a hook": lambda layer: layer.in_proj.register_forward_hook(twice),
    "a hook before": lambda layer: layer.in_proj.register_forward_pre_hook(lambda module, args: (2 * args[0],)),
    "a patched forward": patched,
    "a parametrization": lambda layer: nn.utils.parametrize.register_parametrization(layer.in_proj, "weight", Double()),
}


class Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.parametrize("name", WATCHED)
def test_hooks_and_patches_of_a_projection_take_effect_on_a_context(name: str):
    layer, plain = made(bias=False), made(bias=False)
    WATCHED[name](layer)
    with torch.no_grad():
        plain.in_proj.weight.mul_(2)
    x, source = torch.randn(2, 3, 8, dtype=D), torch.randn(2, 6, 8, dtype=D)
    for context in (None, source, (source, source.flip(1))):
        torch.testing.assert_close(layer(x, context), plain(x, context), rtol=0, atol=1e-13)


def test_a_hook_of_all_modules_sees_whole_projections():
    layer, shapes = made(), []

    def keep(module: nn.Module, args: tuple, out: object) -> None:
        if module is layer.in_proj:
            shapes.append(out.shape[-1])

    with torch.nn.modules.module.register_module_forward_hook(keep):
        layer(torch.zeros(2, 3, 8, dtype=D), torch.zeros(2, 6, 8, dtype=D))
    assert set(shapes) == {28}
    assert shapes


def test_hooks_of_every_part_fire_once_a_call():
    layer = made(positions=Rotary(4), norm=QKNorm.rms(4, dtype=D), gate="headwise")
    seen: list[str] = []
    for name, module in layer.named_modules():
        if name and name != "positions":  # whose answers are not a forward
            module.register_forward_hook(lambda module, args, out, name=name: seen.append(name))
    layer(torch.zeros(2, 3, 8, dtype=D))
    assert sorted(seen) == sorted(["in_proj", "norm", "norm.q", "norm.k", "gate_proj", "out_proj"])
