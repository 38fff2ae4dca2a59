"""What the processes of the tests of tensor parallelism run: layers and models cut by heads beside whole ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.asked import BATCH, LENGTH, difference
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module

import regard
from regard import masks, positions
from regard.distributed import HeadParallel, HiddenParallel, context_parallel
from regard.models import Decoder, DecoderConfig, Encoder, EncoderConfig, generate
from regard.models.feed_forward import GatedFeedForward
from regard.projection import Projection

WIDTH = 16
HEADS = 8


def odd_heads(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return (q >= kv) & ((q + kv + h) % 3 != 0)


def norm(when: str = "before", *, one: bool = False, heads: bool = False) -> regard.QKNorm:
    if heads:
        made = [regard.qk_norm.HeadwiseLayerNorm(n, 4) for n in (HEADS, 4)]
    else:
        made = [nn.RMSNorm(4), nn.LayerNorm(4)]
    for module in made:
        for p in module.parameters():
            nn.init.normal_(p)
    return regard.QKNorm(made[0], made[0] if one else made[1], when=when)


def dense() -> Tensor:
    return torch.rand(BATCH, HEADS, 12, 12, generator=torch.Generator().manual_seed(2)) > 0.4


# How a layer is made, and how it is called.
LAYERS: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[], dict[str, Any]]]] = {
    "plain": (dict, dict),
    "grouped": (lambda: {"num_kv_heads": 4, "bias": False, "mask": masks.causal()}, dict),
    "some biases": (lambda: {"bias": {"q", "v"}, "num_kv_heads": 4}, dict),
    "widths": (lambda: {"d_k": 32, "d_v": 48, "d_out": 7}, dict),
    "sinks": (lambda: {"sinks": True, "softcap": 3.0, "scale": 0.7}, dict),
    "gate": (lambda: {"gate": "elementwise", "num_kv_heads": 4}, dict),
    "headwise gate": (lambda: {"gate": "headwise", "bias": {"gate", "out"}}, dict),
    "rotary": (lambda: {"positions": positions.Rotary(4), "norm": norm(), "num_kv_heads": 4}, lambda: {"offset": 5}),
    "norm after": (lambda: {"positions": positions.Rotary(4), "norm": norm("after", one=True)}, dict),
    "norm of heads": (lambda: {"norm": norm(heads=True), "num_kv_heads": 4}, dict),
    "alibi": (lambda: {"positions": positions.ALiBi(HEADS), "mask": masks.causal()}, dict),
    "own slopes": (lambda: {"positions": positions.ALiBi(torch.rand(HEADS).double()), "mask": masks.causal()}, dict),
    "mask": (dict, lambda: {"mask": dense()}),
    "mask of heads": (lambda: {"mask": masks.where(odd_heads)}, lambda: {"mask": dense()[0]}),
    "masks": (lambda: {"mask": masks.causal()}, lambda: {"mask": ~masks.dense(dense()[:1]) | masks.window(3)}),
    "one mask": (dict, lambda: {"mask": dense()[0, 0]}),
    "context": (dict, lambda: {"context": words()}),
    "projected": (lambda: {"num_kv_heads": 4}, lambda: {"context": words(), "project": True}),
    "pair": (lambda: {"d_context": (16, 10)}, lambda: {"context": (words(), words()[..., :10])}),
    "one text": (lambda: {"mask": masks.causal()}, lambda: {"mask": dense()[0], "one": True}),
}


def words() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(BATCH, 12, WIDTH, dtype=torch.float64, generator=generator).requires_grad_()


def made(name: str) -> regard.MultiHeadAttention:
    torch.manual_seed(0)
    options = {"d_k": 32, **LAYERS[name][0]()}
    layer = regard.MultiHeadAttention(WIDTH, HEADS, **options).double()
    for n, p in layer.named_parameters():
        if n == "sinks" or n.endswith("bias"):
            nn.init.normal_(p)
    return layer


def run(layer: regard.MultiHeadAttention, name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The output and what has a gradient, with it."""
    x = words().detach().flip(1).requires_grad_()
    given = LAYERS[name][1]()
    leaves, context = {"x": x}, given.get("context")
    if context is not None:
        leaves["context"] = words()
        given["context"] = (leaves["context"], leaves["context"][..., :10]) if name == "pair" else leaves["context"]
    if given.pop("project", False):
        given["context"] = layer.project_context(given["context"])
    out = layer(x[0] if given.pop("one", False) else x, **given)
    generator = torch.Generator().manual_seed(4)
    (out * torch.randn(out.shape, dtype=torch.float64, generator=generator)).sum().backward()
    gradients = {n: p.grad for n, p in (*leaves.items(), *layer.named_parameters())}
    return out.detach(), {n: whole(g) for n, g in gradients.items() if g is not None}


