"""The four exercises: their numbers to the last printed digit, and the file as a script and as a notebook."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

FILE = Path(__file__).parents[1] / "examples" / "exercises.py"

GOLDEN = {
    1: "1.4000, 1.0479, 0.2396, -0.4558, -0.5485, 0.0267, 0.8648, 1.3756, 1.1994, 0.4603",
    3: "-0.0166, -0.4199, -0.5860, 0.3721, 0.5411, 0.4073, 0.8418, 0.2554, -0.2712, 0.6178, -0.0495, -0.0552, 0.6988, "
    "-0.3643, 0.7696",
    4: "0.0275, -0.1630, 0.1510, 0.3983, -0.0111, -0.4692, -0.1411, 0.1411, 0.2040, 0.0587, 0.1210, -0.1313, -0.0088, "
    "0.1773, -0.0538",
}


@pytest.fixture(scope="module")
def exercises() -> ModuleType:
    spec = importlib.util.spec_from_file_location("exercises", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_positional_encoding(exercises: ModuleType):
    embeddings = 0.1 * torch.arange(1, 129).expand(3, 10, 128)
    table = exercises.PositionalEncoding(128, 10).get_encoding()
    assert table.shape == (10, 128)
    encoded = exercises.add_positional_encoding(embeddings, table)
    assert [exercises.printed(sequence[:, 3]) for sequence in encoded] == [GOLDEN[1]] * 3


def test_attention_score(exercises: ModuleType):
    q, k, v = torch.randn(20, 5, 512), torch.randn(20, 5, 512), torch.randn(20, 5, 64)
    output, weights = exercises.att_score(q, k, v)
    assert (output.shape, weights.shape) == ((20, 5, 64), (20, 5, 5))
    torch.testing.assert_close(output, F.scaled_dot_product_attention(q, k, v), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights, torch.softmax(q @ k.mT / 512**0.5, -1), rtol=1e-5, atol=1e-6)


def test_mask(exercises: ModuleType):
    q, k, v = torch.randn(20, 5, 512), torch.randn(20, 5, 512), torch.randn(20, 5, 64)
    mask = exercises.create_mask(5)
    assert torch.equal(mask, torch.ones(5, 5, dtype=torch.bool).tril())
    for given in (None, mask):
        output = exercises.attention_score(q, k, v, given)
        wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=given)
        torch.testing.assert_close(output, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(exercises.attention_score(q, k, v, mask)[:, 0], v[:, 0])


def test_self_attention(exercises: ModuleType):
    torch.manual_seed(40)
    x = torch.ones(20, 5, 32)
    layer = exercises.SelfAttention(32, 512, 64)
    assert layer(x).shape == (20, 5, 64)
    assert exercises.printed(layer(x)[-1, 1, :15]) == GOLDEN[3]
    x, order = torch.rand(20, 5, 32), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], rtol=0, atol=1e-6)
    assert (layer(x[:, order]) - layer(x)).abs().max() > 1e-3
    mask = exercises.create_mask(5)
    torch.testing.assert_close(layer(x, mask)[:, 0], layer.Wv(x[:, 0]), rtol=0, atol=1e-6)  # it reads itself alone


def test_multi_head_self_attention(exercises: ModuleType):
    torch.manual_seed(40)
    x = torch.rand(32, 10, 256)
    layer = exercises.MultiHeadSelfAttention(256, 512, 64, 8)
    assert layer(x).shape == (32, 10, 64)
    assert exercises.printed(layer(x)[-1, 1, :15]) == GOLDEN[4]
    changed = x.clone()
    changed[:, 5:] = torch.rand(32, 5, 256)
    mask = exercises.create_mask(10)
    assert torch.equal(layer(x, mask)[:, :5], layer(changed, mask)[:, :5])  # the mask reaches every head
    assert sum(p.numel() for p in layer.parameters()) == 256 * (512 + 512 + 64) + 512 + 512 + 64 + 64 * 64 + 64
    assert all(p.requires_grad for p in layer.parameters())


def test_widths_that_do_not_divide_among_the_heads(exercises: ModuleType):
    with pytest.raises(ValueError, match="d_k=20 and d_v=64 must be multiples of num_heads=8"):
        exercises.MultiHeadSelfAttention(16, 20, 64, 8)


def test_importing_the_file_shows_and_writes_nothing(capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("exercises", FILE)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def assert_shows_the_numbers(out: str) -> None:
    assert out.count(GOLDEN[1]) == 3
    assert out.count(GOLDEN[3]) == 1
    assert out.count(GOLDEN[4]) == 1
    assert "■···· ■■··· ■■■·· ■■■■· ■■■■■" in out
    assert all(float(off) < 1e-5 for off in re.findall(r"(?:difference.*:|alike, to) (\S+)", out))


def test_as_a_script(tmp_path: Path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-W", "error", str(FILE), "--out", str(tmp_path / "some" / "folder")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, encoding="utf-8")
    assert_shows_the_numbers(done.stdout)
    picture = tmp_path / "some" / "folder" / "positional_encoding.png"
    assert str(picture) in done.stdout
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def cells() -> list[tuple[str, str]]:
    """The cells of a file in percent format, (kind, text) each, as editors and jupytext read it."""
    head, *parts = re.split(r"^# %%", FILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert head == ""
    found = []
    for part in parts:
        title, _, text = part.partition("\n")
        assert title.strip() in ("", "[markdown]")
        found.append(("markdown" if title.strip() else "code", text.strip()))
    return found


def test_its_cells():
    kinds = [kind for kind, _ in cells()]
    assert kinds == ["markdown", "code"] * 5
    for kind, text in cells():
        assert text
        if kind == "markdown":
            assert all(line.startswith("#") for line in text.splitlines())
    titles = [text.splitlines()[0] for kind, text in cells() if kind == "markdown"]
    assert [title.removeprefix("# ## ")[:2] for title in titles[1:]] == ["1.", "2.", "3.", "4."]


def test_as_a_notebook(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    namespace = {"__name__": "__main__"}
    shown = []
    for kind, text in cells():
        if kind == "code":
            flags = 0 if not shown else namespace["annotations"].compiler_flag  # as a notebook keeps them
            exec(compile(text, FILE.name, "exec", flags, dont_inherit=True), namespace)
            shown.append(capsys.readouterr().out)
    assert [re.findall(r"^\d\.", out) for out in shown] == [[], ["1."], ["2."], ["3."], ["4."]]
    assert_shows_the_numbers("".join(shown))
    assert (tmp_path / "regard-look" / "positional_encoding.png").exists()
    assert namespace["heatmap"]._repr_png_()  # what the notebook shows under the cell
    assert isinstance(namespace["MultiHeadSelfAttention"](8, 8, 8, 2), nn.Module)
