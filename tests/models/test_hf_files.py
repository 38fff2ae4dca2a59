from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from regard.models import hf_files
from regard.models.hf_files import Piece


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(1, 3)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    return tmp_path


PIECES = [Piece("weight", 0, "b", 1), Piece("weight", 1, "a", 2)]


def test_tensors_go_to_the_rows_they_belong_to(folder: Path):
    model = nn.Linear(3, 3, bias=False)
    hf_files.fill(model, PIECES, hf_files.tensor_names(folder))
    assert model.weight.tolist() == [[1, 1, 1], [0, 1, 2], [3, 4, 5]]


def test_rows_may_be_skipped(folder: Path):
    model = nn.Linear(3, 2, bias=False)
    pieces = [Piece("weight", 0, "b", 1), Piece("weight", 1, "a", skip=1)]
    hf_files.fill(model, pieces, hf_files.tensor_names(folder))
    assert model.weight.tolist() == [[1, 1, 1], [3, 4, 5]]


def test_rows_of_one_tensor_never_spill_over_the_next(folder: Path):
    """All the numbers that the parameter has, and two tensors that share them otherwise than config.json says."""
    pieces = [Piece("weight", 0, "a", 1), Piece("weight", 1, "b", 2)]
    with pytest.raises(ValueError, match=r"'a' has shape \(2, 3\), and its place, by config.json, has \(1, 3\)"):
        hf_files.fill(nn.Linear(3, 3, bias=False), pieces, hf_files.tensor_names(folder))


def test_a_single_number_is_no_row(folder: Path):
    save_file({"a": torch.tensor(1.0), "b": torch.ones(1, 3)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"'a' has shape \(\), and its place, by config.json, has \(2, 3\)"):
        hf_files.fill(nn.Linear(3, 3, bias=False), PIECES, hf_files.tensor_names(folder))


def test_every_row_must_be_read(folder: Path):
    with pytest.raises(AssertionError, match="weight has 12 numbers, of which 9 were read"):
        hf_files.fill(nn.Linear(3, 4, bias=False), PIECES, hf_files.tensor_names(folder))


def test_a_shape_that_does_not_fit_is_named(folder: Path):
    with pytest.raises(ValueError, match=r"'a' has shape \(2, 3\), and its place, by config.json, has \(1, 3\)"):
        hf_files.fill(nn.Linear(3, 2, bias=False), PIECES, hf_files.tensor_names(folder))
    with pytest.raises(ValueError, match=r"'\w' has shape \(., 3\), and its place, by config.json, has \(., 4\)"):
        hf_files.fill(nn.Linear(4, 3, bias=False), PIECES, hf_files.tensor_names(folder))


def test_one_dtype_or_a_choice(folder: Path):
    assert hf_files.stored_dtype(hf_files.tensor_names(folder)) == torch.float32
    path = folder / "model.safetensors"
    save_file({"a": torch.zeros(1), "b": torch.zeros(1).half()}, path)
    with pytest.raises(ValueError, match="the tensors are F16 and F32; choose one with dtype="):
        hf_files.stored_dtype(hf_files.tensor_names(folder))
    save_file({"a": torch.zeros(1), "q": torch.zeros(1, dtype=torch.int8)}, path)
    with pytest.raises(ValueError, match="'q' is none of F64, F32, F16, BF16: quantised models cannot be read"):
        hf_files.stored_dtype(hf_files.tensor_names(folder))
    save_file({"a": torch.zeros(2, 3).char(), "b": torch.ones(1, 3)}, path)
    with pytest.raises(ValueError, match=r"'a' is torch.int8: quantised models cannot be read"):
        hf_files.fill(nn.Linear(3, 3, bias=False), PIECES, hf_files.tensor_names(folder))


@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"x" * 1000])
def test_a_damaged_file_is_refused(folder: Path, data: bytes):
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged or cut short: "):
        hf_files.tensor_names(folder)


def test_a_file_that_is_cut_short_is_refused(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged or cut short: "):
        hf_files.tensor_names(folder)


def test_pickles_are_not_read(folder: Path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors, or model.safetensors.index.json and the"):
        hf_files.tensor_names(folder)
    (folder / "pytorch_model.bin").write_bytes(b"not looked at")
    with pytest.raises(
        FileNotFoundError, match=r"has no model.safetensors; pytorch_model.bin is a pickle, which can run"
    ):
        hf_files.tensor_names(folder)


@pytest.mark.parametrize(
    ("index", "error", "words"),
    [
        ("[1]", ValueError, "must hold a JSON object, got list"),
        ("{", ValueError, "index.json is not JSON"),
        ({}, ValueError, "must hold a weight_map"),
        ({"weight_map": {"a": 3}}, ValueError, "must hold a weight_map from the names of tensors to those of files"),
        ({"weight_map": {"a": "../x.safetensors"}}, ValueError, "names '../x.safetensors', which is not a file in the"),
        (
            {"weight_map": {"a": "x.safetensors"}},
            FileNotFoundError,
            "has no x.safetensors, which .* the download is not",
        ),
        ({"weight_map": {"c": "part.safetensors"}}, ValueError, "part.safetensors does not hold 'c', which .* says it"),
    ],
)
def test_an_index_that_is_wrong_is_refused(folder: Path, index: object, error: type[Exception], words: str):
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    text = index if isinstance(index, str) else json.dumps(index)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(error, match=words):
        hf_files.tensor_names(folder)


def test_configurations_that_are_none(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"has no config.json; expected a folder as save_pretrained"):
        hf_files.read_config(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"some/name is not a folder on this machine, and nothing is downloaded"
    ):
        hf_files.read_config("some/name")
    with pytest.raises(
        TypeError, match=r"folder must be the path of a folder, got Linear; a model in memory is written"
    ):
        hf_files.read_config(nn.Linear(2, 2))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        hf_files.read_config(tmp_path)
    (tmp_path / "config.json").write_text("3")
    with pytest.raises(ValueError, match=r"config.json must hold a JSON object, got int"):
        hf_files.read_config(tmp_path)


def test_the_extra_is_named_where_safetensors_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"needs the package safetensors: pip install 'regard\[hf\]'"):
        hf_files.tensor_names(folder)
