"""A checkpoint of four ranks loads on two and on one, and one that was not finished leaves the one before."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from tests.distributed import asked, asked_training
from tests.distributed.processes import Crew
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

from regard.distributed import load, save

KINDS = [
    ("decoder", "heads", "heads"),
    ("decoder", "fsdp", "fsdp"),
    ("decoder", "both", "fsdp"),
    ("layers", "fsdp", "heads"),
]


@pytest.mark.parametrize(("kind", "how", "then"), KINDS)
def test_a_checkpoint_of_four_ranks_loads_on_two_and_on_one(crew, tmp_path, kind, how, then):
    truth = crew(asked_training.saved, str(tmp_path), kind, how)[0]
    for world, cut in ((2, then), (1, "whole")):
        for step, found in crew(asked.on, world, asked_training.loaded, str(tmp_path), kind, cut)[:world]:
            assert step == 1
            for mine, other in zip(found, truth, strict=True):
                assert asked.difference(mine, other) <= 1e-12


def assert_loads(path: Path, value: float) -> None:
    state = asked_training.plain(0.0)
    load(path, state)
    expected = asked_training.plain(value)
    assert all(torch.equal(t, expected["tensors"][n]) for n, t in state.pop("tensors").items())
    del expected["tensors"]
    assert state == expected


def test_a_rank_that_fails_in_the_middle_leaves_the_checkpoint_before(crew, tmp_path):
    for found in crew(asked_training.interrupted, str(tmp_path), 2, "fails"):
        said = r"RuntimeError: could not write the checkpoint: rank 2: OSError: no space left on device"
        assert re.match(said, found), found
    assert_loads(tmp_path, 1.0)
    (files, *_) = crew(asked_training.saved_again, str(tmp_path), 3.0)
    assert_loads(tmp_path, 3.0)
    # What was left half is gone, and nothing that is there is a pickle.
    assert len([f for f in files if f.startswith("tensors-") and "/" not in f]) == 1
    assert {Path(f).suffix for f in files} == {"", ".json", ".safetensors"}


def test_a_rank_that_ends_in_the_middle_leaves_the_checkpoint_before(tmp_path):
    crew = Crew(2, timedelta(seconds=10))
    try:
        found = crew.answers(asked_training.interrupted, str(tmp_path), 1, "ends")
    finally:
        crew.close()
    assert found[1] == ("died", 3)
    assert found[0][1].startswith("PeerError: rank 0 of 2: rank 1 did not answer: it ended"), found[0]
    assert_loads(tmp_path, 1.0)


def test_what_differs_between_ranks_is_refused_on_all(crew, tmp_path):
    for found in crew(asked_training.differing, str(tmp_path), "values"):
        assert re.match(r"ValueError: save\(\): numbers and words .* got others on rank 3 than on rank 0", found), found
    *others, last = crew(asked_training.differing, str(tmp_path), "refused")
    assert re.match(r"TypeError: state: step must be a tensor, .* got set; nothing that needs a pickle", last), last
    assert all(re.match(r"RuntimeError: save\(\): rank 3 refused: state: step must be", f) for f in others)
    for what in ("names", "shapes"):
        for found in crew(asked_training.differing, str(tmp_path), what):
            said = r"ValueError: save\(\): names, shapes and dtypes of tensors must be .* on rank 3 than on rank 0"
            assert re.match(said, found), found
    *others, last = crew(asked_training.differing, str(tmp_path), "cycle")
    assert last.startswith("RecursionError"), last
    assert all(f.startswith("RuntimeError: save(): rank 3 refused: maximum recursion") for f in others)
    assert not list(tmp_path.iterdir())


def test_a_rank_outside_of_the_group_is_told(crew):
    *_, last = crew(asked_training.saved_without_me)
    assert re.match(r"group must be one that this process is in, got one without rank 3; only its own ranks", last)


def test_a_file_of_a_rank_that_is_lost_is_noticed_and_the_state_left_alone(crew, tmp_path):
    for said, state in crew(asked_training.loaded_of_two, str(tmp_path), "lost"):
        assert re.match(r"ValueError: the files in .*tensors-000001 have 6 of the 8 numbers of a, whose shape", said), (
            said
        )
        assert state == [0.0] * 8


def test_ranks_that_read_different_checkpoints_all_say_so(crew, tmp_path):
    for said, state in crew(asked_training.loaded_of_two, str(tmp_path), "two"):
        expected = (
            r"ValueError: load\(\): what is read must be the same on every rank, got others on rank 1 .*; another"
        )
        assert re.match(expected, said), said
        assert state == [0.0] * 8


def test_tensors_that_share_a_memory_or_stand_otherwise_in_it(tmp_path):
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(3, 4, generator=generator)
    c = torch.complex(t, t.flip(0))
    state = {"tied": t, "again": t, "some": t[1:], "turned": t.T, "channels": t.view(1, 3, 2, 2), "conj": c.conj()}
    state["channels"] = state["channels"].contiguous(memory_format=torch.channels_last)
    state["negative"] = c.conj().imag
    save(tmp_path, state)
    found = {n: torch.zeros(like.shape, dtype=like.dtype) for n, like in state.items()}
    load(tmp_path, found)
    for name, expected in state.items():
        assert torch.equal(found[name], expected), name


UNWRITABLE = [
    (torch.zeros(2, dtype=torch.complex128), r"state: a must be a dense tensor .* got complex128 on cpu in the layout"),
    (torch.zeros(2, 2).to_sparse(), r"state: a must be a dense tensor .* in the layout sparse_coo"),
    (torch.zeros(2, device="meta"), r"state: a must be a dense tensor with numbers, .* on meta"),
]


@pytest.mark.parametrize(("tensor", "said"), UNWRITABLE)
def test_a_tensor_that_the_files_have_no_kind_for_is_refused_by_name(tmp_path, tensor, said):
    with pytest.raises(TypeError, match=said):
        save(tmp_path / "new", {"a": tensor})
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=r"state: __metadata__ is no name for a tensor"):
        save(tmp_path / "new", {"__metadata__": torch.zeros(2)})


def test_files_that_are_cut_short_or_of_another_dtype_are_refused(tmp_path):
    save(tmp_path, {"a": torch.ones(100)})
    (file,) = tmp_path.rglob("*.safetensors")
    whole, state = file.read_bytes(), {"a": torch.zeros(100)}
    file.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"the files in .*tensors-000001 are not whole, or no safetensors: .*covered"):
        load(tmp_path, state)
    file.write_bytes(whole.replace(b'"F32"', b'"I32"'))
    with pytest.raises(ValueError, match=r"a must be float32 in the files in .*, as checkpoint.json says, got int32"):
        load(tmp_path, state)
    assert torch.equal(state["a"], torch.zeros(100))


def test_what_was_left_half_gives_way_before_anything_is_written_and_what_is_ones_own_stays(tmp_path, monkeypatch):
    for name in ("tensors-mine", "tensors-12", "tensors-000007"):
        (tmp_path / name).mkdir()
    save(tmp_path, {"a": torch.ones(2)})
    (tmp_path / "tensors-000009").mkdir()
    found = []
    with monkeypatch.context() as watched:
        write = HuggingFaceStorageWriter.write_data
        look = lambda *given: (found.append(sorted(f.name for f in tmp_path.iterdir())), write(*given))[1]  # noqa: E731
        watched.setattr(HuggingFaceStorageWriter, "write_data", look)
        save(tmp_path, {"a": torch.zeros(2)})
    assert found == [["checkpoint.json", "tensors-000008", "tensors-000010", "tensors-12", "tensors-mine"]]
    names = sorted(f.name for f in tmp_path.iterdir())
    assert names == ["checkpoint.json", "tensors-000010", "tensors-12", "tensors-mine"]


HOSTILE = [
    {"folder": "../other/tensors-000001"},
    {"folder": "/tmp"},
    {"folder": None},
    {"tensors": []},
    {"tensors": {"a": {"shape": [-2], "dtype": "float32"}}},
    {"tensors": {"a": {"shape": "2", "dtype": "float32"}}},
    {"values": {"b": [1]}},
    {"values": 3},
]


@pytest.mark.parametrize("changed", HOSTILE)
def test_an_index_that_save_did_not_write_is_refused(tmp_path, changed):
    save(tmp_path, {"a": torch.ones(2), "b": 5})
    index = tmp_path / "checkpoint.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **changed}))
    state = {"a": torch.zeros(2), "b": 0}
    with pytest.raises(
        ValueError, match=r"checkpoint.json is no index of a checkpoint: it must name a folder beside it"
    ):
        load(tmp_path, state)
    index.write_text("[]")
    with pytest.raises(ValueError, match=r"is no index of a checkpoint: it must name"):
        load(tmp_path, state)
    index.write_text("{")
    with pytest.raises(ValueError, match=r"checkpoint.json is no index of a checkpoint: Expecting"):
        load(tmp_path, state)
    assert state["b"] == 0
    assert torch.equal(state["a"], torch.zeros(2))


def test_one_process_alone(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .*: there is no checkpoint.json, which regard"):
        load(tmp_path / "none", {})
    for value in (1.0, 2.0):
        save(tmp_path, asked_training.plain(value))
        assert_loads(tmp_path, value)
    save(tmp_path, {"step": 7})
    state = {"step": 0}
    load(tmp_path, state)
    assert state == {"step": 7}


WRONG = [
    ({"a": torch.zeros(2)}, r"must have the same names, got 1 in the checkpoint alone: b; regard.distributed.unfuse"),
    ({"a": torch.zeros(2), "b": 1, "c": 1}, r"must have the same names, got 1 in the state alone: c"),
    ({"a": torch.zeros(3), "b": 1}, r"state: a must be float32 of shape \(2,\), as in .*, got float32 of shape \(3,\)"),
    ({"a": torch.zeros(2).double(), "b": 1}, r"state: a must be float32 of shape \(2,\), as in .*, got float64 of"),
    ({"a": 1, "b": 1}, r"state: a is 1, and in the checkpoint a tensor"),
    ({"a": torch.zeros(2), "b": torch.zeros(2)}, r"state: b is a tensor, and in the checkpoint 5"),
    ({"a/b": 1}, r"state: a name must be a word without a slash, or a number, got 'a/b'"),
    ({1: 1, "1": 2}, r"state: two things have the name 1, of which one has a number for a key"),
]


@pytest.mark.parametrize(("state", "said"), WRONG)
def test_a_state_that_does_not_fit_is_refused_and_left_alone(tmp_path, state, said):
    save(tmp_path, {"a": torch.ones(2), "b": 5})
    before = repr(state)
    with pytest.raises(ValueError, match=said):
        load(tmp_path, state)
    assert repr(state) == before


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    save(tmp_path, {"b": 5})
    index = tmp_path / "checkpoint.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "format": 9}))
    with pytest.raises(ValueError, match=r"has the format 9, and this release reads 1"):
        load(tmp_path, {"b": 0})


def test_a_state_is_a_dictionary(tmp_path):
    with pytest.raises(TypeError, match=r"state must be a dictionary, got list"):
        save(tmp_path, [1])


def test_an_index_that_cannot_be_put_in_place_leaves_the_one_before(tmp_path, monkeypatch):
    save(tmp_path, asked_training.plain(1.0))
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("read-only")))
        with pytest.raises(OSError, match="read-only"):
            save(tmp_path, asked_training.plain(2.0))
    assert_loads(tmp_path, 1.0)
    save(tmp_path, asked_training.plain(3.0))
    assert_loads(tmp_path, 3.0)
    assert len(list(tmp_path.iterdir())) == 2
