from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regard.models import Decoder, DecoderConfig, generate, stream

SIZES: dict[str, Any] = {
    "vocab_size": 31, "d_model": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "d_mlp": 24,
}  # fmt: skip


def make(**options: Any) -> Decoder:
    model = Decoder(DecoderConfig(**(SIZES | options))).eval()
    with torch.no_grad():  # scores far enough from each other that a rounding does not decide
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


@pytest.fixture
def prompts() -> Tensor:
    return torch.randint(31, (3, 7))


@torch.no_grad()
def by_definition(model: Decoder, tokens: Tensor, new: int) -> Tensor:
    """Greedy text with the whole text run again for each token."""
    for _ in range(new):
        tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), 1)
    return tokens[:, -new:]


@pytest.mark.parametrize(
    "options",
    [{}, {"window": 4}, {"window": (None, 3)}, {"positions": "sinusoidal", "max_len": 17}],
    ids=["full", "window", "mixed", "sinusoidal"],
)
def test_greedy_text_is_that_of_the_whole_text_run_again(options: dict[str, Any], prompts: Tensor):
    model = make(**options)
    text = generate(model, prompts, 10)
    assert text.dtype == torch.int64
    assert torch.equal(text, by_definition(model, prompts, 10))
    assert len(text.unique()) > 3


@pytest.mark.parametrize("options", [{}, {"window": 4}], ids=["full", "window"])
def test_prompts_of_other_lengths_give_what_each_gives_alone(options: dict[str, Any], prompts: Tensor):
    model, lengths = make(**options), [7, 2, 5]
    together = generate(model, prompts, 9, lengths=lengths)
    assert torch.equal(together, generate(model, prompts, 9, lengths=torch.tensor(lengths)))
    for row, length in enumerate(lengths):
        assert torch.equal(together[row : row + 1], generate(model, prompts[row : row + 1, :length], 9))


@torch.no_grad()
def test_prompts_may_be_padded_past_the_positions_of_the_model(prompts: Tensor):
    model = make(positions="sinusoidal", max_len=8)
    padded = torch.cat((prompts, torch.zeros(3, 5, dtype=torch.long)), 1)
    together = generate(model, padded, 2, lengths=[3, 6, 1])
    for row, length in enumerate((3, 6, 1)):
        assert torch.equal(together[row : row + 1], by_definition(model, prompts[row : row + 1, :length], 2))


def test_lengths_and_ends_of_any_kind_of_integers(prompts: Tensor):
    model = make()
    wanted = generate(model, prompts, 6, lengths=[3, 4, 5], eos=[2, 5])
    for lengths in ((3, 4, 5), range(3, 6), numpy.array([3, 4, 5]), torch.tensor([3, 4, 5])):
        for eos in ((2, 5), torch.tensor([2, 5]), numpy.array([2, 5]), [numpy.int64(2), torch.tensor(5)]):
            assert torch.equal(generate(model, prompts, 6, lengths=lengths, eos=eos), wanted)
    wanted = generate(model, prompts, 6, eos=2)
    for eos in (numpy.int64(2), torch.tensor(2), torch.tensor([2])):
        assert torch.equal(generate(model, prompts, 6, eos=eos), wanted)


def test_padding_may_be_any_token(prompts: Tensor):
    model, other = make(), prompts.clone()
    other[1, 2:] = 30
    assert torch.equal(generate(model, prompts, 5, lengths=[7, 2, 7]), generate(model, other, 5, lengths=[7, 2, 7]))


def test_a_stream_gives_the_same_tokens_one_by_one(prompts: Tensor):
    model = make()
    steps = stream(model, prompts, 6)
    first = next(steps)
    assert first.shape == (3,)
    assert torch.equal(torch.stack([first, *steps], 1), generate(model, prompts, 6))


def test_a_stream_leaves_gradients_on_between_tokens(prompts: Tensor):
    for token in stream(make(), prompts, 2):
        assert torch.is_grad_enabled()
        assert not token.is_inference()


def test_a_text_ends_with_eos(prompts: Tensor):
    model = make()
    free = generate(model, prompts, 12)
    end = int(free[0, 3])
    text = generate(model, prompts, 12, eos=end)
    for row in range(3):
        at = (free[row] == end).nonzero()
        if len(at):
            assert torch.equal(text[row, : at[0]], free[row, : at[0]])
            assert (text[row, at[0] :] == end).all()
        else:
            assert torch.equal(text[row], free[row, : text.shape[1]])


