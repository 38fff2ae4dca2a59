"""Projection: nn.Linear, by the faster of the two matrix products that PyTorch brings along.

On AMD's processors with AVX-512, MKL multiplies float32 matrices at about half the rate of oneDNN, which is in the same
build of PyTorch. F.linear takes MKL; the op that takes oneDNN is private, so it is probed for and used only where
nothing but the plain product of plain tensors is asked.

A few rows, as in decoding, are another matter: F.linear multiplies them on one core, at half the speed at which two can
read the weight. As one product for each block of the weight's rows they take all cores.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["Projection", "linear"]

# Multiplications below which what the op costs to call is more than what it saves.
WORTH = 1 << 21
# The op as it was when this was written: with another signature it may mean something else.
SCHEMA = (
    "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"
)
PLAIN = (Tensor, nn.Parameter)
# Few rows, in blocks of the weight: measured on 2 cores at 1 to 4 rows, 1.3 to 2.8 times as fast as F.linear where the
# weight has 1024 x 1024 elements or more, and nothing gained at a quarter of that.
FEW_ROWS = 4
BLOCKS = 16
LEAST_WEIGHT = 1 << 19


class Projection(nn.Linear):
    """A linear layer with the parameters, the initialisation and the state dict of :class:`torch.nn.Linear`.

    ``x @ weight.mT + bias``.

    >>> import torch
    >>> from regard.projection import Projection
    >>> layer = Projection(512, 64)
    >>> x = torch.rand(8, 10, 512)
    >>> torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))

    Nothing is kept between calls: a parameter may be written to at any time, as in a linear layer.

    Args:
        in_features: the width of the input, K.
        out_features: the width of the output, N.
        bias: whether to add a bias.
        device: where the parameters are made.
        dtype: the dtype of the parameters.

    Attributes:
        weight: (N, K).
        bias: (N,), or None.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Linear's name, which callers may use)
        """The projection of an input (..., K), (..., N)."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` of x (..., K), weight (N, K) and bias (N,): (..., N), by oneDNN where MKL is slow."""
    if _few(x, weight, bias):
        return _in_blocks(x, weight, bias)
    if not _usable(x, weight, bias):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        out: Tensor = _WithGradients.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return out
    return _product(x, weight, bias)


class _WithGradients(torch.autograd.Function):
    """:func:`_product` with its gradients, themselves made of :func:`linear` and so differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        wants_x, wants_weight, _ = ctx.needs_input_grad
        # Only what a gradient reads: below a frozen weight, activations are not kept.
        ctx.save_for_backward(x if wants_weight else None, weight if wants_x else None)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])  # (..., N) -> (R, N)
        return (
            linear(grad, weight.mT) if wants_x else None,  # (..., N), (K, N) -> (..., K)
            _weight_gradient(rows, x.reshape(-1, x.shape[-1])) if wants_weight else None,  # (N, K)
            rows.sum(0) if wants_bias else None,  # (N,)
        )


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """``grad.mT @ x`` for grad (R, N) and x (R, K)."""
    rows = x.shape[0]
    # The number of rows is a width here, which cannot be padded without copies of both.
    return linear(grad.mT, x.mT) if _padded(rows) == rows else grad.mT @ x


def _usable(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether :func:`_product` may stand in for F.linear; small problems are turned away at once.

    Whether a graph is being made comes first, so that it holds no trace of the questions after it.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return False
    if type(x) is not Tensor or type(weight) not in PLAIN or weight.dim() != 2:
        return False
    if x.numel() * weight.shape[0] < WORTH or not _mkl_is_slow():
        return False
    return _op() is not None and _undisturbed() and _readable(x, weight, bias)


def _few(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether :func:`_in_blocks` may stand in for F.linear: few rows, without gradients, on more than one core."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return False
    if type(x) is not Tensor or type(weight) not in PLAIN or weight.dim() != 2 or weight.numel() < LEAST_WEIGHT:
        return False
    if not 0 < x.numel() <= FEW_ROWS * weight.shape[1] or weight.shape[0] % BLOCKS:
        return False
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return False
    if torch.get_num_threads() == 1 or not weight.is_contiguous():
        return False
    return _known() and _undisturbed() and _readable(x, weight, bias)


def _readable(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these are float32 on the CPU, of sizes that fit, in a layout that the op reads rightly."""
    batched = torch._C._functorch.is_legacy_batchedtensor  # in torch.autograd.grad(..., is_grads_batched=True)
    if batched(x) or batched(weight):
        return False
    float32, strided = torch.float32, torch.strided
    if not (x.dtype is float32 and x.is_cpu and x.layout is strided and x.dim() > 0):
        return False
    if not (weight.dtype is float32 and weight.is_cpu and weight.layout is strided and weight.shape[1] == x.shape[-1]):
        return False
    # Overlapping strides of a weight are an error; other strides than these two are copied at each call.
    if not (weight.is_contiguous() or weight.mT.is_contiguous()):
        return False
    if bias is None:
        return True
    # The strides of a bias are not looked at: it is read as if it were contiguous, without an error.
    return (
        type(bias) in PLAIN
        and bias.dtype is float32
        and bias.is_cpu
        and bias.layout is strided
        and bias.shape == weight.shape[:1]
        and bias.is_contiguous()
    )


