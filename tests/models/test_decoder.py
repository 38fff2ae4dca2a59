from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard import masks
from regard.models import Decoder, DecoderConfig
from regard.positions import DynamicNTK

LLAMA: dict[str, Any] = {
    "vocab_size": 13, "d_model": 16, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "d_mlp": 24,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied": {"tied": True, "embedding_scale": 4.0},
    "windows": {"window": (None, 3, 2)},
    "qk norm, wide heads": {"qk_norm": True, "head_dim": 6},
    "biases": {"attention_bias": ("q", "k", "v"), "mlp_bias": True},
    "first transformers": {
        "positions": "sinusoidal", "max_len": 20, "norm": "layer", "gated": False, "activation": "gelu_tanh",
        "attention_bias": True, "mlp_bias": True, "tied": True,
    },
}  # fmt: skip
#: A stream of 3 layers in float32 against float64: some 60 roundings of numbers of about 1.
NEAR = {"rtol": 1e-5, "atol": 2e-5}


def make(kind: str = "llama", **options: Any) -> Decoder:
    made = {name: options.pop(name) for name in ("device", "dtype") if name in options}
    model = Decoder(DecoderConfig(**(LLAMA | KINDS[kind] | options)), **made).eval()
    with torch.no_grad():  # norms of 1 and biases of 0 would hide a mistake
        for name, parameter in model.named_parameters():
            if not parameter.is_meta and (parameter.dim() == 1 or "embedding" in name):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(13, (2, 9))


def norm(x: Tensor, module: torch.nn.Module) -> Tensor:
    if isinstance(module, torch.nn.LayerNorm):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt() * module.weight + module.bias
    return x / (x.square().mean(-1, keepdim=True) + module.eps).sqrt() * module.weight


def rotated(x: Tensor, base: float) -> Tensor:
    length, width = x.shape[-2:]
    angles = torch.arange(length).double()[:, None] * base ** (-torch.arange(0, width, 2).double() / width)
    first, second = x.chunk(2, -1)
    return torch.cat((first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()), -1)


