"""A small model trained on several processes: each text cut over some of them, and the texts of a step over others.

torchrun --nproc-per-node 4 examples/train_parallel.py                              # 2 texts at a time, each over 2
torchrun --nproc-per-node 4 examples/train_parallel.py --context 4 --length 4096    # one text over all 4
python examples/train_parallel.py                                                   # the same losses, in one process
torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 examples/train_parallel.py
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from regard.distributed import ContextParallel, context_parallel
from regard.distributed.costs import Attention, sent
from regard.distributed.order import pieces
from regard.models import Decoder, DecoderConfig

VOCABULARY, LAYERS, HEADS, KV_HEADS, WIDTH = 128, 2, 4, 2, 64


def model_of(device: str) -> Decoder:
    """The same model on every process."""
    torch.manual_seed(0)
    sizes = {"d_model": WIDTH, "num_layers": LAYERS, "num_heads": HEADS, "num_kv_heads": KV_HEADS, "d_mlp": 2 * WIDTH}
    return Decoder(DecoderConfig(vocab_size=VOCABULARY, **sizes)).to(device)


def texts(step: int, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Characters of this file, from anywhere in it, and what comes next after each: (batch, length) both."""
    characters = torch.frombuffer(bytearray(Path(__file__).read_bytes()), dtype=torch.uint8).long()
    characters = characters.repeat(1 + (length + 1) // len(characters))
    starts = torch.randint(len(characters) - length, (batch,), generator=torch.Generator().manual_seed(step))
    some = characters[starts[:, None] + torch.arange(length + 1)]  # (batch, length + 1)
    return some[:, :-1], some[:, 1:]


def plan(parallel: ContextParallel, given: argparse.Namespace) -> str:
    """Who holds what, and the bytes that each process sends for the attention of a step, forward and backward."""
    lines = [f"mesh: data {given.data} x context {given.context}, {given.order}, keys and values by {given.strategy}"]
    for rank in range(given.data * given.context):
        row, column = divmod(rank, given.context)
        held = pieces(given.length, column, given.context, given.order)
        each = given.batch // given.data
        tokens = " and ".join(f"{p.start}:{p.stop}" for p in held)
        lines.append(f"rank {rank}: texts {row * each}:{(row + 1) * each}, tokens {tokens} of {given.length}")
    lines.append(f"bytes that a rank sends for attention, a step: {predicted(given)} predicted")
    return "\n".join(lines)


def predicted(given: argparse.Namespace) -> int:
    """The bytes of all layers."""
    one = Attention(
        given.length, HEADS, KV_HEADS, WIDTH // HEADS, batch=given.batch // given.data, element_size=4, allowed=0.5
    )
    return LAYERS * sum(sent(given.strategy, one, given.context))


def train(given: argparse.Namespace) -> list[float]:
    """The loss of each step, the same on every process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (given.data, given.context), mesh_dim_names=("data", "context"))
    parallel = context_parallel(mesh["context"], strategy=given.strategy, order=given.order)
    everybody = init_device_mesh(device, (given.data * given.context,))
    first = dist.get_rank() == 0
    if first:
        print(plan(parallel, given))
    model = model_of(device)
    # Every process has the loss of its own tokens, as many as the others: the gradient is the mean over all of them,
    # which is what FSDP makes of it over both axes of the mesh.
    for block in model.blocks:
        fully_shard(block, mesh=everybody)
    fully_shard(model, mesh=everybody)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(given.steps):
        before = parallel.sent
        inputs, targets = (
            t.chunk(given.data)[mesh["data"].get_local_rank()] for t in texts(step, given.batch, given.length)
        )
        inputs, targets = (parallel.shard(t, dim=1).to(device) for t in (inputs, targets))  # (B / data, L / context)
        with parallel:
            logits = model(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / dist.get_world_size())
        if first:
            print(f"step {step}: loss {losses[-1]:.6f}, {parallel.sent - before} bytes sent")
    return losses


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--context", type=int, help="processes that share a text; 2, or all if their number is odd")
    parser.add_argument("--data", type=int, help="how many such groups there are; as many as there is room for")
    parser.add_argument("--length", type=int, default=256, help="tokens of a text")
    parser.add_argument("--batch", type=int, default=4, help="texts of a step, over all processes")
    parser.add_argument("--strategy", choices=["ring", "gather", "heads"], default="ring")
    parser.add_argument("--order", choices=["zigzag", "contiguous"], default="zigzag")
    given = parser.parse_args(arguments)
    for name in ("context", "data", "length", "batch"):
        number = getattr(given, name)
        if number is not None and number < 1:
            parser.error(f"--{name} must be at least 1, got {number}")
    if given.context is None:
        given.context = world // given.data if given.data else 2 if world % 2 == 0 else world
    given.data = world // given.context if given.data is None else given.data
    if given.data * given.context != world:
        parser.error(f"--data {given.data} times --context {given.context} must be the {world} processes there are")
    if given.batch % given.data:
        parser.error(f"--batch must be a multiple of --data {given.data}, got {given.batch}")
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    given = parsed(arguments)
    if "RANK" in os.environ:  # torchrun's
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group()
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        train(given)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
