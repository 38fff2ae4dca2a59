"""A layer with options compiled, exported, under autocast, checkpointed, sharded."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.layer.definition import drawn
from torch.utils.checkpoint import checkpoint

from regard import MultiHeadAttention, QKNorm, masks
from regard.positions import ALiBi, RelativeBias, Rotary


def made(**options: object) -> MultiHeadAttention:
    given = {
        "num_kv_heads": 2,
        "bias": {"q", "v"},
        "mask": masks.causal() & masks.window(4),
        "positions": Rotary(4),
        "norm": QKNorm.rms(4),
        "softcap": 5.0,
        "sinks": True,
        "gate": "headwise",
    }
    torch.manual_seed(0)
    return drawn(MultiHeadAttention(16, 4, **{**given, **options}))


KINDS = {
    "all": {},
    "alibi": {"positions": ALiBi(4), "softcap": None},
    "relative": {"positions": RelativeBias(4, num_buckets=8, max_distance=16)},
}
# The same sums in another order, of some tens of terms of order 1.
CLOSE = {"rtol": 2e-5, "atol": 5e-6}


@pytest.fixture
def quiet() -> Iterator[None]:
    """No graph of an earlier test, and none of the warnings of torch's own parts."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`")
        yield
    torch._dynamo.reset()


def step(run: object, x: torch.Tensor, parameters: list) -> tuple[torch.Tensor, ...]:
    out = run(x)
    return out.detach(), *torch.autograd.grad(out.square().sum(), [x, *parameters])


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_in_one_graph(quiet, kind: str):
    layer, x = made(**KINDS[kind]), torch.randn(2, 9, 16, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    own = list(layer.parameters())
    for got, wanted in zip(step(compiled, x, own), step(layer, x, own), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)  # gradients are sums over 18 positions


def test_compiled_with_an_offset_for_each_sequence_and_a_context(quiet):
    layer, x, source = made(mask=None), torch.randn(2, 9, 16), torch.randn(2, 5, 16)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    for offset in (torch.tensor([3, 70]), torch.tensor([1, 2])):
        torch.testing.assert_close(compiled(x, source, offset=offset), layer(x, source, offset=offset), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_exported(quiet, kind: str):
    layer, x = made(**KINDS[kind]), torch.randn(2, 9, 16)
    program = torch.export.export(layer, (x,))
    torch.testing.assert_close(program.module()(x), layer(x), **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind: str):
    layer, x = made(**KINDS[kind]), torch.randn(2, 9, 16)
    seen = []
    layer.out_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        layer(x, torch.randn(2, 9, 16), offset=0)
    assert seen == [torch.bfloat16] * 2
    assert out.dtype == torch.bfloat16
    exact = layer(x).detach()
    # bfloat16 has 8 bits: a few roundings, of numbers as large as those that come out.
    torch.testing.assert_close(out.float(), exact, rtol=0, atol=0.04 * float(exact.abs().max()))
    out.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layers_of_half_precision(dtype: torch.dtype):
    layer, x = made(), torch.randn(2, 9, 16)
    half = copy.deepcopy(layer).to(dtype)
    out = half(x.to(dtype))
    assert out.dtype == dtype
    exact = copy.deepcopy(half).float()(x.to(dtype).float())
    bound = (
        20 * torch.finfo(dtype).eps * float(exact.detach().abs().max())
    )  # some ten roundings of eps / 2 each, and to spare
    torch.testing.assert_close(out.float(), exact, rtol=0, atol=bound)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed(reentrant: bool):
    layer, x = made(dropout=0.3), torch.randn(2, 9, 16, requires_grad=True)
    own = list(layer.parameters())

    def gradients(run: object) -> list[torch.Tensor]:
        torch.manual_seed(5)
        layer.zero_grad()
        x.grad = None
        run(x).square().sum().backward()
        return [x.grad.clone(), *(p.grad.clone() for p in own)]

    wanted = gradients(layer)
    got = gradients(lambda x: checkpoint(layer, x, use_reentrant=reentrant))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_by_functional_call():
    layer, x = made(), torch.randn(3, 2, 9, 16)
    state = dict(layer.named_parameters())
    out = torch.func.functional_call(layer, {n: 2 * p for n, p in state.items()}, (x[0],))
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(out, twin(x[0]), **CLOSE)


@pytest.mark.parametrize("parts", ["each", "layer"])
def test_sharded(tmp_path: Path, parts: str):
    """FSDP2 on one process: parameters are there only while the module that owns them runs."""
    dist = pytest.importorskip("torch.distributed")
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mesh = dist.init_device_mesh("cpu", (1,))
            layer = made(d_k=16)
            plain = copy.deepcopy(layer)
            if parts == "each":
                for module in (layer.in_proj, layer.gate_proj, layer.norm.q, layer.norm.k, layer.out_proj):
                    fully_shard(module, mesh=mesh, reshard_after_forward=True)
            fully_shard(layer, mesh=mesh)
            x, source = torch.randn(2, 9, 16), torch.randn(2, 9, 16)
            for context in (None, source):
                out = layer(x, context, offset=0)
                torch.testing.assert_close(out, plain(x, context, offset=0), **CLOSE)
                out.sum().backward()
            assert all(p.grad is not None for p in layer.parameters())
    finally:
        dist.destroy_process_group()
