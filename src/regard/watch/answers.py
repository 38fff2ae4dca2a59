"""Questions over all layers: which tokens, and which documents, an answer attended to, in O(L) memory.

Letters as everywhere: H query heads, L queries, S keys; N the number of documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from regard import AttentionWeights
from regard.watch.answers_inputs import Layer, Positions, document_ids, layers_of, positions, sequence_of
from regard.watch.answers_table import DocumentShare, Sources, SourceToken
from regard.watch.record import Record
from regard.watch.seen import Seen

__all__ = ["document_mass", "sources"]


@dataclass(frozen=True)
class _Found:
    """Shares (S,) and, of positions asked for afterwards, (layer, head, carried) of the head that carried the most."""

    shares: Tensor
    carriers: Callable[[Tensor], list[tuple[int, int, float]]]


def document_mass(weights: AttentionWeights, ids: Tensor | Sequence[int]) -> Tensor:
    """The weight of each row on each document, (..., H, L, N): ``weights @ one_hot(ids)``, one pass.

    >>> import torch, regard
    >>> q, k, v = torch.randn(3, 1, 2, 6, 8)
    >>> _, weights = regard.attention(q, k, v)
    >>> mass = regard.watch.document_mass(weights, [0, 0, 0, 7, 7, 7])
    >>> mass.shape, bool(torch.allclose(mass[..., 1], weights.mass([3, 4, 5])))
    (torch.Size([1, 2, 6, 2]), True)

    Args:
        weights: (..., H, L, S), or (..., L, S) without heads.
        ids: integers, the document of each key: (S,), or (..., S) for each sequence of the batch. The documents of the
            answer are the distinct ids, in increasing order (``ids.unique()``).

    Returns:
        (..., H, L, N), float32 at least. Rows sum to what the rows of weights do.

    Raises:
        TypeError: weights that are none, ids that are no integers.
        ValueError: ids that are not one a key.
    """
    if not isinstance(weights, AttentionWeights):
        hint = "; pass its weights, record.weights" if isinstance(weights, Record) else ""
        raise TypeError(f"document_mass(weights): expected regard.AttentionWeights, got {type(weights).__name__}{hint}")
    ids = document_ids(ids, "document_mass(ids)").to(weights.device)
    layer, key_len = Layer("", weights), weights.shape[-1]
    if tuple(ids.shape) not in ((key_len,), (*layer.lead, key_len)):
        wanted = f"(S,) = ({key_len},)" + (f" or {(*layer.lead, key_len)}" if layer.lead else "")
        raise ValueError(f"document_mass(ids): expected one id a key, {wanted}, got shape {tuple(ids.shape)}")
    of_documents = ids[..., None] == ids.unique()  # (..., S, N)
    if of_documents.dim() > 2 and layer.has_heads:
        of_documents = of_documents.unsqueeze(-3)  # (..., 1, S, N)
    mass: Tensor = weights @ of_documents.to(layer.dtype)  # (..., H, L, N)
    return mass


def sources(
    seen: Seen | Iterable[Any],
    answer: Positions,
    *,
    tokens: Sequence[str] | None = None,
    sources: Positions | None = None,
    documents: Tensor | Sequence[int] | None = None,
    k: int = 20,
    residual: float | None = None,
    method: str = "rollout",
    batch: int | None = None,
) -> Sources:
    """Which tokens an answer attended to over all layers, ranked, with the head that carried the most to each.

    ``share_j = mean over the answer's queries i of R_ij``, with R the rollout of the layers, or, for ``method="mean"``,
    the mean of the weights over layers and heads: exact, in one pass or two a layer, and no L x L matrix.

    >>> import torch, regard
    >>> layer = torch.nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
    >>> model = torch.nn.TransformerEncoder(layer, num_layers=2)
    >>> with regard.watch(model) as seen:
    ...     output = model(torch.randn(1, 6, 16))
    >>> found = regard.watch.sources(seen, -1, tokens=["the", "cat", "sat", "on", "the", "mat"], k=2)
    >>> len(found), round(float(found.shares.sum()), 4), found[0].token  # its own, of which it keeps a quarter
    (2, 1.0, 'mat')

    A model that predicts the next token makes token i at query i - 1: to ask for what a token was made of, name the
    query before it. Of several forwards of a generation, each module's are joined (:meth:`Seen.joined`).

    A path of the rollout goes from the answer to its source and moves at some heads of some layers. A head has carried
    to a source what of its share moves at that head; for "mean" it is the head's own part. Abnar and Zuidema's other
    measure, attention flow, takes the maximum flow through the same graph. That is no linear function of the weights,
    and costs at least a visit of each of the layers * L * L edges for each source: it is not offered at length. Rollout
    is its linear relative, with products where flow has capacities. For a short text ``record.weights.to_dense()`` has
    the edges.

    Args:
        seen: what :func:`regard.watch` has seen, or records of it, of one stack of layers; or one AttentionWeights a
            layer, first layer first.
        answer: the answer's queries: an index (negative ones from the end), a slice, indices, or booleans (L,). One
            that is named twice counts once.
        tokens: S texts, one a key.
        sources: the keys to rank, given in the same ways; all without it. Shares remain those of the whole.
        documents: (S,) integers, the document of each key: their shares are summed.
        k: at most so many rows.
        residual: the share of a position's own stream in each layer, in [0, 1], 0.5 without it; of the rollout alone.
        method: "rollout", or "mean" for what the answer's queries read directly, also where L and S differ.
        batch: which sequence, where there are several.

    Returns:
        The :class:`Sources`: its rows, `.documents`, `.shares` (S,), `.to_csv(path)`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: layers that do not belong together, positions out of range, tokens or documents that are not one a
            key, a residual of the mean, an answer whose queries read nothing, weights that are NaN.

    References:
        Abnar and Zuidema, Quantifying Attention Flow in Transformers, 2020.
    """
    if method not in ("rollout", "mean"):
        raise ValueError(f"sources(method): expected 'rollout' or 'mean', got {method!r}")
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"sources(k): expected an integer, got {type(k).__name__}")
    if k < 1:
        raise ValueError(f"sources(k): expected at least 1, got {k}")
    if residual is not None and method == "mean":
        raise ValueError(f"sources(residual): the mean has none, got {residual!r}; leave it out, or method='rollout'")
    residual = 0.5 if residual is None else residual
    if isinstance(residual, bool) or not isinstance(residual, Real):
        raise TypeError(f"sources(residual): expected a number in [0, 1], got {type(residual).__name__}")
    if not 0 <= residual <= 1:
        raise ValueError(f"sources(residual): expected a number in [0, 1], got {residual}")
    layers = layers_of(seen, square=method == "rollout")
    first = layers[0]
    query_len, key_len = first.weights.shape[-2:]
    queries = positions(answer, query_len, "answer", "queries")
    wanted = torch.arange(key_len) if sources is None else positions(sources, key_len, "sources", "keys")
    sequence = sequence_of(first.lead, batch)
    if tokens is not None and len(tokens) != key_len:
        raise ValueError(f"sources(tokens): expected one text a key, {key_len:,}, got {len(tokens):,}")
    for place, token in enumerate(() if tokens is None else tokens):
        if not isinstance(token, str):
            raise TypeError(f"sources(tokens): expected texts, got {type(token).__name__} {token!r} for key {place}")
    ids = None if documents is None else document_ids(documents, "sources(documents)").cpu()
    if ids is not None and tuple(ids.shape) != (key_len,):
        raise ValueError(
            f"sources(documents): expected one id a key, (S,) = ({key_len},), got shape {tuple(ids.shape)}"
        )
    start = torch.zeros(query_len, dtype=first.dtype, device=first.weights.device)
    start[queries.to(start.device)] = 1 / len(queries)
    with torch.no_grad():
        if method == "rollout":
            found = _through_layers(layers, start, sequence, float(residual))
        else:
            found = _read_directly(layers, start, sequence)
        shares = found.shares.cpu()
        if bool(shares.isnan().any()):
            raise ValueError(_nan_in(layers, sequence))
        if not bool(shares.any()):
            raise ValueError("sources(answer): these queries may attend to nothing (padding?); name others")
        order = shares[wanted].argsort(descending=True, stable=True)[:k]
        chosen = wanted[order]
        carriers = found.carriers(chosen)
        if any(carried != carried for _, _, carried in carriers):
            raise ValueError(_nan_in(layers, sequence))
    rows = []
    for rank, (position, (layer, head, carried)) in enumerate(zip(chosen.tolist(), carriers, strict=True), 1):
        moved = carried > 0
        rows.append(
            SourceToken(
                rank=rank,
                position=position,
                token="" if tokens is None else tokens[position],
                share=float(shares[position]),
                layer=layer if moved else None,
                head=head if moved else None,
                carried=carried,
                module=layers[layer].name if moved else "",
                document=None if ids is None else int(ids[position]),
            )
        )
    count = f"{len(layers)} layer{'s' if len(layers) > 1 else ''}"
    how = f"rollout over {count}, residual {residual:g}" if method == "rollout" else f"mean over {count} and all heads"
    parts = () if ids is None else _by_document(shares, ids)
    return Sources(tuple(rows), parts, shares=shares, queries=tuple(queries.tolist()), how=how)


def _through_layers(layers: list[Layer], start: Tensor, sequence: int, residual: float) -> _Found:
    """The rows of the rollout, from the last layer down: ``y <- B_l.mT @ y``; what is between two layers is kept."""
    lead = layers[0].lead
    y = start[:, None].expand(*lead, -1, 1)  # (..., L, 1)
    above: list[Tensor] = []  # last layer first, (L,): the answer's attention that arrives above each layer
    for layer in reversed(layers):
        above.append(y.reshape(-1, len(start))[sequence])
        y = _mixed(y, _times(layer, layer.weights.mT, y), residual)

    def carriers(chosen: Tensor) -> list[tuple[int, int, float]]:
        """From the sources up: the flow to source j through head h is ``y_l @ A_h @ x_j``, without what stays."""
        count = len(chosen)
        x = torch.zeros(len(start), count, dtype=start.dtype, device=start.device)  # (L, K)
        x[chosen.to(x.device), torch.arange(count, device=x.device)] = 1
        x = x.expand(*lead, -1, -1)  # (..., L, K)
        best = _Best(count)
        for number, (layer, arriving) in enumerate(zip(layers, reversed(above), strict=True)):
            read = _times(layer, layer.weights, x)  # (..., H, L, K)
            heads = read.shape[-3]
            of_sequence = read.reshape(-1, *read.shape[-3:])[sequence]  # (H, L, K)
            through = torch.einsum("l,hlk->hk", arriving, of_sequence)
            own = layer.weights.diagonal().reshape(-1, heads, len(start))[sequence]  # (H, L)
            stays = torch.einsum("hl,lk->hk", own * arriving, x.reshape(-1, *x.shape[-2:])[sequence])
            moved = through - stays
            # Two sums of many terms: where nothing moves, rounding alone is left.
            moved = moved.where(moved > 64 * torch.finfo(moved.dtype).eps * through, 0)
            best.see(number, (1 - residual) / heads * moved)
            x = _mixed(x, read, residual)
        return best.of(torch.arange(count))

    return _Found(y.reshape(-1, len(start))[sequence], carriers)


def _read_directly(layers: list[Layer], start: Tensor, sequence: int) -> _Found:
    """The answer's rows, averaged over layers and heads."""
    key_len = layers[0].weights.shape[-1]
    shares = torch.zeros(key_len, dtype=start.dtype, device=start.device)
    best = _Best(key_len)
    for number, layer in enumerate(layers):
        read = layer.weights.mT @ start  # (..., H, S), or (..., S)
        heads = read.shape[-2] if layer.has_heads else 1
        part = read.reshape(-1, heads, key_len)[sequence] / (heads * len(layers))  # (H, S)
        shares += part.sum(0)
        best.see(number, part)
    return _Found(shares, best.of)


