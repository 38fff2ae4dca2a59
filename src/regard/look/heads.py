"""What every head of a model does, in a few numbers.

Letters: L queries, S keys, H heads of a layer. Every score comes from a method of AttentionWeights, so that none
needs an L x L tensor. Averages leave out the queries that may attend to nothing (padding).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.look.maps import one_sequence

if TYPE_CHECKING:
    from regard import AttentionWeights

#: How many weights are computed at once where single ones are looked at.
BLOCK_ENTRIES = 1 << 22


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
    """

    heads: tuple[HeadScores, ...]
    tokens: tuple[str, ...] | None
    entropy: tuple[Tensor, ...]
    received: tuple[Tensor, ...]

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
        return HeadTable(tuple(heads), self.tokens, self.entropy, self.received)

    def __rich__(self) -> Any:
        from regard.look.terminal import table

        return table(self)

    def _repr_mimebundle_(self, include: Sequence[str] = (), exclude: Sequence[str] = (), **options: Any) -> Any:
        return self.__rich__()._repr_mimebundle_(include, exclude, **options)


def head_table(
    weights: Sequence[AttentionWeights],
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
        weights: one AttentionWeights a layer, each (B, H, L, S), (H, L, S) or (L, S).
        token_ids: (S,) integers, needed for the induction score; without them the tokens' text decides what is the
            same.
        tokens: S texts, used in the sentences of `where_to_look`.
        batch: which sequence of a batch.
        progress: called with (layers done, layers in all).

    Returns:
        The table.

    Raises:
        ValueError: if weights is empty, or tokens or token_ids are not one a key.
    """
    if len(weights) == 0:
        raise ValueError("weights is empty; expected one AttentionWeights a layer")
    key_len = weights[0].shape[-1]
    ids = _ids(token_ids, tokens, key_len)
    heads: list[HeadScores] = []
    entropies, receiveds = [], []
    with torch.no_grad():
        for layer, layer_weights in enumerate(weights):
            entropy = one_sequence(layer_weights.entropy(), 1, batch).float().cpu()  # (H, L)
            received = one_sequence(layer_weights.received(), 1, batch).float().cpu()  # (H, S)
            heads += _layer(layer, layer_weights, entropy, received, ids, batch)
            entropies.append(entropy)
            receiveds.append(received)
            if progress is not None:
                progress(layer + 1, len(weights))
    return HeadTable(tuple(heads), None if tokens is None else tuple(tokens), tuple(entropies), tuple(receiveds))


def _layer(
    layer: int, weights: AttentionWeights, entropy: Tensor, received: Tensor, ids: Tensor | None, batch: int
) -> list[HeadScores]:
    """The scores of one layer's heads."""
    query_len, key_len = weights.shape[-2:]
    shift = key_len - query_len  # query i stands at position S - L + i
    awake = one_sequence(weights.lse, 1, batch).cpu() > -math.inf  # (H, L)
    first = one_sequence(weights.mass(0), 1, batch).float().cpu()  # (H, L)
    previous = torch.zeros(len(awake), 0)  # a lone token has none before it
    if -query_len < shift - 1:
        previous = one_sequence(weights.diagonal(shift - 1), 1, batch).float().cpu()  # (H, L or fewer)
    distance = one_sequence(weights.distance(), 1, batch).float().cpu()  # (H, L)
    alone = 1 if shift == 0 else 0  # the query at position 0 sees nothing but itself
    induction, chance = _induction(weights, ids, awake, batch)
    share, top = (received / received.sum(-1, keepdim=True)).max(-1)  # (H,)
    columns = zip(
        _means(entropy, awake),
        _means(previous, awake[:, query_len - previous.shape[-1] :]),
        _means(first[:, alone:], awake[:, alone:]),
        induction,
        chance,
        _means(distance, awake),
        share.tolist(),
        top.tolist(),
        strict=True,
    )
    return [HeadScores(layer, head, *scores) for head, scores in enumerate(columns)]


def _induction(
    weights: AttentionWeights, ids: Tensor | None, awake: Tensor, batch: int
) -> tuple[list[float], list[float]]:
    """The induction score of each head, and what an even spread would score, in blocks of rows."""
    num_heads, query_len = awake.shape
    if ids is None or weights.shape[-1] != query_len:
        return [math.nan] * num_heads, [math.nan] * num_heads
    before = torch.cat([ids.min()[None] - 1, ids[:-1]])  # (S,) the token before each key; none before the first
    again = _occurred_earlier(ids)  # (L,)
    on_pattern, even, counted = (torch.zeros(num_heads, dtype=torch.float64) for _ in range(3))
    step = max(1, BLOCK_ENTRIES // (num_heads * query_len))
    for start in range(0, query_len, step):
        stop = min(start + step, query_len)
        if not bool(again[start:stop].any()):
            continue
        # The keys of interest lie at or before the query, so a block needs none past its last query.
        rows = one_sequence(weights[..., start:stop, :stop], 2, batch).float().cpu()  # (H, rows, stop)
        position = torch.arange(start, stop)[:, None]
        pattern = (ids[start:stop, None] == before[:stop]) & (torch.arange(stop) <= position)  # (rows, stop)
        use = (again[start:stop] & awake[:, start:stop]).double()  # (H, rows)
        on_pattern += ((rows * pattern).sum(-1) * use).sum(-1)
        even += (pattern.sum(-1).double() / (position[:, 0] + 1) * use).sum(-1)
        counted += use.sum(-1)
    return (on_pattern / counted).tolist(), (even / counted).tolist()


def _occurred_earlier(ids: Tensor) -> Tensor:
    """Whether each token also stands somewhere before, (L,) booleans."""
    _, which = torch.unique(ids, return_inverse=True)
    position = torch.arange(len(ids))
    first = torch.full_like(which, len(ids)).scatter_reduce_(0, which, position, "amin")
    return position > first[which]


def _ids(token_ids: Tensor | Sequence[int] | None, tokens: Sequence[str] | None, key_len: int) -> Tensor | None:
    """The tokens as integers, equal where the tokens are."""
    for name, given in (("token_ids", token_ids), ("tokens", tokens)):
        if given is not None and len(given) != key_len:
            raise ValueError(f"{name} holds {len(given)} entries, but weights has {key_len} keys; expected one a key")
    if token_ids is not None:
        return torch.as_tensor(token_ids).cpu()
    if tokens is None:
        return None
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(token, len(numbers)) for token in tokens])


def _means(values: Tensor, keep: Tensor) -> list[float]:
    """The mean of each head's row over the queries kept; NaN where there is none."""
    total = torch.where(keep, values, 0.0).double().sum(-1)
    return (total / keep.sum(-1)).tolist()


def _last_if_nan(value: float) -> tuple[bool, float]:
    return math.isnan(value), value
