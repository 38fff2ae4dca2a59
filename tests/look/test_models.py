"""Hugging Face models as `regard look` runs them: their weights against their own eager attention."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.look import tiny

from regard.look import command, models

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny.save(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return of


@pytest.fixture
def copied(folder: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A folder that a test may change."""
    return lambda kind: Path(shutil.copytree(folder(kind), tmp_path / kind))


def ignore(done: int, total: int) -> None:
    pass


def eager(path: Path, ids: list[int]) -> list[torch.Tensor]:
    model = transformers.AutoModel.from_pretrained(path, attn_implementation="eager", dtype=torch.float32)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    with torch.no_grad():
        return list(model.eval()(input_ids=torch.tensor([ids]), output_attentions=True).attentions)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2", "gpt2", "bert", "roberta", "albert", "t5"])
def test_the_weights_are_those_of_the_models_own_eager_attention(folder: Callable[[str], Path], kind: str) -> None:
    model = models.load(str(folder(kind)))
    ids = model.encode(tiny.TEXT, 24).ids
    steps: list[tuple[int, int]] = []
    weights = model.attend(ids, lambda done, total: steps.append((done, total))).weights
    want = eager(folder(kind), ids)
    assert len(weights) == len(want) == 2
    for got, layer in zip(weights, want, strict=True):
        assert layer.var(-1).max() > 1e-4  # a layer that attends to all alike would prove little
        torch.testing.assert_close(got.to_dense(), layer, rtol=0, atol=1e-5)
    if kind != "albert":  # which has one layer, called twice
        assert steps == [(1, 2), (2, 2)]
    model.attend(ids[:3], ignore)
    assert len(steps) in (0, 2)  # nothing is left of the first progress


