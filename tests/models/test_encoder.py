from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from regard import masks
from regard.models import Encoder, EncoderConfig

SIZES: dict[str, Any] = {
    "vocab_size": 13, "d_model": 16, "num_layers": 2, "num_heads": 4, "d_mlp": 24, "max_len": 12,
}  # fmt: skip
NEAR = {"rtol": 1e-5, "atol": 1e-5}


def make(**options: Any) -> Encoder:
    model = Encoder(EncoderConfig(**(SIZES | options))).eval()
    with torch.no_grad():  # norms of 1, biases of 0 and embeddings of 0.02 would hide a mistake
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(13, (2, 9))


def norm(x: Tensor, module: torch.nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt() * module.weight + module.bias


def definition(model: Encoder, tokens: Tensor, types: Tensor, allowed: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The whole model written out in float64: its output and the weights of each layer."""
    exact, collected = model.double(), []
    x = exact.embedding.weight[tokens] + exact.positions.weight[: tokens.shape[1]] + exact.token_types.weight[types]
    x = norm(x, exact.norm)
    for block in exact.blocks:
        projected = x @ block.attention.in_proj.weight.mT + block.attention.in_proj.bias
        q, k, v = (part.unflatten(-1, (4, 4)).transpose(1, 2) for part in projected.chunk(3, -1))
        weights = (q @ k.mT / math.sqrt(4)).masked_fill(~allowed, -math.inf).softmax(-1)
        collected.append(weights)
        x = norm(x + block.attention.out_proj((weights @ v).transpose(1, 2).flatten(2)), block.attention_norm)
        hidden = x @ block.mlp[0].weight.mT + block.mlp[0].bias
        hidden = hidden * (1 + torch.special.erf(hidden / math.sqrt(2))) / 2
        x = norm(x + hidden @ block.mlp[2].weight.mT + block.mlp[2].bias, block.mlp_norm)
    return x, collected


@torch.no_grad()
def test_output_and_weights_are_those_of_the_definition(tokens: Tensor):
    model, lengths = make(), torch.tensor([9, 4])
    types = (torch.arange(9) > 3).long().expand(2, 9)
    output, weights = model(tokens, token_types=types, mask=masks.padding(lengths), need_weights=True)
    plain = model(tokens, token_types=types, mask=masks.padding(lengths))
    allowed = (torch.arange(9) < lengths[:, None])[:, None, None]
    wanted, maps = definition(model, tokens, types, allowed)
    for got in (output, plain):
        torch.testing.assert_close(got.double(), wanted, **NEAR)
    for got, want in zip(weights, maps, strict=True):
        torch.testing.assert_close(got.to_dense().double(), want, **NEAR)


@torch.no_grad()
def test_padding_changes_nothing(tokens: Tensor):
    model, mask = make(), masks.padding(torch.tensor([9, 4]))
    changed = tokens.clone()
    changed[1, 4:] = (changed[1, 4:] + 1) % 13
    assert torch.equal(model(tokens, mask=mask)[1, :4], model(changed, mask=mask)[1, :4])
    torch.testing.assert_close(model(tokens, mask=mask)[1, :4], model(tokens[1:, :4])[0], **NEAR)


@torch.no_grad()
def test_padding_has_no_position_where_it_is_named(tokens: Tensor):
    model, alone = make(pad_token=0), tokens.clamp(min=1)
    padded = torch.cat((torch.zeros(2, 3, dtype=torch.long), alone[:, :6]), 1)
    torch.testing.assert_close(model(padded, mask=masks.padding(padded != 0))[:, 3:], model(alone[:, :6]), **NEAR)
    exact = model.double()
    x = exact.embedding.weight[padded] + exact.positions.weight[torch.tensor([0, 0, 0, 1, 2, 3, 4, 5, 6])]
    x = norm(x + exact.token_types.weight[0], exact.norm)
    model.blocks = torch.nn.ModuleList()
    torch.testing.assert_close(model(padded), x, **NEAR)


@torch.no_grad()
def test_pool_and_score_are_their_formulas(tokens: Tensor):
    model = make(pooler=True, masked_head=True)
    output = model(tokens)
    pooled, logits = model.pool(output), model.score(output)
    exact, x = model.double(), output.double()
    torch.testing.assert_close(
        pooled.double(), (x[:, 0] @ exact.pooler.weight.mT + exact.pooler.bias).tanh(), rtol=1e-5, atol=1e-5
    )
    hidden = x @ exact.head.dense.weight.mT + exact.head.dense.bias
    hidden = norm(hidden * (1 + torch.special.erf(hidden / math.sqrt(2))) / 2, exact.head.norm)
    torch.testing.assert_close(logits.double(), hidden @ exact.embedding.weight.mT + exact.head.bias, **NEAR)


def test_every_parameter_receives_a_gradient(tokens: Tensor):
    model = make(pooler=True, masked_head=True).train()
    output = model(tokens, token_types=(tokens > 5).long())
    (model.pool(output).square().sum() + model.score(output).square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_dropout_is_for_training(tokens: Tensor):
    model = make()
    with torch.no_grad():
        assert torch.equal(model(tokens), model(tokens))
        assert not torch.equal(model.train()(tokens), model(tokens))


def test_what_it_lacks_is_named(tokens: Tensor):
    model = make()
    with pytest.raises(ValueError, match=r"has no pooler; it is asked for by EncoderConfig\(pooler=True\)"):
        model.pool(torch.zeros(1, 2, 16))
    with pytest.raises(ValueError, match=r"has no head; it is asked for by EncoderConfig\(masked_head=True\)"):
        model.score(torch.zeros(1, 2, 16))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tokens": torch.zeros(1, 4)}, TypeError, "Encoder: tokens must be int64 or int32 ids, got torch.float32"),
        ({"tokens": torch.zeros(4).long()}, ValueError, r"tokens must be \(B, L\), got \(4,\)"),
        ({"tokens": torch.zeros(1, 13).long()}, ValueError, "13 tokens are more than max_len=12, the positions it has"),
        ({"tokens": torch.full((1, 2), 13)}, ValueError, "tokens must be ids in 0 to 12, got 13 to 13"),
        (
            {"token_types": torch.zeros(1, 4)},
            TypeError,
            "Encoder: token_types must be int64 or int32 ids, got torch.fl",
        ),
        ({"token_types": [[0] * 4]}, TypeError, "Encoder: token_types must be a tensor of ids, got list"),
        (
            {"token_types": torch.zeros(1, 3).long()},
            ValueError,
            r"token_types must be of the shape of tokens, \(1, 4\), got \(1, 3\)",
        ),
        ({"token_types": torch.full((1, 4), 2)}, ValueError, "token_types must be ids in 0 to 1, got 2 to 2"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        make()(**({"tokens": torch.zeros(1, 4).long()} | options))


def test_something_else_than_a_configuration_is_refused():
    with pytest.raises(TypeError, match=r"config must be a regard.models.EncoderConfig, got NoneType"):
        Encoder(None)
