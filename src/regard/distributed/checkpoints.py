"""Checkpoints of states over several processes: written by any number of them, read by any other, and never half."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from regard.distributed.nested import Leaf, flattened, put
from regard.distributed.traffic import Ranks

__all__ = ["load", "save"]

INDEX = "checkpoint.json"
FOLDER = "tensors-{:06d}"
FORMAT = 1
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
        TypeError: something else in the state, named by where it stands.
        ValueError: numbers and words that differ between ranks; a name with a slash.
        RuntimeError: a rank could not write; on every rank, which names it and its error.
        PeerError: a rank ended or did not answer in time.
    """
    _need_safetensors("save")
    folder, ranks = Path(path), _ranks(group)
    found = _everywhere(ranks, lambda: flattened(state), "save")
    tensors, values = found.tensors, found.values
    where = _first_says(ranks, lambda: _new_folder(folder))
    writer = HuggingFaceStorageWriter(str(folder / where), save_distributed=True)
    if tensors:
        with _told(ranks, "write"):
            state_dict_saver.save(tensors, storage_writer=writer, process_group=group, no_dist=ranks is None)
    listed = {name: {"shape": list(t.shape), "dtype": str(t.dtype)[6:]} for name, t in tensors.items()}
    written = {"format": FORMAT, "folder": where, "tensors": listed, "values": values}
    _first_says(ranks, lambda: _commit(folder, where, written))


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
        ValueError: names, shapes or dtypes that are not those of the checkpoint; the state is then as it was.
        RuntimeError: a rank could not read; on every rank. The state may then be half of one and half of another.
    """
    _need_safetensors("load")
    folder, ranks = Path(path), _ranks(group)

    def checked() -> tuple[dict[str, Any], Leaf]:
        index, found = _read_index(folder), flattened(state)
        _compare(folder, index, found)
        return index, found

    index, found = _everywhere(ranks, checked, "load", alike=False)
    if found.tensors:
        reader = HuggingFaceStorageReader(str(folder / index["folder"]))
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
    return Ranks(group)


def _everywhere(ranks: Ranks | None, function: Any, caller: str, *, alike: bool = True) -> Any:
    """What the function returns, once it has returned on every rank, with the same values where asked."""
    found, refused = None, None
    try:
        found = function()
    except (TypeError, ValueError, OSError) as error:
        refused = error
    if ranks is None:
        if refused is not None:
            raise refused
        return found
    values = json.dumps(found.values, sort_keys=True) if alike and found is not None else ""
    everybody = ranks.everybody((None if refused is None else str(refused), values))
    if refused is not None:
        raise refused
    for rank, (said, theirs) in enumerate(everybody):
        if said is not None:
            raise RuntimeError(f"{caller}(): rank {rank} refused: {said}")
        if theirs != everybody[0][1]:
            raise ValueError(
                f"{caller}(): numbers and words of the state must be the same on every rank, got others on rank {rank} "
                "than on rank 0; what is a rank's own goes to a file of its own"
            )
    return found


def _first_says(ranks: Ranks | None, function: Any) -> Any:
    """What the function returns on the first rank, on every rank; the others wait for it."""
    answer: Any = None
    if ranks is None:
        return function()
    if ranks.rank == 0:
        try:
            answer = function(), None
        except OSError as error:
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


def _new_folder(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(f.name[8:]) for f in folder.glob("tensors-*") if f.name[8:].isdigit()]
    name = FOLDER.format(max(numbers, default=0) + 1)
    (folder / name).mkdir()
    return name


def _commit(folder: Path, where: str, written: dict[str, Any]) -> None:
    """The new index in the place of the old one, in one step; then what no index names any more is removed."""
    before = folder / f"{INDEX}.new"
    with before.open("w", encoding="utf-8") as file:
        json.dump(written, file)
        file.flush()
        os.fsync(file.fileno())
    before.replace(folder / INDEX)
    if hasattr(os, "O_DIRECTORY"):
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(at)
        finally:
            os.close(at)
    for other in folder.glob("tensors-*"):
        if other.name != where:
            shutil.rmtree(other, ignore_errors=True)


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no checkpoint in {folder}: there is no {INDEX}, which regard.distributed.save() writes last"
        ) from None
    if index.get("format") != FORMAT:
        raise ValueError(f"{folder / INDEX} has the format {index.get('format')!r}, and this release reads {FORMAT}")
    return index


def _compare(folder: Path, index: dict[str, Any], found: Leaf) -> None:
    """Every name is on both sides, with one shape and dtype."""
    saved = {**index["tensors"], **index["values"]}
    given: dict[str, Any] = {**found.tensors, **found.values}
    for what, names in (("state", given.keys() - saved.keys()), ("checkpoint", saved.keys() - given.keys())):
        if names:
            some = ", ".join(sorted(names)[:3])
            raise ValueError(
                f"state and checkpoint must have the same names, got {len(names)} in the {what} alone: {some}; "
                "regard.distributed.unfuse(model) gives a model the names of one that tensor_plan has cut"
            )
    for name, t in found.tensors.items():
        if name not in index["tensors"]:
            raise ValueError(f"state: {name} is a tensor, and in the checkpoint {index['values'][name]!r}")
        shape, dtype = tuple(index["tensors"][name]["shape"]), index["tensors"][name]["dtype"]
        if (shape, dtype) != (tuple(t.shape), str(t.dtype)[6:]):
            raise ValueError(
                f"state: {name} must be {dtype} of shape {shape}, as in {folder}, got {str(t.dtype)[6:]} of shape "
                f"{tuple(t.shape)}"
            )
    for name in found.values:
        if name not in index["values"]:
            raise ValueError(f"state: {name} is {found.values[name]!r}, and in the checkpoint a tensor")
