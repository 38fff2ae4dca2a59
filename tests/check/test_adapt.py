"""Functions in every calling style: how they are called is found out, the right one is ok, one without scale is not."""

from __future__ import annotations

import functools
import types
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import regard


def core(q, k, v, allow=None, *, scaled=True, add=None):
    scores = q @ k.transpose(-1, -2) / (q.shape[-1] ** 0.5 if scaled else 1)
    scores = scores if allow is None else scores.masked_fill(~allow, -torch.inf)
    scores = scores if add is None else scores + add
    return scores.softmax(-1) @ v


def weights_of(q, k, mask, *, scaled):
    eye = torch.eye(k.shape[-2], dtype=q.dtype).expand(*k.shape[:-1], k.shape[-2])
    return core(q, k, eye, mask, scaled=scaled)


def arrays(q, k, v, mask, *, scaled, root):
    scores = q @ np.swapaxes(k, -1, -2) / (root(q) if scaled else root(np.ones((1, 1), q.dtype)))
    scores = scores if mask is None else np.where(mask, scores, -1e9)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True) @ v


def refuse():
    raise ValueError("not these sizes")


def shaped(mask, shape):
    if mask is not None:
        assert tuple(mask.shape) == shape, mask.shape
    return mask


def no_booleans(mask):
    if mask is not None and mask.dtype == torch.bool:
        raise TypeError("the mask must be of 0 and 1")
    return mask if mask is None else mask == 1