def whole(t: Tensor) -> Tensor:
    return t.full_tensor() if isinstance(t, DTensor) else t


def mesh_of(some: Any) -> DeviceMesh:
    return DeviceMesh.from_group(some, "cpu")


def by_heads(some: Any, name: str) -> dict[str, float]:
    """The largest differences between a layer cut by heads and the whole one: output, inputs and all parameters."""
    theirs = regard.distributed.unfuse(made(name))
    ours = parallelize_module(made(name), mesh_of(some), HeadParallel())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(isinstance(p, DTensor) for p in ours.parameters())
    for (n, mine), truth in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(whole(mine.detach()), truth.detach()), n
    (out, gradients), (truth, wanted) = run(ours, name), run(theirs, name)
    assert gradients.keys() == wanted.keys()
    return {"output": difference(out, truth)} | {n: difference(g, wanted[n]) for n, g in gradients.items()}


def weights_and_cache(some: Any) -> dict[str, Any]:
    """The weights are of this rank's heads, and so is a cache."""
    name, (theirs, ours) = "rotary", (made("rotary") for _ in range(2))
    x = words().detach()
    parallelize_module(ours, mesh_of(some), HeadParallel())
    out, weights = ours(x, mask=masks.causal(), need_weights=True)
    expected, all_weights = theirs(x, mask=masks.causal(), need_weights=True)
    cache = ours.kv_cache(BATCH, 12)
    with torch.no_grad():
        steps = torch.cat([ours(part, cache=cache) for part in x.split([6, 1, 5], 1)], 1)
    return {
        "output": difference(out.detach(), expected.detach()),
        "weights": difference(weights.to_dense().detach(), all_weights.to_dense()[:, ours.heads].detach()),
        "cache": difference(steps, expected.detach()),
        "kv heads": ours.num_kv_heads,
        "shown": repr(ours),
        "name": name,
    }


def drawn(some: Any) -> list[str]:
    """Parameters that a cut layer, made on no device, draws anew and that are not those of the whole layer."""
    options: dict[str, Any] = {"num_kv_heads": 4, "sinks": True, "gate": "headwise"}
    theirs = regard.distributed.unfuse(regard.MultiHeadAttention(32, 8, **options, norm=regard.QKNorm.layer(4)))
    with torch.device("meta"):
        ours = regard.MultiHeadAttention(32, 8, **options, norm=regard.QKNorm.layer(4))
    parallelize_module(ours, mesh_of(some), HeadParallel())
    ours.to_empty(device="cpu")
    for layer in (theirs, ours):
        torch.manual_seed(7)
        layer.reset_parameters()
    pairs = zip(ours.named_parameters(), theirs.parameters(), strict=True)
    return [name for (name, p), truth in pairs if not torch.equal(whole(p.detach()), truth.detach())]


def dropped(some: Any) -> str:
    layer = parallelize_module(made("plain"), mesh_of(some), HeadParallel())
    layer.dropout = 0.5
    layer.eval()(words())
    try:
        layer.train()(words())
    except ValueError as error:
        return str(error)
    return "nothing"


def refused(some: Any, name: str) -> str:
    """What HeadParallel says of a layer that it does not cut; the layer is as it was."""
    layer, mesh = REFUSED[name](), mesh_of(some)
    before = repr(layer)
    try:
        (HiddenParallel() if name.startswith("hidden") else HeadParallel())._apply(layer, mesh)
    except (TypeError, ValueError) as error:
        assert repr(layer) == before
        return f"{type(error).__name__}: {error}"
    return "nothing"


class Steeper(positions.ALiBi):
    """ALiBi with a bias of somebody's own."""

    def bias(self, query_len: int, key_len: int, **options: Any) -> Any:
        return super().bias(query_len, key_len, **options).scaled(2)


def _hooked() -> nn.Module:
    layer = regard.MultiHeadAttention(16, 4)
    layer.out_proj.register_forward_hook(lambda *_: None)
    return layer