def test_a_model_is_looked_at_like_the_demos(
    folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 2 * tiny.TEXT
    total = models.load(str(folder("llama"))).encode(text, None).total
    looked = command.run(string=text, model=str(folder("llama")), out=tmp_path / "out", layer=1, head=3)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert f"Text: the string given, first 48 of {total} tokens (the model takes 48)" in printed.out
    assert "Where to look" in printed.out
    assert [path.name for path in looked.figures] == ["head.png", "layer.png", "profiles.png"]  # it adds no positions
    data = data_of(looked.page)
    (group,) = data["groups"]
    assert group["selected"] == [1, 3]
    assert data["title"] == f"{folder('llama')} reads a string"
    shown = json.loads(zlib.decompress(base64.b64decode(data["texts"][group["key_tokens"]])))
    assert shown[0] == "<s>"
    assert text.startswith("".join(shown[1:]))
    assert len(looked.table.heads) == 8


def test_learned_positions_are_drawn_and_others_left_alone(
    folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looked = command.run(string="the cat", model=str(folder("roberta")), out=tmp_path)
    assert [path.name for path in looked.figures][-1] == "positions.png"
    capsys.readouterr()
    drawn = (tmp_path / "positions.png").read_bytes()
    command.run(string="the cat", model=str(folder("llama")), out=tmp_path)
    assert f"Not written: {tmp_path}/positions.png, which is of an earlier look" in capsys.readouterr().out
    assert (tmp_path / "positions.png").read_bytes() == drawn


def test_positions_begin_where_the_model_begins(folder: Callable[[str], Path]) -> None:
    for kind, offset in (("roberta", 2), ("bert", 0), ("gpt2", 0)):
        own = transformers.AutoModel.from_pretrained(folder(kind))
        table = own.wpe if kind == "gpt2" else own.embeddings.position_embeddings
        got = models.load(str(folder(kind))).positional_encoding(5)
        assert torch.equal(got, table.weight[offset : offset + 5].detach())
    assert models.load(str(folder("t5"))).positional_encoding(5) is None


def test_a_choice_that_the_model_does_not_have_is_named(folder: Callable[[str], Path], tmp_path: Path) -> None:
    for options, message in (
        ({"layer": 2}, "--layer is 2, but the model has 2; expected 0 to 1"),
        ({"head": 4}, "--head is 4, but the model has 4; expected 0 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            command.run(string="the cat", model=str(folder("llama")), out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "context"), [("llama", 48), ("bert", 32), ("roberta", 32), ("gpt2", 1024), ("t5", None)]
)
def test_a_model_takes_as_many_tokens_as_it_has_positions(
    folder: Callable[[str], Path], kind: str, context: int | None
) -> None:
    model = models.load(str(folder(kind)))
    assert model.context == context
    assert model.limit(None) == context
    assert model.limit(5) == 5
    long = model.encode(tiny.TEXT * 5, context)
    assert long.total > 100
    assert len(long.ids) == len(long.tokens) == min(long.total, context or long.total)
    assert len(model.attend(long.ids[:64], ignore).weights) == 2  # RoBERTa's last position would be out of its table


def test_a_tokenizer_may_allow_less_and_more_is_refused(copied: Callable[[str], Path]) -> None:
    path = copied("llama")
    with pytest.raises(ValueError, match=r"--max-tokens is 49, but the model takes 48 \(its positions end there\)"):
        models.load(str(path)).limit(49)
    edit(path / "tokenizer_config.json", model_max_length=20)
    model = models.load(str(path))
    assert model.context == 20
    with pytest.raises(ValueError, match=r"takes 20 \(its tokenizer ends there\); expected 1 to 20"):
        model.limit(21)


def test_what_a_tokenizer_adds_at_the_end_outlives_a_cut(folder: Callable[[str], Path]) -> None:
    model = models.load(str(folder("bert")))
    whole, cut = model.encode(tiny.TEXT, None), model.encode(tiny.TEXT, 10)
    assert (cut.tokens[0], cut.tokens[-1]) == ("<s>", "</s>")
    assert cut.ids[:-1] == whole.ids[:9]
    assert cut.total == whole.total == len(whole.ids)
    with pytest.raises(ValueError, match="--max-tokens is 2, but the tokenizer adds 2 of its own; expected at least 3"):
        model.encode(tiny.TEXT, 2)


def test_an_encoder_is_looked_at_without_its_decoder_and_says_so(
    folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looked = command.run(string=tiny.TEXT, model=str(folder("t5")), out=tmp_path, no_figures=True)
    note = "the encoder's self-attention; the decoder did not run"
    assert data_of(looked.page)["notes"] == [note]
    assert f"Note: {note}" in capsys.readouterr().out


def test_layers_that_are_one_module_are_explained(folder: Callable[[str], Path]) -> None:
    model = models.load(str(folder("albert")))
    (note,) = model.attend(model.encode("the cat", None).ids, ignore).notes
    assert note == "every layer is a call of encoder.albert_layer_groups.0.albert_layers.0.attention"


def test_layers_with_other_numbers_are_explained(copied: Callable[[str], Path]) -> None:
    from regard.look.hugging_face_model import HuggingFaceModel

    own = transformers.AutoModel.from_pretrained(copied("llama"), attn_implementation="sdpa")
    own.layers[0] = Sleeping()  # as a layer without attention in a hybrid
    model = HuggingFaceModel("hybrid", own.eval(), tiny.tokenizer("bytes"))
    attended = model.attend(model.encode("the cat", None).ids, ignore)
    assert attended.notes == ["layers in the order in which they attend: 0 is layers.1.self_attn"]
    assert len(attended.weights) == 1


class Sleeping(torch.nn.Module):
    def forward(self, hidden: torch.Tensor, **options: Any) -> torch.Tensor:
        return hidden


def test_nothing_of_the_libraries_settings_is_left_changed(folder: Callable[[str], Path]) -> None:
    import huggingface_hub.utils

    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    level = logging.INFO
    logging.set_verbosity(level)
    for changed in (True, False):
        (logging.enable_progress_bar if changed else logging.disable_progress_bar)()
        model = models.load(str(folder("bert")))
        model.attend(model.encode("the cat", None).ids, ignore)
        assert logging.get_verbosity() == level
        assert logging.is_progress_bar_enabled() is changed
        assert huggingface_hub.utils.are_progress_bars_disabled() is not changed
        assert "DISABLE_SAFETENSORS_CONVERSION" not in os.environ
    logging.set_verbosity(before)
    (logging.enable_progress_bar if bars else logging.disable_progress_bar)()


def test_a_model_in_the_cache_needs_no_network(
    folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    repository = tmp_path / "models--somebody--tiny"
    shutil.copytree(folder("bert"), repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: pytest.fail("the hub was asked"))
    model = models.load("somebody/tiny")
    assert model.title == "somebody/tiny"
    assert len(model.attend(model.encode("the cat", None).ids, ignore).weights) == 2
