"""T5's relative positions: a number for each head and each range of distances, added to the scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from regard import layer_checks
from regard.positions.base import Positions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["RelativeBias"]


class RelativeBias(Positions):
    """A learned bias for each head and each bucket of distances, as in T5.

    ``bias_hij = W[bucket(j - p_i), h]`` with ``p_i = S - L + i``, the position of query i among the keys

    >>> import torch
    >>> from regard.positions import RelativeBias
    >>> relative = RelativeBias(1, num_buckets=4, max_distance=8, two_sided=False)
    >>> relative.buckets(torch.arange(-9, 2))  # j - p: exact for near keys, ranges for far ones, 0 for later ones
    tensor([3, 3, 3, 3, 3, 3, 2, 2, 1, 0, 0])
    >>> _ = relative.weight.data.copy_(torch.tensor([[0.0], [-1.0], [-2.0], [-3.0]]))
    >>> relative.bias(2, 4, num_heads=1, device=torch.device("cpu"), dtype=torch.float32).detach()
    tensor([[[-2., -1.,  0.,  0.],
             [-2., -2., -1.,  0.]]])

    Half of the buckets of a side hold one distance each, 0, 1, 2, ...; the other half ranges that grow up to
    max_distance, logarithmically. One module may be shared by the layers of a model, as in T5, whose scale is 1.

    The memory it takes: the tensor that comes back, H * L * S numbers of query's dtype, made in one copy from a table
    of H * (L + S - 1); no indices of size L x S are made.

    What it does past its training length: all keys further than max_distance share the last bucket, so that a longer
    text meets no bias that training did not: neither a refusal, nor a preference for what is nearer out there.

    Args:
        num_heads: H.
        num_buckets: how many numbers a head has; even if two_sided, for half of them are for keys after the query.
        max_distance: from this distance on, all keys share a bucket.
        two_sided: whether keys after the query have buckets of their own, as in T5's encoder. If not, as in its
            decoder, all of them share that of distance 0.
        device: where the parameter is made.
        dtype: the dtype of the parameter.

    Attributes:
        weight: W, (num_buckets, H); normal, of standard deviation 0.02, at the start.

    Raises:
        TypeError: a size that is no integer.
        ValueError: too few buckets, or a max_distance that the exact buckets reach.

    References:
        Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, 2020.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        two_sided: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = layer_checks.check_size(num_heads, "num_heads")
        self.num_buckets = layer_checks.check_size(num_buckets, "num_buckets")
        self.max_distance = layer_checks.check_size(max_distance, "max_distance")
        if not isinstance(two_sided, bool):
            raise TypeError(f"two_sided must be True or False, got {type(two_sided).__name__}")
        self.two_sided = two_sided
        sides = 2 if two_sided else 1
        if self.num_buckets % sides or self.num_buckets < 2 * sides:
            least = "an even number of at least 4 if two_sided" if two_sided else "at least 2"
            raise ValueError(f"num_buckets must be {least}, got {self.num_buckets}; T5 has 32")
        exact = self.num_buckets // sides // 2
        if self.max_distance <= exact:
            raise ValueError(
                f"max_distance must be above {exact}, the distances that have a bucket each, got {self.max_distance}; "
                "T5 has 128"
            )
        self._firsts = _first_distances(self.num_buckets // sides, self.max_distance)
        self.weight = nn.Parameter(torch.empty(self.num_buckets, self.num_heads, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the numbers anew."""
        nn.init.normal_(self.weight, std=0.02)

    def buckets(self, distance: Tensor) -> Tensor:
        """The bucket of each ``j - p``, key position less query position.

        Args:
            distance: integers of any shape.

        Returns:
            int64 of the same shape, in [0, num_buckets).
        """
        firsts = torch.tensor(self._firsts, device=distance.device)
        if not self.two_sided:
            return torch.bucketize((-distance).clamp(min=0), firsts, right=True)
        return torch.bucketize(distance.abs(), firsts, right=True) + (distance > 0) * (self.num_buckets // 2)

    def bias(self, query_len: int, key_len: int, *, num_heads: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The bias, (H, L, S) in dtype; see :meth:`Positions.bias`."""
        self._check_heads(num_heads)
        if device is not None and torch.device(device) != self.weight.device:
            raise ValueError(
                f"positions={self!r}: weight must be on query's device {device}, got {self.weight.device}; move the "
                "module with .to(...)"
            )
        if not 0 <= query_len <= key_len:
            raise ValueError(
                f"query_len must be in [0, key_len], since the queries are the last of the keys, got {query_len} and "
                f"{key_len}"
            )
        if query_len == 0 or key_len == 0:
            return self.weight.new_zeros((self.num_heads, query_len, key_len), dtype=dtype)
        distance = torch.arange(1 - key_len, query_len, device=self.weight.device)  # (S + L - 1,)
        line = self.weight.t().to(dtype)[:, self.buckets(distance)]  # (H, S + L - 1)
        # Query i reads line[L - 1 - i : L - 1 - i + S]. Of one length alone is a graph with unfold().
        heads, along = line.stride()
        rows = line.as_strided(
            (self.num_heads, query_len, key_len), (heads, along, along)
        )  # (H, S + L - 1) -> (H, L, S)
        return rows.flip(-2)

    def check_layer(self, *, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        """Raise if there are not as many heads."""
        self._check_heads(num_heads)

    def _check_heads(self, num_heads: int) -> None:
        if num_heads != self.num_heads:
            raise ValueError(
                f"positions={self!r}: one bias a query head, expected num_heads={num_heads}, got {self.num_heads}"
            )

    def plot(self, ax: Axes | None = None) -> Figure:
        """The bias against the distance, a line a head; needs matplotlib."""
        from regard.positions import pictures

        reach = self.max_distance * 5 // 4
        distance = torch.arange(-reach, (reach if self.two_sided else 0) + 1)
        values = self.weight.detach().float().cpu()[self.buckets(distance)]  # (n, H)
        return pictures.lines(distance, values.t(), ax, across="key's position less query's", up="bias", drawn="step")

    def extra_repr(self) -> str:
        """What the repr shows."""
        sides = "" if self.two_sided else ", two_sided=False"
        return f"{self.num_heads}, num_buckets={self.num_buckets}, max_distance={self.max_distance}{sides}"


def _first_distances(num_buckets: int, max_distance: int) -> tuple[int, ...]:
    """The least distance of buckets 1, 2, ... of one side.

    Computed as T5 does, in float32: a logarithm that is a whole number may round to less than it, and weights that were
    trained with that are only right with that.
    """
    exact = num_buckets // 2
    distance = torch.arange(exact, max_distance + 1, device="cpu")
    steps = torch.log(distance.float() / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    bucket = (exact + steps.to(torch.long)).clamp(max=num_buckets - 1)  # not falling
    wanted = torch.arange(exact + 1, num_buckets, device="cpu")
    far = distance[torch.searchsorted(bucket, wanted).clamp(max=len(distance) - 1)]
    return *range(1, exact + 1), *far.tolist()
