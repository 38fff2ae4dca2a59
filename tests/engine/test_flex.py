"""FlexAttention, uncompiled on CPU: the definition's answers, and blocks that are what the mask says, exactly.

The uncompiled form asks the rule of a mask for every entry and knows no blocks. So the blocks are tested by themselves:
a mask is put together again from them as a kernel reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex
from hypothesis import given
from hypothesis import strategies as st
from tests import properties
from tests.allocations import Largest
from tests.mask_strategies import masked
from tests.shapes import Shape, batch_size, shapes
from tests.strategies import Case, cases, examples
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from regard import masks
from regard.engine import flex
from regard.engine.problem import Options, Problem
from regard.masks import Mask, Sizes
from regard.masks.lowering import lower

# Raised where PyTorch means to hide it, as warnings are errors here.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """FlexAttention as it runs without a compiler, which PyTorch allows on CPU for inference alone."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(torch_flex, "_WARNINGS_SHOWN", {"flex_attention_performance"})
    monkeypatch.setattr(flex, "_kernel", lambda: torch_flex.flex_attention)
    yield
    torch._dynamo.reset()


def counting(monkeypatch: pytest.MonkeyPatch) -> CompileCounterWithBackend:
    """FlexAttention traced as for CUDA, forward and backward, in one graph each; what is traced is run as it stands."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(torch_flex.flex_attention, fullgraph=True, backend=counter)
    monkeypatch.setattr(flex, "_kernel", lambda: compiled)
    return counter


def problem_of(mask: Mask | None, q: Tensor, k: Tensor, *, bias=None, sinks=None, scale=0.3, softcap=None) -> Problem:
    sizes = Sizes((q.shape[0],), q.shape[1], q.shape[2], k.shape[2])
    if bias is not None:
        bias = bias.view((1,) * (4 - bias.dim()) + tuple(bias.shape))
    lowered = lower(None if mask is None else mask.bind(sizes), sizes)
    return Problem(q, k, bias, sinks, Options(scale, softcap, **lowered))


def attention(query: Tensor, key: Tensor, value: Tensor, mask=None, *, scale=None, **options):
    mask = masks.dense(mask) if isinstance(mask, Tensor) else mask
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    out, lse = flex.attend(problem_of(mask, query, key, scale=scale, **options), value)
    return out, SimpleNamespace(lse=lse)


def random(*shape: int, seed: int = 0, grad: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(grad)


@examples(8)
@given(case=cases(ranks=(4,), dtypes=(torch.float64, torch.float32)))
def test_output_lse_and_gradients_are_those_of_the_definition(case: Case):
    torch._dynamo.reset()
    properties.matches_the_definition(attention, case)
    properties.gradients_match_the_definition(attention, case, through_lse=True)


@examples(6)
@given(case=cases(ranks=(4,)), data=st.data())
def test_deeper_masks_too(case: Case, data):
    torch._dynamo.reset()
    mask, four = data.draw(masked(case.shape, depth=3))
    case = Case(case.shape, case.query, case.key, case.value, mask, four, {"scale": 0.4})
    properties.matches_the_definition(attention, case)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32(dtype):
    q, k, v = (random(2, 4, 40, 8, seed=i, grad=False).to(dtype) for i in range(3))
    sinks = torch.tensor([0.3, -1.0, 0.0, 2.0], dtype=dtype)
    allowed = masks.window(9).to_dense(40)
    options = {"sinks": sinks, "softcap": 3.0}
    case = Case(Shape((2,), 4, 4, 40, 40, 8, 8), q, k, v, masks.window(9), allowed, options)
    properties.matches_the_definition(attention, case)
    assert attention(q, k, v)[1].lse.dtype == torch.float32


# What a kernel makes of the blocks


def read_by_a_kernel(found: torch_flex.BlockMask, shape: Shape) -> Tensor:
    """The mask (B, H, L, S) as a kernel reads it: its rule in partial blocks, all of full ones, nothing elsewhere."""
    sizes = (batch_size(shape), shape.heads, shape.query_len, shape.key_len)
    rule = torch_flex.create_mask(found.mask_mod, *sizes, device="cpu")
    lists = ((found.kv_num_blocks, found.kv_indices), (found.full_kv_num_blocks, found.full_kv_indices))
    partial, full = (spread(*listed, found.BLOCK_SIZE, sizes) for listed in lists)
    assert not (partial & full).any()
    return torch.where(full, True, partial & rule)


def spread(count: Tensor, index: Tensor, size: tuple[int, int], sizes: tuple[int, ...]) -> Tensor:
    """The entries of the blocks that are listed, (B, H, L, S)."""
    listed = torch.arange(index.shape[-1]) < count[..., None]
    blocks = torch.zeros(index.shape, dtype=torch.bool).scatter(-1, index.long(), listed)
    entries = blocks.repeat_interleave(size[0], -2).repeat_interleave(size[1], -1)
    return entries[..., : sizes[2], : sizes[3]].expand(sizes)


@examples(60)
@given(shape=shapes(ranks=(4,)), size=st.sampled_from((1, 8, 16, 128)), data=st.data())
def test_blocks_are_those_that_the_mask_has(shape: Shape, size: int, data):
    mask, allowed = data.draw(masked(shape, depth=3))
    q, k = torch.zeros(*shape.rows, 1), torch.zeros(*shape.keys, 1)
    found = flex.block_mask(problem_of(mask, q, k), size)
    assert torch.equal(read_by_a_kernel(found, shape), allowed)
    # PyTorch's own, from every entry: the same blocks, neither more nor in part what is full.
    sizes = (batch_size(shape), shape.heads, shape.query_len, shape.key_len)
    wanted = torch_flex.create_block_mask(lambda b, h, i, j: allowed[b, h, i, j], *sizes, device="cpu", BLOCK_SIZE=size)
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        got, want = getattr(found, name), getattr(wanted, name)
        assert got.dtype == want.dtype == torch.int32
        assert torch.equal(got.expand_as(want), want), name


def test_blocks_of_a_causal_mask():
    q = torch.zeros(1, 2, 300, 1)
    found = flex.block_mask(problem_of(masks.causal(), q, q))
    assert found.kv_num_blocks.tolist() == [[[1, 1, 3]]]  # the diagonal, and all that reaches past the end
    assert found.full_kv_num_blocks.tolist() == [[[0, 1, 0]]]
    assert [found.kv_indices[0, 0, i, 0].item() for i in range(3)] == [0, 1, 0]
    assert found.full_kv_indices[0, 0, 1, 0].item() == 0
    assert found.seq_lengths == (300, 300)
    assert flex.block_mask(problem_of(None, q, q)) is None


LENGTH = 4096
RULES = {
    "causal": masks.causal(),
    "documents": masks.causal() & masks.documents(torch.arange(LENGTH) // 300),
    "window": masks.window(100) | masks.prefix(20),
    "where": masks.where(lambda b, h, q, kv: (q + kv) % 3 != 0),
}


@pytest.mark.parametrize("name", RULES)
def test_no_tensor_of_the_size_of_the_map_is_made(name):
    q = torch.zeros(1, 1, 1, 1).expand(1, 2, LENGTH, 1)
    problem = problem_of(RULES[name], q, q)
    with Largest() as seen:
        flex.block_mask(problem)
    # A rule that is not known is asked for some rows at a time, a quarter of the map; intervals are numbers of a row.
    most = LENGTH * LENGTH // 4 if name == "where" else 64 * LENGTH
    assert seen.elements <= most, seen.operation


def test_intervals_are_found_once_and_blocks_of_numbers_alone_are_remembered(monkeypatch):
    q = torch.zeros(2, 2, 40, 16)
    problem = problem_of(masks.documents(torch.arange(40) // 7), q, q)
    view, asked = type(problem.options.view), []
    intervals = view.intervals
    monkeypatch.setattr(view, "intervals", lambda self: asked.append(self) or intervals(self))
    assert flex.supported(problem, q) is None
    flex.attend(problem, q)
    assert len(asked) == 1
    assert flex.block_mask(problem_of(masks.causal(), q, q)) is flex.block_mask(problem_of(masks.causal(), q, q))


def test_blocks_made_for_inference_serve_training():
    q = random(1, 1, 9, 16)
    rule = masks.band(3, 1)
    with torch.inference_mode():
        attention(q, q, q, rule)
    attention(q, q, q, rule)[0].sum().backward()
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, -torch.inf], dtype=torch.float64)], ids=["", "sinks"])
def test_rows_without_keys_give_zeros_and_take_no_gradient(sinks):
    q, k, v = random(2, 2, 6, 3), random(2, 2, 5, 3, seed=1), random(2, 2, 5, 4, seed=2)
    given = [q, k, v] if sinks is None else [q, k, v, sinks.clone().requires_grad_()]
    options = {} if sinks is None else {"sinks": given[3]}
    out, weights = attention(q, k, v, masks.padding(torch.tensor([0, 5])), **options)
    assert not out[0].any()
    alone = torch.full((2, 6), -torch.inf) if sinks is None else sinks[:, None].expand(2, 6)
    assert torch.equal(weights.lse[0], alone.double())
    # Whatever a loss says of these constants.
    grad, grad_lse = torch.ones_like(out), torch.ones_like(weights.lse)
    grad[0] = torch.nan
    if sinks is None:
        grad_lse[0] = torch.nan
    found = torch.autograd.grad((out, weights.lse), given, (grad, grad_lse))
    assert all(g.isfinite().all() for g in found)
    assert not any(g[0].any() for g in found[:3])
    assert all(g[1].any() for g in found[:3])


def test_rows_that_a_bias_empties_take_no_gradient():
    q, bias = random(1, 1, 3, 4), random(3, 3, seed=1)
    forbidding = bias.masked_fill(torch.tensor([[True], [False], [False]]), -torch.inf)
    out, weights = attention(q, q, q, bias=forbidding)
    grad, grad_lse = (torch.ones_like(t).index_fill(2, torch.tensor(0), torch.nan) for t in (out, weights.lse))
    found = torch.autograd.grad((out, weights.lse), (q, bias), (grad, grad_lse))
    assert all(g.isfinite().all() for g in found)


# As it is compiled


@pytest.mark.parametrize("shape", [(2, 2, 9, 7), (1, 2, 1, 7), (9, 1), (1, 1)], ids=str)
def test_the_gradient_of_a_bias_is_there_when_compiled(shape, monkeypatch):
    counting(monkeypatch)
    q, k, v = random(2, 2, 9, 3), random(2, 1, 7, 3, seed=1), random(2, 1, 7, 5, seed=2)
    bias = random(*shape, seed=3)
    case = Case(Shape((2,), 2, 1, 9, 7, 3, 5), q, k, v, None, None, {"bias": bias, "softcap": 2.0})
    outputs = case.run(attention)[0], case.truth().output
    found, wanted = (torch.autograd.grad(out.square().sum(), bias)[0] for out in outputs)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)


def test_other_documents_are_no_reason_to_compile_again_and_other_numbers_are_no_error(monkeypatch):
    counter = counting(monkeypatch)
    q = random(1, 2, 20, 16, grad=False)
    for size in (3, 5, 7):
        attention(q, q, q, masks.documents(torch.arange(20) // size))
    assert counter.frame_count == 1
    # PyTorch's limit is 8, and what is past it would run uncompiled, in L x S memory.
    for i in range(10):
        attention(q, q, q, scale=0.1 + i)
    assert counter.frame_count == 11


@pytest.mark.parametrize("name", ["where", "documents", "window"])
def test_rules_of_masks_are_traced(name, monkeypatch):
    counter = counting(monkeypatch)
    q = random(1, 2, 20, 16, grad=False)
    mask = {"documents": masks.documents(torch.arange(20) // 6)}.get(name, RULES[name])
    allowed = mask.to_dense(20)
    output = attention(q, q, q, mask)[0]
    weights = torch.softmax((q @ q.mT * 0.25).masked_fill(~allowed, -torch.inf), -1)
    torch.testing.assert_close(output, weights @ q, atol=1e-12, rtol=1e-12)
    assert counter.frame_count == 1


def test_gradients_without_a_graph_also_inside_of_an_operator():
    given = [random(2, 4, 6, 3), random(2, 2, 7, 3, seed=1), random(2, 2, 7, 5, seed=2)]
    given += [random(4, 1, 7, seed=3), random(4, seed=4)]
    toward, toward_lse = random(2, 4, 6, 5, seed=5, grad=False), random(2, 4, 6, seed=6, grad=False)

    schema = "(Tensor[] given) -> Tensor[]"

    @torch.library.custom_op("regard_tests::flex_gradients", mutates_args=(), schema=schema)
    @torch.no_grad()
    def operator(given: list[Tensor]) -> list[Tensor]:
        q, k, v, bias, sinks = given
        problem = problem_of(masks.causal(), q, k, bias=bias, sinks=sinks)
        found = flex.gradients(problem, v, toward, toward_lse, [True] * 5)
        return [g.clone() for g in found]

    q, k, v, bias, sinks = given
    out, lse = flex.attend(problem_of(masks.causal(), q, k, bias=bias, sinks=sinks), v)
    wanted = torch.autograd.grad((out, lse), given, (toward, toward_lse))
    found = operator([t.detach() for t in given])
    found[3] = found[3].view_as(bias)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, atol=0, rtol=0)
    problem = problem_of(None, q, k)
    only = flex.gradients(problem, v, None, toward_lse, [True, False, True, False, False])
    assert [g is None for g in only] == [False, True, False, True, True]
    assert only[0].any()
    assert not only[2].any()  # v has no part in lse


# What it cannot do


def refused(**changes) -> str | None:
    sizes = {"query_len": 4, "width": 16, "value_width": 16, "dtype": torch.float32, "mask": None, "bias": None}
    sizes |= changes
    q = torch.zeros(1, 1, sizes["query_len"], sizes["width"], dtype=sizes["dtype"])
    k = torch.zeros(1, 1, 4, sizes["width"], dtype=sizes["dtype"])
    problem = problem_of(sizes["mask"], q, k, bias=sizes["bias"]).with_options(dropout=changes.get("dropout", 0.0))
    return flex.supported(problem, k.new_zeros(1, 1, 4, sizes["value_width"]))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dropout": 0.1}, "FlexAttention has no dropout"),
        ({"dtype": torch.float64}, "FlexAttention has no float64"),
        ({"width": 300}, "FlexAttention is used up to a width of 256, and this is 300"),
        ({"value_width": 257}, "FlexAttention is used up to a width of 256, and this is 257"),
        ({"query_len": 0}, "FlexAttention has no sizes of 0"),
        ({"bias": torch.zeros(1, 1, 1, 1, requires_grad=True).expand(1, 1, 1 << 16, 1 << 16)}, "at most 2,147,483,647"),
    ],
    ids=str,
)
def test_what_it_cannot_do_has_a_reason(changes, reason):
    assert reason in refused(**changes)


def test_what_it_can_do_has_none():
    assert refused() is None
    assert refused(width=3, value_width=256, dtype=torch.bfloat16, mask=masks.causal()) is None
    assert refused(bias=torch.zeros(4, 4)) is None
    assert refused(bias=torch.zeros(4, 4, requires_grad=True)) is None


def test_a_rule_that_asks_what_an_index_is_has_no_kernel():
    q = torch.zeros(2, 2, 40, 16)
    rule = masks.where(lambda b, h, q, kv: ((q + kv) % 2 == 0) & (int(h.flatten()[0]) == 0))
    assert flex.supported(problem_of(rule, q, q), q) == (
        "the mask has a rule that FlexAttention cannot trace (RuntimeError)"
    )
    assert flex.supported(problem_of(masks.where(lambda b, h, q, kv: (q + kv) % 2 == 0), q, q), q) is None


def test_in_a_fixed_order_the_gradient_of_a_bias_is_not_to_be_had():
    torch.use_deterministic_algorithms(True)
    try:
        assert "in no fixed order" in refused(bias=torch.zeros(4, 4, requires_grad=True))
        assert refused(bias=torch.zeros(4, 4)) is None
    finally:
        torch.use_deterministic_algorithms(False)


def test_devices_that_it_is_not_compiled_for(monkeypatch):
    unavailable, device = flex.unavailable.__wrapped__, torch.device("cuda")
    assert unavailable(torch.device("cpu")) == "FlexAttention is compiled for cuda, and this is cpu"
    monkeypatch.setattr(flex, "find_spec", lambda name: None)
    assert "triton, which is not installed" in unavailable(device)
    monkeypatch.setattr(flex, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    assert "compute capability 7.0" in unavailable(device)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert unavailable(device) is None
