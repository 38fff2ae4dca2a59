"""What is kept of a call: query, key and masks and nothing else; writes that are noticed; copies; questions."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from tests.watch.attending import Attention, Tower, by_definition, same
from torch import nn

import regard
from regard.watch.held import fingerprint, split


def tensors():
    q, k, v = torch.randn(3, 2, 4, 6, 8, dtype=torch.float64)
    mask = torch.rand(6, 6) < 0.7
    mask[:, 0] = True
    return {"query": q.clone(), "key": k.clone(), "value": v.clone(), "attn_mask": mask}


def attend(given):
    return F.scaled_dot_product_attention(**given)


@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", ["query", "key", "attn_mask"])
def test_a_write_is_noticed(name, inference, kind):
    with torch.inference_mode(inference):
        given = tensors()
        if kind == "float":
            given["attn_mask"] = given["attn_mask"].double().log()
        with regard.watch() as seen:
            attend(given)
            same(
                seen[0].weights,
                by_definition(
                    given["query"], given["key"], given["attn_mask"] > -1 if kind == "float" else given["attn_mask"]
                ),
            )
            given[name][..., 1, 3] = not given[name][..., 1, 3].any() if given[name].dtype == torch.bool else 5
    called = "mask" if name == "attn_mask" else name
    match = rf"F.scaled_dot_product_attention in \(no module\): {called} was written to after .*hold='copy'"
    with pytest.raises(RuntimeError, match=match):
        _ = seen[0].weights


@pytest.mark.parametrize("inference", [False, True])
def test_a_write_to_what_is_not_read_is_none(inference):
    with torch.inference_mode(inference):
        given = tensors()
        with regard.watch() as seen:
            output = attend(given)
        output += 1
        given["value"] += 1
    same(seen[0].weights, by_definition(given["query"], given["key"], given["attn_mask"]))


@pytest.mark.parametrize("hold", ["copy", "cpu"])
def test_copies_may_be_written_to(hold):
    given = tensors()
    expected = by_definition(given["query"], given["key"], given["attn_mask"])
    with regard.watch(hold=hold) as seen:
        attend(given)
        for t in given.values():
            t.zero_()
    same(seen[0].weights, expected)


def test_copies_of_the_weights_of_regard_are_of_its_arguments():
    q, k, v = torch.randn(3, 1, 2, 5, 8, dtype=torch.float64)
    sinks, mask, bias = torch.randn(2, dtype=torch.float64), torch.ones(5, 5).tril().bool(), torch.randn(5, 5).double()
    with regard.watch(hold="copy") as seen:
        _, returned = regard.attention(q, k, v, mask, bias=bias, sinks=sinks, scale=0.4)
        expected = returned.to_dense()
        for t in (q, k, sinks, mask, bias):
            t.zero_()
    same(seen[0].weights, expected)


def test_a_mask_that_layers_share_is_copied_once():
    model, mask = Tower(3).double(), torch.zeros(6, 6, dtype=torch.float64)
    with regard.watch(model, hold="copy") as seen:
        model(torch.randn(1, 6, 16, dtype=torch.float64), attn_mask=mask)
    assert len({record.kept.given[0].tensor.data_ptr() for record in seen}) == 1
    assert seen[0].kept.given[0].tensor.data_ptr() != mask.data_ptr()


@pytest.mark.parametrize("hold", ["reference", "copy", "cpu"])
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("kind", ["bool", "float", "bias", "sinks"])
def test_a_mask_at_the_address_of_one_that_died_is_another(kind, inference, hold):
    expected = []
    with torch.inference_mode(inference), regard.watch(hold=hold) as seen:
        q = torch.randn(1, 2, 64, 8, dtype=torch.float64)
        for _ in range(6):  # each is freed before the next is made, which often lies where it lay
            allowed = torch.rand(64, 64) < 0.5
            allowed[:, 0] = True
            if kind == "sinks":
                sinks = torch.randn(2, dtype=torch.float64)
                expected.append(by_definition(q, q, sinks=sinks.clone()))
                regard.attention(q, q, q, sinks=sinks)
                del sinks
            elif kind == "bias":
                bias = torch.randn(64, 64, dtype=torch.float64)
                expected.append(by_definition(q, q, bias=bias.clone()))
                regard.attention(q, q, q, bias=bias)
                del bias
            else:
                mask = allowed.double().log() if kind == "float" else allowed.clone()
                expected.append(by_definition(q, q, allowed))
                F.scaled_dot_product_attention(q, q, q, mask)
                del mask
    for record, weights in zip(seen, expected, strict=True):
        same(record.weights, weights)


@pytest.mark.parametrize("inference", [False, True])
def test_a_copy_of_a_mask_is_of_its_call(inference):
    expected = []
    with torch.inference_mode(inference), regard.watch(hold="copy") as seen:
        q, mask = torch.randn(1, 2, 6, 8, dtype=torch.float64), torch.ones(6, 6, dtype=torch.bool)
        for n in range(1, 4):
            mask.copy_(torch.ones(6, 6).tril(n).bool())
            expected.append(by_definition(q, q, mask.clone()))
            F.scaled_dot_product_attention(q, q, q, mask)
    for record, weights in zip(seen, expected, strict=True):
        same(record.weights, weights)


def test_an_error_of_a_question_says_where():
    model = Tower(1)
    match = (
        r"watch\(keep\): \('topk', 8\) of call 0 of layers.0, F.scaled_dot_product_attention, 1 x 4 x 3 x 3: topk\(k\)"
    )
    with pytest.raises(ValueError, match=match), regard.watch(model, keep=["entropy", ("topk", 8)]):
        model(torch.randn(1, 3, 16))


def test_an_error_of_a_function_that_is_asked_stays_what_it_is():
    class OwnError(Exception):
        def __init__(self):
            super().__init__("of its own")

    def fails(weights):
        raise OwnError

    model = Tower(1)
    with pytest.raises(OwnError, match="of its own"), regard.watch(model, keep=[fails]):
        model(torch.randn(1, 3, 16))


def test_questions_are_checked_on_the_cpu():
    with torch.device("meta"):
        watch = regard.watch(keep=["entropy", ("topk", 2), ("mass", 0), ("pool", 512, 512)])
    with watch as seen:
        F.scaled_dot_product_attention(*torch.randn(3, 1, 512, 4))
    assert tuple(seen[0].statistics["entropy"].shape) == (1, 512)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask_dtype", [torch.float16, torch.float32, torch.float64])
def test_the_least_number_of_the_dtype_of_a_mask_forbids(dtype, mask_dtype):
    mask = torch.zeros(6, 6, dtype=mask_dtype)
    mask[:, 3:] = torch.finfo(mask_dtype).min
    mask[:, 4] = -torch.inf
    allowed, added = split(mask, dtype)
    assert torch.equal(allowed, (torch.arange(6) < 3).expand(6, 6))
    assert added is None


def test_nan_in_a_mask_does_not_forbid():
    mask = torch.tensor([[0.0, torch.nan, -torch.inf]])
    allowed, added = split(mask, torch.float32)
    assert allowed.tolist() == [[True, True, False]]
    assert added.isnan().tolist() == [[False, True, False]]


def copied(seen):
    return pickle.loads(pickle.dumps(seen))


@pytest.mark.parametrize("copy_of", [copy.deepcopy, copied])
@pytest.mark.parametrize("inference", [False, True])
def test_a_copy_of_what_was_seen_answers(copy_of, inference):
    with torch.inference_mode(inference):
        given = {name: t.clone() for name, t in tensors().items()}
        given["query"] += 1  # it was written to before
        with regard.watch() as seen:
            attend(given)
        expected = by_definition(given["query"], given["key"], given["attn_mask"])
        other = copy_of(seen)
        same(other[0].weights, expected)
        given["query"] += 1
        same(other[0].weights, expected)
        with pytest.raises(RuntimeError, match="query was written to"):
            _ = copy_of(seen)[0].weights


class Watched(Attention):
    """Remembers weakly what it made."""

    def forward(self, x):
        q, k, v = self.projected(x)
        output = F.scaled_dot_product_attention(q, k, v)
        self.made = {"q": weakref.ref(q), "k": weakref.ref(k), "v": weakref.ref(v), "output": weakref.ref(output)}
        return output.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("keep", [None, ["entropy"]])
@pytest.mark.parametrize("grad", [True, False])
def test_nothing_else_is_kept_alive(grad, keep):
    model, x = Watched(), torch.randn(2, 6, 16)
    with torch.set_grad_enabled(grad), regard.watch(model, keep=keep) as seen:
        gc.disable()  # what only a collection would find is alive too long
        try:
            model(x)
            alive = {name for name, ref in model.made.items() if ref() is not None}
        finally:
            gc.enable()
        assert alive == set()  # of query and key another tensor is held, without their graph
    assert len(seen) == 1


def test_a_watch_lets_go_of_the_model():
    model = Tower()
    gone = weakref.ref(model)
    with regard.watch(model) as seen:
        model(torch.randn(1, 3, 16))
    with regard.watch() as other:
        model(torch.randn(1, 3, 16))
    del model
    gc.collect()
    assert gone() is None
    assert len(seen) == len(other) == 2


def test_a_graph_is_kept_where_it_is_asked_for():
    model, x = Tower().double(), torch.randn(1, 5, 16, dtype=torch.float64)
    with regard.watch(model, detach=False) as seen:
        model(x)
    loss = seen[0].weights.entropy().mean()
    loss.backward()
    found = model.layers[0].q.weight.grad.clone()
    model.zero_grad()
    q, k, _ = model.layers[0].projected(x)
    weights = torch.softmax(q @ k.mT / 2, -1)  # D is 4
    (-(weights * weights.log()).sum(-1)).mean().backward()
    torch.testing.assert_close(found, model.layers[0].q.weight.grad, rtol=0, atol=1e-12)
    with torch.no_grad():
        assert not seen[1].weights.entropy().requires_grad
    assert seen[1].weights.entropy().requires_grad


def test_a_bias_has_a_graph_too():
    q, k, v = torch.randn(3, 1, 2, 5, 8, dtype=torch.float64)
    bias = torch.zeros(2, 5, 5, dtype=torch.float64, requires_grad=True)
    with regard.watch(detach=False) as seen:
        for _ in range(2):  # two layers that share it
            F.scaled_dot_product_attention(q, k, v, bias)
    for record in seen:
        (found,) = torch.autograd.grad(record.weights.lse.sum(), bias)
        torch.testing.assert_close(found, by_definition(q, k)[0], rtol=0, atol=1e-12)


def test_without_it_there_is_none():
    model, x = Tower(), torch.randn(1, 5, 16)
    with regard.watch(model) as seen:
        model(x)
    assert not seen[0].weights.entropy().requires_grad


def test_questions_are_answered_on_the_spot():
    model, x = Tower().double(), torch.randn(2, 6, 16, dtype=torch.float64)
    mean_lse = lambda weights: weights.lse.mean()  # noqa: E731
    questions = ["entropy", "received", "max_logit", ("pool", 2, 3), ("topk", 2), ("mass", 0), mean_lse]
    with regard.watch(model, keep=questions) as seen:
        model(x, is_causal=True)
    with regard.watch(model) as whole:
        model(x, is_causal=True)
    for record, other in zip(seen, whole, strict=True):
        assert list(record.statistics) == questions
        weights = other.weights
        expected = [
            weights.entropy(),
            weights.received(),
            weights.max_logit(),
            weights.pool(2, 3),
            weights.topk(2).values,
            weights.mass(0),
            weights.lse.mean(),
        ]
        found = [a.values if isinstance(a, tuple) else a for a in record.statistics.values()]
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
            assert not a.requires_grad
    dense = by_definition(*model.layers[0].projected(x)[:2], torch.ones(6, 6).tril().bool())
    torch.testing.assert_close(seen[0].statistics["received"], dense.sum(-2), rtol=0, atol=1e-12)
    with pytest.raises(RuntimeError, match=r"watch\(keep=\['entropy', .* answered these and let go of query and key"):
        _ = seen[0].weights
    assert whole[0].statistics == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_a_fingerprint_tells_tensors_apart(dtype):
    t = (torch.randn(2, 3, 5, 4) * 9).to(dtype)
    prints = {fingerprint(t)}
    assert fingerprint(t.clone()) == fingerprint(t)
    assert fingerprint(t.transpose(1, 2).contiguous().transpose(1, 2)) == fingerprint(t)
    changes = [t.flip(0), t.flip(1), t.flip(2), t.flip(3), t.roll(1, 2)]
    for place in range(0, t.numel(), 7):
        changed = t.clone()
        changed.view(-1)[place] = not changed.view(-1)[place] if dtype == torch.bool else changed.view(-1)[place] + 1
        changes.append(changed)
    distinct = {c.float().numpy().tobytes() for c in changes} | {t.float().numpy().tobytes()}
    prints.update(fingerprint(c) for c in changes)
    assert len(prints) == len(distinct)


def test_a_fingerprint_of_an_expanded_mask_reads_what_there_is():
    mask = torch.randn(2, 1, 1, 6)
    assert fingerprint(mask.expand(2, 4, 6, 6)) == fingerprint(mask)
    assert fingerprint(torch.empty(0, 3)) == ()


def test_nn_multihead_attention_keeps_no_mask_that_it_made():
    layer = nn.MultiheadAttention(16, 4, batch_first=True)
    x, padding = torch.randn(2, 6, 16), torch.zeros(2, 6, dtype=torch.bool)
    with regard.watch(layer) as seen:
        layer(x, x, x, key_padding_mask=padding)
    assert [tuple(held.tensor.shape) for held in seen[0].kept.given] == [(2, 6)]
