"""What a docstring promises, and what it only mentions."""

from __future__ import annotations

import pytest

from regard.check.course.promises import promised_heads, promised_weights


def documented(text: str, parameters: str = "Q, K, V"):
    namespace: dict = {}
    exec(f"def f({parameters}): pass", namespace)
    namespace["f"].__doc__ = text
    return namespace["f"]


@pytest.mark.parametrize(
    "text",
    [
        "Attention.\n\nReturns:\n    output and attention weights\n",
        "Attention.\n\n    Returns\n    -------\n    output : Tensor\n    attn_weights : Tensor\n",
        "Attention.\n\n:param Q: queries\n:return: the output, the weights\n",
        "Returns the output and the attention map.",
        "Compute attention and return (output, weights).",
    ],
)
def test_weights_are_promised(text: str):
    assert promised_weights(documented(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Weighs the values with the attention weights.",
        "Returns:\n    the weighted sum of the values\n",
        "Returns:\n    the values, summed by the attention weights\n",
        "Returns the output.\n\nThe softmax gives the weights.",
        "Args:\n    mask: hides weights\n\nReturns:\n    the output\n\nNotes:\n    the weights sum to 1\n",
    ],
)
def test_weights_are_only_mentioned(text: str):
    assert promised_weights(documented(text)) is None


def test_weights_that_are_asked_for_by_an_argument_are_no_promise():
    text = "Returns:\n    output, and the weights with need_weights\n"
    assert promised_weights(documented(text, "Q, K, V, need_weights=False")) is None


@pytest.mark.parametrize(
    "text",
    [
        "Q: (batch, heads, length, d_k)",
        "Q of shape [B, H, L, D]",
        "Works on (N, num_heads, L, d_k).",
        "Takes 4-D input.",
        "Q, K, V: 4D tensors",
        "Attention for any number of heads.",
    ],
)
def test_heads_are_promised(text: str):
    assert promised_heads(documented(text))


@pytest.mark.parametrize(
    "text", ["", "Q: (batch, length, d_k)", "One head of attention.", "Single-head attention over (N, L, d_k)."]
)
def test_heads_are_not_promised(text: str):
    assert promised_heads(documented(text)) is None
