from __future__ import annotations

import pytest
import torch

from regard import models
from regard.demo import Config, Decoder, load

SMALL = Config(vocab_size=11, d_model=16, num_heads=2, num_layers=3, d_mlp=32, context=8, max_len=16)


@pytest.fixture
def model() -> Decoder:
    return Decoder(SMALL).eval()


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(11, (2, 8))


def test_shapes(model: Decoder, tokens: torch.Tensor) -> None:
    logits, weights = model(tokens, need_weights=True)
    assert logits.shape == (2, 8, 11)
    assert [tuple(w.shape) for w in weights] == [(2, 2, 8, 8)] * 3


@torch.no_grad()
def test_asking_for_weights_does_not_change_the_logits(model: Decoder, tokens: torch.Tensor) -> None:
    torch.testing.assert_close(model(tokens, need_weights=True)[0], model(tokens), rtol=0, atol=1e-6)


@torch.no_grad()
def test_weights_are_causal_distributions(model: Decoder, tokens: torch.Tensor) -> None:
    for weights in model(tokens, need_weights=True)[1]:
        dense = weights.to_dense()
        torch.testing.assert_close(dense.sum(-1), torch.ones(2, 2, 8))
        assert (dense.triu(1) == 0).all()
        assert (dense.tril() > 0).sum() == 2 * 2 * 36


@torch.no_grad()
def test_a_later_token_changes_no_earlier_logits(model: Decoder, tokens: torch.Tensor) -> None:
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-6)
    assert ((before - after)[:, 5:].abs().amax(-1) > 1e-4).all()


@torch.no_grad()
def test_the_offset_reaches_the_positions(model: Decoder, tokens: torch.Tensor) -> None:
    assert not torch.allclose(model(tokens), model(tokens, offset=3), atol=1e-3)


def test_every_parameter_receives_a_gradient(model: Decoder, tokens: torch.Tensor) -> None:
    model(tokens).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_initialising_depends_on_the_seed_alone(model: Decoder) -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model.initialise()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    first = draw(5)
    assert not (first == 7).any()
    assert torch.equal(draw(5), first)
    assert not torch.equal(draw(6), first)


def test_a_longer_text_names_the_limit(model: Decoder) -> None:
    assert model.context == 8
    with pytest.raises(ValueError, match=r"9 tokens are more than the 8 .* keep the first with tokens\[:, :8\]"):
        model(torch.zeros(1, 9, dtype=torch.long))


def test_an_offset_past_the_last_position_is_refused(model: Decoder, tokens: torch.Tensor) -> None:
    model(tokens, offset=8)
    with pytest.raises(ValueError, match="offset must lie in 0 to 8 for 8 tokens, got 9"):
        model(tokens, offset=9)


def test_tokens_of_another_type_or_shape_are_refused(model: Decoder) -> None:
    with pytest.raises(TypeError, match=r"tokens must be int64 or int32 ids, got torch.float32"):
        model(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"tokens must be \(B, L\), got \(4,\); tokens\[None\] adds a batch"):
        model(torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"d_model": 10, "num_heads": 4}, "d_model 10 is not a multiple of num_heads 4"),
        ({"num_layers": 0}, "num_layers must be a positive integer, got 0"),
        ({"context": 4.0}, "context must be a positive integer, got 4.0"),
        ({"context": 64, "max_len": 32}, "max_len 32 is less than context 64"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**({"vocab_size": 11} | sizes))


@torch.no_grad()
def test_the_shipped_model_has_the_logits_it_always_had() -> None:
    """Logits recorded when the decoder had code of its own, before it became one of regard.models."""
    model, _ = load()
    assert isinstance(model, models.Decoder)
    logits = model(torch.tensor([[5, 17, 300, 42, 5, 17]]), offset=3)[0, :, [0, 100, 1023]]
    recorded = [
        [1.65468955, -3.70465517, -3.40289521],
        [2.16315818, -3.69570732, -6.22172976],
        [-0.70736086, -3.89752269, -2.95487428],
        [1.19026852, -0.68976843, -0.62541163],
        [-0.40154594, -1.44802296, -1.62813842],
        [-0.21573003, -1.71902370, -4.15785646],
    ]
    # Roundings of float32 in sums of 576 terms, in another order on another processor.
    torch.testing.assert_close(logits, torch.tensor(recorded), rtol=0, atol=5e-5)


def test_initialising_draws_what_it_always_drew() -> None:
    """A training run with the same seed begins where it always began."""
    model = Decoder(SMALL)
    torch.manual_seed(5)
    model.initialise()
    everything = torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])
    found = (everything.sum().item(), everything.square().sum().item())
    assert found == pytest.approx((110.01162266492884, 194.28372661494979), rel=1e-6)


@torch.no_grad()
def test_text_is_generated_with_a_cache(model: Decoder) -> None:
    prompt = torch.tensor([[1, 2, 3]])
    text, whole = models.generate(model, prompt, 5), prompt
    for _ in range(5):
        whole = torch.cat((whole, model(whole)[:, -1:].argmax(-1)), 1)
    assert torch.equal(text, whole[:, 3:])