def test_once_all_have_ended_nothing_more_is_computed(prompts: Tensor):
    model = make()
    free = generate(model, prompts[:1], 12)
    ends = {int(free[0, 2]), int(free[0, 5])}
    first = next(i for i in range(12) if int(free[0, i]) in ends)
    assert generate(model, prompts[:1], 12, eos=sorted(ends)).shape == (1, first + 1)


def test_draws_depend_on_the_generator_alone(prompts: Tensor):
    model = make()
    texts = [
        generate(
            model, prompts, 8, temperature=1.5, top_k=20, top_p=0.95, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])
    assert torch.equal(generate(model, prompts, 8, temperature=2.0, top_k=1), generate(model, prompts, 8))


def test_parameters_and_mode_are_left_alone(prompts: Tensor):
    model = make()
    generate(model, prompts, 3)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    model(prompts).sum().backward()


class Fresh(TorchDispatchMode):
    """Bytes of the storages that operations return and did not get."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **kwargs)
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in known:
                self.bytes += t.untyped_storage().nbytes()
        return result


@pytest.mark.parametrize("window", [None, 16])
def test_a_step_needs_the_same_memory_however_long_the_text(window: int | None, prompts: Tensor):
    steps, taken = stream(make(window=window), prompts, 300), {}
    for step in range(299):
        # A window that is full is moved to the front now and then, every 17th step, so that several are looked at.
        if step in (*range(20, 40), *range(279, 299)):
            with Fresh() as seen:
                next(steps)
            taken[step] = seen.bytes
        else:
            next(steps)
    early, late = ([bytes_ for step, bytes_ in taken.items() if (step < 100) == first] for first in (True, False))
    assert min(early) == min(late) < 60_000  # keys and values of all 300 tokens are 230 kB
    assert max(late) <= 1.01 * max(early)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_new_tokens": 0}, ValueError, "generate: max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": 2.5}, TypeError, "generate: max_new_tokens must be an integer, got 2.5"),
        ({"tokens": torch.zeros(2, 0).long()}, ValueError, r"at least one token a sequence, got \(2, 0\)"),
        ({"tokens": torch.zeros(4).long()}, ValueError, r"tokens must be \(B, L\), got \(4,\)"),
        ({"eos": 31}, ValueError, "eos must be a token of the vocabulary, 0 to 30, got 31"),
        ({"eos": 2.0}, TypeError, r"eos must be a token or several, integers, got 2.0 \(float\)"),
        ({"eos": "ab"}, TypeError, r"eos must be a token or several, integers, got 'ab' \(str\)"),
        ({"eos": torch.tensor([1.5])}, TypeError, r"eos must be a token or several, integers, got tensor"),
        ({"lengths": [1.0, 2, 3]}, ValueError, r"lengths must be B = 3 integers in 1 to L = 7, .* \(list\)"),
        ({"eos": []}, ValueError, "eos must hold at least one token, got none"),
        ({"temperature": -1}, ValueError, "temperature must be a finite number"),
        ({"top_k": 3}, ValueError, "temperature=0 draws none"),
        ({"lengths": [1, 2]}, ValueError, "lengths must be B = 3 integers in 1 to L = 7, one a sequence, got"),
        ({"lengths": [0, 2, 3]}, ValueError, r"lengths must be B = 3 integers in 1 to L = 7, one a sequence, got \[0"),
        (
            {"max_new_tokens": 20},
            ValueError,
            "7 tokens and max_new_tokens=20 are more than the max_len=20 of the model",
        ),
    ],
)
def test_bad_arguments_are_refused_before_the_first_token(
    options: dict[str, Any], error: type[Exception], words: str, prompts: Tensor
):
    given = {"model": make(max_len=20), "tokens": prompts, "max_new_tokens": 3} | options
    with pytest.raises(error, match=words):
        stream(**given)


def test_a_model_that_would_drop_weights_at_random_is_refused(prompts: Tensor):
    with pytest.raises(ValueError, match=r"in training mode and drops weights at random; call model.eval\(\) first"):
        generate(make(dropout=0.1).train(), prompts, 3)
    generate(make().train(), prompts, 3)
    with pytest.raises(TypeError, match=r"model must be a regard.models.Decoder, got Linear"):
        generate(torch.nn.Linear(2, 2), prompts, 3)
    with pytest.raises(TypeError, match=r"got OptimizedModule; pass the Decoder that torch.compile was given"):
        generate(torch.compile(make(), backend="eager"), prompts, 3)
