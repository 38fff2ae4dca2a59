"""from_torch and from_heads: the same layer with the same parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regard import MultiHeadAttention, SelfAttention, masks

# Two ways to sum some tens of products of order 1 in float32.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}
KINDS = {
    "plain": {},
    "no bias": {"bias": False},
    "kdim": {"kdim": 5},
    "vdim": {"vdim": 7},
    "kdim and vdim": {"kdim": 5, "vdim": 7},
    "kdim, no bias": {"kdim": 5, "bias": False},
}


def torch_layer(**options: object) -> nn.MultiheadAttention:
    layer = nn.MultiheadAttention(16, 4, **{"batch_first": True, **options})
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases too, which start at 0
    return layer


def inputs(layer: nn.MultiheadAttention) -> list[Tensor]:
    """Query, key and value, (B, L, width) each."""
    sizes = ((5, 16), (6, layer.kdim), (6, layer.vdim))
    return [torch.randn(2, length, width, requires_grad=True) for length, width in sizes]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_torch_layer_and_its_copy_agree_forward_and_backward(kind: str, batch_first: bool):
    theirs = torch_layer(**KINDS[kind], batch_first=batch_first)
    ours = MultiHeadAttention.from_torch(theirs)
    q, k, v = inputs(theirs)
    order = [q, k, v] if batch_first else [t.transpose(0, 1) for t in (q, k, v)]
    wanted, wanted_weights = theirs(*order, average_attn_weights=False)
    wanted = wanted if batch_first else wanted.transpose(0, 1)
    output, weights = ours(q, (k, v), need_weights=True)
    torch.testing.assert_close(output, wanted, **CLOSE)
    torch.testing.assert_close(weights.to_dense(), wanted_weights, **CLOSE)
    seed = torch.randn_like(output)
    got = torch.autograd.grad(output, (q, k, v, ours.out_proj.weight, *in_weights(ours)), seed)
    their_weights = theirs.in_proj_weight
    their_weights = (
        [theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight] if their_weights is None else [their_weights]
    )
    for a, b in zip(
        got, torch.autograd.grad(wanted, (q, k, v, theirs.out_proj.weight, *their_weights), seed), strict=True
    ):
        torch.testing.assert_close(a, b, **CLOSE)


def in_weights(layer: MultiHeadAttention) -> list[Tensor]:
    return [p for name, p in layer.named_parameters() if name.endswith("weight") and not name.startswith("out_proj")]


@pytest.mark.parametrize("training", [True, False])
def test_self_attention_of_a_torch_layer(training: bool):
    theirs = torch_layer().train(training)
    ours = MultiHeadAttention.from_torch(theirs)
    x = torch.randn(2, 5, 16)
    with torch.no_grad():  # in eval mode the torch layer takes its fast path
        torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0], **CLOSE)
        torch.testing.assert_close(ours(x[0]), theirs(x[0], x[0], x[0])[0], **CLOSE)


def test_masks_of_a_torch_layer_are_turned_round():
    theirs, ignored = torch_layer(), torch.rand(5, 6) < 0.4
    ignored[:, 0] = False
    padding = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    ours = MultiHeadAttention.from_torch(theirs)
    q, k, v = inputs(theirs)
    wanted, mean = theirs(q, k, v, attn_mask=ignored, key_padding_mask=padding)
    output, weights = ours(q, (k, v), mask=masks.dense(~ignored) & masks.padding(~padding), need_weights=True)
    torch.testing.assert_close(output, wanted, **CLOSE)
    torch.testing.assert_close(weights.to_dense().mean(1), mean, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_what_else_is_copied_from_a_torch_layer(kind: str):
    theirs = torch_layer(**KINDS[kind], dropout=0.25, dtype=torch.float64).eval()
    theirs.out_proj.requires_grad_(False)
    state = torch.get_rng_state()
    with torch.no_grad():
        ours = MultiHeadAttention.from_torch(theirs)
    assert torch.equal(torch.get_rng_state(), state)  # making a copy is not a reason for other random numbers
    assert (ours.dropout, ours.training) == (0.25, False)
    assert {p.dtype for p in ours.parameters()} == {torch.float64}
    assert not ours.out_proj.weight.requires_grad
    assert all(p.requires_grad for p in in_weights(ours))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    before = ours.out_proj.weight.clone()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.zero_()
    assert torch.equal(ours.out_proj.weight, before)
    assert all(p.abs().sum() > 0 for p in ours.parameters())


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (lambda: torch_layer(add_bias_kv=True), ValueError, "add_bias_kv=True: .* a learned key that no mask covers"),
        (lambda: torch_layer(add_zero_attn=True), ValueError, r"add_zero_attn=True: .* sinks=torch.zeros\(H\)"),
        (lambda: nn.Linear(2, 2), TypeError, "layer must be a torch.nn.MultiheadAttention, got Linear"),
    ],
)
def test_a_layer_that_cannot_be_copied(layer: object, error: type, message: str):
    with pytest.raises(error, match=message):
        MultiHeadAttention.from_torch(layer())


def test_the_sink_that_the_refusal_of_add_zero_attn_names_is_the_same():
    import regard

    q, k, v = torch.randn(3, 2, 4, 5, 8)
    zero = torch.zeros(2, 4, 1, 8)
    wanted, _ = regard.attention(q, torch.cat([k, zero], -2), torch.cat([v, zero], -2))
    torch.testing.assert_close(regard.attention(q, k, v, sinks=torch.zeros(4))[0], wanted, **CLOSE)


def heads(count: int = 3, d_in: int = 6, d: int = 4, dv: int = 2, **options: object) -> list[SelfAttention]:
    return [SelfAttention(d_in, d, dv, **options) for _ in range(count)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("out_bias", [True, False])
@pytest.mark.parametrize("as_triples", [True, False])
def test_heads_and_the_layer_made_of_them_agree_forward_and_backward(bias: bool, out_bias: bool, as_triples: bool):
    single, out_proj = heads(bias=bias), nn.Linear(6, 5, bias=out_bias)
    given = [(head.Wq, head.Wk, head.Wv) for head in single] if as_triples else single
    layer = MultiHeadAttention.from_heads(given, out_proj)
    assert (layer.in_proj.bias is not None, layer.out_proj.bias is not None) == (bias, out_bias)
    x = torch.randn(2, 7, 6, requires_grad=True)
    wanted = out_proj(torch.cat([head(x, mask=masks.causal()) for head in single], dim=-1))
    output = layer(x, mask=masks.causal())
    torch.testing.assert_close(output, wanted, **CLOSE)
    seed = torch.randn_like(output)
    got = torch.autograd.grad(output, (x, layer.in_proj.weight), seed)
    theirs = torch.autograd.grad(wanted, (x, *(w.weight for n in ("Wq", "Wk", "Wv") for w in map_of(single, n))), seed)
    torch.testing.assert_close(got[0], theirs[0], **CLOSE)
    torch.testing.assert_close(got[1], torch.cat(theirs[1:]), **CLOSE)  # rows [q | k | v], each head after head


def map_of(single: list[SelfAttention], name: str) -> list[nn.Linear]:
    return [getattr(head, name) for head in single]


def test_heads_of_which_some_have_a_bias():
    given = [(nn.Linear(6, 4), nn.Linear(6, 4, bias=False), nn.Linear(6, 2)) for _ in range(2)]
    layer = MultiHeadAttention.from_heads(given, nn.Linear(4, 4))
    assert not layer.in_proj.bias[8:16].any()
    assert (layer.in_proj.bias[:8] != 0).all()
    assert (layer.in_proj.bias[16:] != 0).all()


def test_heads_that_read_a_context_of_another_width():
    given = [(nn.Linear(6, 4), nn.Linear(5, 4), nn.Linear(3, 2)) for _ in range(2)]
    out_proj = nn.Linear(4, 4)
    layer = MultiHeadAttention.from_heads(given, out_proj, dropout=0.1)
    assert (layer.d_context, layer.dropout) == ((5, 3), 0.1)
    x, keys, values = torch.randn(2, 7, 6), torch.randn(2, 4, 5), torch.randn(2, 4, 3)
    single = [torch.softmax(q(x) @ k(keys).mT / 2, -1) @ v(values) for q, k, v in given]
    torch.testing.assert_close(layer.eval()(x, (keys, values)), out_proj(torch.cat(single, -1)), **CLOSE)


def test_the_parameters_of_heads_are_copied():
    single, out_proj = heads(), nn.Linear(6, 5)
    with torch.no_grad():
        layer = MultiHeadAttention.from_heads(single, out_proj)
    before = {name: t.clone() for name, t in layer.state_dict().items()}
    with torch.no_grad():
        for parameter in (*(p for head in single for p in head.parameters()), *out_proj.parameters()):
            parameter.zero_()
    assert all(torch.equal(before[name], t) and t.any() for name, t in layer.state_dict().items())
    assert all(p.requires_grad and p.is_leaf for p in layer.parameters())


W = nn.Linear(6, 4)


@pytest.mark.parametrize(
    ("given", "out_proj", "error", "message"),
    [
        ([], W, ValueError, "heads must hold at least one head, got none"),
        ([(W, W)], W, ValueError, r"heads\[0\] must be three layers \(Wq, Wk, Wv\), got 2"),
        ([nn.Identity()], W, TypeError, r"heads\[0\] must be .* got Identity without Wq, Wk, Wv"),
        ([(W, W, nn.Identity())], W, TypeError, r"Wv of heads\[0\] must be a torch.nn.Linear, got Identity"),
        ([(W, W, W)], torch.zeros(4, 4), TypeError, "out_proj must be a torch.nn.Linear, got Tensor"),
        ([(W, W, W)], nn.Linear(5, 4), ValueError, r"out_proj must take H \* Dv = 1 \* 4 = 4 features, got 5"),
        ([(W, nn.Linear(6, 3), W)], nn.Linear(4, 4), ValueError, "must have one width D, got 4 and 3"),
        (
            [*heads(1), *heads(1, d=5)],
            nn.Linear(4, 4),
            ValueError,
            r"heads must agree .* in heads\[0\] and .* in heads\[1\]",
        ),
        (
            heads(2),
            nn.Linear(4, 4).double(),
            ValueError,
            r"Wq of heads\[0\] must be float64 on cpu .* got float32 on cpu",
        ),
    ],
)
def test_heads_that_make_no_layer(given: list, out_proj: nn.Linear, error: type, message: str):
    with pytest.raises(error, match=message):
        MultiHeadAttention.from_heads(given, out_proj)
