"""What the processes of the tests of training run: FSDP beside one process, and checkpoints."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.distributed.asked import difference
from tests.distributed.asked_heads import decoder, mesh_of, whole
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import parallelize_module

import regard
from regard import masks
from regard.distributed import checkpoints

VOCABULARY, TEXT = 11, 9


def texts(rank: int) -> Tensor:
    """Two texts that are this rank's, or those of all data ranks."""
    return torch.randint(VOCABULARY, (2, TEXT + 1), generator=torch.Generator().manual_seed(10 + rank))


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens[:, :-1])  # (B, L, V)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def stepped(model: nn.Module, tokens: list[Tensor], optimizer: torch.optim.Optimizer | None = None) -> Any:
    """One step of AdamW on the mean loss of these texts; the loss and the optimizer."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01) if optimizer is None else optimizer
    optimizer.zero_grad()
    loss = torch.stack([loss_of(model, each) for each in tokens]).mean()
    loss.backward()
    optimizer.step()
    return loss.detach(), optimizer


def made(kind: str) -> Any:
    """A model, whose parameters have the names of one that is cut by heads."""
    return regard.distributed.unfuse(decoder() if kind == "decoder" else Layers())


def cut(model: Any, how: str, mesh: DeviceMesh) -> Any:
    """The model over a mesh by FSDP ("fsdp"), by heads ("heads"), or both, over a mesh of two axes ("both")."""
    if how != "fsdp":
        parallelize_module(model, mesh["tensor"] if how == "both" else mesh, regard.distributed.tensor_plan(model))
    if how != "heads":
        data = mesh["data"] if how == "both" else mesh
        for block in model.blocks:
            fully_shard(block, mesh=data)
        fully_shard(model, mesh=data)
    return model


class Layers(nn.Module):
    """Two attention layers of grouped heads, with a position, a norm, sinks and a gate, as somebody's own model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(VOCABULARY, 16)
        options = {"num_kv_heads": 2, "sinks": True, "gate": "headwise", "mask": masks.causal()}
        self.blocks = nn.ModuleList(
            regard.MultiHeadAttention(16, 4, **options, positions=regard.positions.Rotary(4), norm=regard.QKNorm.rms(4))
            for _ in range(2)
        )
        self.double()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = x + block(x)
        return x[..., :VOCABULARY]


def sharded_step(kind: str, how: str, checkpointing: bool) -> float:
    """Parameters and gradients after a step on four processes beside those after the same step on one."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor")) if how == "both" else mesh_of(everybody())
    data = mesh["data"] if how == "both" else mesh
    theirs, ours = made(kind), made(kind)
    ours.gradient_checkpointing = checkpointing
    cut(ours, how, mesh)
    loss, _ = stepped(ours, [texts(data.get_local_rank())])
    truth, _ = stepped(theirs, [texts(r) for r in range(data.size())])
    dist.all_reduce(loss, op=dist.ReduceOp.SUM, group=data.get_group())
    worst = difference(loss / data.size(), truth)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        worst = max(worst, difference(whole(mine.detach()), other.detach()))
        worst = max(worst, difference(whole(mine.grad), other.grad))
    return worst


def everybody() -> dist.ProcessGroup:
    world = dist.group.WORLD
    assert world is not None
    return world


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    states = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
    return {**states, "step": step}


def after(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Logits, and all parameters after one more step: what a checkpoint has to bring back."""
    logits = whole(model(texts(0)[:, :-1]).detach())
    stepped(model, [texts(1)], optimizer)
    return [logits, *(whole(p.detach()).clone() for p in model.parameters())]


