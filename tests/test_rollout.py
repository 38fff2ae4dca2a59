"""Attention rollout: the product of the layers, against the dense product."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tests import properties

import regard
from regard import masks


def layers(*batch_and_heads: int, count: int = 3, length: int = 6) -> list[regard.AttentionWeights]:
    found = []
    for n in range(count):
        q, k, v = (
            (n + 1) * t for t in properties.problem(*batch_and_heads, query_len=length, key_len=length)
        )  # layers that differ
        found.append(regard.attention(q, k, v, masks.causal())[1])
    return found


def dense(weights: list[regard.AttentionWeights], residual: float, *, heads: bool) -> torch.Tensor:
    out = torch.eye(weights[0].shape[-1], dtype=torch.float64)
    for w in weights:
        matrix = w.to_dense().mean(-3) if heads else w.to_dense()
        out = (residual * torch.eye(out.shape[-1], dtype=torch.float64) + (1 - residual) * matrix) @ out
    return out


@pytest.mark.parametrize("residual", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("lead", [(2, 3), (2, 2, 2), (2,), ()], ids=str)
def test_it_is_the_product_of_the_layers(lead, residual):
    weights = layers(*lead) if lead else [single() for _ in range(3)]
    rollout, want = regard.rollout(weights, residual=residual), dense(weights, residual, heads=len(lead) > 1)
    assert rollout.shape == want.shape
    near = {"rtol": 0, "atol": 1e-13}
    torch.testing.assert_close(rollout.to_dense(), want, **near)
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(6, 2)
    torch.testing.assert_close(rollout @ x, want @ x, **near)
    torch.testing.assert_close(rollout @ x[:, 0], want @ x[:, 0], **near)
    torch.testing.assert_close(rollout.mT @ x, want.mT @ x, **near)
    torch.testing.assert_close(rollout.mT @ x[:, 0], want.mT @ x[:, 0], **near)
    for i in (0, 3, -1):
        torch.testing.assert_close(rollout[i], want[..., i, :], **near)


def single() -> regard.AttentionWeights:
    q, k, v = (t[0, 0] for t in properties.problem(1, 1, query_len=6, key_len=6))
    return regard.attention(q, k, v)[1]


def test_a_row_says_what_a_position_read():
    row = regard.rollout(layers(1, 2))[2]
    assert not row[..., 3:].any()  # causal layers together are causal
    torch.testing.assert_close(row.sum(-1), torch.ones(1, dtype=torch.float64), rtol=0, atol=1e-14)


def test_the_first_layer_reads_first():
    a, b = layers(1, 1, count=2)
    want = b.to_dense()[:, 0] @ a.to_dense()[:, 0]
    torch.testing.assert_close(regard.rollout([a, b], residual=0.0).to_dense(), want, rtol=0, atol=1e-14)
    assert not torch.allclose(regard.rollout([b, a], residual=0.0).to_dense(), want)


def test_repr_and_shapes():
    rollout = regard.rollout(layers(2, 3))
    assert repr(rollout) == "Rollout(2 x 6 x 6 over 3 layers, residual=0.5)"
    assert rollout.mT.shape == (2, 6, 6)


def cross() -> regard.AttentionWeights:
    q, k, v = properties.problem(2, 2, query_len=6, key_len=5)
    return regard.attention(q, k, v)[1]


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (list, ValueError, r"rollout\(weights\): expected at least one layer's weights, got none"),
        (lambda: [torch.eye(3)], TypeError, r"layer 0 must be regard.AttentionWeights, got Tensor"),
        (lambda: [cross()], ValueError, r"layer 0 must be square \(self-attention\), got \(2, 2, 6, 5\)"),
        (
            lambda: [*layers(2, 2), *layers(1, 2)],
            ValueError,
            r"every layer must have the batch and length of layer 0, \(2, 2, 6, 6\), got \(1, 2, 6, 6\) in layer 3",
        ),
        (lambda: [*layers(2, 2), *layers(2, 2, length=5)], ValueError, r"got \(2, 2, 5, 5\) in layer 3"),
    ],
    ids=["none", "a tensor", "not square", "another batch", "another length"],
)
def test_bad_layers(weights, error, message):
    with pytest.raises(error, match=message):
        regard.rollout(weights())


@pytest.mark.parametrize("residual", [-0.1, 1.5])
def test_bad_residual(residual):
    with pytest.raises(ValueError, match=rf"residual.*\[0, 1\].*{residual}"):
        regard.rollout(layers(1, 1), residual=residual)


def test_bad_operands():
    rollout = regard.rollout(layers(1, 1))
    with pytest.raises(ValueError, match=r"rollout @ x: x must have 6 rows \(L, axis -2\), got \(5, 2\)"):
        rollout @ torch.ones(5, 2)
    with pytest.raises(ValueError, match=r"x must have 6 rows .*got list"):
        rollout @ [1.0] * 6
    with pytest.raises(IndexError, match=r"rollout\[query\]: query 6 is out of range for L=6; expected -6..5"):
        rollout[6]
    with pytest.raises(TypeError, match=r"rollout\[query\]: query must be an integer, got slice"):
        rollout[1:]


@pytest.mark.parametrize(
    ("residual", "name"),
    [("a", "str"), (None, "NoneType"), (True, "bool"), (torch.tensor(0.5), "Tensor")],
    ids=["str", "None", "bool", "Tensor"],
)
def test_a_residual_that_is_no_number(residual, name):
    with pytest.raises(TypeError, match=rf"rollout\(residual\): residual must be a number in \[0, 1\], got {name}"):
        regard.rollout(layers(1, 1), residual=residual)


def test_a_residual_that_is_nan():
    with pytest.raises(ValueError, match=r"residual must be in \[0, 1\], got nan"):
        regard.rollout(layers(1, 1), residual=float("nan"))


def test_weights_that_are_no_sequence_of_layers():
    wanted = r"rollout\(weights\): weights must be a sequence of regard.AttentionWeights, one a layer, got"
    for given, name in ((None, "NoneType"), (torch.tensor(1.0), "Tensor")):
        with pytest.raises(TypeError, match=f"{wanted} {name}$"):
            regard.rollout(given)
    with pytest.raises(TypeError, match=rf"{wanted} AttentionWeights; for one layer pass \[weights\]"):
        regard.rollout(layers(1, 1)[0])


def test_layers_may_come_one_by_one():
    weights = layers(1, 1)
    assert torch.equal(regard.rollout(w for w in weights).to_dense(), regard.rollout(weights).to_dense())


@pytest.mark.parametrize("shape", [(3, 6, 2), (2, 2, 6, 2)], ids=str)
def test_operands_of_another_batch(shape):
    rollout = regard.rollout(layers(2, 3))
    message = (
        r"rollout @ x: the batch axes of x, \(.*\), must broadcast to those of the rollout, \(2,\), got x of shape \("
    )
    for operator in (rollout, rollout.mT):
        with pytest.raises(ValueError, match=message + ", ".join(map(str, shape))):
            operator @ torch.ones(shape, dtype=torch.float64)


def test_one_operand_for_every_sequence():
    rollout = regard.rollout(layers(2, 3))
    x = torch.randn(1, 6, 2, dtype=torch.float64)
    assert torch.equal(rollout @ x, rollout @ x.expand(2, 6, 2))


@dataclass
class Record:
    """A record of a call, as a watch makes them."""

    name: str
    weights: object
    step: int = 0


class Refusing:
    name = "layers.0.attn"
    step = 0

    @property
    def weights(self):
        raise RuntimeError("query was written to after the call")


def test_records_are_taken_for_their_weights():
    weights = layers(1, 2)
    records = [Record(f"layers.{n}.attn", w) for n, w in enumerate(weights)]
    assert torch.equal(regard.rollout(records).to_dense(), regard.rollout(weights).to_dense())
    assert torch.equal(regard.rollout([records[0], weights[1]]).to_dense(), regard.rollout(weights[:2]).to_dense())


def test_what_a_model_was_seen_to_do_is_taken_as_it_is():
    layer = torch.nn.TransformerEncoderLayer(8, 2, dim_feedforward=8, batch_first=True, dtype=torch.float64)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with regard.watch(model) as seen:
        model(torch.randn(2, 5, 8, dtype=torch.float64))
    want = dense([record.weights for record in seen], 0.5, heads=True)
    torch.testing.assert_close(regard.rollout(seen).to_dense(), want, rtol=0, atol=1e-13)
    torch.testing.assert_close(regard.rollout(seen[:2]).to_dense(), want, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("records", "error", "message"),
    [
        (
            lambda: [Record("self", layers(2, 2)[0]), Record("layers.0.cross", cross())],
            ValueError,
            r"layer 1 \(layers.0.cross\) must be square \(self-attention\), got \(2, 2, 6, 5\); pass the records of",
        ),
        (
            lambda: [Record("a", layers(2, 2)[0]), Record("b", layers(1, 2)[0])],
            ValueError,
            r"batch and length of layer 0 \(a\), \(2, 2, 6, 6\), got \(1, 2, 6, 6\) in layer 1 \(b\)",
        ),
        (
            lambda: [Record("a", layers(1, 1)[0], step) for step in (2, 5, 3)],
            ValueError,
            r"records are of 3 forwards, steps 2 to 5; pass those of one, .*record.step == 2.*seen.joined\(name\)",
        ),
        (lambda: [Record("a", torch.eye(3))], TypeError, r"layer 0 \(a\) must be regard.AttentionWeights, got Tensor"),
        (lambda: Record("a", layers(1, 1)[0]), TypeError, r"got Record; for one layer pass \[record\]"),
        (lambda: [Refusing()], RuntimeError, "^query was written to after the call$"),
    ],
    ids=["cross", "another batch", "several forwards", "a tensor", "one record", "a record that refuses"],
)
def test_bad_records_are_named(records, error, message):
    with pytest.raises(error, match=message):
        regard.rollout(records())
