"""What the processes of the tests of tensor parallelism run, where ranks or parameters are not as they should be."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.asked import BATCH, difference
from tests.distributed.asked_heads import decoder, made, mesh_of, whole, words
from torch import nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module

import regard
from regard.distributed import HeadParallel


def assigned(some: Any, what: str) -> str:
    """What a layer that is cut says once it has been given whole parameters, as assign=True does."""
    layer = parallelize_module(made("rotary"), mesh_of(some), HeadParallel())
    theirs = regard.distributed.unfuse(made("rotary")).state_dict()
    layer.load_state_dict({n: t for n, t in theirs.items() if n.startswith(what)}, strict=False, assign=True)
    try:
        layer(words())
    except TypeError as error:
        return str(error)
    return "nothing"


def another_x(some: Any, what: str) -> list[str]:
    """What a layer says of an x that is another one on the last rank; then of one that is the same, and rounded."""
    layer = parallelize_module(made("plain"), mesh_of(some), HeadParallel())
    last = dist.get_rank(some) == dist.get_world_size(some) - 1
    x = words().detach()
    other = x.flip(0) if what == "numbers" else x[:, :4]
    said = []
    try:
        layer(other if last else x)
    except ValueError as error:
        said.append(str(error))
    layer(x * (1 + 1e-6 * last))
    return said


def shared_norm(some: Any) -> float:
    """Gradients of a norm that two layers share, whole and cut."""
    found = []
    for cut in (False, True):
        torch.manual_seed(0)
        one = nn.RMSNorm(4)
        layers = nn.ModuleList(regard.MultiHeadAttention(16, 4, norm=regard.QKNorm(one, one)) for _ in range(2))
        layers.double()
        if cut:
            parallelize_module(layers, mesh_of(some), regard.distributed.tensor_plan(layers))
        layers[1](layers[0](words())).square().sum().backward()
        assert layers[0].norm.q is layers[1].norm.k
        found.append(whole(layers[0].norm.q.weight.grad))
    return difference(*found)


def clipped(some: Any) -> float:
    """Parameters after a step with clipped gradients, each kind of parameters in a group of its own."""
    tokens = torch.randint(11, (BATCH, 12), generator=torch.Generator().manual_seed(5))
    theirs, ours = regard.distributed.unfuse(decoder()), decoder()
    parallelize_module(ours, mesh_of(some), regard.distributed.tensor_plan(ours))
    for model in (ours, theirs):
        (model(tokens) * torch.linspace(0, 1, 11)).sum().backward()
    kinds = [[p for p in ours.parameters() if isinstance(p, DTensor) is cut] for cut in (True, False)]
    norms = [nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None]) for kind in kinds]
    norm = torch.stack([whole(n) for n in norms]).norm()
    for kind in kinds:
        nn.utils.clip_grads_with_norm_(kind, 0.1, norm)
    torch.optim.SGD([{"params": kind} for kind in kinds], lr=1.0, foreach=True).step()
    worst = difference(norm, nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)) / float(norm)
    torch.optim.SGD(theirs.parameters(), lr=1.0).step()
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    return max(worst, *(difference(whole(a.detach()), b.detach()) for a, b in pairs))


def twice(some: Any, of: str) -> str:
    """What a second derivative of a layer that is cut says, alone or beside a loss."""
    layer = parallelize_module(made("plain"), mesh_of(some), HeadParallel())
    x = words()
    loss = layer(x).square().sum()
    leaf = x if of == "x" else layer.out_proj.weight
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    try:
        (loss + whole(gradient).square().sum()).backward()
    except RuntimeError as error:
        return str(error)
    return "nothing"
