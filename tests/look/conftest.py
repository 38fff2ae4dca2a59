"""What the tests of looking share: weights with a dense twin, a model in a folder, and a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.look.browsing import Browser, Chromium, obstacle
from torch import Tensor

from regard import AttentionWeights, attention, masks


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "browser: needs Playwright and chromium; skipped where there is none")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = obstacle()
    for item in items:
        if reason and item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.skip(reason=reason))


def make_weights(
    *shape: int, mask: masks.Mask | None = None, width: int = 8, sharp: float = 3.0, seed: int = 0
) -> AttentionWeights:
    """Real weights of shape (..., H, L, S) from random queries and keys."""
    *lead, query_len, key_len = shape
    generator = torch.Generator().manual_seed(seed)
    query = sharp * torch.randn(*lead, query_len, width, generator=generator)
    key, value = torch.randn(2, *lead, key_len, width, generator=generator)
    return attention(query, key, value, mask)[1]


@pytest.fixture
def some_weights() -> Callable[..., AttentionWeights]:
    return make_weights


@pytest.fixture
def layers() -> list[AttentionWeights]:
    """Two layers of three heads over twelve tokens, causal."""
    return [make_weights(1, 3, 12, 12, mask=masks.causal(), seed=seed) for seed in range(2)]


def cells(dense: Tensor, rows: int, cols: int) -> Tensor:
    """The pooled map by its definition, cell by cell."""
    query_len, key_len = dense.shape[-2:]
    out = torch.zeros(*dense.shape[:-2], rows, cols, dtype=dense.dtype)
    for r in range(rows):
        for c in range(cols):
            queries = slice(r * query_len // rows, (r + 1) * query_len // rows)
            keys = slice(c * key_len // cols, (c + 1) * key_len // cols)
            out[..., r, c] = dense[..., queries, keys].sum(-1).mean(-1)
    return out


@pytest.fixture
def by_definition() -> Callable[[Tensor, int, int], Tensor]:
    return cells


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained model in a folder, as training writes it."""
    from regard.demo import Config, Decoder, Tokenizer
    from regard.demo.store import save

    tokenizer = Tokenizer.train(["def f(x):\n    return f(x) + f(x)\n" * 3], vocab_size=280)
    torch.manual_seed(0)
    model = Decoder(Config(len(tokenizer), d_model=16, num_heads=2, num_layers=2, d_mlp=16, context=48, max_len=64))
    folder = tmp_path_factory.mktemp("model")
    save(folder, model, tokenizer, {})
    return folder


CHROMIUM = Chromium()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    # Playwright keeps an event loop running in this thread: it ends with the last of these tests, before others run.
    if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
        CHROMIUM.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Opens pages that are closed after the test."""
    opened = Browser(CHROMIUM)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared_browser() -> Iterator[Browser]:
    """Opens pages that the tests of a module share."""
    opened = Browser(CHROMIUM)
    yield opened
    opened.close()
