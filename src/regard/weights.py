"""AttentionWeights: the weights as a linear operator that is never stored."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard import asking, indexing, products, statistics, weight_checks
from regard.asking import Question
from regard.engine.execute import sanitize
from regard.engine.plan import Plan
from regard.engine.problem import Problem
from regard.folds import Fold, TopK
from regard.layout import Layout
from regard.masks.algebra import Mask
from regard.precision import outside_autocast
from regard.sweep import sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy import ndarray

__all__ = ["AttentionWeights", "TopK", "TransposedWeights"]


class AttentionWeights:
    """The weights A = softmax(mask(cap(scale * Q K^T) + bias)) of one call of :func:`regard.attention`, (..., H, L, S).

    A is not stored: this object refers to query and key, and what is asked of it is computed when it is asked, in O(L)
    memory. Only :meth:`to_dense` and ``numpy.asarray`` make all of it.

    >>> import torch, regard
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> q, k, v = torch.randn(3, 2, 8, 1000, 64)
    >>> output, weights = regard.attention(q, k, v, regard.masks.causal())
    >>> weights.shape
    torch.Size([2, 8, 1000, 1000])
    >>> weights.entropy().shape, weights.received().shape, weights.pool(32, 32).shape
    (torch.Size([2, 8, 1000]), torch.Size([2, 8, 1000]), torch.Size([2, 8, 32, 32]))
    >>> bool(torch.allclose(weights @ v, output, atol=1e-6))
    True
    >>> weights[0, 3, 5, :8].sum()
    tensor(1.0000)

    ``weights @ x``, :attr:`lse`, :meth:`entropy` (without bias and softcap), indexing and :meth:`to_dense` are
    differentiable; the other statistics are measurements and carry no gradient. The weights are those before dropout.
    With sinks a row sums to less than 1. A row that may read no key is 0, its lse -inf (with sinks, the sink's logit).
    Masked entries are 0.

    Attributes:
        shape: (..., H, L, S), without H for inputs without heads.
        dtype: query's. Statistics are float32 at least.
        lse: log-sum-exp of each row's scores (sinks included), (..., H, L), float32 at least.
        mask: the :class:`regard.masks.Mask`, or None.
        plan: what ran.
    """

    __array_priority__ = 1000  # `array @ weights` is not numpy's to try

    def __init__(self, problem: Problem, lse: Tensor | None, layout: Layout, mask: Mask | None, plan: Plan) -> None:
        self._problem = problem
        self._known_lse = lse
        self._layout = layout
        self._versions = weight_checks.versions(problem)
        self.mask = mask
        self.plan = plan

    @property
    def shape(self) -> torch.Size:
        """(..., H, L, S), or (..., L, S) for inputs without heads."""
        _, h, query_len, key_len = self._problem.dims
        heads = () if self._layout.headless else (h,)
        return torch.Size((*self._layout.batch_shape, *heads, query_len, key_len))

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of query, that of single entries; statistics are float32 at least."""
        return self._problem.q.dtype

    @property
    def device(self) -> torch.device:
        """The device of query."""
        return self._problem.q.device

    @property
    def lse(self) -> Tensor:
        """The log-sum-exp of each row's scores, sinks included, (..., H, L); -inf if there is nothing to sum."""
        return self._layout.unfold(self._lse)

    @property
    def _lse(self) -> Tensor:
        """The lse (B, H, L): the kernel returned it with the output, or it is computed when it is first needed."""
        if self._known_lse is None:
            lse = products.lse(self._checked())
            if lse.requires_grad:
                return lse  # its graph is freed by one backward pass, and what is asked next needs another
            self._known_lse = lse
        return self._known_lse

    @property
    def mT(self) -> TransposedWeights:
        """The transposed operator, (..., H, S, L): ``weights.mT @ y``."""
        return TransposedWeights(self)

    def detach(self) -> AttentionWeights:
        """The same weights outside of autograd: they keep query and key alive, and nothing of the graph."""
        lse = None if self._known_lse is None else self._known_lse.detach()
        return AttentionWeights(self._checked().detach(), lse, self._layout, self.mask, self.plan)

    def _in_layout(self, layout: Layout) -> AttentionWeights:
        """The same weights with other leading axes."""
        return AttentionWeights(self._problem, self._known_lse, layout, self.mask, self.plan)

    def _checked(self) -> Problem:
        """The problem, if query and key still are what the weights were computed from."""
        weight_checks.check_unmodified(self._problem, self._versions)
        if self.plan.tight and torch.is_grad_enabled() and self._problem.requires_grad:
            # What nobody may read was not looked at yet: a gradient of 0 times NaN would be NaN.
            return sanitize(self._problem, self._problem.k)[0]
        return self._problem

    @outside_autocast
    def __matmul__(self, x: Tensor) -> Tensor:
        """``A @ x``: (..., H, L, S) @ (..., H, S, N) to (..., H, L, N); x (S,) gives (..., H, L).

        One fused pass where there is a fused op. x may also have the heads of key and value (Hkv), as in ``weights @
        value``.
        """
        weight_checks.check_operand(x, self.shape, self._problem.k.shape[1], axis_name="S", name="x")
        x4, vector = weight_checks.fold_operand(x, self._layout)
        out = self._layout.unfold(products.times(self._checked(), x4))
        return out[..., 0] if vector else out

    @outside_autocast
    def entropy(self) -> Tensor:
        """The entropy of each row in nats, (..., H, L): ``-sum_j A_ij log A_ij``; a sink is not an entry.

        One fused pass, differentiable. With a bias or a softcap, streamed in blocks and not differentiable; without
        gradients, streamed too where scores are so large that rounding would show.
        """
        return self._layout.unfold(statistics.entropy(self._checked(), self._lse))

    @outside_autocast
    def received(self) -> Tensor:
        """The weight that each key receives, (..., H, S): ``sum_i A_ij``, the column sums, streamed in blocks."""
        return self._layout.unfold(products.received(self._checked(), self._lse))

    @outside_autocast
    def pool(self, rows: int, cols: int, reduce: str = "mean") -> Tensor:
        """A map of rows x cols cells, (..., H, rows, cols).

        "mean" sums over the keys of a cell and averages over its queries, so that a pooled row sums to what a row does;
        "max" is the largest weight in the cell. Cell r holds the queries ``r * L // rows`` up to ``(r + 1) * L //
        rows``.
        """
        weight_checks.check_pool(rows, cols, reduce, self.shape)
        return self._layout.unfold(statistics.pool(self._checked(), self._lse, rows, cols, reduce))

    @outside_autocast
    def topk(self, k: int) -> TopK:
        """The k largest weights of each row and their keys, (..., H, L, k) each, largest first.

        Where a row may read fewer than k keys, the rest has value 0 and index -1.
        """
        weight_checks.check_topk(k, self.shape)
        found = statistics.topk(self._checked(), self._lse, k)
        return TopK(self._layout.unfold(found.values), self._layout.unfold(found.indices))

    @outside_autocast
    def diagonal(self, offset: int = 0) -> Tensor:
        """The entries ``A[..., i, i + offset]``, as ``torch.diagonal(dim1=-2, dim2=-1)``: (..., H, length)."""
        weight_checks.check_diagonal(offset, self.shape)
        return self._layout.unfold(indexing.diagonal(self._checked(), self._lse, offset))

    @outside_autocast
    def distance(self) -> Tensor:
        """The mean distance of what each row reads, (..., H, L): ``sum_j A_ij |p_i - j|`` in tokens, with ``p_i = S -
        L + i``.
        """
        return self._layout.unfold(statistics.distance(self._checked(), self._lse))

    @outside_autocast
    def mass(self, keys: int | slice | list[int] | Tensor) -> Tensor:
        """The weight of each row on a set of keys, (..., H, L): an index, a slice, indices, or booleans (S,)."""
        chosen = weight_checks.key_set(keys, self.shape[-1], self.device)
        return self._layout.unfold(products.mass(self._checked(), self._lse, chosen))

    @outside_autocast
    def max_logit(self) -> Tensor:
        """The largest score of each row, (..., H, L), after cap, bias and mask; -inf for a row without keys."""
        return self._layout.unfold(statistics.max_logit(self._checked()))

    @outside_autocast
    def ask(self, *questions: Question) -> tuple[Any, ...]:
        """Several questions at once; those that need every entry share one pass over the weights.

        >>> import torch, regard
        >>> q, k, v = torch.randn(3, 1, 8, 512, 64)
        >>> _, weights = regard.attention(q, k, v, regard.masks.causal())
        >>> entropy, received, map, top = weights.ask("entropy", "received", ("pool", 64, 64), ("topk", 8))
        >>> map.shape
        torch.Size([1, 8, 64, 64])

        Answers agree with those of the methods but for rounding, and carry no gradient.

        Args:
            questions: the name of a method ("entropy", "received", "max_logit", "distance"), a tuple of the name and
                its arguments (("pool", rows, cols), ("topk", k), ("mass", keys), ("diagonal", offset)), or a function
                of the weights.

        Returns:
            The answers, in the order of the questions.

        Raises:
            TypeError: a question that is none of these.
            ValueError: a name that cannot be asked, or arguments that the method would refuse.
        """
        with torch.no_grad():
            return asking.answers(self, questions)

    def _swept(self, folds: list[Fold]) -> list[Any]:
        """What the folds add up to in one sweep."""
        found, lse = sweep(self._checked(), self._known_lse, folds)
        if self._known_lse is None and not self._problem.requires_grad:
            self._known_lse = lse
        unfold = self._layout.unfold
        return [TopK(*map(unfold, each)) if isinstance(each, TopK) else unfold(each) for each in found]

    @outside_autocast
    def __getitem__(self, index: Any) -> Tensor:
        """Indexing as on a tensor of this shape; only what is asked for is computed."""
        return indexing.get(self._checked(), self._lse, self._layout, self.shape, index)

    def to_dense(self) -> Tensor:
        """The whole matrix, (..., H, L, S): L x S memory."""
        return self[...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> ndarray[Any, Any]:
        if copy is False:
            raise ValueError(
                "numpy.asarray(weights, copy=False): the weights are not stored, so an array is always made"
            )
        dense = self.to_dense().detach().cpu()
        dense = dense.float() if dense.dtype == torch.bfloat16 else dense
        array: ndarray[Any, Any] = dense.numpy()
        return array if dtype is None else array.astype(dtype)

    def plot(self, **options: Any) -> Figure:
        """A figure: one map for (L, S), one map a head for (H, L, S), or the head ``which=``; of several sequences that
        of ``batch=``. Options as in ``regard.look.figures``. Unless one head or ``ax=`` is named, a notebook shows the
        page of that sequence instead, as weights show of themselves.
        """
        from regard.look import figures, notebook

        *lead, num_heads = (1, *self.shape[:-2])
        if prod(lead) > 1 and "batch" not in options:
            raise ValueError(
                f"weights.plot(): one sequence at a time, got a batch of shape {tuple(self.shape)}; name one of them, "
                "batch=0"
            )
        one = num_heads == 1 or "which" in options or options.get("ax") is not None
        figure = (figures.head if one else figures.layer)(self, **options)
        # The page shows all heads of a sequence: not what was asked for where one of them is named.
        part = options.get("ax") is not None or "which" in options
        return figure if part else notebook.with_page(figure, self, batch=options.get("batch", 0))

    def _repr_html_(self) -> str:
        from regard.look import notebook

        return notebook.weights_html(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copied or unpickled tensor counts its writes anew.
        self.__dict__.update(state)
        self._versions = weight_checks.versions(self._problem)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        mask = "" if self.mask is None else f", mask={self.mask!r}"
        return f"AttentionWeights({' x '.join(map(str, self.shape))}, {str(self.dtype)[6:]}{mask}; {self.plan})"


class TransposedWeights:
    """``weights.mT``: (..., H, S, L), what each key gives back to the queries that read it."""

    def __init__(self, weights: AttentionWeights) -> None:
        self._weights = weights

    @property
    def device(self) -> torch.device:
        """The device of query."""
        return self._weights.device

    @property
    def shape(self) -> torch.Size:
        """(..., H, S, L)."""
        *lead, query_len, key_len = self._weights.shape
        return torch.Size((*lead, key_len, query_len))

    @property
    def mT(self) -> AttentionWeights:
        """The weights themselves."""
        return self._weights

    @outside_autocast
    def __matmul__(self, y: Tensor) -> Tensor:
        """``A.mT @ y``: (..., H, S, L) @ (..., H, L, N) to (..., H, S, N); y (L,) gives (..., H, S). Carries no
        gradient.
        """
        w = self._weights
        heads = w._problem.q.shape[1]
        weight_checks.check_operand(y, self.shape, heads, axis_name="L", name="y")
        y4, vector = weight_checks.fold_operand(y, w._layout)
        out = w._layout.unfold(products.transposed_times(w._checked(), w._lse, y4))
        return out[..., 0] if vector else out

    def to_dense(self) -> Tensor:
        """The whole matrix, (..., H, S, L): L x S memory."""
        return self._weights.to_dense().mT

    def __repr__(self) -> str:
        return f"{self._weights!r}.mT"
