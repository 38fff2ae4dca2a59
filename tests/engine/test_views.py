"""Views at even steps against plain slices: what is cut out, folded, and put back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import LAYOUTS, examples, strided

from regard.engine.calls import Run
from regard.engine.views import add_at, cut, fold_rows, unfold_rows, write_at

runs = st.builds(Run, st.integers(0, 4), st.integers(1, 6), st.integers(1, 5), st.integers(0, 8))


def slices(run: Run) -> list[slice]:
    return [slice(run.start + i * run.step, run.start + i * run.step + run.size) for i in range(run.count)]


def test_overlapping_windows_by_hand():
    t = torch.arange(6.0).view(1, 1, 6, 1)
    assert cut(t, Run(1, 3, 2, 2))[0, 0, :, :, 0].tolist() == [[1, 2, 3], [3, 4, 5]]
    total = torch.zeros(1, 1, 6, 1)
    add_at(total, Run(1, 3, 2, 2), torch.ones(1, 1, 2, 3, 1))
    assert total.flatten().tolist() == [0, 1, 1, 2, 1, 1]


@examples(60)
@given(runs, st.sampled_from(LAYOUTS), st.integers(0, 1 << 31))
def test_cut_is_slices_and_no_copy(run, layout, seed):
    t = strided((2, 3, 42, 5), layout, torch.Generator().manual_seed(seed), torch.float64)
    t = t[1:, :, 1:] if seed % 2 else t  # with an offset in its storage
    parts = cut(t, run)
    assert torch.equal(parts, torch.stack([t[:, :, s] for s in slices(run)], 2))
    assert parts.untyped_storage().data_ptr() == t.untyped_storage().data_ptr()


@examples(60)
@given(runs, st.integers(0, 1 << 31))
def test_what_is_added_is_added_at_every_place(run, seed):
    generator = torch.Generator().manual_seed(seed)
    total = torch.randn(2, 3, 42, 4, generator=generator, dtype=torch.float64)
    part = torch.randn(2, 3, run.count, run.size, 4, generator=generator, dtype=torch.float64)
    want = total.clone()
    for i, s in enumerate(slices(run)):
        want[:, :, s] += part[:, :, i]
    before = part.clone()
    add_at(total, run, part)
    torch.testing.assert_close(total, want, rtol=0, atol=1e-14)  # sums of at most five terms, in another order
    assert torch.equal(part, before)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 3), (4, 2), (6, 1)])
def test_grouped_heads_become_rows_of_their_key_head(heads, kv_heads):
    rows = torch.randn(heads, 3, 5, 2)
    folded = fold_rows(rows, kv_heads)
    group = heads // kv_heads
    assert folded.shape == (kv_heads, 3, group * 5, 2)
    for h in range(heads):
        g = h % group
        assert torch.equal(folded[h // group, :, g * 5 : (g + 1) * 5], rows[h])
    assert torch.equal(unfold_rows(folded, heads), rows)


def test_the_first_part_is_written_and_the_next_are_merged():
    torch.manual_seed(0)
    scores, values = torch.randn(2, 4, 9, dtype=torch.float64), torch.randn(2, 9, 3, dtype=torch.float64)

    def part(keys: slice):
        some = scores[:, :, keys]
        return some.softmax(-1) @ values[:, keys], some.logsumexp(-1, keepdim=True)

    out, lse = torch.full((2, 4, 3), torch.nan, dtype=torch.float64), torch.full((2, 4, 1), torch.nan).double()
    write_at(out, lse, *part(slice(0, 2)), first=True)
    assert torch.equal(out, part(slice(0, 2))[0])
    write_at(out, lse, *part(slice(2, 3)), first=False)
    write_at(out, lse, *part(slice(3, 9)), first=False)
    want, want_lse = part(slice(0, 9))
    torch.testing.assert_close(out, want, rtol=0, atol=1e-14)
    torch.testing.assert_close(lse, want_lse, rtol=0, atol=1e-14)