class _Best:
    """The largest of each column over all layers and heads, (N,), as the layers come."""

    def __init__(self, count: int) -> None:
        self.value = torch.full((count,), -1.0, dtype=torch.float64)
        self.layer = torch.zeros(count, dtype=torch.long)
        self.head = torch.zeros(count, dtype=torch.long)

    def see(self, layer: int, values: Tensor) -> None:
        """Values (H, N) of the next layer."""
        most, head = values.double().cpu().max(0)  # (N,)
        better = most > self.value
        self.value[better], self.head[better], self.layer[better] = most[better], head[better], layer

    def of(self, positions: Tensor) -> list[tuple[int, int, float]]:
        """(layer, head, value) of each position."""
        found = (each[positions].tolist() for each in (self.layer, self.head, self.value))
        return list(zip(*found, strict=True))


def _nan_in(layers: list[Layer], sequence: int) -> str:
    """What to say of weights that are NaN, with the first layer that has them."""
    for number, layer in enumerate(layers):
        # A product takes a row whose logits are NaN for one that reads nothing; its entropy does not.
        entropy = layer.weights.entropy()  # (..., H, L), or (..., L)
        heads = entropy.shape[-2] if layer.has_heads else 1
        rows = entropy.reshape(-1, heads, entropy.shape[-1])[sequence].isnan().nonzero()  # (n, 2)
        if len(rows):
            head, query = rows[0].tolist()
            where = f"layer {number}" + (f" ({layer.name})" if layer.name else "")
            return (
                f"sources(seen): the weights of {where} are NaN, first in head {head}, query {query}; its query or key "
                "has NaN or infinities: look at the model's parameters and inputs"
            )
    return "sources(seen): the shares are NaN, of weights that are numbers"


def _times(layer: Layer, operator: Any, x: Tensor) -> Tensor:
    """``operator @ x`` for the same x (..., L, N) in every head, (..., H, L, N); without heads H is 1."""
    if layer.has_heads:
        return operator @ x.unsqueeze(-3)  # type: ignore[no-any-return]
    return (operator @ x).unsqueeze(-3)  # type: ignore[no-any-return]


def _mixed(x: Tensor, read: Tensor, residual: float) -> Tensor:
    """One layer: its own stream and the mean over its heads, (..., L, N)."""
    return residual * x + (1 - residual) * read.mean(-3)


def _by_document(shares: Tensor, ids: Tensor) -> tuple[DocumentShare, ...]:
    """The sum of the shares (S,) of each document, the largest first."""
    names, which, counts = ids.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(names), dtype=torch.float64).index_add_(0, which, shares.double())
    order = sums.argsort(descending=True, stable=True)
    return tuple(DocumentShare(int(names[n]), float(sums[n]), int(counts[n])) for n in order.tolist())
