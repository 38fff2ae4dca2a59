"""Models that cannot be looked at: each is refused in words, and none of its code is run."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.look import tiny

from regard.look import hub, models

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models, one of each kind that is used here."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("llama", "bert", "deberta", "vit"):
        tiny.save(kind, folder / kind)
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A folder that a test may change."""
    return lambda kind: Path(shutil.copytree(made / kind, tmp_path / kind))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class Bomb:
    """A pickle that writes a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_pickled_weights_are_never_read(copied: Callable[[str], Path], tmp_path: Path) -> None:
    path = copied("bert")
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert models.load(str(path)).context == 32  # beside safetensors it is left alone
    (path / "model.safetensors").unlink()
    with pytest.raises(
        ValueError,
        match=r"but its weights are in pytorch_model.bin, which may run code when it is read; .*safe",
    ):
        models.load(str(path))
    assert not (tmp_path / "exploded").exists()


def test_code_that_comes_with_a_model_is_never_run(copied: Callable[[str], Path], tmp_path: Path) -> None:
    path = copied("bert")
    (path / "own.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'exploded')!r}).touch()\n")
    own = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    edit(path / "config.json", model_type="own", auto_map=own)
    with pytest.raises(ValueError, match=r"which needs code of its own \(trust_remote_code\); regard look runs none"):
        models.load(str(path))
    edit(path / "config.json", model_type="bert")  # a kind that transformers knows: its own code is used
    assert models.load(str(path)).context == 32
    assert not (tmp_path / "exploded").exists()


def without(*names: str) -> Callable[[Path], None]:
    def remove(path: Path) -> None:
        for name in names:
            (path / name).unlink()

    return remove


def lacking(path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "q_proj" not in name}
    assert len(kept) == len(tensors) - 2
    save_file(kept, path / "model.safetensors", metadata={"format": "pt"})


def index_of(*files: str) -> Callable[[Path], None]:
    """In the place of the weights a pickle's name, and an index of these files."""

    def change(path: Path) -> None:
        (path / "model.safetensors").rename(path / "pytorch_model.bin")
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {file: file for file in files}}))

    return change


def broken_index(path: Path) -> None:
    index_of()(path)
    (path / "model.safetensors.index.json").write_text("{}")


def only_an_adapter(path: Path) -> None:
    without("config.json", "model.safetensors")(path)
    (path / "adapter_config.json").write_text("{}")


def renamed(path: Path) -> None:
    (path / "model.safetensors").rename(path / "consolidated.safetensors")


def larger_vocabulary(path: Path) -> None:
    shutil.rmtree(path)
    tiny.save("llama", path, vocab_size=20)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "llama",
            without("tokenizer.json", "tokenizer_config.json"),
            r"there is no tokenizer that can be loaded",
        ),
        (
            "llama",
            without("model.safetensors"),
            r"it has no weights; expected model.safetensors, as model",
        ),
        (
            "llama",
            renamed,
            r"it has no weights \(consolidated.safetensors is read by other programs\); expected",
        ),
        ("llama", only_an_adapter, r"a folder without config.json; it is an adapter: merge it into its model"),
        ("llama", without("config.json"), r"a folder without config.json; save_pretrained writes one"),
        ("llama", lambda path: (path / "config.json").write_text("{"), r"but its config.json is damaged: Expecting"),
        (
            "llama",
            lambda path: edit(path / "config.json", model_type="gpt9"),
            r"of a kind that transformers [\d.]+ does not know, 'gpt9'; a newer one may: pip install --upgrade",
        ),
        (
            "llama",
            lambda path: (path / "model.safetensors").write_bytes(b"nothing of the kind"),
            r"but its weights cannot be loaded \(.*header",
        ),
        (
            "llama",
            lambda path: edit(path / "config.json", vocab_size=500),
            r"its weights do not fit its config.json: embed_tokens.weight is \(400, 16\) in the file, and the model "
            r"has \(500, 16\)",
        ),
        (
            "llama",
            index_of("pytorch_model.bin"),
            r"its weights are in pytorch_model.bin, which may run code when it is",
        ),
        ("llama", index_of("../a.safetensors"), r"index.json names '../a.safetensors'; expected files beside it that"),
        ("llama", index_of("weights"), r"index.json names 'weights'; expected files beside it that end in .safetens"),
        ("llama", index_of("a.safetensors"), r"index.json names 'a.safetensors', which is not there; expected a whole"),
        ("llama", index_of(), r"index.json names no file"),
        ("llama", broken_index, r"its model.safetensors.index.json is damaged \(KeyError\)"),
        ("bert", without("tokenizer.json", "tokenizer_config.json"), r"no tokenizer that .*its vocabulary is empty"),
        (
            "llama",
            lacking,
            r"its files lack weights, which would be random numbers: layers.0.self_attn.q_proj.weight and 1 more",
        ),
        ("vit", lambda path: None, r"of the kind 'vit', which reads image; expected a model of text"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_folder_that_holds_no_such_model_is_refused(
    copied: Callable[[str], Path], kind: str, change: Callable[[Path], Any], message: str
) -> None:
    path = copied(kind)
    change(path)
    with pytest.raises(ValueError, match=rf"--model is '{path}'.*{message}"):
        models.load(str(path))


@pytest.mark.parametrize(
    ("attribute", "value", "reads"),
    [
        ("main_input_name", "pixel_values", "pixel_values"),
        ("input_modalities", ("image", "video"), "image, video"),
        ("input_modalities", "audio", "audio"),
    ],
)
def test_a_model_that_does_not_read_text_is_refused_before_it_is_loaded(
    made: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, value: Any, reads: str
) -> None:
    import transformers

    monkeypatch.setattr(transformers.BertModel, attribute, value)
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match=rf"of the kind 'bert', which reads {reads}; expected a model of text"):
        models.load(str(made / "bert"))


