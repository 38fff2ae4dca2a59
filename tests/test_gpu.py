"""On a GPU: the same contract, fused. `pytest -m gpu`; skipped, with the reason, where there is none."""

from __future__ import annotations

import pytest
import torch
from tests import properties
from torch import Tensor

import regard
from regard import masks, reference

pytestmark = [
    pytest.mark.gpu,
    # Raised where PyTorch means to hide it, as warnings are errors here.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]

LENGTH = 300  # two blocks of 128 and a part of one
IDS = torch.arange(LENGTH) // 110
MASKS = {
    "none": lambda: None,
    "causal": masks.causal,
    "window": lambda: masks.window(90),
    "prefix": lambda: masks.prefix(150) | masks.causal(),
    "documents": lambda: masks.causal() & masks.documents(IDS.cuda()),
    "padding": lambda: masks.padding(torch.tensor([0, 170]).cuda()),  # one sequence of nothing
    "rule": lambda: masks.where(lambda b, h, q, kv: (q + kv + h) % 3 != 0),
}
OPTIONS = {
    "plain": dict,
    "softcap": lambda: {"softcap": 2.0},
    "scale": lambda: {"scale": -0.3},
    "bias": lambda: {"bias": drawn(4, 1, LENGTH, seed=5)},
    "sinks": lambda: {"sinks": drawn(4, seed=6)},
}
# Tensor cores may round float32 to 10 bits where PyTorch is told to; by default products are exact to float32.
WITHIN = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to("cuda", dtype).requires_grad_()


def operands(dtype: torch.dtype = torch.float32, *, width: int = 32, value_width: int = 32) -> list[Tensor]:
    """q, k, v of two sequences, four heads over two."""
    shapes = (2, 4, LENGTH, width), (2, 2, LENGTH, width), (2, 2, LENGTH, value_width)
    return [drawn(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)]


def agrees(mask, given: list[Tensor], options: dict, *, kernel: str = "flex") -> None:
    """Output, lse and every gradient, through both, against the definition in float64."""
    output, weights = regard.attention(*given, mask, **options)
    assert weights.plan.kernel == kernel, weights.plan
    leaves = [*given, *(t for t in options.values() if isinstance(t, Tensor))]
    wide = [t.detach().double().requires_grad_() for t in leaves]
    named = iter(wide[3:])
    exact = {name: next(named) if isinstance(t, Tensor) else t for name, t in options.items()}
    allowed = None if mask is None else mask.to_dense(LENGTH, num_heads=4, device="cuda")
    want = reference.attention(*wide[:3], allowed, **exact)
    finite = torch.isfinite(want.lse)
    assert torch.equal(torch.isfinite(weights.lse), finite)
    within = WITHIN[given[0].dtype] if kernel == "flex" else 1e-12
    properties.assert_near("output", output, want.output, within * properties.largest(want.output))
    properties.assert_near("lse", weights.lse, want.lse, within * properties.largest(want.lse))
    generator = torch.Generator().manual_seed(9)
    toward = torch.randn(output.shape, generator=generator).cuda().to(output.dtype)
    found = torch.autograd.grad((output * toward).sum() + weights.lse[finite].sum(), leaves)
    wanted = torch.autograd.grad((want.output * toward.double()).sum() + want.lse[finite].sum(), wide)
    for n, (got, expected) in enumerate(zip(found, wanted, strict=True)):
        # A gradient is a sum of up to 300 rounded terms.
        properties.assert_near(f"gradient {n}", got, expected, 10 * within * properties.largest(expected))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", MASKS)
def test_output_lse_and_gradients_agree_with_the_definition(name, options):
    agrees(MASKS[name](), operands(), OPTIONS[options]())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["none", "documents", "padding"])
def test_half_precision(name, dtype):
    agrees(MASKS[name](), operands(dtype), {})


@pytest.mark.parametrize("widths", [(8, 8), (20, 48), (64, 128), (256, 256)], ids=str)
def test_widths(widths):
    agrees(masks.causal(), operands(width=widths[0], value_width=widths[1]), {})


@pytest.mark.parametrize("shape", [(2, 4, LENGTH, LENGTH), (LENGTH, LENGTH), (4, LENGTH, 1), (1, 1)], ids=str)
def test_biases_of_every_shape_have_a_gradient(shape):
    agrees(masks.causal(), operands(), {"bias": drawn(*shape, seed=7)})


def test_what_is_not_fused_says_so_and_agrees_too():
    agrees(masks.causal(), [t.detach().double().requires_grad_() for t in operands()], {}, kernel="rows")
    q, k, v = operands()
    plan = regard.attention(q, k, v, dropout=0.5)[1].plan
    assert (plan.kernel, plan.reason) == ("rows", "FlexAttention has no dropout")
    with pytest.raises(ValueError, match="FlexAttention has no dropout"):
        regard.attention(q, k, v, dropout=0.5, impl="fused")


def test_one_query_against_many_keys():
    q, k, v = operands()
    output, weights = regard.attention(q[:, :, -1:], k, v, masks.causal())
    assert weights.plan.kernel == "flex"
    want = reference.attention(q[:, :, -1:].double(), k.double(), v.double())
    properties.assert_near("output", output, want.output, 1e-5 * properties.largest(want.output))
    properties.assert_near("lse", weights.lse, want.lse, 1e-5 * properties.largest(want.lse))


def test_keys_that_nobody_reads_may_hold_anything():
    q, k, v = (t.detach() for t in operands())
    valid = masks.padding(torch.tensor([100, 170]).cuda())
    want = regard.attention(q, k, v, valid)[0]
    for t in (k, v):
        t[0, :, 100:], t[1, :, 170:] = torch.nan, torch.inf
    assert torch.equal(regard.attention(q, k, v, valid)[0], want)


def test_the_weights_are_those_of_the_definition():
    q, k, v = (t.detach() for t in operands())
    mask = MASKS["documents"]()
    weights = regard.attention(q, k, v, mask)[1]
    want = reference.attention(q.double(), k.double(), v.double(), mask.to_dense(LENGTH, device="cuda")).weights
    properties.assert_near("weights", weights.to_dense(), want, 1e-5)
    properties.assert_near("received", weights.received(), want.sum(-2), 1e-4 * properties.largest(want.sum(-2)))
    entropy = -torch.special.xlogy(want, want).sum(-1)
    properties.assert_near("entropy", weights.entropy(), entropy, 1e-4)


def test_lengths_and_numbers_that_change_do_not_run_uncompiled():
    for i in range(12):
        q, k, v = (t.detach()[:, :, : LENGTH - 7 * i] for t in operands(torch.float16))
        output = regard.attention(q, k, v, masks.causal(), scale=0.1 + i / 50)[0]
        want = reference.attention(
            *(t.double() for t in (q, k, v)), masks.causal().to_dense(q.shape[2], device="cuda"), scale=0.1 + i / 50
        )
        properties.assert_near("output", output, want.output, 4e-3 * properties.largest(want.output))


def test_no_l_x_s_memory():
    length = 16384
    q, k, v = (torch.randn(1, 4, length, 64, device="cuda", dtype=torch.float16, requires_grad=True) for _ in range(3))
    documents = masks.causal() & masks.documents(torch.arange(length, device="cuda") // 3000)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    output, weights = regard.attention(q, k, v, documents)
    weights.received()
    output.sum().backward()
    # The map would be 4 GB in float32; blocks, outputs and copies in float32 are far below a tenth of it.
    assert torch.cuda.max_memory_allocated() - before < 4 * length * length * 4 / 10
