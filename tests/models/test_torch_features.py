"""What PyTorch offers of a module: the meta device, compilation, checkpoints, dtypes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from regard import masks
from regard.models import Decoder, DecoderConfig, Encoder, EncoderConfig

DECODER = DecoderConfig(
    vocab_size=13, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, d_mlp=24, qk_norm=True, window=(None, 3)
)
SINUSOIDAL = DecoderConfig(
    vocab_size=13, d_model=16, num_layers=1, num_heads=4, d_mlp=24, positions="sinusoidal", max_len=20, tied=True
)
ENCODER = EncoderConfig(
    vocab_size=13, d_model=16, num_layers=2, num_heads=4, d_mlp=24, max_len=12, pooler=True, masked_head=True
)
MODELS: dict[str, Any] = {
    "decoder": lambda **made: Decoder(DECODER, **made),
    "sinusoidal decoder": lambda **made: Decoder(SINUSOIDAL, **made),
    "encoder": lambda **made: Encoder(ENCODER, **made),
}
NEAR = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(13, (2, 9))


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_a_model_made_without_memory(name: str, tokens: Tensor):
    before = torch.get_rng_state()
    empty = MODELS[name](device="meta")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.is_meta for parameter in empty.parameters())
    whole = MODELS[name]().eval()
    filled = empty.to_empty(device="cpu").eval()
    filled.load_state_dict(whole.state_dict())
    assert torch.equal(filled(tokens), whole(tokens))


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_a_state_dict_comes_back(name: str, tokens: Tensor):
    first, second = (MODELS[name]().eval() for _ in range(2))
    assert not torch.equal(first(tokens), second(tokens))
    assert second.load_state_dict(first.state_dict()) == ([], [])
    assert torch.equal(first(tokens), second(tokens))
    assert torch.equal(copy.deepcopy(first)(tokens), first(tokens))


@pytest.mark.parametrize("name", MODELS)
def test_one_graph_of_output_and_gradients(name: str, tokens: Tensor):
    model = MODELS[name]().eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    found = []
    for each in (compiled, model):
        out = each(tokens)
        grads = torch.autograd.grad(out.square().sum(), list(model.parameters()), allow_unused=True)
        found.append((out.detach(), *(grad for grad in grads if grad is not None)))
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)  # sums of some hundred terms in another order


def test_one_graph_of_a_masked_encoder(tokens: Tensor):
    model = MODELS["encoder"]().eval()
    mask = masks.padding(torch.tensor([9, 4]))
    compiled = torch.compile(lambda t: model.score(model(t, mask=mask)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens)[1, :4], model.score(model(tokens, mask=mask))[1, :4], **NEAR)


def test_gradients_are_the_same_with_checkpoints(tokens: Tensor):
    model = MODELS["decoder"]().train()
    calls = []
    model.blocks[0].attention_norm.register_forward_hook(lambda *_: calls.append(1))
    found = []
    for model.gradient_checkpointing in (False, True):
        model.zero_grad()
        loss = model(tokens).square().sum()
        before = len(calls)
        loss.backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
        assert len(calls) - before == int(model.gradient_checkpointing)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **NEAR)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_half_precision_stays_near(name: str, tokens: Tensor):
    model = MODELS[name]().eval()
    wanted = model(tokens)
    got = copy.deepcopy(model).to(torch.bfloat16)(tokens)
    assert got.dtype == torch.bfloat16
    # Some thirty roundings of 2^-9 of the largest number.
    torch.testing.assert_close(got.float(), wanted, rtol=0, atol=0.06 * wanted.abs().max().item())
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(tokens).float(), wanted, rtol=0, atol=0.06 * wanted.abs().max().item())


def test_a_hook_sees_every_part(tokens: Tensor):
    model, seen = MODELS["decoder"](), set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) and name:
            module.register_forward_hook(lambda *_, name=name: seen.add(name))
    model(tokens)
    parts = (
        "embedding",
        "blocks.1",
        "blocks.1.attention",
        "blocks.1.attention.in_proj",
        "blocks.1.mlp.gate_up",
        "norm",
    )
    assert set(parts) <= seen
    assert "output" in seen
