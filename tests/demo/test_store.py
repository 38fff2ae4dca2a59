from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from regard.demo import Config, Decoder, Tokenizer, load
from regard.demo import store as stored

TOKENIZER = Tokenizer.train(["some text"], 256)


@pytest.fixture
def model() -> Decoder:
    return Decoder(Config(vocab_size=256, d_model=8, num_heads=2, num_layers=1, d_mlp=8, context=16, max_len=32))


@pytest.fixture
def folder(tmp_path: Path, model: Decoder) -> Path:
    stored.save(tmp_path / "out", model, TOKENIZER, {"note": "for a test"})
    return tmp_path / "out"


def test_a_model_comes_back_as_its_float16_rounding(folder: Path, model: Decoder) -> None:
    again, tokenizer = load(folder)
    assert tokenizer.to_json() == TOKENIZER.to_json()
    assert again.config == model.config
    assert not again.training
    state = again.state_dict()
    for name, tensor in model.state_dict().items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], tensor.half().float()), name


def test_a_folder_holds_safetensors_and_json_alone(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "training.json"]
    assert json.loads((folder / "training.json").read_text()) == {"note": "for a test"}


def test_loading_leaves_the_random_numbers_of_the_user_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    load(folder)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}; expected model.safetensors, tokenizer.json"):
        load(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere has no model.safetensors"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"x" * 1000])
def test_damaged_weights_are_refused(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"model.safetensors does not hold the weights config.json describes"):
        load(folder)


def test_weights_cut_short_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"model.safetensors does not hold the weights"):
        load(folder)


def test_files_that_do_not_belong_together_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"d_mlp": 9}))
    with pytest.raises(ValueError, match=r"does not hold the weights config.json describes"):
        load(folder)
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    with pytest.raises(ValueError, match=r"tokenizer.json has 256 tokens but config.json says 300"):
        load(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"sizes": 3}', '{"vocab_size": -1}'])
def test_a_damaged_configuration_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config.json is not the configuration of a Decoder"):
        load(folder)


def test_weights_that_diverged_are_not_written(folder: Path, model: Decoder) -> None:
    good = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.embedding.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"embedding.weight is not finite in float16"):
        stored.save(folder, model, TOKENIZER, {})
    assert (folder / "model.safetensors").read_bytes() == good


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(folder: Path, model: Decoder, monkeypatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_bytes = Path.write_bytes

    def half(self: Path, data: bytes) -> int:
        write_bytes(self, data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        stored.save(folder, model, TOKENIZER, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_shipped_model_is_small() -> None:
    model, tokenizer = load()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 1e6 <= parameters <= 2e6
    assert sum((stored.SHIPPED / name).stat().st_size for name in ("model.safetensors", "tokenizer.json")) < 4e6
    record = json.loads((stored.SHIPPED / "training.json").read_text())
    assert record["parameters"] == parameters
    assert record["settings"]["vocab_size"] == len(tokenizer)
    assert record["settings"]["repeated_share"] == 0.25
    assert record["text"].startswith("the standard library of Python 3.")


def test_a_copy_of_the_shipped_model_loads_from_its_folder(tmp_path: Path) -> None:
    shutil.copytree(stored.SHIPPED, tmp_path / "copy")
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "copy")[0](tokens), load()[0](tokens))
