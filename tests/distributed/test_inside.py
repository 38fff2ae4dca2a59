"""Whatever attends inside of a context attends to the whole text, or is refused by name."""

from __future__ import annotations

import pytest
from tests.distributed import asked, asked_inside
from tests.distributed.test_parallel import WAYS, assert_matches

ROUNDING = 1e-12  # float64


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("causal", [False, True])
def test_torchs_own_function_attends_to_the_whole_text(crew, causal, way):
    assert max(crew(asked.on, 4, asked_inside.sdpa, causal, way)) <= ROUNDING


def test_weights_alone_are_those_of_the_whole_text(crew):
    for kind, worst in crew(asked.on, 4, asked_inside.weights_alone):
        assert kind == "ShardedWeights"
        assert worst <= ROUNDING


@pytest.mark.parametrize("way", WAYS)
def test_the_method_is_the_same_inside_of_its_own_context(crew, way):
    assert max(crew(asked.on, 4, asked_inside.asked_for_itself, way)) <= ROUNDING


def test_a_compiled_function_attends_to_the_whole_text(crew):
    assert max(found for found in crew(asked.on, 2, asked_inside.compiled) if found is not None) <= ROUNDING


@pytest.mark.parametrize("inside", [False, True])
def test_a_checkpoint_computes_again_over_the_ranks(crew, inside):
    assert max(crew(asked.on, 4, asked_inside.checkpointed, inside)) <= 1e-11  # sums over 64 tokens of squares


SHARE = r" attends to this rank's share of the text alone, and is refused inside of a context that cuts it over ranks: "
SAID = {
    "mask": r"ValueError: attn_mask of torch.nn.functional.scaled_dot_product_attention\(\) cannot be used .* got "
    r"Tensor \(8, 8\): use is_causal=True, or regard.attention",
    "grouped": r"ValueError: .* needs enable_gqa=True for grouped heads, got 8 heads of query and 2 of key",
    "dropout": r"ValueError: dropout must be 0 with context_parallel, got 0.5",
    "mha": rf"ValueError: nn.MultiheadAttention{SHARE}use regard.attention\(\) or",
    "mha fast": rf"ValueError: nn.MultiheadAttention{SHARE}",
    "encoder": rf"ValueError: nn.MultiheadAttention{SHARE}",  # which its slow path calls
    "flex": rf"ValueError: flex_attention\(\){SHARE}",
    "cache": r"ValueError: cache must be None inside of a context that cuts the text over ranks, got KVCache: a cache "
    r"holds whole texts; leave the context",
    "latent cache": r"ValueError: cache must be None inside of a context .* got LatentCache",
    "reentrant": r"ValueError: torch.utils.checkpoint must have use_reentrant=False and context_fn=",
}


@pytest.mark.parametrize("what", SAID)
def test_what_would_attend_to_a_share_alone_is_refused(crew, what):
    for found in crew(asked.on, 4, asked_inside.refused, what):
        assert_matches(found, SAID[what])


def test_a_watch_has_no_weights_of_torchs_own_function(crew):
    for found in crew(asked.on, 4, asked_inside.watched):
        assert "inside of a context that cuts the text over ranks" in found, found
