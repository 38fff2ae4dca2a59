"""The files of a checkpoint: folders of tensors, an index that names one of them, and what may be in either."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.tensor import DTensor

from regard.distributed.nested import SIMPLE, Leaf

__all__ = ["WholeReader", "commit", "compare", "listed", "new_folder", "read_index", "writable"]

INDEX = "checkpoint.json"
FOLDER, FOLDERS = "tensors-{:06d}", r"tensors-[0-9]{6,}"
FORMAT = 1
# What files of safetensors have a name for.
DTYPES = (
    *(torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    torch.complex64,
)


def listed(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Shape and dtype of each."""
    return {name: {"shape": list(t.shape), "dtype": str(t.dtype)[6:]} for name, t in tensors.items()}


def writable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers as safetensors takes them: dense and in order, no two in one memory, with no sign still to do.

    Raises:
        TypeError: a tensor of which the files have no kind.
        ValueError: a name that means something else in the files.
    """
    found: dict[str, Tensor] = {}
    memories = set()
    for name, t in tensors.items():
        if name == "__metadata__":
            raise ValueError("state: __metadata__ is no name for a tensor: the files have something else under it")
        own: Tensor = t.detach().to_local() if isinstance(t, DTensor) else t.detach()  # type: ignore[attr-defined]
        if own.layout != torch.strided or own.device.type == "meta" or own.dtype not in DTYPES:
            raise TypeError(
                f"state: {name} must be a dense tensor with numbers, of a dtype that safetensors has, got "
                f"{str(t.dtype)[6:]} on {own.device} in the layout {str(own.layout)[6:]}"
            )
        plain = own.resolve_conj().resolve_neg().contiguous()
        memory = plain.device, plain.untyped_storage().data_ptr()
        if plain.numel() and memory in memories:  # tied: each name has the numbers, and all of them load
            plain = plain.clone()
        memories.add(memory)
        if isinstance(t, DTensor) and plain is not own:
            stride = torch.empty(t.shape, device="meta").stride()
            plain = DTensor.from_local(
                plain, t.device_mesh, t.placements, run_check=False, shape=t.shape, stride=stride
            )
        found[name] = t if plain is own else plain
    return found


class WholeReader(HuggingFaceStorageReader):
    """PyTorch's reader, of files in which every tensor of the index is whole.

    PyTorch's own leaves alone what no file has: where one is lost, its part of a state would stay as it was.
    """

    def __init__(self, folder: Path, tensors: dict[str, Any]) -> None:
        super().__init__(str(folder))
        try:
            self.found = super().read_metadata()
        except OSError:
            raise
        except Exception as error:  # safetensors has its own
            raise ValueError(f"the files in {folder} are not whole, or no safetensors: {error}") from error
        for name, said in tensors.items():
            there: Any = self.found.state_dict_metadata.get(name)
            count = 0 if there is None else sum(chunk.sizes.numel() for chunk in there.chunks)
            if there is None or count != math.prod(said["shape"]) or list(there.size) != said["shape"]:
                raise ValueError(
                    f"the files in {folder} have {count} of the {math.prod(said['shape'])} numbers of {name}, whose "
                    f"shape is {tuple(said['shape'])}: one that a rank wrote is lost, or they are of something else"
                )
            if str(there.properties.dtype)[6:] != said["dtype"]:
                raise ValueError(
                    f"{name} must be {said['dtype']} in the files in {folder}, as {INDEX} says, got "
                    f"{str(there.properties.dtype)[6:]}"
                )

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the files were found to have."""
        if self.found.storage_meta is not None:
            self.found.storage_meta.load_id = self.load_id
        return self.found


def new_folder(folder: Path) -> str:
    """An empty folder for tensors, by its name, in the place of what was left half by a save before."""
    folder.mkdir(parents=True, exist_ok=True)
    before = _folders(folder)
    try:
        _remove(before, read_index(folder)["folder"])  # a disk that was full has room again
    except FileNotFoundError:
        _remove(before, None)
    except ValueError:  # not ours to say what it needs; the next index takes its place
        pass
    name = FOLDER.format(max((int(f.name[8:]) for f in before), default=0) + 1)
    (folder / name).mkdir()
    return name


def _folders(folder: Path) -> list[Path]:
    """Those that :func:`new_folder` makes: another one with such a name is somebody's own."""
    return [f for f in folder.glob("tensors-*") if re.fullmatch(FOLDERS, f.name)]


def _remove(folders: list[Path], kept: str | None) -> None:
    for other in folders:
        if other.name != kept:
            shutil.rmtree(other, ignore_errors=True)


def commit(folder: Path, where: str, tensors: dict[str, Any], values: dict[str, Any]) -> None:
    """The new index in the place of the old one, in one step; then what no index names any more is removed."""
    before = folder / f"{INDEX}.new"
    _to_disk(folder / where)
    with before.open("w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, "folder": where, "tensors": tensors, "values": values}, file)
        file.flush()
        os.fsync(file.fileno())
    before.replace(folder / INDEX)
    _to_disk(folder)
    _remove(_folders(folder), where)


def _to_disk(folder: Path) -> None:
    """What a folder lists, where the system has a way to ask for it."""
    if hasattr(os, "O_DIRECTORY"):
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(at)
        finally:
            os.close(at)


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder, in the form that :func:`commit` writes."""
    try:
        index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no checkpoint in {folder}: there is no {INDEX}, which regard.distributed.save() writes last"
        ) from None
    except ValueError as error:
        raise ValueError(f"{folder / INDEX} is no index of a checkpoint: {error}") from None
    if isinstance(index, dict) and index.get("format") != FORMAT:
        raise ValueError(f"{folder / INDEX} has the format {index.get('format')!r}, and this release reads {FORMAT}")
    if not _is_index(index):
        raise ValueError(
            f"{folder / INDEX} is no index of a checkpoint: it must name a folder beside it such as "
            f"{FOLDER.format(1)}, shapes and dtypes of tensors, and"
            " numbers and words, as regard.distributed.save() writes"
        )
    return index


def _is_index(index: Any) -> bool:
    if not isinstance(index, dict) or not isinstance(index.get("folder"), str):
        return False
    tensors, values = index.get("tensors"), index.get("values")
    if not re.fullmatch(FOLDERS, index["folder"]) or not isinstance(tensors, dict):
        return False
    return (
        all(isinstance(said, dict) and _are_sizes(said.get("shape")) and "dtype" in said for said in tensors.values())
        and isinstance(values, dict)
        and all(type(value) in SIMPLE for value in values.values())
    )


def _are_sizes(shape: Any) -> bool:
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)


def compare(folder: Path, index: dict[str, Any], found: Leaf) -> None:
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