def definition(model: Decoder, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The whole model written out, of the parameters in float64: logits and the weights of each layer."""
    config, collected = model.config, []
    p = {name: tensor.double() for name, tensor in model.state_dict().items()}
    length, width = tokens.shape[1], config.head_width
    heads, kv_heads = config.num_heads, config.num_kv_heads or config.num_heads
    x = p["embedding.weight"][tokens] * config.embedding_scale
    if config.positions == "sinusoidal":
        x = x + model.positions.get_encoding()[:length].double()
    exact = model.double()
    i, j = torch.arange(length)[:, None], torch.arange(length)
    for block, window in zip(exact.blocks, config.windows, strict=True):
        allowed = (j <= i) & (j > i - (window or length))
        h = norm(x, block.attention_norm)
        projected = h @ block.attention.in_proj.weight.mT
        if block.attention.in_proj.bias is not None:
            projected = projected + block.attention.in_proj.bias
        sizes = (heads * width, kv_heads * width, kv_heads * width)
        q, k, v = (part.unflatten(-1, (-1, width)).transpose(1, 2) for part in projected.split(sizes, -1))
        if config.qk_norm:
            q, k = norm(q, block.attention.norm.q), norm(k, block.attention.norm.k)
        if config.positions == "rotary":
            q, k = rotated(q, config.rotary_base), rotated(k, config.rotary_base)
        k, v = (t.repeat_interleave(heads // kv_heads, 1) for t in (k, v))
        weights = (q @ k.mT / math.sqrt(width)).masked_fill(~allowed, -math.inf).softmax(-1)
        collected.append(weights)
        x = x + block.attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(norm(x, block.mlp_norm))
    logits = norm(x, exact.norm) @ (p["embedding.weight"] if config.tied else p["output.weight"]).mT
    model.float()
    return logits, collected


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_weights_are_those_of_the_definition(kind: str, tokens: Tensor):
    model = make(kind)
    logits, weights = model(tokens, need_weights=True)
    plain = model(tokens)
    wanted, maps = definition(model, tokens)
    torch.testing.assert_close(logits.double(), wanted, **NEAR)
    torch.testing.assert_close(plain.double(), wanted, **NEAR)
    for got, want in zip(weights, maps, strict=True):
        torch.testing.assert_close(got.to_dense().double(), want, **NEAR)


@torch.no_grad()
def test_a_model_of_one_number_by_hand():
    config = DecoderConfig(
        vocab_size=2, d_model=2, num_layers=1, num_heads=1, d_mlp=1, activation="relu", norm_eps=1e-30
    )
    model = Decoder(config)
    for parameter in model.parameters():
        parameter.zero_()
    model.embedding.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    model.blocks[0].mlp_norm.weight.fill_(1.0)
    model.norm.weight.fill_(1.0)
    model.blocks[0].mlp.gate_up.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))  # gate is x_0, up is x_1
    model.blocks[0].mlp.down.weight.copy_(torch.tensor([[25.0], [0.0]]))
    model.output.weight.copy_(torch.eye(2))
    # Token 0 is (3, 4), of root mean square 5 / sqrt(2): gate * up = 12 * 2 / 25, so the stream is (3 + 24, 4).
    size = math.sqrt((27**2 + 4**2) / 2)
    # Token 1 is (0, 2): its gate is shut.
    wanted = torch.tensor([[27 / size, 4 / size], [0.0, math.sqrt(2)]])
    torch.testing.assert_close(model(torch.tensor([[0, 1]]))[0], wanted)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_given_in_parts_have_the_logits_of_the_whole(kind: str, tokens: Tensor):
    model = make(kind)
    cache = model.cache(2, 9)
    parts = [model(part, cache=cache) for part in tokens.split([4, 1, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), **NEAR)
    assert all(each.lengths.tolist() == [9, 9] for each in cache)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_texts_padded_on_the_right_do_not_see_each_other(kind: str):
    model = make(kind)
    long, short = torch.randint(13, (1, 6)), torch.randint(13, (1, 3))
    both = torch.cat((long, torch.cat((short, torch.tensor([[12, 12, 12]])), 1)))
    cache, more = model.cache(2, 8), torch.tensor([[7, 1], [2, 9]])
    first = model(both, cache=cache, lengths=[6, 3], last_only=True)
    then = [model(each, cache=cache) for each in more.split(1, dim=1)]
    for row, text in enumerate((long, short)):
        alone = model(torch.cat((text, more[row : row + 1]), 1))
        got = torch.cat((first, *then), 1)[row]
        torch.testing.assert_close(got, alone[0, -3:], **NEAR)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"positions": "sinusoidal"}], ids=["rotary", "sinusoidal"])
def test_a_second_chunk_may_fill_what_the_first_left(options: dict[str, Any]):
    model, texts = make(max_len=10, **options), torch.randint(13, (2, 10))
    first, second = torch.zeros(2, 8, dtype=torch.long), torch.zeros(2, 8, dtype=torch.long)
    first[0], first[1, :2], second[0, :2], second[1] = texts[0, :8], texts[1, :2], texts[0, 8:], texts[1, 2:]
    cache = model.cache(2, 10)
    model(first, cache=cache, lengths=[8, 2])
    got = model(second, cache=cache, lengths=[2, 8], last_only=True)
    torch.testing.assert_close(got, model(texts, last_only=True), **NEAR)
    refused(model, "a text of 11 tokens is longer than the max_len=10", cache=model.cache(1, 12),
            tokens=torch.zeros(1, 11).long(), lengths=[11])  # fmt: skip


@torch.no_grad()
def test_a_window_can_be_cropped_by_what_was_spared():
    model, tokens = make("windows"), torch.randint(13, (1, 9))
    cache = model.cache(1, 9, spare=2)
    model(tokens[:, :8], cache=cache)
    for each in cache:
        each.crop(6)
    torch.testing.assert_close(model(tokens[:, 6:], cache=cache), model(tokens)[:, 6:], **NEAR)


@torch.no_grad()
def test_a_layer_in_a_window_keeps_the_window():
    kinds = [type(each).__name__ for each in make("windows").cache(1, 9)]
    assert kinds == ["KVCache", "RollingCache", "RollingCache"]
    model, tokens = make("windows"), torch.randint(13, (1, 9))
    whole = [block.attention.kv_cache(1, 9) for block in model.blocks]  # larger than it needs to be
    parts = [model(part, cache=whole) for part in tokens.split([4, 1, 4], dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), **NEAR)


@torch.no_grad()
def test_weights_come_with_a_cache_too(tokens: Tensor):
    model = make()
    cache = model.cache(2, 9)
    model(tokens[:, :8], cache=cache)
    logits, weights = model(tokens[:, 8:], cache=cache, need_weights=True)
    assert [tuple(each.shape) for each in weights] == [(2, 4, 1, 9)] * 3
    whole = model(tokens, need_weights=True)
    torch.testing.assert_close(logits[:, 0], whole[0][:, 8], **NEAR)
    torch.testing.assert_close(weights[2].to_dense()[:, :, 0], whole[1][2].to_dense()[:, :, 8], **NEAR)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "windows"])
def test_a_later_token_changes_no_earlier_logits(kind: str, tokens: Tensor):
    model = make(kind)
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 13
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=0, atol=1e-6)
    assert ((before - after)[:, 5:6].abs().amax(-1) > 1e-4).all()


@torch.no_grad()
def test_rotary_positions_count_distances_alone_and_sinusoidal_ones_do_not(tokens: Tensor):
    rotary, sinusoidal = make(), make("first transformers")
    torch.testing.assert_close(rotary(tokens, offset=7), rotary(tokens), **NEAR)
    assert not torch.allclose(sinusoidal(tokens, offset=7), sinusoidal(tokens), atol=1e-3)
    each = torch.tensor([7, 0])
    torch.testing.assert_close(sinusoidal(tokens, offset=each)[1], sinusoidal(tokens)[1], **NEAR)
    torch.testing.assert_close(rotary(tokens, offset=each), rotary(tokens), **NEAR)


@torch.no_grad()
def test_an_offset_reaches_rotary_positions_too(tokens: Tensor):
    model = make(rotary_scaling=DynamicNTK(4.0, 9))  # whose frequencies depend on where the text ends
    assert torch.equal(model(tokens, offset=0), model(tokens))
    assert not torch.allclose(model(tokens, offset=30), model(tokens), atol=1e-3)


@torch.no_grad()
def test_a_mask_narrows_what_is_causal(tokens: Tensor):
    model = make()
    ids = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1])
    rule, tensor = masks.documents(ids), (ids[:, None] == ids)[None, None]
    alone = model(tokens[:, 4:])
    for mask in (rule, tensor):
        torch.testing.assert_close(model(tokens, mask=mask)[:, 4:], alone, **NEAR)


def test_every_parameter_receives_a_gradient(tokens: Tensor):
    for kind in KINDS:
        model = make(kind).train()
        model(tokens).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, (kind, name)
            # A bias of the keys shifts every score of a row alike where nothing rotates them.
            assert parameter.grad.abs().sum() > 0, (kind, name)


def test_last_only_is_the_last_row(tokens: Tensor):
    model = make()
    torch.testing.assert_close(model(tokens, last_only=True), model(tokens)[:, -1:], **NEAR)


def refused(model: Decoder, words: str, error: type[Exception] = ValueError, **options: Any) -> None:
    cache = options.get("cache")
    before = [each.lengths.tolist() for each in cache] if isinstance(cache, list) else None
    with torch.no_grad(), pytest.raises(error, match=words):
        model(options.pop("tokens", torch.zeros(2, 3, dtype=torch.long)), **options)
    if before is not None:
        assert [each.lengths.tolist() for each in cache] == before


def test_bad_tokens_are_refused():
    model = make()
    refused(
        model, r"Decoder: tokens must be int64 or int32 ids, got torch.float32", TypeError, tokens=torch.zeros(1, 4)
    )
    refused(model, r"Decoder: tokens must be a tensor of ids, got list", TypeError, tokens=[[1, 2]])
    refused(model, r"tokens must be \(B, L\), got \(4,\); tokens\[None\] adds a batch", tokens=torch.zeros(4).long())
    refused(model, r"tokens must be ids in 0 to 12, got 3 to 13", tokens=torch.tensor([[3, 13]]))
    refused(model, r"tokens must be ids in 0 to 12, got -1 to 3", tokens=torch.tensor([[3, -1]]))
    refused(model, r"on the model's device cpu, got meta", tokens=torch.zeros(1, 4, device="meta", dtype=torch.long))
    short = make(max_len=8)
    refused(short, "a text of 9 tokens is longer than the max_len=8", tokens=torch.zeros(1, 9).long())
    refused(short, "a text of 9 tokens is longer than the max_len=8", offset=6)
    for each in (model, short):
        refused(each, r"offset must be an integer or an integer tensor \(B,\), got str", TypeError, offset="a")
        refused(each, r"offset must be .*, got NoneType", TypeError, offset=None)
        refused(each, r"offset must be .*, got torch.float32", TypeError, offset=torch.zeros(2))


def test_a_mask_of_which_tokens_are_real_is_refused():
    real = torch.ones(2, 3, dtype=torch.bool)
    refused(make(), r"got \(2, 3\), the shape of tokens; where it .* real it is masks.padding\(mask\)", mask=real)
    with torch.no_grad():
        make()(torch.zeros(1, 3).long(), mask=real[:1])  # of one text, (1, S) is a row of keys for every query


def test_bad_caches_are_refused_and_stay_as_they_were():
    model, windows = make(), make("windows")
    cache = model.cache(2, 5)
    with torch.no_grad():
        model(torch.zeros(2, 3).long(), cache=cache)
    refused(model, "cache must be a list of one cache a layer, got KVCache", TypeError, cache=cache[0])
    refused(model, "one cache for each of the 3 layers, got 2", cache=cache[:2])
    refused(model, "got the same one twice", cache=[cache[0]] * 3)
    refused(model, r"cache\[0\] holds texts of at most max_len=5 tokens, and this one would have 6", cache=cache)
    refused(model, "tokens must be ids in 0 to 12", cache=cache, tokens=torch.full((2, 1), 13))
    refused(model, "lengths must be B = 2 integers in 1 to L = 3, one a sequence, got", cache=cache, lengths=[3, 4])
    refused(model, "lengths must be B = 2 integers", cache=cache, lengths=3)
    refused(model, "offset is where tokens begin without a cache", cache=cache, offset=1)
    refused(model, r"cache\[0\] holds 2 sequences, and tokens have B = 1", cache=cache, tokens=torch.zeros(1, 1).long())
    rolling = [block.attention.rolling_cache(2, 4) for block in windows.blocks]
    one_too_wide = [windows.cache(2, 9)[0], rolling[1], windows.cache(2, 9)[2]]
    refused(windows, r"cache\[1\] is a RollingCache of window 4, and layer 1 reads a window of 3", cache=one_too_wide)
    refused(model, r"cache\[2\] is .* window 4, and layer 2 reads every earlier token", cache=[*cache[:2], rolling[2]])
    other = make(head_dim=6, num_kv_heads=4).cache(2, 5)
    wide = [block.attention.kv_cache(2, 5, dtype=torch.float64) for block in model.blocks]
    for odd in (other, wide):
        mixed = [*model.cache(2, 5)[:1], *odd[1:]]
        refused(
            model, r"cache\[1\] has \(Hkv, D, Dv, dtype, device\) = \(\d, \d, .* and cache\[0\] \(\d, ", cache=mixed
        )
    refused(model, "must have the cache's dtype float64", TypeError, cache=wide)  # by the first layer
    cache[1].crop(2)
    refused(model, r"cache\[1\] has had \[2, 2\] tokens and cache\[0\] \[3, 3\]; crop", cache=cache)
    with pytest.raises(ValueError, match="grad"):
        model(torch.zeros(2, 1).long(), cache=model.cache(2, 5))


def test_something_else_than_a_configuration_is_refused():
    with pytest.raises(TypeError, match=r"config must be a regard.models.DecoderConfig, got dict"):
        Decoder(LLAMA)


def test_the_part_is_public():
    assert regard.models.Decoder is Decoder
