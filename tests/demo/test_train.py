from __future__ import annotations

import inspect
import json
import os
import textwrap
from pathlib import Path

import pytest
import torch

from regard.demo import Config, curve, load
from regard.demo import fit as fitting
from regard.demo.train import main

TINY = [
    *("--context", "32", "--d-model", "16", "--heads", "2", "--layers", "1", "--vocab-size", "300"),
    *("--tokens-per-step", "512", "--warmup", "5", "--learning-rate", "1e-2"),
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "textwrap.py"
    path.write_text(inspect.getsource(textwrap))
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    out = tmp_path_factory.mktemp("trained") / "model"
    assert main(["--text", text, "--out", str(out), "--steps", "40", "--evaluate-every", "20", *TINY]) == 0
    return out


def test_a_run_on_own_text_learns_and_loads(trained: Path) -> None:
    record = json.loads((trained / "training.json").read_text())
    assert [point["step"] for point in record["curve"]] == [0, 20, 40]
    assert record["curve"][-1]["text_loss"] < record["curve"][0]["text_loss"] - 1
    assert record["text"] == "textwrap.py"
    model, tokenizer = load(trained)
    assert model.context == 32
    assert model(torch.tensor([tokenizer.encode("import re")])).isfinite().all()


def test_the_same_seed_gives_the_same_model_and_another_does_not(trained: Path, text: str, tmp_path: Path) -> None:
    arguments = ["--text", text, "--steps", "40", *TINY]
    assert main([*arguments, "--out", str(tmp_path / "same"), "--evaluate-every", "40"]) == 0
    assert main([*arguments, "--out", str(tmp_path / "other"), "--evaluate-every", "40", "--seed", "1"]) == 0
    weights = [load(path)[0].embedding.weight for path in (trained, tmp_path / "same", tmp_path / "other")]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-3)
    assert not torch.allclose(weights[0], weights[2], rtol=0, atol=1e-2)


def test_the_first_weights_leave_the_random_numbers_of_the_user_alone() -> None:
    config = Config(vocab_size=20, d_model=8, num_heads=2, num_layers=1, d_mlp=8, context=8, max_len=8)
    first = fitting._seeded_decoder(config, 3)
    before = torch.get_rng_state()
    second = fitting._seeded_decoder(config, 3)
    assert torch.equal(torch.get_rng_state(), before)
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)


def test_progress_is_plain_lines_where_there_is_no_terminal(text: str, tmp_path: Path, capsys) -> None:
    assert main(["--text", text, "--out", str(tmp_path), "--steps", "2", "--evaluate-every", "1", *TINY]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:10] for line in lines if line.startswith("step")] == ["step     0", "step     1", "step     2"]
    assert lines[-1] == f"written: {tmp_path}"
    assert not any("\x1b" in line for line in lines)


def test_bfloat16_trains_too(text: str, tmp_path: Path) -> None:
    arguments = ["--text", text, "--out", str(tmp_path), "--steps", "15", "--evaluate-every", "15", "--bfloat16", *TINY]
    assert main(arguments) == 0
    points = json.loads((tmp_path / "training.json").read_text())["curve"]
    assert points[-1]["text_loss"] < points[0]["text_loss"] - 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "/no/such/text"], "error: text '/no/such/text' does not exist"),
        (["--steps", "0"], "error: Settings: steps must be at least 1, got 0"),
        (["--repeated-share", "2"], "error: Settings: repeated_share must lie in 0 to 1, got 2.0"),
        (["--learning-rate", "0"], "error: Settings: learning_rate must be more than 0, got 0.0"),
        (["--d-model", "10", "--heads", "4"], "error: Config: d_model 10 is not a multiple of num_heads 4"),
        (["--vocab-size", "100"], "error: Tokenizer.train: vocab_size must be at least 256"),
        (["--context", "100000"], "error: the text is too short"),
    ],
)
def test_what_cannot_be_used_is_one_line(text: str, tmp_path: Path, capsys, arguments: list[str], message: str) -> None:
    assert main(["--text", text, "--out", str(tmp_path), *TINY, *arguments]) == 2
    captured = capsys.readouterr().err
    assert captured.startswith(message)
    assert captured.count("\n") == 1


def test_a_finished_model_is_not_overwritten_by_accident(trained: Path, text: str, capsys) -> None:
    before = (trained / "model.safetensors").read_bytes()
    assert main(["--text", text, "--out", str(trained), "--steps", "1", *TINY]) == 2
    assert "already holds a model; add --overwrite" in capsys.readouterr().err
    assert (trained / "model.safetensors").read_bytes() == before


def test_an_output_that_is_a_file_is_refused(text: str, capsys) -> None:
    assert main(["--text", text, "--out", text, *TINY]) == 2
    assert "is a file; expected a folder" in capsys.readouterr().err


def test_an_interrupted_run_keeps_its_last_saved_state(text: str, tmp_path: Path, capsys, monkeypatch) -> None:
    update, calls = fitting._update, []

    def interrupted(*arguments, **options) -> float:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return update(*arguments, **options)

    monkeypatch.setattr(fitting, "_update", interrupted)
    assert main(["--text", text, "--out", str(tmp_path), "--steps", "9", "--evaluate-every", "3", *TINY]) == 130
    assert f"interrupted; the last saved state is in {tmp_path}" in capsys.readouterr().err
    assert json.loads((tmp_path / "training.json").read_text())["curve"][-1]["step"] == 3
    load(tmp_path)


def test_the_learning_rate_rises_then_falls_to_a_tenth() -> None:
    settings = fitting.Settings(steps=1000, warmup=100, learning_rate=1.0)
    rates = [settings.rate(step) for step in range(1000)]
    assert rates[0] == 0.01
    assert max(rates) == rates[100] == 1.0
    assert rates[-1] == pytest.approx(0.1, abs=1e-4)
    assert rates[100:] == sorted(rates[100:], reverse=True)


def test_the_loss_curve_becomes_a_figure(trained: Path, tmp_path: Path) -> None:
    assert curve.main([str(trained), str(tmp_path / "loss.png")]) == 0
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    figure = curve.draw(json.loads((trained / "training.json").read_text()))
    assert [len(axes.lines) for axes in figure.axes] == [3, 2]
    assert figure.axes[0].lines[1].get_ydata()[0] > figure.axes[0].lines[1].get_ydata()[-1]


def test_a_figure_of_no_training_is_refused(tmp_path: Path, capsys) -> None:
    assert curve.main([str(tmp_path), "x.png"]) == 2
    assert "training.json does not exist" in capsys.readouterr().err
    assert curve.main([]) == 2
    assert "usage: python -m regard.demo.curve" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are a Unix thing")
def test_progress_on_a_terminal_is_a_bar(tmp_path: Path, text: str) -> None:
    import pty
    import subprocess
    import sys

    code = (
        "from regard.demo.progress import progress\n"
        "with progress(2) as report:\n"
        "    report.advance(1.5); report.say('[b] kept'); report.advance(1)"
    )
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", code], stdout=theirs, env=environment, check=True, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "2/2" in shown
    assert "[b] kept" in shown
    assert "\x1b[" in shown
