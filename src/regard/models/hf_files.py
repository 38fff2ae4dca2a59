"""A folder of a Hugging Face model: its config.json, and the tensors of its safetensors files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Piece", "Place", "fill", "read_config", "stored_dtype", "tensor_names", "without_copies"]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
#: How the names of files end that run code when they are read, or may.
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
#: What safetensors calls the dtypes of parameters.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

#: The file of a tensor, and its name there.
Place = tuple[Path, str]


class Piece(NamedTuple):
    """Where a tensor goes: rows of a parameter of ours, all from ``row`` on where ``rows`` is None.

    Theirs has exactly these rows, after ``skip`` more that are not read.
    """

    ours: str
    row: int
    theirs: str
    rows: int | None = None
    skip: int = 0


def read_config(folder: str | Path) -> dict[str, Any]:
    """What config.json says.

    Raises:
        TypeError: the folder is no path.
        FileNotFoundError: there is no such folder, or no such file in it.
        ValueError: it is no JSON object.
    """
    if not isinstance(folder, str | Path):
        raise TypeError(
            f"folder must be the path of a folder, got {type(folder).__name__}; a model in memory is written to one by "
            "its save_pretrained(folder)"
        )
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder on this machine, and nothing is downloaded; expected one as save_pretrained of "
            "transformers writes"
        )
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json; expected a folder as save_pretrained of transformers writes"
        )
    return _json(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(found).__name__}")
    return found


def tensor_names(folder: str | Path) -> dict[str, Place]:
    """In which file each tensor is, without reading any.

    Raises:
        ImportError: the package safetensors is missing.
        FileNotFoundError: there is no model.safetensors, and no index of several, or the index names a missing file.
        ValueError: a file is damaged, or lacks a tensor that the index says it has.
    """
    folder = Path(folder)
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file():
        return {name: (single, name) for name in _keys(single)}
    if not index.is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        hint = (
            f"; {pickles[0]} is a pickle, which can run code when it is read, and is not: write the model again with "
            "model.save_pretrained(folder) of transformers"
            if pickles
            else f", or {INDEX} and the files that it names"
        )
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}{hint}")
    listed = _json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise ValueError(f"{index} must hold a weight_map from the names of tensors to those of files")
    for name in sorted(set(listed.values())):
        if Path(name).name != name:
            raise ValueError(f"{index} names {name!r}, which is not a file in the same folder")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}, which {INDEX} names; the download is not whole")
    held = {name: set(_keys(folder / name)) for name in set(listed.values())}
    for tensor, name in listed.items():
        if tensor not in held[name]:
            raise ValueError(f"{folder / name} does not hold {tensor!r}, which {INDEX} says it does")
    return {tensor: (folder / name, tensor) for tensor, name in listed.items()}


def stored_dtype(files: Mapping[str, Place]) -> torch.dtype:
    """The one dtype of all tensors.

    Raises:
        ValueError: they have several, or one that is no plain number: dtype must be given, or the model is quantised.
    """
    found: dict[str, str] = {}
    for file, name, stored in _each(files):
        found.setdefault(file.get_slice(stored).get_dtype(), name)
    odd = [name for kind, name in found.items() if kind not in DTYPES]
    if odd:
        raise ValueError(f"{odd[0]!r} is none of {', '.join(DTYPES)}: quantised models cannot be read")
    if len(found) > 1:
        raise ValueError(f"the tensors are {' and '.join(sorted(found))}; choose one with dtype=")
    return DTYPES[next(iter(found), "F32")]


def without_copies(files: Mapping[str, Place], copies: Mapping[str, str]) -> dict[str, Place]:
    """The files without tensors that are stored twice: ``copies`` names each of these and what it is equal to.

    Raises:
        ValueError: it is not equal.
    """
    present = {copy: of for copy, of in copies.items() if copy in files and of in files}
    for copy, of in present.items():
        one, other = (file.get_tensor(stored) for file, _, stored in _each({n: files[n] for n in (copy, of)}))
        if not torch.equal(one, other):
            raise ValueError(f"{copy!r} differs from {of!r}, to which config.json ties it (tie_word_embeddings)")
    return {name: place for name, place in files.items() if name not in present}


def fill(model: nn.Module, pieces: Sequence[Piece], files: Mapping[str, Place]) -> None:
    """Copy tensors of theirs into rows of the model's parameters, one tensor in memory at a time.

    Args:
        model: its parameters have memory already.
        pieces: what goes where; together they cover every parameter.
        files: from :func:`tensor_names`.

    Raises:
        ValueError: a tensor is missing, is too many, or has another shape than its place.
    """
    places = {piece.theirs: piece for piece in pieces}
    missing = [name for name in places if name not in files]
    extra = [name for name in files if name not in places]
    if missing:
        raise ValueError(f"the files lack {_some(missing)}, which config.json asks for; they hold {_some(list(files))}")
    if extra:
        raise ValueError(f"the files hold {_some(extra)}, for which the model that config.json describes has no place")
    parameters = dict(model.named_parameters())
    written = dict.fromkeys(parameters, 0)
    with torch.no_grad():
        for file, name, stored in _each(files):
            piece = places[name]
            written[piece.ours] += _copy(file.get_tensor(stored), parameters[piece.ours], piece)
    for name, parameter in parameters.items():
        if written[name] != parameter.numel():
            raise AssertionError(f"{name} has {parameter.numel()} numbers, of which {written[name]} were read")


def _copy(tensor: Tensor, parameter: Tensor, piece: Piece) -> int:
    rows = parameter[piece.row : None if piece.rows is None else piece.row + piece.rows]
    place = (rows.shape[0] + piece.skip, *rows.shape[1:])
    if tensor.shape != place:
        raise ValueError(
            f"{piece.theirs!r} has shape {tuple(tensor.shape)}, and its place, by config.json, has {place}"
        )
    if tensor.dtype not in DTYPES.values():
        raise ValueError(f"{piece.theirs!r} is {tensor.dtype}: quantised models cannot be read")
    rows.copy_(tensor[piece.skip :])
    return rows.numel()


def _each(files: Mapping[str, Place]) -> Iterator[tuple[Any, str, str]]:
    """An open file, a name, and the name in the file, file after file."""
    for path in sorted({path for path, _ in files.values()}):
        with _opened(path) as file:
            for name, (where, stored) in files.items():
                if where == path:
                    yield file, name, stored


def _keys(path: Path) -> list[str]:
    with _opened(path) as file:
        return list(file.keys())


def _opened(path: Path) -> Any:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise ImportError("from_huggingface needs the package safetensors: pip install 'regard[hf]'") from error
    try:
        return safe_open(path, framework="pt")
    except Exception as error:  # SafetensorError derives from Exception
        raise ValueError(f"{path} is damaged or cut short: {error}") from error


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, sorted(names)[:3]))
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