def saved(path: str, kind: str, how: str) -> list[Tensor]:
    """A checkpoint after one step, by all processes, and what comes after."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor")) if how == "both" else mesh_of(everybody())
    model = cut(made(kind), how, mesh)
    _, optimizer = stepped(model, [texts(0)])
    regard.distributed.save(path, state_of(model, optimizer, 1))
    return after(model, optimizer)


def loaded(some: Any, path: str, kind: str, how: str) -> tuple[int, list[Tensor]]:
    """What comes after the checkpoint is loaded into another model, over these processes."""
    model = made(kind)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.1)
    if how != "whole":
        cut(model, how, mesh_of(some))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    state = state_of(model, optimizer, 0)
    regard.distributed.load(path, state, group=some)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return state["step"], after(model, optimizer)


def plain(value: float) -> dict[str, Any]:
    """A state without a model: a tensor over the ranks, one that all have, an empty share, numbers and words."""
    mesh = mesh_of(everybody()) if dist.is_initialized() else None
    tensors = {"cut": torch.arange(12.0).view(6, 2) + value, "one": torch.tensor([3, 4]), "number": torch.tensor(value)}
    tensors |= {
        "half": torch.tensor([value]).bfloat16(),
        "flags": torch.tensor([True, value > 1]),
        "none": torch.zeros(0),
    }
    if mesh is not None:
        tensors["cut"] = distribute_tensor(tensors["cut"], mesh, [Shard(0)])
    tensors |= {"tied": tensors["cut"], "turned": tensors["cut"].T}
    return {"tensors": tensors, "words": ("a", [True, None, 1.5]), "value": value, 3: {"0": 2}}


def interrupted(path: str, lost: int, how: str) -> str:
    """A save, and another in the middle of which a rank fails, or ends."""
    regard.distributed.save(path, plain(1.0))
    write = HuggingFaceStorageWriter.write_data

    def fail(self: Any, *given: Any) -> Any:
        write(self, *given)
        if how == "ends":
            os._exit(3)
        raise OSError("no space left on device")

    if dist.get_rank() == lost:
        HuggingFaceStorageWriter.write_data = fail
    try:
        regard.distributed.save(path, plain(2.0))
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        HuggingFaceStorageWriter.write_data = write
    return "nothing"


def saved_again(path: str, value: float) -> list[str]:
    regard.distributed.save(path, plain(value))
    return sorted(str(p.relative_to(path)) for p in Path(path).rglob("*"))


def differing(path: str, what: str) -> str:
    """What save() says of a state that differs on the last rank, or is refused there."""
    last = dist.get_rank() == dist.get_world_size() - 1
    state: dict[str, Any] = {
        "values": {"step": 2 if last else 1},
        "refused": {"step": {1} if last else 1},
        "names": {f"tensor of {'the last' if last else 'others'}": torch.ones(2)},
        "shapes": {"a": torch.ones(3 if last else 2)},
    }.get(what, {"step": 1})
    if what == "cycle" and last:
        state["state"] = state
    try:
        regard.distributed.save(path, state)
    except (TypeError, ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def loaded_of_two(path: str, how: str) -> tuple[str, list[float]]:
    """What load() says where the ranks read different checkpoints, or one file of them is lost; and the state."""
    first = dist.get_rank() == 0
    whole = distribute_tensor(torch.arange(8.0) + 1, mesh_of(everybody()), [Shard(0)])
    regard.distributed.save(path, {"a": whole})
    if how == "lost" and first:
        sorted(Path(path).rglob("*.safetensors"))[0].unlink()
    read = checkpoints.read_index
    if how == "two" and not first:
        checkpoints.read_index = lambda folder: {**read(folder), "values": {"step": 2}}
    dist.barrier()
    state: dict[str, Any] = {"a": torch.zeros(8)}
    if how == "two":
        state |= {} if first else {"step": 0}
    try:
        regard.distributed.load(path, state)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}", state["a"].tolist()
    finally:
        checkpoints.read_index = read
    return "nothing", state["a"].tolist()


def saved_without_me() -> str:
    """What save() says on a rank that is not in the group."""
    group = dist.new_group([0, 1])
    try:
        return "in it" if dist.get_rank() < 2 else str(regard.distributed.save("nowhere", {"a": 1}, group=group))
    except ValueError as error:
        return str(error)


@functools.cache
def example() -> ModuleType:
    """examples/train_parallel.py as a module."""
    file = Path(__file__).parents[2] / "examples" / "train_parallel.py"
    spec = importlib.util.spec_from_file_location("train_parallel", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def example_trained(options: dict[str, Any]) -> tuple[list[float], str]:
    """Its losses, and what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        losses = example().train(Namespace(**options))
    return losses, printed.getvalue()