def read(path: Path, text: str) -> None:
    model = models.load(str(path))
    model.attend(model.encode(text, None).ids, lambda done, total: None)


def test_attention_that_is_no_call_is_refused(made: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"deberta', whose attention cannot be seen: encoder.layer.0.attention.self, encoder.layer.1.attention."
        "self compute a softmax by hand and call no attention function",
    ):
        read(made / "deberta", "the cat")


def test_a_tokenizer_of_another_model_is_refused(copied: Callable[[str], Path]) -> None:
    path = copied("llama")
    larger_vocabulary(path)
    with pytest.raises(ValueError, match=r"whose tokenizer gives token \d+ and whose embeddings are 20; expected a"):
        read(path, tiny.TEXT)


def test_a_text_that_leaves_no_token_is_refused(copied: Callable[[str], Path]) -> None:
    path = copied("llama")
    content = json.loads((path / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}
    content["post_processor"] = None
    (path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the model's tokenizer makes no tokens of this text"):
        read(path, "cat")


def test_a_text_of_which_only_the_tokens_around_it_are_left_is_refused(copied: Callable[[str], Path]) -> None:
    path = copied("llama")
    content = json.loads((path / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}
    (path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the model's tokenizer makes no tokens of this text"):
        read(path, "cat")


def test_a_tokenizer_without_a_token_for_unknown_words_reads_those_it_knows(copied: Callable[[str], Path]) -> None:
    import tokenizers as t
    from transformers import PreTrainedTokenizerFast

    path = copied("llama")
    backend = t.Tokenizer(t.models.WordLevel({"cat": 0, "sat": 1}))
    backend.pre_tokenizer = t.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(path)
    assert models.load(str(path)).encode("cat sat", None).ids == [0, 1]
    with pytest.raises(
        ValueError, match=r"--model is .*llama', whose tokenizer cannot read this text \(.*; expected a"
    ):
        read(path, "cat dog")


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes"])
def test_quantised_weights_that_need_a_package_are_named(copied: Callable[[str], Path], method: str) -> None:
    path = copied("llama")
    edit(path / "config.json", quantization_config={"quant_method": method, "bits": 4, "load_in_4bit": True})
    with pytest.raises((ImportError, ValueError), match=rf"--model is '{path}', but its weights, .* \({method}\), "):
        models.load(str(path))


@pytest.mark.parametrize("name", ["x" * 300, "a/" + "x" * 300, "./" + "x" * 300])
def test_a_name_of_any_length_is_answered_in_words(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    answer(monkeypatch, AssertionError("the hub was asked"))
    with pytest.raises(
        ValueError, match=r"--model is .*, of 30\d characters, but no folder of that name .* at most 96"
    ):
        models.load(name)


def test_a_model_that_needs_more_than_text_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = models.load(str(made / "bert"))

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("You have to specify pixel_values")

    monkeypatch.setattr(model._model, "forward", refuse)
    with pytest.raises(ValueError, match=r"cannot run on text alone: You have to specify pixel_values; watch it in a"):
        model.attend([1, 2], lambda done, total: None)


def test_attention_to_something_else_is_left_out_and_said(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = models.load(str(made / "bert"))
    layer = model._model.encoder.layer[1].attention.self
    own = layer.forward
    attend = torch.nn.functional.scaled_dot_product_attention

    def cropped(hidden: torch.Tensor, *args: Any, **options: Any) -> Any:
        q = hidden[:, None]  # (B, 1, L, D)
        attend(q, q[:, :, :2], q[:, :, :2])
        return own(hidden, *args, **options)

    monkeypatch.setattr(layer, "forward", cropped)
    attended = model.attend([1, 2, 3, 4], lambda done, total: None)
    assert len(attended.weights) == 2
    assert "left out, since they attend to something else: encoder.layer.1.attention" in attended.notes[0]


class Hub:
    """What the hub answers."""

    def __init__(self, *files: str) -> None:
        self.siblings = [File(name) for name in files]


class File:
    def __init__(self, rfilename: str) -> None:
        self.rfilename = rfilename


def answer(monkeypatch: pytest.MonkeyPatch, given: Any) -> None:
    import huggingface_hub

    def model_info(self: Any, name: str, **_: Any) -> Any:
        if isinstance(given, Exception):
            raise given
        return given

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)


def refusal(name: str) -> Exception:
    """An error of the hub, without the response that it is made of."""
    import huggingface_hub.errors

    kind = getattr(huggingface_hub.errors, name)
    return kind.__new__(kind, "refused")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            lambda: refusal("RepositoryNotFoundError"),
            r"there is no folder and no public Hugging Face model",
        ),
        (
            lambda: refusal("GatedRepoError"),
            r"which its owners show to some only: ask for access on its page, then",
        ),
        (
            lambda: TimeoutError(),
            r"it is not in the cache of .*, and the hub cannot be asked \(TimeoutError\)",
        ),
        (lambda: Hub("README.md"), r"which has no config.json; expected a model of the transformers library"),
        (lambda: Hub("config.json", "pytorch_model.bin"), r"its weights are in pytorch_model.bin, which may run code"),
        (
            lambda: Hub("config.json", "training_args.bin", "a.gguf"),
            r"has no weights \(a.gguf is read by other",
        ),
    ],
    ids=["no such name", "gated", "no network", "no model", "pickles", "other programs'"],
)
def test_a_name_that_the_hub_does_not_give_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: Callable[[], Any], message: str
) -> None:
    answer(monkeypatch, given())
    with pytest.raises(ValueError, match=rf"--model is 'some/where'.*{message}"):
        models.load("some/where")


def test_a_name_that_the_hub_knows_is_left_to_transformers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    index = tmp_path / "index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-2.safetensors"}}))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file: str(index))
    answer(monkeypatch, Hub("config.json", "model-00001-of-2.safetensors", "model.safetensors.index.json"))
    place = hub.resolve("some/where")
    assert (place.where, place.local) == ("some/where", False)
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))
    with pytest.raises(
        ValueError, match=r"--model is 'some/where', but its weights are in pytorch_model.bin, which may"
    ):
        hub.resolve("some/where")


@pytest.mark.parametrize("name", ["no/such/folder/here", "./model", "~/model", "a b", "a..b"])
def test_what_is_no_name_is_no_question_to_the_hub(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    answer(monkeypatch, AssertionError("the hub was asked"))
    with pytest.raises(ValueError, match=r"--model is .*; expected 'demo'"):
        models.load(name)


def test_without_transformers_the_extra_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"needs transformers for a Hugging Face model: pip install 'regard\[hf\]'"):
        models.load(str(made / "bert"))
    assert models.load("demo").context == 512