def _wrapped() -> nn.Module:
    layer = regard.MultiHeadAttention(16, 4)
    layer.in_proj = nn.Linear(16, 48)
    return layer


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "heads": lambda: regard.MultiHeadAttention(18, 6),
    "kv heads": lambda: regard.MultiHeadAttention(16, 4, num_kv_heads=2),
    "dropout": lambda: regard.MultiHeadAttention(16, 4, dropout=0.1),
    "norm over all": lambda: regard.MultiHeadAttention(
        16, 4, norm=regard.QKNorm(nn.RMSNorm(16), nn.RMSNorm(16), over="all")
    ),
    "own norm": lambda: regard.MultiHeadAttention(16, 4, norm=regard.QKNorm(nn.PReLU(), nn.Identity())),
    "relative": lambda: regard.MultiHeadAttention(16, 4, positions=positions.RelativeBias(4)),
    "learned slopes": lambda: regard.MultiHeadAttention(
        16, 4, positions=positions.ALiBi(nn.Parameter(torch.rand(4))), mask=masks.causal()
    ),
    "own slopes' class": lambda: regard.MultiHeadAttention(16, 4, positions=Steeper(4), mask=masks.causal()),
    "hidden activation": lambda: nn.Sequential(Projection(8, 16), nn.PReLU(), Projection(16, 8)),
    "class": lambda: nn.Linear(16, 16),
    "wrapped": _wrapped,
    "hooked": _hooked,
    "hidden class": lambda: nn.Linear(16, 16),
    "hidden width": lambda: GatedFeedForward(16, 30),
}


def mask_of_other_heads(some: Any) -> str:
    layer = parallelize_module(made("plain"), mesh_of(some), HeadParallel())
    try:
        layer(words(), mask=dense()[:, :2])
    except ValueError as error:
        return str(error)
    return "nothing"


def decoder(gated: bool = True, positions: str = "rotary", layers: int = 2) -> Decoder:
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "d_model": 16, "num_layers": layers, "num_heads": 4, "num_kv_heads": 4, "d_mlp": 24}
    return Decoder(DecoderConfig(**sizes, gated=gated, positions=positions, qk_norm=True, max_len=64)).double()


def encoder() -> Encoder:
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "d_model": 16, "num_layers": 1, "num_heads": 4, "d_mlp": 24, "max_len": 12}
    return Encoder(EncoderConfig(**sizes, dropout=0.0, attention_dropout=0.0)).double()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gated decoder": decoder,
    "plain decoder": lambda: decoder(gated=False, positions="sinusoidal"),
    "encoder": encoder,
}


def planned(some: Any, name: str) -> float:
    """A model cut by tensor_plan beside the whole one: its output and all gradients."""
    tokens = torch.randint(11, (BATCH, 12), generator=torch.Generator().manual_seed(5))
    theirs, ours = regard.distributed.unfuse(MODELS[name]()), MODELS[name]()
    parallelize_module(ours, mesh_of(some), regard.distributed.tensor_plan(ours))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    found = []
    for model in (ours, theirs):
        out = model(tokens)
        (out * torch.linspace(0, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        found.append([out.detach(), *(whole(p.grad) for p in model.parameters())])
    return max(difference(a, b) for a, b in zip(*found, strict=True))


def generated(some: Any) -> bool:
    """Whether a decoder cut by tensor_plan writes what the whole one writes, token by token with caches."""
    prompt = torch.tensor([[1, 2, 3], [4, 5, 6]])
    ours = decoder()
    parallelize_module(ours, mesh_of(some), regard.distributed.tensor_plan(ours))
    return torch.equal(generate(ours, prompt, 5), generate(decoder(), prompt, 5))


def heads_and_text(order: str) -> dict[str, float]:
    """A layer cut by heads over two ranks, on texts that are cut over two: both axes of a mesh at once."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("context", "tensor"))
    theirs = regard.distributed.unfuse(made("rotary"))
    ours = parallelize_module(made("rotary"), mesh["tensor"], HeadParallel())
    parallel = context_parallel(mesh["context"], order=order)
    x = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    found = {}
    for name, mask in {"causal": masks.causal(), "by head": masks.causal() & masks.where(odd_heads)}.items():
        truth = theirs(x, mask=mask)
        wanted = torch.autograd.grad(truth.square().sum(), list(theirs.parameters()))
        with parallel:
            out = ours(parallel.shard(x, 1), mask=mask)
        found[name] = difference(parallel.unshard(out.detach(), 1), truth.detach())
        shares = torch.autograd.grad(out.square().sum(), list(ours.parameters()))
        for share, gradient in zip(shares, wanted, strict=True):
            mine = whole(share).contiguous()
            dist.all_reduce(mine, group=mesh["context"].get_group())
            found[name] = max(found[name], difference(mine, gradient) / 10)  # sums over 64 tokens of squares
    return found


def to_torch(some: Any) -> str:
    layer = parallelize_module(regard.MultiHeadAttention(16, 4), mesh_of(some), HeadParallel())
    try:
        layer.to_torch()
    except ValueError as error:
        return str(error)
    return "nothing"
