"""Records of several stacks: refused by name, where the names are those of models."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import regard
from regard.watch.answers import sources


@dataclass
class Record:
    name: str
    weights: object
    step: int = 0


def records(*names: str) -> list[Record]:
    drawn = torch.randn(len(names), 2, 1, 2, 5, 4, dtype=torch.float64)
    return [Record(name, regard.attention_weights(*qk)) for name, qk in zip(names, drawn, strict=True)]


def layers(name: str, count: int = 2) -> list[str]:
    return [name.format(n) for n in range(count)]


CALLS = {
    "rollout": (r"rollout\(weights\)", regard.rollout),
    "sources": (r"sources\(seen\)", lambda seen: sources(seen, -1)),
    "mean": (r"sources\(seen\)", lambda seen: sources(seen, -1, method="mean")),
}

T5 = [
    *layers("encoder.block.{}.layer.0.SelfAttention"),
    *(name for n in range(2) for name in (f"decoder.block.{n}.layer.0.Self", f"decoder.block.{n}.layer.1.EncDec")),
]

SEVERAL = {
    "encoder and decoder": (
        [*layers("model.encoder.layers.{}.self_attn"), *layers("model.decoder.layers.{}.self_attn")],
        r"2 stacks of layers, model.encoder.layers.\*.self_attn; model.decoder.layers.\*.self_attn; pass .*"
        r"\[r for r in seen if r.name.startswith\(\"model.encoder\"\)\]",
    ),
    "t5": (T5, r"3 stacks of layers, encoder.block.\*.layer.\*.SelfAttention; decoder.*startswith\(\"encoder\"\)"),
    "self and cross": (
        ["layers.0.self_attn", "layers.0.cross", "layers.1.self_attn", "layers.1.cross"],
        r"2 stacks of layers, layers.\*.self_attn; layers.\*.cross; .*r.name.endswith\(\"self_attn\"\)",
    ),
    "one layer of a decoder": (["self_attn", "multihead_attn"], r"2 stacks of layers, self_attn; multihead_attn; .*"),
    "none that a word tells": (["a.0.x", "b.0.x", "a.0.bx"], r"3 stacks of layers, .*r.name in \['a.0.x'\]"),
}

ONE = {
    "decoder": layers("model.layers.{}.self_attn", 12),
    "the same twice": ["encoder.shared.attention"] * 3,
    "other names in turn": ["layers.0.self_attn", "layers.1.linear_attn", "layers.2.self_attn", "layers.3.linear_attn"],
    "a wrapper": ["h.0.attn", "h.1.wrapped.attn", "h.2.attn"],
    "numbers above": ["gpt2.h.0.attn", "gpt2.h.1.mixer"],
    "numbers in names": ["block1.attn", "block2.attn"],
    "stages": ["stage1.0.attn", "stage1.1.attn", "stage2.0.attn"],
    "sublayers": [f"layers.{n}.sub.{m}.attn" for n in range(2) for m in range(2)],
    "no names": ["", "", ""],
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", SEVERAL)
def test_several_stacks_are_listed(kind, call):
    names, message = SEVERAL[kind]
    argument, ask = CALLS[call]
    with pytest.raises(ValueError, match=f"{argument}: the records are of {message}"):
        ask(records(*names))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ONE)
def test_one_stack_is_taken(kind, call):
    CALLS[call][1](records(*ONE[kind]))


@pytest.mark.parametrize("kind", SEVERAL)
def test_what_the_error_says_to_pass_is_taken(kind):
    seen = records(*SEVERAL[kind][0])
    with pytest.raises(ValueError) as raised:
        regard.rollout(seen)
    fix = "[r for r in seen if" + str(raised.value).partition("[r for r in seen if")[2].partition(", or record")[0]
    passed = eval(fix, {"seen": seen})  # noqa: S307  the text of an error of our own
    assert 0 < len(passed) < len(seen)
    regard.rollout(passed)
    assert regard.rollout([r.weights for r in seen]).shape == (1, 5, 5)


def test_an_encoder_and_a_decoder_of_one_length_are_told_apart():
    model = torch.nn.Transformer(8, 2, 2, 2, 8, batch_first=True).eval()
    x = torch.randn(1, 5, 8)
    with torch.no_grad(), regard.watch(model) as seen:
        model(x, x)
    with pytest.raises(
        ValueError, match=r"3 stacks of layers, encoder.layers.\*.self_attn; decoder.layers.\*.self_attn"
    ):
        regard.rollout(seen)
    alone = [r for r in seen if r.name.startswith("encoder")]
    want = regard.rollout([r.weights for r in alone])[-1][0]
    torch.testing.assert_close(sources(alone, -1).shares, want)
