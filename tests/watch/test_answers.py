"""Sources of an answer and documents' mass: against dense matrices in float64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tests.allocations import largest_of

import regard
from regard import masks
from regard.watch.answers import document_mass, sources

NEAR = {"rtol": 0, "atol": 1e-12}


def one_layer(
    *lead: int, query_len: int = 8, key_len: int = 8, kv_heads: int | None = None, mask=None, dtype=torch.float64
) -> regard.AttentionWeights:
    width = 6
    key_lead = lead if kv_heads is None else (*lead[:-1], kv_heads)
    q = 2 * torch.randn(*lead, query_len, width, dtype=dtype)
    k = torch.randn(*key_lead, key_len, width, dtype=dtype)
    return regard.attention_weights(q, k, mask)


def model(*lead: int, count: int = 3, **options) -> list[regard.AttentionWeights]:
    return [one_layer(*lead, **options) for _ in range(count)]


def heads_of(weights: regard.AttentionWeights) -> torch.Tensor:
    """(H, L, S) of a batch of one, by definition."""
    dense = weights.to_dense()
    return dense.reshape(-1, *dense.shape[-2:])


def dense_rollout(layers: list[torch.Tensor], residual: float) -> torch.Tensor:
    out = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype)
    for heads in layers:
        out = (residual * torch.eye(len(out), dtype=out.dtype) + (1 - residual) * heads.mean(0)) @ out
    return out


def dense_carried(layers: list[torch.Tensor], residual: float, start: torch.Tensor) -> torch.Tensor:
    """What each head moves of the flow from `start` to each source, (layers, H, L), path by path."""
    found = []
    for n, heads in enumerate(layers):
        arriving = start @ dense_rollout(layers[n + 1 :], residual) if layers[n + 1 :] else start
        below = dense_rollout(layers[:n], residual) if n else torch.eye(heads.shape[-1], dtype=heads.dtype)
        moves = heads - torch.diag_embed(heads.diagonal(dim1=-2, dim2=-1))
        found.append((1 - residual) / len(heads) * torch.einsum("i,hij,jk->hk", arriving, moves, below))
    return torch.stack(found)


KINDS = {
    "full": {},
    "causal, grouped heads": {"kv_heads": 2, "mask": masks.causal()},
    "a window, grouped heads": {"kv_heads": 1, "mask": masks.window(3)},
    "padding": {"mask": masks.padding(torch.tensor([6]))},
}


@pytest.mark.parametrize("residual", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_shares_are_the_rows_of_the_rollout(kind, residual):
    layers = model(1, 4, **KINDS[kind])
    dense = [heads_of(w) for w in layers]
    found = sources(layers, [5, -1], residual=residual)
    want = dense_rollout(dense, residual)[[5, 7]].mean(0)
    torch.testing.assert_close(found.shares, want, **NEAR)
    assert [row.rank for row in found] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [row.share for row in found] == sorted((row.share for row in found), reverse=True)
    torch.testing.assert_close(torch.tensor([row.share for row in found], dtype=want.dtype), want.sort().values.flip(0))
    assert all(row.share == float(found.shares[row.position]) for row in found)
    assert found.queries == (5, 7)


@pytest.mark.parametrize("residual", [0.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_head_that_carried_most_is_named(kind, residual):
    layers = model(1, 4, **KINDS[kind])
    dense = [heads_of(w) for w in layers]
    start = torch.zeros(8, dtype=torch.float64)
    start[6] = 1
    want = dense_carried(dense, residual, start)  # (layers, H, S)
    for row in sources(layers, 6, residual=residual):
        of_source = want[:, :, row.position]
        assert row.carried == pytest.approx(float(of_source.max()), abs=1e-12)
        if float(of_source.max()) > 1e-12:
            assert (row.layer, row.head) == divmod(int(of_source.argmax()), 4)
        else:
            assert (row.layer, row.head, row.module) == (None, None, "")


def test_what_stays_where_it_is_was_carried_by_nobody():
    (row,) = sources(model(1, 2, mask=masks.causal()), 0, sources=0)
    assert (row.share, row.layer, row.head, row.carried) == (pytest.approx(1.0), None, None, 0.0)


def test_flows_of_a_layer_and_what_stays_add_up_to_the_share():
    # One head a layer that reads the token before: every step of the path is one head's, and its flow is the share.
    shift = [one_layer(1, 1, mask=masks.where(lambda b, h, q, kv: kv == (q - 1).clamp(min=0))) for _ in range(3)]
    (row,) = sources(shift, 5, residual=0.0, k=1)
    assert (row.position, row.share, row.carried) == (2, pytest.approx(1.0), pytest.approx(1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_what_the_rows_read_directly(kind):
    layers = [*model(1, 4, **KINDS[kind]), *model(1, 4, count=1)]
    dense = torch.stack([heads_of(w) for w in layers])  # (layers, H, L, S)
    found = sources(layers, slice(5, 8), method="mean")
    parts = dense[:, :, 5:8].mean(2) / 16  # (layers, H, S)
    torch.testing.assert_close(found.shares, parts.sum((0, 1)), **NEAR)
    for row in found:
        of_source = parts[:, :, row.position]
        assert row.carried == pytest.approx(float(of_source.max()), abs=1e-12)
        if row.layer is not None:
            assert (row.layer, row.head) == divmod(int(of_source.argmax()), 4)


def test_the_mean_weighs_layers_alike_however_many_heads_they_have_and_takes_cross_attention():
    layers = [one_layer(1, 2, query_len=3, key_len=5), one_layer(1, 6, query_len=3, key_len=5)]
    found = sources(layers, -1, method="mean", tokens=["a", "b", "c", "d", "e"])
    want = (heads_of(layers[0])[:, -1].mean(0) + heads_of(layers[1])[:, -1].mean(0)) / 2
    torch.testing.assert_close(found.shares, want, **NEAR)
    with pytest.raises(ValueError, match=r"layer 0 is not square, \(1, 2, 3, 5\), .*self-attention.*method='mean'"):
        sources(layers, -1)


@pytest.mark.parametrize("method", ["rollout", "mean"])
@pytest.mark.parametrize("lead", [(2, 3), (2, 2, 3), (4,), ()], ids=str)
def test_one_sequence_of_a_batch(lead, method):
    layers = model(*lead)
    batches = lead[:-1] if len(lead) > 1 else lead
    count = torch.Size(batches).numel()
    for batch in range(count):
        dense = [w.to_dense().reshape(count, -1, 8, 8)[batch] for w in layers]
        want = dense_rollout(dense, 0.5)[3] if method == "rollout" else torch.stack(dense).mean((0, 1))[3]
        given = None if count == 1 else batch
        torch.testing.assert_close(sources(layers, 3, method=method, batch=given).shares, want, **NEAR)


def test_positions_may_be_named_in_every_way():
    layers = model(1, 2)
    want = sources(layers, [5, 6, 7])
    last = torch.arange(8) > 4
    for answer in (slice(5, None), slice(None, 4, -1), (5, 6, -1, 7), torch.tensor([7, 6, 5]), last, last.tolist()):
        assert torch.equal(sources(layers, answer).shares, want.shares)
        assert sources(layers, answer).queries == (5, 6, 7)
    only = sources(layers, slice(5, None), sources=[6, 1, -8])
    assert sorted(row.position for row in only) == [0, 1, 6]
    assert {row.position: row.share for row in only}.items() <= {row.position: row.share for row in want}.items()
    assert len(sources(layers, 5, k=3)) == 3
    assert sources(layers, 5, k=3)[0] == sources(layers, 5)[0]


@pytest.mark.parametrize("method", ["rollout", "mean"])
def test_documents_get_the_sum_of_their_tokens(method):
    layers = model(1, 2)
    ids = torch.tensor([4, 4, -1, 4, 9, 9, -1, 9])
    found = sources(layers, 2, documents=ids, method=method, k=3)
    assert {part.document: (part.share, part.tokens) for part in found.documents} == {
        document: (pytest.approx(float(found.shares[ids == document].sum())), int((ids == document).sum()))
        for document in (4, -1, 9)
    }
    shares = [part.share for part in found.documents]
    assert shares == sorted(shares, reverse=True)
    assert all(row.document == int(ids[row.position]) for row in found)


@pytest.mark.parametrize("ids", ["shared", "a sequence"])
@pytest.mark.parametrize("lead", [(2, 4), (3, 2, 2), (3,), ()], ids=str)
def test_document_mass_is_a_sum_over_keys(lead, ids):
    weights = one_layer(*lead, kv_heads=2 if len(lead) > 1 else None, key_len=7)
    batch = lead[:-1] if len(lead) > 1 else lead
    given = torch.tensor([3, 0, 0, 3, 8, 8, 0])
    if ids != "shared":
        given = torch.stack([given.roll(n) for n in range(torch.Size(batch).numel())]).reshape(*batch, 7)
    mass = document_mass(weights, given)
    assert mass.shape == (*weights.shape[:-1], 3)
    of_heads = given.unsqueeze(-2) if ids != "shared" and len(lead) > 1 else given
    for column, document in enumerate((0, 3, 8)):
        want = (weights.to_dense() * (of_heads == document).unsqueeze(-2)).sum(-1)
        torch.testing.assert_close(mass[..., column], want, **NEAR)


def test_half_precision_is_answered_in_float32():
    layers = model(1, 2, dtype=torch.bfloat16)
    dense = [heads_of(regard.attention_weights(*exact(w))) for w in layers]
    found = sources(layers, 3)
    assert found.shares.dtype == torch.float32
    torch.testing.assert_close(found.shares.double(), dense_rollout(dense, 0.5)[3], rtol=0, atol=1e-6)
    assert document_mass(layers[0], [0] * 8).dtype == torch.float32


def exact(weights: regard.AttentionWeights) -> tuple[torch.Tensor, torch.Tensor]:
    problem = weights._problem
    return problem.q.double(), problem.k.double()


@dataclass
class Record:
    name: str
    weights: object
    step: int = 0


def test_records_are_named():
    layers = [Record(f"layers.{n}.attn", w) for n, w in enumerate(model(1, 2))]
    for method in ("rollout", "mean"):
        row = sources(layers, 7, sources=2, method=method)[0]
        assert row.module == f"layers.{row.layer}.attn"


def test_a_watched_model_with_grouped_heads_and_its_generation():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    llama = transformers.LlamaForCausalLM(config).double().eval()
    prompt = torch.randint(1, 32, (1, 6))
    with torch.no_grad(), regard.watch(llama) as generated:
        text = llama.generate(prompt, max_new_tokens=3, do_sample=False, pad_token_id=0)
    with torch.no_grad(), regard.watch(llama) as at_once:
        llama(text[:, :-1])
    llama.set_attn_implementation("eager")
    with torch.no_grad():
        eager = [layer[0] for layer in llama(text[:, :-1], output_attentions=True).attentions]
    want = dense_rollout(eager, 0.5)[-3:].mean(0)
    for seen in (at_once, generated):
        found = sources(seen, slice(-3, None))
        torch.testing.assert_close(found.shares, want, rtol=0, atol=1e-6)  # its softmax is one of float32
        assert {row.module for row in found} <= {"model.layers.0.self_attn", "model.layers.1.self_attn", ""}
    torch.testing.assert_close(
        sources(generated, -1, method="mean").shares, torch.stack(eager).mean((0, 1))[-1], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("method", ["rollout", "mean"])
def test_a_long_text_takes_no_square(method):
    length = 4096
    layers = [
        regard.attention_weights(torch.randn(1, 4, length, 8), torch.randn(1, 2, length, 8), mask)
        for mask in (masks.causal(), masks.window(64))
    ]
    tokens = ["x"] * length
    ids = torch.arange(length) // 100
    seen = largest_of(
        lambda: sources(layers, slice(4000, None), tokens=tokens, documents=ids, sources=slice(0, 4000), method=method)
    )
    assert seen.elements < length * length // 8, seen.operation
    seen = largest_of(lambda: document_mass(layers[0], ids % 8))
    assert seen.elements < length * length // 8, seen.operation