def styles(*, scaled: bool) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Name -> (function, the conventions that have to be found)."""
    a = functools.partial(core, scaled=scaled)
    w = functools.partial(weights_of, scaled=scaled)
    np32 = functools.partial(arrays, scaled=scaled, root=lambda q: np.sqrt(q.shape[-1]).astype(q.dtype))
    np64 = functools.partial(arrays, scaled=scaled, root=lambda q: np.sqrt(np.float64(q.shape[-1])))
    allow, deny, add = ({"layout": "BHLD", "mask": polarity} for polarity in ("allow", "deny", "additive"))
    answer = namedtuple("answer", "output weights")
    nothing = {"layout": "BHLD", "mask": None}

    def flagged(q, k, v, mask=None, flag=None):
        assert flag == 3
        return a(q, k, v, mask)

    def required(q, k, v, num_heads, mask=None):
        def split(t):
            return t.unflatten(-1, (num_heads, -1)).transpose(1, 2)

        return a(split(q), split(k), split(v), mask).transpose(1, 2).flatten(2)

    def hugging_face(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
        groups = module.num_key_value_groups
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.mT * (scaling if scaled else 1)
        if attention_mask is not None:
            scores = scores + attention_mask[..., : key.shape[-2]]
        weights = torch.nn.functional.dropout(scores.softmax(-1), dropout, module.training)
        return (weights @ value).transpose(1, 2).contiguous(), weights

    def heads_last(q, k, v, mask=None):
        return a(*(t.transpose(1, 2) for t in (q, k, v)), mask).transpose(1, 2)

    class Thing:
        def __call__(self, q, k, v, mask=None):
            return a(q, k, v, mask)

        method = __call__

        @staticmethod
        def static(q, k, v, mask=None):
            return a(q, k, v, mask)

    def rank(n, q, k, v, mask):
        assert q.dim() == n
        return a(q, k, v, mask)

    weights = allow | {"weights": True}
    return {
        "capitals": (lambda Q, K, V, mask=None: a(Q, K, V, mask), allow),
        "words": (lambda query, key, value, attn_mask=None: a(query, key, value, attn_mask), allow),
        "states": (lambda query_states, key_states, value_states: a(query_states, key_states, value_states), nothing),
        "by position": (lambda a_, b_, c_: a(a_, b_, c_), nothing),
        "by position, with a mask": (lambda a_, b_, c_, mask=None: a(a_, b_, c_, mask), allow),
        "another order": (lambda value, key, query, attention_mask=None: a(query, key, value, attention_mask), allow),
        "keyword only": (lambda q, k, v, *, mask=None: a(q, k, v, mask), allow),
        "positional only": (lambda q, k, v, mask=None, /: a(q, k, v, mask), allow),
        "kwargs": (lambda q, k, v, mask=None, **options: a(q, k, v, mask), allow),
        "deny": (lambda q, k, v, mask=None: a(q, k, v, None if mask is None else ~mask), deny),
        "additive": (lambda q, k, v, mask=None: a(q, k, v, add=mask), add),
        "0 is masked": (lambda q, k, v, mask=None: a(q, k, v, None if mask is None else mask != 0), allow),
        "numbers only": (lambda q, k, v, mask=None: a(q, k, v, no_booleans(mask)), allow),
        "masks (B, 1, L, S)": (
            lambda q, k, v, mask=None: a(q, k, v, shaped(mask, (len(q), 1, q.shape[2], k.shape[2]))),
            allow,
        ),
        "masks (B, L, S)": (
            lambda q, k, v, mask=None: a(
                q, k, v, None if mask is None else shaped(mask, (len(q), q.shape[2], k.shape[2]))[:, None]
            ),
            allow,
        ),
        "masks (N, L, S)": (
            lambda q, k, v, mask=None: rank(3, q, k, v, shaped(mask, (len(q), q.shape[1], k.shape[1]))),
            {"layout": "NLD", "mask": "allow"},
        ),
        "(B, L, H, D)": (heads_last, {"layout": "BLHD", "mask": "allow"}),
        "(N, L, D)": (lambda q, k, v, mask=None: rank(3, q, k, v, mask), {"layout": "NLD", "mask": "allow"}),
        "(L, D)": (lambda q, k, v, mask=None: rank(2, q, k, v, mask), {"layout": "LD", "mask": "allow"}),
        "(B, L, E)": (required, {"layout": "BLE", "mask": "allow"}),
        "numpy float32": (lambda q, k, v, mask=None: np32(q, k, v, mask), allow),
        "numpy float64": (lambda q, k, v, mask=None: np64(q, k, v, mask), allow),
        "with weights": (lambda q, k, v, mask=None: (a(q, k, v, mask), w(q, k, mask)), weights),
        "weights first": (lambda q, k, v, mask=None: (w(q, k, mask), a(q, k, v, mask)), weights),
        "a dict": (lambda q, k, v, mask=None: {"w": w(q, k, mask), "o": a(q, k, v, mask)}, weights),
        "a named tuple": (lambda q, k, v, mask=None: answer(a(q, k, v, mask), w(q, k, mask)), weights),
        "a namespace": (
            lambda q, k, v, mask=None: types.SimpleNamespace(w=w(q, k, mask), o=a(q, k, v, mask)),
            weights,
        ),
        "nested": (lambda q, k, v: ((a(q, k, v),),), nothing),
        "partial": (functools.partial(flagged, flag=3), allow),
        "object": (Thing(), allow),
        "method": (Thing().method, allow),
        "static method": (Thing.static, allow),
        "one head": (lambda q, k, v: a(q, k, v) if q.shape[1] == 1 else refuse(), nothing),
        "one sequence": (lambda q, k, v: a(q, k, v) if len(q) == 1 else refuse(), nothing),
        "square": (lambda q, k, v: a(q, k, v) if q.shape == k.shape == v.shape else refuse(), nothing),
        "Hugging Face": (hugging_face, add | {"weights": True, "grouped": "interleaved"}),
    }


RIGHT, UNSCALED = styles(scaled=True), styles(scaled=False)
# Properties that change the number of heads are not yet skipped for those who take one alone.
ONE_SIZE = {"one head": ("matches_definition", "runs_twice_equal")}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_function_is_ok_and_its_conventions_are_found(name):
    function, conventions = RIGHT[name]
    report = regard.check(function, only=ONE_SIZE.get(name, ()))
    assert report.ok, str(report)
    found = report.contract.declared()
    assert {key: found.get(key) for key in conventions} == conventions


@pytest.mark.parametrize("name", UNSCALED)
def test_the_same_without_a_scale_is_not_ok(name):
    report = regard.check(UNSCALED[name][0], only=["matches_definition"])
    assert [result.name for result in report.failures] == ["matches_definition"], str(report)


def needs_more(q, k, v, temperature):
    return core(q, k, v)


def stars(*args):
    return core(*args)


def double_stars(**kwargs):
    return core(**kwargs)


REFUSED = {
    needs_more: "needs_more(temperature=): what it is for is not known; give it a default, or wrap it: "
    "functools.partial(needs_more, temperature=...)",
    stars: "stars(*args): no argument reads as query, key, value; expected query, key and value (q, k, v, Q, "
    "query_states ...), then a mask and options; wrap it in a function that takes these",
    double_stars: "double_stars(**kwargs): no argument reads as query, key, value; expected",
    torch.Tensor.__add__: "__add__ tells no signature; wrap it: def __add___(query, key, value, mask=None): ...",
}


@pytest.mark.parametrize("function", REFUSED)
def test_what_cannot_be_called_says_what_would_help(function):
    report = regard.check(function, suite="attention")
    assert [result.name for result in report.failures] == ["can_be_called"]
    assert report.failures[0].message.startswith(REFUSED[function])


@pytest.mark.slow
def test_a_compiled_function():
    report = regard.check(
        torch.compile(lambda q, k, v, mask=None: core(q, k, v, mask), backend="eager"),
        only=["matches_definition", "mask_polarity", "global_state_is_kept"],
    )
    assert not report.failures, str(report)
    assert report.contract.mask == "allow"
