"""Checkpoints of states over several processes: written by any number of them, read by any other, and never half."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from regard.distributed.checkpoint_files import WholeReader, commit, compare, listed, new_folder, read_index, writable
from regard.distributed.nested import Leaf, flattened, put
from regard.distributed.traffic import Ranks

__all__ = ["load", "save"]

State = dict[str, Any]


def save(path: str | Path, state: State, *, group: dist.ProcessGroup | None = None) -> None:
    """Write a state of models and optimizers, each rank its share; what was saved there before stays until all is done.

    ::

        model_state, optimizer_state = get_state_dict(model, optimizer)  # of torch.distributed.checkpoint.state_dict
        regard.distributed.save("run/latest", {"model": model_state, "optimizer": optimizer_state, "step": step})

    >>> import tempfile, torch, regard
    >>> state = {"weight": torch.zeros(2), "step": 0}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     regard.distributed.save(folder, {"weight": torch.ones(2), "step": 3})
    ...     regard.distributed.load(folder, state)
    >>> state
    {'weight': tensor([1., 1.]), 'step': 3}

    Tensors go to files in the safetensors format, through :mod:`torch.distributed.checkpoint` with its
    HuggingFaceStorageWriter, in a new folder within ``path``; numbers and words go to ``path/checkpoint.json``, which
    names that folder, and takes the place of the one before in one step, when all ranks have written all they had. If a
    rank dies or fails before, the checkpoint before is the one that loads. Nothing in the files is a pickle: reading
    them runs no code.

    Args:
        path: a folder that every rank sees, made if it is not there. It keeps one checkpoint.
        state: dictionaries, lists and tuples of tensors, numbers, words, True, False and None. A DTensor is written by
            the ranks that have it; another tensor is taken to be the same on every rank and written by one.
        group: the processes that take part, all of which call this; all there are if None, or this one alone.

    Raises:
        TypeError: something else in the state, named by where it stands; a tensor that is sparse, on no device, or of a
            dtype that the files do not have.
        ValueError: numbers, words, or names, shapes and dtypes of tensors that differ between ranks; a name with a
            slash; a group without this process.
        RuntimeError: a rank refused or could not write; on every other one, which names it and its error.
        PeerError: a rank ended or did not answer in time.
    """
    _need_safetensors("save")
    folder, ranks = Path(path), _ranks(group)

    def checked() -> tuple[Leaf, dict[str, Any]]:
        found = flattened(state)
        alike = {
            "numbers and words of the state": found.values,
            "names, shapes and dtypes of tensors": listed(found.tensors),
        }
        return Leaf(writable(found.tensors), found.values), alike

    found = _everywhere(ranks, checked, "save")
    where = _first_says(ranks, lambda: new_folder(folder))
    if found.tensors:
        writer = HuggingFaceStorageWriter(str(folder / where), save_distributed=True)
        with _told(ranks, "write"):
            state_dict_saver.save(found.tensors, storage_writer=writer, process_group=group, no_dist=ranks is None)
    _first_says(ranks, lambda: commit(folder, where, listed(found.tensors), found.values))


def load(path: str | Path, state: State, *, group: dist.ProcessGroup | None = None) -> None:
    """Read what :func:`save` wrote into a state of the same names, on as many ranks as there now are.

    ::

        model_state, optimizer_state = get_state_dict(model, optimizer)
        state = {"model": model_state, "optimizer": optimizer_state, "step": 0}
        regard.distributed.load("run/latest", state)
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])

    Tensors are written into those of ``state``, each rank its share of them; numbers and words take their places.

    Args:
        path: as it was saved to.
        state: as for :func:`save`; it is changed in place.
        group: the processes that take part; all if None, or this one alone.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: names, shapes or dtypes that are not those of the checkpoint; files that are cut short, or in which
            some of a tensor is missing; an index that :func:`save` did not write; ranks that read different ones,
            because another was saved meanwhile. The state is then as it was.
        RuntimeError: a rank refused or could not read; on every other one. Where it could not read, as when the next
            checkpoint removes this one meanwhile, the state may be half of one and half of another.
    """
    _need_safetensors("load")
    folder, ranks = Path(path), _ranks(group)

    def checked() -> tuple[tuple[dict[str, Any], Leaf, WholeReader | None], dict[str, Any]]:
        index, found = read_index(folder), flattened(state)
        compare(folder, index, found)
        reader = WholeReader(folder / index["folder"], index["tensors"]) if found.tensors else None
        # Saved again in between, one rank would read the old one and another the new one.
        return (index, found, reader), {"what is read": index}

    index, found, reader = _everywhere(ranks, checked, "load")
    if reader is not None:
        with _told(ranks, "read"):
            state_dict_loader.load(found.tensors, storage_reader=reader, process_group=group, no_dist=ranks is None)
    put(state, index["values"])


def _need_safetensors(name: str) -> None:
    if importlib.util.find_spec("safetensors") is None:
        raise ImportError(f"regard.distributed.{name}() needs safetensors: pip install 'regard[hf]'")


def _ranks(group: dist.ProcessGroup | None) -> Ranks | None:
    """Who takes part; None where this process is alone."""
    if not dist.is_available() or not dist.is_initialized():
        return None
    group = dist.group.WORLD if group is None else group
    assert group is not None
    if dist.get_rank(group) < 0:
        raise ValueError(
            f"group must be one that this process is in, got one without rank {dist.get_rank()}; only "
            "its own ranks save and load with it"
        )
    return Ranks(group)


def _everywhere(ranks: Ranks | None, function: Callable[[], tuple[Any, dict[str, Any]]], caller: str) -> Any:
    """What the function returns first, once it has returned on every rank, with the second the same on all."""
    found: Any = None
    alike: dict[str, Any] = {}
    refused: Exception | None = None
    try:
        found, alike = function()
    except Exception as error:  # the others would wait for this rank
        refused = error
    if ranks is None:
        if refused is not None:
            raise refused
        return found
    digests = {what: _digest(thing) for what, thing in alike.items()}
    everybody = ranks.everybody((None if refused is None else str(refused), digests))
    if refused is not None:
        raise refused
    for rank, (said, theirs) in enumerate(everybody):
        if said is not None:
            raise RuntimeError(f"{caller}(): rank {rank} refused: {said}")
        for what, digest in theirs.items():
            if digest != digests[what]:
                _differs(
                    caller, what, next(r for r, (_, d) in enumerate(everybody) if d[what] != everybody[0][1][what])
                )
    return found


def _differs(caller: str, what: str, rank: int) -> None:
    why = (
        "what is a rank's own goes to a file of its own"
        if caller == "save"
        else "another checkpoint was saved there meanwhile, or not every rank sees the same folder; load again"
    )
    raise ValueError(
        f"{caller}(): {what} must be the same on every rank, got others on rank {rank} than on rank 0; {why}"
    )


def _digest(thing: Any) -> str:
    return hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).hexdigest()


def _first_says(ranks: Ranks | None, function: Any) -> Any:
    """What the function returns on the first rank, on every rank; the others wait for it."""
    answer: Any = None
    if ranks is None:
        return function()
    if ranks.rank == 0:
        try:
            answer = function(), None
        except Exception as error:  # the others would wait for it
            answer = None, f"{type(error).__name__}: {error}"
    found, failed = ranks.everybody(answer)[0]
    if failed is not None:
        raise RuntimeError(f"rank 0 could not write the checkpoint: {failed}")
    return found


@contextmanager
def _told(ranks: Ranks | None, verb: str) -> Iterator[None]:
    """A failure of a rank as an error of all ranks that names it: torch has one that is no Exception."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
            if ranks is None:
                yield
            else:
                with ranks.named():
                    yield
    except CheckpointException as error:
        failed = "; ".join(f"rank {r}: {type(e).__name__}: {e}" for r, (e, _) in sorted(error.failures.items()))
        raise RuntimeError(f"could not {verb} the checkpoint: {failed}") from error
