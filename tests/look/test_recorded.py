"""What a watch recorded, as the tabs and layers of a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.look.pages import TOKENS, means, same, shown, tabs, texts
from torch import Tensor, nn

import regard
from regard import AttentionWeights, reference
from regard.look import recorded

Make = Callable[..., AttentionWeights]


class Block(nn.Module):
    """Attention of one width over itself, or over something else."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.self_attn(x, x, x)[0]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (["encoder.layer.0.attention.self"], ["encoder"]),  # BERT
        (["encoder.layer.0.attention.self", "encoder.layer.0.crossattention.self"], ["encoder", "cross"]),
        (
            ["model.encoder.layers.0.self_attn", "decoder.layers.0.self_attn", "decoder.layers.0.encoder_attn"],
            ["encoder", "decoder", "cross"],
        ),
        (["decoder.block.0.layer.1.EncDecAttention"], ["cross"]),  # T5
        (["self_attn", "multihead_attn"], ["", "cross"]),
        (["blocks.0.multihead_attn", "text_encoder.attn", "(model)"], ["", "encoder", ""]),
    ],
)
def test_what_reads_what_is_told_by_the_names_of_modules(names: list[str], kinds: list[str]) -> None:
    assert [recorded._kind(name, names) for name in names] == kinds


def test_encoder_decoder_and_cross_have_tabs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Transformer(8, 2, num_encoder_layers=2, num_decoder_layers=1, dim_feedforward=8, batch_first=True)
    with regard.watch(model.eval()) as seen:
        model(noise(1, 7, 8), noise(1, 4, 8, seed=1))
    tokens = {"encoder": TOKENS[:7], "decoder": TOKENS[8:]}
    page = regard.look(seen, tokens)
    assert tabs(page) == {
        "encoder": (["encoder.layers.0.self_attn", "encoder.layers.1.self_attn"], 7, 7),
        "decoder": (["decoder.layers.0.self_attn"], 4, 4),
        "cross": (["decoder.layers.0.multihead_attn"], 4, 7),
    }
    cross = shown(page)["groups"][2]
    both = texts(shown(page))
    assert [both[cross[side]] for side in ("query_tokens", "key_tokens")] == [TOKENS[8:], TOKENS[:7]]
    same(means(page, 2, 1), seen["decoder.layers.0.multihead_attn"].weights[0, 1].detach())
    path = seen.page(tmp_path / "page.html", tokens, title="a transformer")
    assert path.read_text() == regard.look(seen, tokens, title="a transformer").html


def test_layers_of_other_sizes_are_tabs_too() -> None:
    block = Block()
    with regard.watch() as seen:
        block(noise(1, 5, 8))
        nn.Sequential(Block())(noise(1, 3, 8))
    assert {(query_len, key_len) for _, query_len, key_len in tabs(regard.look(seen)).values()} == {(5, 5), (3, 3)}


def test_forwards_over_several_texts_are_tabs() -> None:
    block = Block()
    with regard.watch(block) as seen:
        block(noise(1, 5, 8))
        block(noise(1, 5, 8, seed=1))
    page = regard.look(seen)
    assert tabs(page) == {"forward 0": (["self_attn"], 5, 5), "forward 1": (["self_attn"], 5, 5)}
    same(means(page, 1), seen[1].weights[0, 0].detach())


def test_a_module_that_is_called_twice_is_two_layers() -> None:
    class Twice(Block):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(super().forward(x))

    block = Twice()
    with regard.watch(block) as seen:
        block(noise(1, 5, 8))
    assert tabs(regard.look(seen)) == {"": (["self_attn, call 0", "self_attn, call 1"], 5, 5)}


def test_the_steps_of_a_generation_are_joined() -> None:
    class Cached(nn.Module):
        def forward(self, x: Tensor, past: Tensor | None) -> Tensor:
            keys = x if past is None else torch.cat([past, x], dim=-2)
            F.scaled_dot_product_attention(x, keys, keys, is_causal=past is None)
            return keys

    model, x, keys = Cached(), noise(1, 2, 6, 4), None
    with regard.watch(model) as seen:
        for start, stop in ((0, 4), (4, 5), (5, 6)):
            keys = model(x[..., start:stop, :], keys)
    page = regard.look(seen, TOKENS[:6])
    assert tabs(page) == {"": (["(model)"], 6, 6)}
    allowed = torch.ones(6, 6, dtype=torch.bool).tril()
    same(means(page, 0, 1), reference.attention(x.double(), x.double(), x.double(), allowed).weights[0, 1])


def test_a_generation_that_cannot_be_joined_says_why() -> None:
    class Beams(nn.Module):
        def forward(self, x: Tensor, keys: Tensor) -> None:
            F.scaled_dot_product_attention(x, keys, keys)

    model, x = Beams(), noise(2, 1, 6, 4)
    with regard.watch(model) as seen:
        model(x[..., :4, :], x[..., :4, :])
        for stop in (5, 6):
            model(x[..., stop - 1 : stop, :], x.flip(0)[..., :stop, :] if stop == 6 else x[..., :stop, :])
    notes = regard.look(seen).data.notes
    assert notes[0].startswith("the calls of (model) are not joined: the keys of call 2, ")
    assert "a beam search that reorders its cache" in notes[0]
    with regard.watch(model) as seen:  # two texts are no generation
        model(x, x)
        model(x.flip(0), x.flip(0))
    assert not any("joined" in note for note in regard.look(seen).data.notes)


def test_runs_of_two_models_side_by_side() -> None:
    block = Block()
    runs = {}
    for name in ("before", "after"):
        with regard.watch(block) as seen:
            block(noise(1, 5, 8))
        runs[name] = seen
    assert tabs(regard.look(runs)) == {"before": (["self_attn"], 5, 5), "after": (["self_attn"], 5, 5)}


def test_records_alone_and_watches_in_a_list() -> None:
    block = nn.Sequential(Block(), Block())
    with regard.watch(block) as seen:
        block(noise(1, 5, 8))
    assert tabs(regard.look(seen[1])) == {"": (["1.self_attn"], 5, 5)}
    assert tabs(regard.look(seen[:])) == {"": (["0.self_attn", "1.self_attn"], 5, 5)}
    with pytest.raises(
        TypeError, match=r"weights is a list of what regard\.watch gave; pass one by itself, or a mapping"
    ):
        regard.look([seen, seen])


def test_what_cannot_be_shown_is_said() -> None:
    block = Block()
    with regard.watch(block, keep=["entropy"]) as answered:
        block(noise(1, 5, 8))
    with pytest.raises(RuntimeError, match=r"no weights: watch\(keep=\['entropy'\]\) answered these and let go"):
        regard.look(answered)
    with torch.device("meta"):
        empty = Block()
    with regard.watch(empty) as seen:
        empty(torch.empty(1, 5, 8, device="meta"))
    with pytest.raises(RuntimeError, match=r"self_attn: no weights: query, key or a mask holds no numbers \(a meta or"):
        regard.look(seen)


def test_one_layer_that_cannot_be_shown_leaves_the_others() -> None:
    class Written(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    model = nn.Sequential(Block(), Written())
    x = noise(1, 2, 5, 4)
    with regard.watch() as seen:
        model[0](noise(1, 5, 8))
        model[1](x)
    x.zero_()
    page = regard.look(seen)
    assert tabs(page) == {"": (["self_attn"], 5, 5)}
    (note,) = shown(page)["notes"]
    assert re.fullmatch(r"\(model\) is not shown: .* was written to after the call, .* hold='copy'\)", note)
