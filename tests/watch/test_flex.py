"""flex_attention under a watch, against the definition in float64."""

from __future__ import annotations

import pytest
import torch
from tests.compiling import fresh
from tests.watch.attending import by_definition, same
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

import regard
from regard.watch import flex, flex_mods

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


def on_one_row(score, b, h, q, kv):
    return torch.where((q == 5) & (kv == 7) & (h == 2), score * 3, score)


def clamped(score, b, h, q, kv):
    return score.clamp(-50, 50)


def capped_but_once(score, b, h, q, kv):
    return torch.where((q == 31) & (kv == 47), score, 3 * torch.tanh(score / 3))


def own_score_only(score, b, h, q, kv):
    return torch.where((score > 0.4) & (score < 0.5), score + 1, score)


@pytest.mark.parametrize("score_mod", [on_one_row, clamped, capped_but_once, own_score_only], ids=lambda f: f.__name__)
@pytest.mark.parametrize("entries", [1, 1 << 20])
def test_a_score_mod_that_differs_at_one_entry_or_one_score_is_named(score_mod, entries, monkeypatch):
    monkeypatch.setattr(flex_mods, "ENTRIES", entries)
    q, k, v = qkv()
    record = watched(q, k, v, score_mod=score_mod, enable_gqa=True)
    with pytest.raises(NotImplementedError, match=rf"flex_attention\(score_mod={score_mod.__name__}\)"):
        _ = record.weights


@pytest.mark.parametrize("score_mod", [alibi, relative, capped, causal, hotter], ids=lambda f: f.__name__)
def test_a_score_mod_is_read_some_rows_at_a_time(score_mod, monkeypatch):
    q, k, v = qkv()
    monkeypatch.setattr(flex_mods, "ENTRIES", 2 * 4 * 48 * 5)  # 5 rows of 32
    seen, most = flex_mods._modified, []
    monkeypatch.setattr(flex_mods, "_modified", lambda *a: (most.append(seen(*a).numel()), seen(*a))[1])
    same(watched(q, k, v, score_mod=score_mod, enable_gqa=True).weights, expected_of(score_mod, q, k))
    assert max(most) == flex_mods.ENTRIES


TABLE = torch.randn(10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def entry_by_entry(score, b, h, q, kv):
    return score + TABLE.index_select(0, (q % 10).reshape(1)).squeeze(0)


def mask_entry_by_entry(b, h, q, kv):
    return TABLE.index_select(0, ((q - kv).abs() % 10).reshape(1)).squeeze(0) > -0.5


def test_functions_that_take_one_entry_only():
    q, k, v = qkv()
    rows, cols = INDEX
    block_mask = create_block_mask(mask_entry_by_entry, None, None, 32, 48, device="cpu")
    record = watched(q, k, v, score_mod=entry_by_entry, block_mask=block_mask, enable_gqa=True)
    expected = by_definition(q, k, TABLE[(rows - cols).abs() % 10] > -0.5, bias=TABLE[rows % 10])
    same(record.weights, expected)


def test_a_score_mod_that_cannot_be_asked_says_why(monkeypatch):
    q, k, v = qkv()

    def fails_later(score, b, h, i, j):
        return score

    with regard.watch() as seen:
        flex_attention(q, k, v, score_mod=fails_later, enable_gqa=True)
    record = seen[0]
    monkeypatch.setattr(flex_mods, "entrywise", lambda *args: 1 / 0)
    with pytest.raises(NotImplementedError, match=r"score_mod=fails_later\): it cannot be asked .*ZeroDivisionError"):
        _ = record.weights


def in_blocks(monkeypatch, block_mask, allowed):
    """A watched call in which the compiled operator reads ``allowed``."""

    def operator(query, key, value, score_mod, *rest):
        weights = by_definition(query, key, allowed)
        return weights @ value, torch.zeros(query.shape[:-1]), torch.zeros(query.shape[:-1])

    monkeypatch.setattr(flex, "_compiled", lambda frame: True)
    monkeypatch.setattr(flex, "_compiled_operator", lambda outputs: lambda *args: operator(*args)[:outputs])
    q, k, v = (torch.randn(1, 2, 64, 16, dtype=torch.float64) for _ in range(3))
    with regard.watch() as seen:
        output = flex_attention(q, k, v, block_mask=block_mask)
    same(seen[0].weights, by_definition(q, k, allowed))
    torch.testing.assert_close(seen[0].weights @ v, output)
    return seen[0]


COUNTS = torch.ones(1, 1, 4, dtype=torch.int32)
INDICES = torch.tensor([[[[0, 1, 2, 3], [1, 0, 2, 3], [2, 0, 1, 3], [0, 1, 2, 3]]]], dtype=torch.int32)
READ = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]).bool()
READ = READ.repeat_interleave(16, 0).repeat_interleave(16, 1)


def test_what_runs_compiled_reads_its_blocks_alone(monkeypatch):
    record = in_blocks(monkeypatch, BlockMask.from_kv_blocks(COUNTS, INDICES, BLOCK_SIZE=16), READ)
    assert record.mask == "where(noop_mask)"

    def odd(b, h, q, kv):
        return kv % 2 == 1

    columns = torch.arange(64) % 2 == 1
    in_blocks(monkeypatch, BlockMask.from_kv_blocks(COUNTS, INDICES, BLOCK_SIZE=16, mask_mod=odd), READ & columns)
    shifted = (INDICES + 1) % 4
    full = BlockMask.from_kv_blocks(COUNTS, INDICES, COUNTS, shifted, BLOCK_SIZE=16, mask_mod=odd)
    in_blocks(monkeypatch, full, (READ & columns) | READ.roll(16, 1))


def test_what_runs_compiled_without_blocks_reads_everything(monkeypatch):
    assert in_blocks(monkeypatch, None, None).mask == "none"


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_compiled_blocks_without_mask_mod():
    compiled = torch.compile(flex_attention)
    q = torch.randn(1, 1, 256, 16)
    indices = torch.tensor([[[[1, 0], [0, 1]]]], dtype=torch.int32)
    block_mask = BlockMask.from_kv_blocks(torch.ones(1, 1, 2, dtype=torch.int32), indices, BLOCK_SIZE=128)
    with torch.no_grad(), regard.watch() as seen:
        output = compiled(q, q, q, block_mask=block_mask)
    torch.testing.assert_close(seen[0].weights @ q, output, rtol=0, atol=1e-5)
