"""What every head of a model does, in a few numbers.

Letters: L queries, S keys, H heads of a layer. Every score comes from a method of AttentionWeights, so that none
needs an L x L tensor. Averages leave out the queries that may attend to nothing (padding).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.look.checks import check_tokens, integers_of, whole
from regard.look.dense import layered
from regard.look.maps import one_sequence

if TYPE_CHECKING:
    from regard import AttentionWeights

#: How many weights are computed at once where single ones are looked at.
BLOCK_ENTRIES = 1 << 22

#: How many single weights, and as many as how many of a block each of them costs.
SINGLE_ENTRIES, SINGLE_COST = 1 << 20, 24


@dataclass(frozen=True)
class HeadScores:
    """The scores of one head; a share is a part of the weight, 0 to 1, NaN where it cannot be asked.

    Attributes:
        layer: which layer, from 0.
        head: which head of the layer, from 0.
        entropy: mean entropy of the queries' weights, in nats; 0 is one key, log(n) is n keys alike.
        previous_token: mean share on the key just before the query.
        first_token: mean share on the first key, without the query that stands there itself.
        induction: mean share on the keys right after an earlier occurrence of the query's token, over the queries
            whose token occurred earlier.
        induction_chance: the same for a head that spreads evenly over the keys up to the query.
        distance: mean distance from query to key, in tokens.
        concentration: the share of all weight that the most read key receives.
        top_key: the position of that key.
    """

    layer: int
    head: int
    entropy: float
    previous_token: float
    first_token: float
    induction: float
    induction_chance: float
    distance: float
    concentration: float
    top_key: int


#: The scores that a table can be sorted by.
SCORES = tuple(field.name for field in fields(HeadScores) if field.name not in ("layer", "head", "top_key"))

# The scores of which the low end is the telling one.
_LOW_FIRST = ("entropy",)


@dataclass(frozen=True)
class HeadTable:
    """The scores of all heads, with the margins they were taken from.

    Attributes:
        heads: the scores, by layer and head unless sorted.
        tokens: the tokens as text, or None.
        entropy: a layer each, (H, L): the entropy of every query, in nats.
        received: a layer each, (H, S): the weight that every key receives, summed over the queries.
        names: what the layers are called, where they are not called "layer 0" and so on.
    """

    heads: tuple[HeadScores, ...]
    tokens: tuple[str, ...] | None
    entropy: tuple[Tensor, ...]
    received: tuple[Tensor, ...]
    names: tuple[str, ...] | None = None

    def sort(self, by: str = "induction") -> HeadTable:
        """The same table, the most telling head by one score first.

        Args:
            by: "layer" or one of SCORES; entropy puts the lowest first, the others the highest; NaN comes last.

        Returns:
            A new table.

        Raises:
            ValueError: if there is no such score.
        """
        if by == "layer":
            return self._with(sorted(self.heads, key=lambda scores: (scores.layer, scores.head)))
        if by not in SCORES:
            raise ValueError(f"by is {by!r}; expected 'layer' or one of {', '.join(map(repr, SCORES))}")
        sign = 1.0 if by in _LOW_FIRST else -1.0
        return self._with(sorted(self.heads, key=lambda scores: _last_if_nan(sign * float(getattr(scores, by)))))

    def where_to_look(self) -> list[str]:
        """The most telling heads and tokens, a plain sentence each."""
        from regard.look.guide import where_to_look

        return where_to_look(self)

    def _with(self, heads: Sequence[HeadScores]) -> HeadTable:
        return replace(self, heads=tuple(heads))

    def __rich__(self) -> Any:
        from regard.look.terminal import table

        return table(self)

    def _repr_mimebundle_(self, include: Sequence[str] = (), exclude: Sequence[str] = (), **options: Any) -> Any:
        return self.__rich__()._repr_mimebundle_(include, exclude, **options)


def head_table(
    weights: Any,
    *,
    token_ids: Tensor | Sequence[int] | None = None,
    tokens: Sequence[str] | None = None,
    batch: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> HeadTable:
    """Scores every head of every layer.

    Example:
        >>> import torch
        >>> from regard import attention, masks
        >>> from regard.look import head_table
        >>> q, k, v = torch.randn(3, 1, 2, 6, 4)  # B 1, H 2, L 6, D 4
        >>> _, weights = attention(q, k, v, masks.causal())
        >>> table = head_table([weights], token_ids=[7, 8, 9, 7, 8, 9])
        >>> [(scores.layer, scores.head) for scores in table.heads]
        [(0, 0), (0, 1)]

    Args:
        weights: one AttentionWeights, dense tensor or array a layer, each (B, H, L, S), (H, L, S) or (L, S); a layer by
            itself; or what ``regard.watch`` gave.
        token_ids: (S,) integers, needed for the induction score; without them the tokens' text decides what is the
            same.
        tokens: S texts, used in the sentences of `where_to_look`.
        batch: which sequence of a batch.
        progress: called with (layers done, layers in all).

    Returns:
        The table.

    Raises:
        TypeError: if weights, tokens or token_ids are none of these.
        ValueError: if weights is empty, or tokens or token_ids are not one a key.
    """
    layers = layered(weights)
    batch = whole("batch", batch, "the number of one sequence, from 0", least=0)
    ids = same_tokens(token_ids, tokens, layers[0].shape[-1])
    found = []
    for number, layer in enumerate(layers):
        found.append(layer_margins(layer, number, ids, batch=batch)[0])
        if progress is not None:
            progress(number + 1, len(layers))
    return HeadTable(
        tuple(scores for margins in found for scores in margins.scores),
        None if tokens is None else tuple(tokens),
        tuple(margins.entropy for margins in found),
        tuple(margins.received for margins in found),
    )


@dataclass(frozen=True)
class Margins:
    """What one layer's heads do, and the margins that it was taken from, on the CPU.

    Attributes:
        scores: one a head.
        entropy: (H, L), in nats.
        received: (H, S), summed over the queries.
        first: (H, L), the weight on key 0.
        total: (H, L), 1 but for sinks, and 0 where a query may read nothing.
    """

    scores: tuple[HeadScores, ...]
    entropy: Tensor
    received: Tensor
    first: Tensor
    total: Tensor


@torch.no_grad()
def layer_margins(
    weights: AttentionWeights,
    layer: int,
    ids: Tensor | None,
    *,
    batch: int = 0,
    aligned: bool = True,
    also: Sequence[Any] = (),
) -> tuple[Margins, tuple[Any, ...]]:
    """The scores of one layer's heads, and what else was asked, in one sweep over the weights.

    Args:
        weights: (..., H, L, S).
        layer: its number.
        ids: (S,) integers that say which tokens are the same, or None.
        batch: which sequence of a batch.
        aligned: whether the queries are the last of the keys; where they are another text, no score asks for a
            distance, the key before or a repetition.
        also: more questions, as `AttentionWeights.ask` takes them.

    Returns:
        The margins, and the answers as they came.
    """
    query_len, key_len = weights.shape[-2:]
    questions = ("entropy", "received", "distance", ("mass", 0), ("mass", slice(None)))
    one_sequence(torch.empty((*weights.shape[:-1], 0), device="meta"), 2, batch)  # the batch is there, before the work
    answers = weights.ask(*questions, *also)
    margins = [one_sequence(answer, 1, batch).float().cpu() for answer in answers[: len(questions)]]
    entropy, received, distance, first, total = margins  # (H, L) each, but received (H, S)
    shift = key_len - query_len  # query i stands at position S - L + i
    awake = total > 0  # (H, L)
    previous = torch.zeros(len(awake), 0)  # a lone token has none before it
    if aligned and -query_len < shift - 1:
        previous = one_sequence(weights.diagonal(shift - 1), 1, batch).float().cpu()  # (H, L or fewer)
    alone = 1 if aligned and shift == 0 else 0  # the query at position 0 sees nothing but itself
    induction, chance = _induction(weights, ids if aligned else None, awake, batch)
    share, top = (received / received.sum(-1, keepdim=True)).max(-1)  # (H,)
    columns = zip(
        _means(entropy, awake),
        _means(previous, awake[:, query_len - previous.shape[-1] :]),
        _means(first[:, alone:], awake[:, alone:]),
        induction,
        chance,
        _means(distance, awake) if aligned else [math.nan] * len(awake),
        share.tolist(),
        top.tolist(),
        strict=True,
    )
    scores = tuple(HeadScores(layer, head, *each) for head, each in enumerate(columns))
    return Margins(scores, entropy, received, first, total), answers[len(questions) :]


def _induction(
    weights: AttentionWeights, ids: Tensor | None, awake: Tensor, batch: int
) -> tuple[list[float], list[float]]:
    """The induction score of each head, and what an even spread would score."""
    num_heads, query_len = awake.shape
    if ids is None or weights.shape[-1] != query_len or len(ids) != query_len:
        return [math.nan] * num_heads, [math.nan] * num_heads
    earlier, order, begins = _earlier(ids)  # (L,) each
    use = (awake & (earlier > 0)).double()  # (H, L)
    few = int(earlier.sum()) * SINGLE_COST < query_len * query_len // 2
    on_pattern = (_one_by_one if few else _in_blocks)(weights, ids, earlier, order, begins, batch)  # (H, L)
    even = earlier.double() / torch.arange(1, query_len + 1)  # (L,) of the keys up to the query
    counted = use.sum(-1)  # (H,)
    return ((on_pattern * use).sum(-1) / counted).tolist(), ((even * use).sum(-1) / counted).tolist()


def _in_blocks(
    weights: AttentionWeights, ids: Tensor, earlier: Tensor, order: Tensor, begins: Tensor, batch: int
) -> Tensor:
    """The share of each query on what followed its token before, (H, L), from whole rows, some at a time."""
    before = torch.cat([ids.min()[None] - 1, ids[:-1]])  # (S,) the token before each key; none before the first
    query_len, num_heads = len(ids), (1, *weights.shape[:-2])[-1]
    found = torch.zeros(num_heads, query_len, dtype=torch.float64)
    step = max(1, BLOCK_ENTRIES // (num_heads * query_len))
    for start in range(0, query_len, step):
        stop = min(start + step, query_len)
        if not bool(earlier[start:stop].any()):
            continue
        # The keys of interest lie at or before the query, so a block needs none past its last query.
        rows = one_sequence(weights[..., start:stop, :stop], 2, batch).float().cpu()  # (H, rows, stop)
        position = torch.arange(start, stop)[:, None]
        pattern = (ids[start:stop, None] == before[:stop]) & (torch.arange(stop) <= position)  # (rows, stop)
        found[:, start:stop] = (rows * pattern).sum(-1)
    return found


def _one_by_one(
    weights: AttentionWeights, ids: Tensor, earlier: Tensor, order: Tensor, begins: Tensor, batch: int
) -> Tensor:
    """The same from the single weights alone: of a long text they are few among all."""
    query_len, num_heads = len(ids), (1, *weights.shape[:-2])[-1]
    lead: tuple[Any, ...] = {4: (batch, slice(None)), 3: (slice(None),), 2: ()}[len(weights.shape)]
    found = torch.zeros(num_heads, query_len, dtype=torch.float64)
    ends = earlier.cumsum(0)  # (L,) where the pairs of each query end, in the list of all
    most = max(1, SINGLE_ENTRIES // num_heads)
    for start in range(0, int(ends[-1]), most):
        pair = torch.arange(start, min(start + most, int(ends[-1])))  # (n,)
        query = torch.searchsorted(ends, pair, right=True)  # (n,)
        key = order[begins[query] + pair - (ends - earlier)[query]] + 1  # (n,) after an earlier occurrence
        single = weights[(*lead, query.to(weights.device), key.to(weights.device))]  # (H, n) or (n,)
        found.index_add_(1, query, single.reshape(num_heads, -1).double().cpu())
    return found


def _earlier(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How often each token stands somewhere before; all positions by token; and where each one's token begins there."""
    _, which, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    order = torch.argsort(which, stable=True)  # (L,)
    begins = (counts.cumsum(0) - counts)[which]  # (L,)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(ids))
    return rank - begins, order, begins


def same_tokens(token_ids: Tensor | Sequence[int] | None, tokens: Sequence[str] | None, key_len: int) -> Tensor | None:
    """The tokens as integers, equal where the tokens are."""
    ids = None if token_ids is None else integers_of(token_ids, "token_ids")
    if tokens is not None:
        check_tokens("tokens", tokens)
    for name, given in (("token_ids", ids), ("tokens", tokens)):
        if given is not None and len(given) != key_len:
            raise ValueError(f"{name} holds {len(given)} entries, but weights has {key_len} keys; expected one a key")
    if ids is not None or tokens is None:
        return ids
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(token, len(numbers)) for token in tokens])


def _means(values: Tensor, keep: Tensor) -> list[float]:
    """The mean of each head's row over the queries kept; NaN where there is none."""
    total = torch.where(keep, values, 0.0).double().sum(-1)
    return (total / keep.sum(-1)).tolist()


def _last_if_nan(value: float) -> tuple[bool, float]:
    return math.isnan(value), value
