"""What docs/layer.md shows is run, each part says what it must, and the numbers and pictures are those of the code."""

from __future__ import annotations

import importlib.util
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import regard
from regard import masks

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "layer.md").read_text(encoding="utf-8")
PARTS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
DRAWN = {"Windows and masks", "Norms of queries and keys", "Softcap", "Sinks", "Latent attention"}
EPS = torch.finfo(torch.float32).eps


def snippets(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def quiet() -> Iterator[None]:
    """No graph of an earlier test, and none of the warnings of torch's own parts."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`")
        yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    """docs/layer.py, which is no module of a package."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("PIL")
    spec = importlib.util.spec_from_file_location("docs_layer", DOCS / "layer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_page() -> dict[str, object]:
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "page"}
    for block in snippets(PAGE):
        exec(compile(block, str(DOCS / "layer.md"), "exec"), names)
    return names


def test_its_python_runs_in_order(quiet):
    pytest.importorskip("transformers")
    names = run_page()
    x = names["x"]
    torch.testing.assert_close(names["program"].module()(x), names["y"], rtol=0, atol=100 * EPS)
    assert names["tokens"].shape == (1, 13)
    assert names["cache"].get_seq_length() == 12
    torch.testing.assert_close(names["back"](x, x, x)[0], names["ours"](x), rtol=0, atol=100 * EPS)
    assert names["joined"](x).shape == (2, 10, 64)
    assert names["loaded"](torch.rand(1, 5, 32)).shape == (1, 5, 32)
    assert names["y"].shape == (2, 10, 64)


def test_its_shards_compute_the_same(tmp_path: Path):
    dist = pytest.importorskip("torch.distributed")
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    (source,) = (block for block in snippets(PAGE) if block.startswith("def shard"))
    names: dict[str, object] = {}
    exec(source, names)
    blocks = [regard.MultiHeadAttention(8, 2, sinks=True) for _ in range(2)]
    model, x = torch.nn.Sequential(*blocks), torch.randn(2, 3, 8)
    wanted = model(x).detach()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names["shard"](model, blocks, dist.init_device_mesh("cpu", (1,)))
            out = model(x)
            out.sum().backward()
        torch.testing.assert_close(out.detach(), wanted, rtol=0, atol=100 * EPS)
        assert {type(p).__name__ for p in model.parameters()} == {"DTensor"}
        assert all(p.grad is not None for p in model.parameters())
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("part", PARTS)
def test_each_part_has_what_a_part_needs(part: str):
    text = PARTS[part]
    assert re.search(r"^Paper: ", text, re.MULTILINE)
    assert re.search(r"^\*\*Use it when\*\* ", text, re.MULTILINE)
    first, equation = text.strip().split("\n\n")[:2]
    assert re.findall(r"[.!?](?=\s|$)", first) == ["."], "one sentence first"
    assert "`" in equation, "the equation next"
    found = snippets(text)
    assert found
    assert all(len(block.splitlines()) <= 6 for block in found)
    assert bool(re.search(r"\]\(layer/", text)) == (part in DRAWN)


def test_every_part_is_there():
    assert len(PARTS) == 14
    anchors = {re.sub(r"[^a-z0-9 -]", "", name.lower()).replace(" ", "-") for name in PARTS}
    linked = set(re.findall(r"\]\(#(.*?)\)", PAGE))
    assert linked <= anchors
    assert len(linked) >= 9


def test_its_links_and_pictures_are_there_and_small():
    for target in re.findall(r"\]\(([^)#\s]+)\)", PAGE):
        assert (DOCS / target).exists(), target
    named = re.findall(r"\]\((layer/.*?\.png)\)", PAGE)
    assert sorted(named) == sorted(f"layer/{file.name}" for file in (DOCS / "layer").glob("*.png"))
    for name in named:
        assert 5_000 < (DOCS / name).stat().st_size < 60_000
    for other in (DOCS.parent / "README.md", DOCS / "positions.md"):
        assert "layer.md)" in other.read_text(encoding="utf-8")


def test_the_number_of_families_is_that_of_the_table():
    (families,) = re.findall(r"\*\*(\d+) families", (DOCS / "hf_layers.md").read_text(encoding="utf-8"))
    assert re.findall(r"(\d+) families", PAGE) == [families]


def test_bytes_of_a_token(drawing: ModuleType):
    found = drawing.bytes_per_token()
    heads, width = 128, 128
    wanted = [2 * 2 * h * width for h in (heads, 8, 1)] + [2 * (512 + 64)]
    assert list(found.values()) == wanted == [65536, 4096, 512, 1152]
    rows = re.findall(r"^\| (?:multi|grouped|latent).*?\| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.MULTILINE)
    assert [int(b.replace(",", "")) for _, b in rows] == wanted
    assert [2 * int(n.replace(",", "")) for n, _ in rows] == wanted
    assert f"{wanted[3] / wanted[2]:.2f} key/value heads" in PAGE


def test_how_far_windows_reach(drawing: ModuleType):
    near = [masks.window(3)] * 4
    assert drawing.furthest(near, 20) == [2, 4, 6, 8]  # n (w - 1)
    assert drawing.furthest([masks.window(3), masks.causal(), masks.window(3)], 20) == [2, 19, 19]
    needed = drawing.layers_needed(near, 6)
    assert needed[5].tolist() == [3, 2, 2, 1, 1, 1]
    assert not needed.triu(1).any()
    assert drawing.furthest([masks.window(8)] * 9, 64)[-2:] == [56, 63]  # "after nine layers"


def test_what_norms_bound(drawing: ModuleType):
    largest, entropy = drawing.grown(None, [1.0, 4.0])
    assert largest[1] == pytest.approx(16 * largest[0], rel=1e-4)  # the square of the weights
    assert entropy[1] < 0.5 * entropy[0]
    largest, entropy = drawing.grown(regard.QKNorm.rms(32), [1.0, 4.0])
    # The norm's own eps beside mean squares of about a quarter and of about four.
    assert largest[1] == pytest.approx(largest[0], rel=1e-4)
    assert entropy[1] == pytest.approx(entropy[0], rel=1e-4)
    assert max(largest) <= math.sqrt(32)


def test_the_curves_of_a_cap(drawing: ModuleType):
    score = torch.tensor([-40.0, 0.0, 20.0, 40.0])
    torch.testing.assert_close(drawing.capped(score, None), score)
    torch.testing.assert_close(drawing.capped(score, 20.0), 20 * torch.tanh(score / 20))
    wanted = 1 - torch.tanh(score.double() / 20).square()
    torch.testing.assert_close(drawing.slopes(score, 20.0), wanted, rtol=0, atol=1e-12)
    assert f"{100 * float(wanted[3]):.0f} %" == "7 %"  # "twice the cap keeps 7 %"
    assert "twice the cap keeps 7 %" in PAGE


def test_what_a_sink_takes(drawing: ModuleType):
    # Two keys of score 0 and a sink of log 2 halve each other.
    scores = torch.zeros(2)
    torch.testing.assert_close(drawing.beside(scores, math.log(2)), torch.tensor([0.25, 0.25]))
    scores = torch.tensor([0.5, 2.0, -1.0])
    plain, row = drawing.beside(scores, None), drawing.beside(scores, 1.5)
    taken = torch.sigmoid(1.5 - scores.logsumexp(0))
    torch.testing.assert_close(plain, scores.softmax(0))
    torch.testing.assert_close(row, (1 - taken) * plain)


def test_a_bias_of_keys_alone_changes_nothing():
    torch.manual_seed(0)
    layer, x = regard.MultiHeadAttention(16, 4, dtype=torch.float64), torch.randn(2, 5, 16, dtype=torch.float64)
    before = layer(x)
    with torch.no_grad():
        layer.in_proj.bias[16:32] = torch.randn(16)
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-13)
    with torch.no_grad():
        layer.in_proj.bias[32:] = 1.0
    assert (layer(x) - before).abs().max() > 0.1
