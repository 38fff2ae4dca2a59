"""What goes between ranks: one neighbour to the next, or everybody to everybody, counted, and named where it fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from regard.distributed.failures import PeerError, lost

__all__ = ["Moving", "Ranks", "group_of"]


@dataclass
class Ranks:
    """The ranks that share a text: a process group, this process's place in it, and what it has sent.

    Attributes:
        group: the process group.
        sent: bytes that this rank has sent to others so far.
    """

    group: dist.ProcessGroup
    sent: int = 0

    def __post_init__(self) -> None:
        self.rank, self.world = dist.get_rank(self.group), dist.get_world_size(self.group)

    def rotate(self, tensors: Sequence[Tensor], to: int, source: int) -> Moving:
        """Start sending ``tensors`` to rank ``to``, and receiving tensors like them from rank ``source``."""
        given = [t.contiguous() for t in tensors]
        coming = [torch.empty_like(t) for t in given]
        target, origin = dist.get_global_rank(self.group, to), dist.get_global_rank(self.group, source)
        with self.named(to):
            operations = [dist.P2POp(dist.isend, t, target, self.group) for t in given]
            operations += [dist.P2POp(dist.irecv, t, origin, self.group) for t in coming]
            works = dist.batch_isend_irecv(operations)
        self.sent += sum(t.numel() * t.element_size() for t in given)
        # One handle a tensor, or one for all where the backend makes one launch of them.
        peers = [to] * len(given) + [source] * len(coming) if len(works) == len(operations) else [source] * len(works)
        return Moving(self, works, peers, given, coming)

    def gather(self, t: Tensor) -> list[Tensor]:
        """Everybody's tensor, all of one shape, in order of rank."""
        t = t.contiguous()
        found = [torch.empty_like(t) for _ in range(self.world)]
        with self.named():
            dist.all_gather(found, t, group=self.group)
        self.sent += (self.world - 1) * t.numel() * t.element_size()
        return found

    def exchange(self, t: Tensor) -> Tensor:
        """Part r of (W, ...) goes to rank r; what comes from rank r is part r of the result."""
        t = t.contiguous()
        found = torch.empty_like(t)
        with self.named():
            dist.all_to_all_single(found, t, group=self.group)
        self.sent += (self.world - 1) * t[0].numel() * t.element_size()
        return found

    def total(self, t: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """The sum over all ranks, in place."""
        with self.named():
            dist.all_reduce(t, op=op, group=self.group)
        self.sent += 2 * (self.world - 1) * t.numel() * t.element_size() // self.world
        return t

    def everybody(self, thing: Any) -> list[Any]:
        """Everybody's small object, in order of rank."""
        found: list[Any] = [None] * self.world
        with self.named():
            dist.all_gather_object(found, thing, group=self.group)
        return found

    @contextmanager
    def named(self, peer: int | None = None) -> Iterator[None]:
        """A failure of what stands inside says which rank did not answer."""
        try:
            yield
        except PeerError:
            raise
        except RuntimeError as error:
            gone = lost(self.group, self.rank, self.world, peer)
            raise PeerError(
                f"rank {self.rank} of {self.world}: {gone} did not answer: it ended, or took longer than the process "
                f"group waits; its own output says why. PyTorch says: {str(error).splitlines()[0]}"
            ) from error


@dataclass
class Moving:
    """Tensors on their way: what comes may be read, and what goes written to, after :meth:`wait`."""

    ranks: Ranks
    works: list[dist.Work]
    peers: list[int]
    going: list[Tensor]
    coming: list[Tensor]

    def wait(self) -> list[Tensor]:
        """What came."""
        for work, peer in zip(self.works, self.peers, strict=True):
            with self.ranks.named(peer):
                work.wait()
        return self.coming


def group_of(mesh: DeviceMesh | dist.ProcessGroup | None) -> dist.ProcessGroup:
    """The process group of a mesh of one dimension, or that of all processes."""
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError(
            "context_parallel() needs a process group: start the script with torchrun, and call "
            "torch.distributed.init_process_group() first"
        )
    if mesh is None:
        world = dist.group.WORLD
        assert world is not None
        return world
    if isinstance(mesh, DeviceMesh):
        if mesh.ndim != 1:
            raise ValueError(
                f"mesh must have one dimension, got {mesh.ndim}: {mesh.mesh_dim_names}; name the one that cuts the "
                'text, mesh["context"]'
            )
        return mesh.get_group()
    if isinstance(mesh, dist.ProcessGroup):
        return mesh
    raise TypeError(f"mesh must be a DeviceMesh or a ProcessGroup, got {type(mesh).__name__}")