def _undisturbed() -> bool:
    """Whether nothing is on that would see, change or record F.linear, and oneDNN may be used, at full precision."""
    return all(
        (  # a tuple, so that one call shows whether this release has all of these, of which some are private
            torch._C._get_mkldnn_enabled(),
            torch._C._get_fp32_precision_getter("mkldnn", "matmul") in ("none", "ieee"),
            not torch.is_autocast_enabled("cpu"),
            forward_ad._current_level < 0,
            torch._C._functorch.peek_interpreter_stack() is None,
            not torch._C._len_torch_dispatch_stack(),
            not torch._C._len_torch_function_stack(),
        )
    )


@functools.cache
def _mkl_is_slow() -> bool:
    """Whether this is an AMD processor with AVX-512 and a PyTorch that multiplies with MKL."""
    try:
        features = torch.cpu.get_capabilities()
    except (AttributeError, RuntimeError):  # a release without it
        return False
    amd = "AMD" in str(features.get("cpu_name", ""))
    return amd and bool(features.get("avx512_f")) and torch.backends.mkl.is_available()


@functools.cache
def _known() -> bool:
    """:func:`_probed`, asked once."""
    return _probed()


def _probed() -> bool:
    """Whether this release has what tells where F.linear must be left alone."""
    try:
        _undisturbed()
    except (AttributeError, RuntimeError, TypeError):
        return False
    return hasattr(torch._C._functorch, "is_legacy_batchedtensor")


@functools.cache
def _op() -> Any:
    """The private op, or None in a release that lacks it or what tells where it must not be used."""
    try:
        op = torch.ops.mkldnn._linear_pointwise.default
    except (AttributeError, RuntimeError):
        return None
    return op if _probed() and str(op._schema) == SCHEMA else None


def _in_blocks(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product of few rows x (..., K), weight (N, K) and bias (N,) by blocks of the weight's rows: (..., N)."""
    out_features, width = weight.shape
    columns = x.reshape(-1, width).mT  # (..., K) -> (K, R)
    blocks = weight.view(BLOCKS, out_features // BLOCKS, width)  # (N, K) -> (blocks, N / blocks, K)
    products = torch.bmm(blocks, columns.expand(BLOCKS, *columns.shape))  # (blocks, N / blocks, R)
    # No view: as in _product(), one that was made without gradients could not be written to with them.
    one = products.shape[-1] == 1
    out = products if one else products.view(out_features, -1).mT.contiguous()  # (N, R) -> (R, N)
    out.resize_(*x.shape[:-1], out_features)  # (R, N) -> (..., N)
    return out if bias is None else out.add_(bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product by oneDNN of x (..., K), weight (N, K) and bias (N,): (..., N)."""
    (out_features, width), count = weight.shape, x.numel()
    rows = count // width
    flat = x.reshape(rows, width)  # (..., K) -> (R, K)
    if _padded(rows) > rows:
        longer = flat.new_empty(_padded(rows), width)
        longer[:rows].copy_(flat)
        longer[rows:].zero_()
        flat = longer  # (R, K) -> (padded R, K)
    out: Tensor = _op()(flat, weight, bias, "none", [], "")  # (padded R, N)
    # Not a view, which would refuse to be written to with gradients after no_grad; F.linear's result is none either.
    return out.resize_(*x.shape[:-1], out_features)  # (padded R, N) -> (..., N)


def _padded(rows: int) -> int:
    """The number of rows to multiply for that many: one of 8 between a power of two and the next.

    oneDNN makes and keeps half a megabyte of code for each number of rows that it meets; texts come in any length.
    """
    step = 1 << max(0, rows.bit_length() - 4)
    return -(-rows // step) * step
