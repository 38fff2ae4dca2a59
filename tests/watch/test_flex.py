"""flex_attention under a watch, against the definition in float64."""

from __future__ import annotations

import pytest
import torch
from tests.compiling import fresh
from tests.watch.attending import by_definition, same
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import regard
from regard.watch import flex

__all__ = ["fresh"]

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

INDEX = torch.arange(32)[:, None], torch.arange(48)


def qkv(dtype=torch.float64):
    return torch.randn(2, 4, 32, 16, dtype=dtype), *torch.randn(2, 2, 2, 48, 16, dtype=dtype)


def watched(*args, **options):
    plain = flex_attention(*args, **options)
    with regard.watch() as seen:
        output = flex_attention(*args, **options)
    assert torch.equal(plain, output)
    (record,) = seen
    assert record.function == "flex_attention"
    return record


def near_diagonal(b, h, q, kv):
    return (kv <= q + 5) & (kv % 3 != h % 3)


def test_without_mask_and_score_mod():
    q, k, v = qkv()
    record = watched(q, k, v, enable_gqa=True, scale=0.3)
    assert record.mask == "none"
    same(record.weights, by_definition(q, k, scale=0.3))


def test_mask_mod():
    q, k, v = qkv()
    block_mask = create_block_mask(near_diagonal, None, 4, 32, 48, device="cpu", BLOCK_SIZE=16)
    record = watched(q, k, v, block_mask=block_mask, enable_gqa=True)
    assert record.mask == "where(near_diagonal)"
    heads = torch.arange(4)[:, None, None]
    same(record.weights, by_definition(q, k, near_diagonal(0, heads, *INDEX)))


SLOPES = torch.tensor([0.1, 0.2, 0.4, 0.8], dtype=torch.float64)
OFFSETS = torch.randn(2, 79, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def alibi(score, b, h, q, kv):
    return score - SLOPES[h] * (q - kv).abs()


def relative(score, b, h, q, kv):
    return score + OFFSETS[b, q - kv + 47]


def capped(score, b, h, q, kv):
    return 3 * torch.tanh(score / 3)


def causal(score, b, h, q, kv):
    return torch.where(q >= kv, score, -float("inf"))


def hotter(score, b, h, q, kv):
    return score * 2 + 1


def expected_of(score_mod, q, k):
    rows, cols = INDEX
    if score_mod is alibi:
        return by_definition(q, k, bias=-SLOPES[:, None, None] * (rows - cols).abs())
    if score_mod is relative:
        return by_definition(q, k, bias=OFFSETS[:, rows - cols + 47][:, None])
    if score_mod is capped:
        return by_definition(q, k, softcap=3.0)
    if score_mod is causal:
        return by_definition(q, k, rows >= cols)
    return by_definition(q, k, scale=0.5)  # 2 / sqrt(16)


@pytest.mark.parametrize("score_mod", [alibi, relative, capped, causal, hotter], ids=lambda f: f.__name__)
def test_score_mods_that_are_understood(score_mod):
    q, k, v = qkv()
    record = watched(q, k, v, score_mod=score_mod, enable_gqa=True)
    assert record.mask == f"score_mod {score_mod.__name__}"
    same(record.weights, expected_of(score_mod, q, k))


@pytest.mark.parametrize("detach", [True, False])
def test_a_bias_that_is_learnt_has_a_graph_where_it_is_asked_for(detach):
    q, k, v = qkv()
    learnt = torch.zeros(32, 48, dtype=torch.float64, requires_grad=True)
    with regard.watch(detach=detach) as seen:
        flex_attention(q, k, v, score_mod=lambda s, b, h, i, j: s + learnt[i, j], enable_gqa=True)
    assert seen[0].weights.lse.requires_grad != detach


def squared(score, b, h, q, kv):
    return score * score


def by_place(score, b, h, q, kv):
    return score * (1 + q)


def sometimes_forbidden(score, b, h, q, kv):
    return torch.where(score > 5, -float("inf"), score)


@pytest.mark.parametrize("score_mod", [squared, by_place, sometimes_forbidden], ids=lambda f: f.__name__)
def test_score_mods_that_are_not_are_named(score_mod):
    q, k, v = qkv()
    record = watched(q, k, v, score_mod=score_mod, enable_gqa=True)
    with pytest.raises(NotImplementedError, match=rf"flex_attention\(score_mod={score_mod.__name__}\)"):
        _ = record.weights


def test_a_score_mod_that_is_not_understood_does_not_stop_the_model():
    q, k, v = qkv()
    with regard.watch(keep=["entropy"]) as seen:
        flex_attention(q, k, v, score_mod=squared, enable_gqa=True)
    assert seen[0].statistics == {}
    with pytest.raises(RuntimeError, match="score_mod=squared"):
        _ = seen[0].weights


def test_a_tensor_that_a_rule_reads_is_watched():
    q, k, v = qkv()
    shift = torch.tensor(5)

    def shifted(b, h, q, kv):
        return kv <= q + shift

    with regard.watch() as seen:
        flex_attention(
            q, k, v, block_mask=create_block_mask(shifted, None, None, 32, 48, device="cpu"), enable_gqa=True
        )
    same(seen[0].weights, by_definition(q, k, INDEX[1] <= INDEX[0] + 5))
    shift += 1
    with pytest.raises(RuntimeError, match="tensor 0 of the mask was written to"):
        _ = seen[0].weights


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_compiled_flex_attention_stays_compiled():
    def causal_mask(b, h, q, kv):
        return kv <= q

    compiled = torch.compile(flex_attention)
    q = torch.randn(1, 2, 256, 16)
    block_mask = create_block_mask(causal_mask, None, None, 256, 256, device="cpu")
    plain, eager = compiled(q, q, q, block_mask=block_mask), flex_attention(q, q, q, block_mask=block_mask)
    assert not torch.equal(plain, eager)  # they round in different orders: bits tell which of the two ran
    with regard.watch() as seen:
        output = compiled(q, q, q, block_mask=block_mask)
    assert torch.equal(output, plain)
    torch.testing.assert_close(seen[0].weights @ q, output, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("fresh")
def test_where_it_cannot_stay_compiled_it_says_so():
    compiled = torch.compile(flex_attention, backend="eager")
    q = torch.randn(1, 2, 32, 16)
    compiled(q, q, q)

    def fails(*args):
        raise ArithmeticError("no compiler")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex, "_compiled_operator", lambda outputs: fails)
        match = r"could not be compiled .*\(ArithmeticError\)"
        with pytest.warns(regard.watch.UncompiledWarning, match=match), regard.watch() as seen:
            compiled(q, q, q)
    same(seen[0].weights, by_definition(q, q), rtol=0, atol=1e-6)
