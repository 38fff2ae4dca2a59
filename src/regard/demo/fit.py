"""The training loop: batches of text and of repeated random tokens, AdamW, a measurement now and then."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.demo.corpus import Corpus, repeats, shuffled, windows
from regard.demo.model import Config, Decoder
from regard.demo.progress import progress
from regard.demo.scores import head_scores, repeat_twice
from regard.demo.store import save
from regard.demo.tokens import Tokenizer


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        steps: optimiser steps.
        seed: of the weights, the batches and the held-out text.
        tokens_per_step: tokens in a batch; their sequences are an eighth, a quarter or the whole of the context long.
        repeated_share: share of the sequences that are repeated random tokens.
        learning_rate: its peak, reached after warmup, from where a cosine takes it to a tenth.
        warmup: steps of linear increase.
        weight_decay: of AdamW, on matrices only.
        vocab_size: tokens to learn, at most.
        evaluate_every: steps between measurements, and between saved models.
        bfloat16: multiply matrices in bfloat16; quicker on a processor made for it.
    """

    steps: int = 3000
    seed: int = 0
    tokens_per_step: int = 4096
    repeated_share: float = 0.25
    learning_rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 0.1
    vocab_size: int = 1024
    evaluate_every: int = 200
    bfloat16: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "tokens_per_step", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"Settings: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.repeated_share <= 1:
            raise ValueError(f"Settings: repeated_share must lie in 0 to 1, got {self.repeated_share}")
        if self.learning_rate <= 0:
            raise ValueError(f"Settings: learning_rate must be more than 0, got {self.learning_rate}")

    def rate(self, step: int) -> float:
        """Learning rate of a step.

        Example:
            >>> Settings(steps=1000, warmup=100, learning_rate=1.0).rate(49)
            0.5
        """
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.55 + 0.45 * math.cos(math.pi * done))


def fit(corpus: Corpus, out: str | Path, settings: Settings, config: Config | None = None) -> Decoder:
    """Train a decoder on a corpus and keep the latest measured state of it in a folder.

    The last fiftieth of the shuffled text is held out of training for the measurements (the vocabulary sees it).

    Args:
        corpus: the text.
        out: folder for the model; `regard.demo.load` reads it, also while the training runs.
        settings: how to train.
        config: sizes of the decoder; its vocab_size gives way to the size of the vocabulary learned.

    Returns:
        The decoder as trained, float32.

    Raises:
        ValueError: the corpus is too short for the context.
        ImportError: the package tokenizers or safetensors is missing.
    """
    began = time.monotonic()
    generator = torch.Generator().manual_seed(settings.seed)
    with progress(settings.steps) as report:
        report.say(f"text: {corpus.name}, {len(corpus.documents)} files ({corpus.skipped} skipped)")
        texts = shuffled(corpus.documents, generator)
        tokenizer = Tokenizer.train(texts, settings.vocab_size)
        config = Config(**(asdict(config or Config(vocab_size=1)) | {"vocab_size": len(tokenizer)}))
        tokens = torch.tensor([index for ids in tokenizer.encode_all(texts) for index in ids])
        train_tokens, held_out = _split(tokens, config.context)
        model = _seeded_decoder(config, settings.seed)
        facts = {
            "train_tokens": len(train_tokens),
            "held_out_tokens": len(held_out),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
        report.say(", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in facts.items()))

        measure = _measurement(held_out, config, settings)
        optimizer = _optimizer(model, settings)
        curve: list[dict[str, float]] = [{"step": 0, **measure(model)[0]}]
        recent: list[float] = []
        report.say(_line(curve[-1], time.monotonic() - began))
        for step in range(settings.steps):
            inputs, targets, offset = _batch(train_tokens, config, settings, step, generator)
            for group in optimizer.param_groups:
                group["lr"] = settings.rate(step)
            recent.append(_update(model, optimizer, inputs, targets, offset, bfloat16=settings.bfloat16))
            report.advance(recent[-1])
            done = step + 1
            if done % settings.evaluate_every == 0 or done == settings.steps:
                point, scores = measure(model)
                curve.append({"step": done, "train_loss": sum(recent) / len(recent), **point})
                recent.clear()
                seconds = time.monotonic() - began
                report.say(_line(curve[-1], seconds))
                save(out, model, tokenizer, _record(corpus, settings, seconds, curve, scores) | facts)
        report.say(f"written: {out}")
    return model


def _seeded_decoder(config: Config, seed: int) -> Decoder:
    with torch.random.fork_rng(devices=[]):
        model = Decoder(config)
        # Seeded after construction: how many random numbers the layers draw for themselves is their own affair.
        torch.manual_seed(seed)
        model.initialise()
    return model


def _split(tokens: Tensor, context: int) -> tuple[Tensor, Tensor]:
    held_out = max(len(tokens) // 50, context + 1)
    if len(tokens) < 4 * held_out:
        raise ValueError(
            f"the text is too short: {len(tokens)} tokens, expected at least {4 * (context + 1)} "
            f"for a context of {context}; give more text or a smaller --context"
        )
    return tokens[:-held_out], tokens[-held_out:]


def _optimizer(model: Decoder, settings: Settings) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)


def _batch(
    tokens: Tensor, config: Config, settings: Settings, step: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, int]:
    # Short sequences in large batches teach the local patterns cheaply, long ones the reach.
    fraction = (8, 4, 1)[int(torch.randint(3, (), generator=generator))]
    length = max(8, config.context // fraction)
    count = max(1, settings.tokens_per_step // length)
    trials, share = torch.tensor(float(count)), torch.tensor(settings.repeated_share)
    repeated = int(torch.binomial(trials, share, generator=generator))
    text = windows(tokens, count - repeated, length, generator)
    copies = repeats(config.vocab_size, repeated, length, generator)
    # Half of the batches begin at position 0, as texts do later; the rest anywhere, so that no position goes untrained.
    anywhere = int(torch.randint(config.max_len - length + 1, (), generator=generator))
    offset = anywhere if step % 2 else 0
    return torch.cat((text[0], copies[0])), torch.cat((text[1], copies[1])), offset  # (B, L), (B, L)


def _update(
    model: Decoder, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor, offset: int, *, bfloat16: bool
) -> float:
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = model(inputs, offset=offset)
    loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


Measurement = Callable[[Decoder], tuple[dict[str, float], dict[str, Tensor]]]


def _measurement(held_out: Tensor, config: Config, settings: Settings) -> Measurement:
    # Its own generator: measuring more often must not change what the model is trained on.
    generator = torch.Generator().manual_seed(settings.seed + 1)
    length = config.context
    inputs, targets = windows(held_out, max(1, 16384 // length), length, generator)
    repeated = repeat_twice(config.vocab_size, min(64, length // 2), count=8, generator=generator)
    period = repeated.shape[1] // 2

    @torch.no_grad()
    def measure(model: Decoder) -> tuple[dict[str, float], dict[str, Tensor]]:
        scores = head_scores(model, inputs[:2, :256], repeated)
        text = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        repeat = F.cross_entropy(model(repeated)[:, period:-1].flatten(0, 1), repeated[:, period + 1 :].flatten())
        best = {f"best_{name}": score.max().item() for name, score in scores.items()}
        return {"text_loss": text.item(), "repeat_loss": repeat.item(), **best}, scores

    return measure


def _line(point: dict[str, float], seconds: float) -> str:
    numbers = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in point.items() if name != "step")
    return f"step {point['step']:5.0f}, {seconds:5.0f} s: {numbers}"


def _record(
    corpus: Corpus,
    settings: Settings,
    seconds: float,
    curve: list[dict[str, float]],
    scores: dict[str, Tensor],
) -> dict[str, Any]:
    return {
        "text": corpus.name,
        "files": len(corpus.documents),
        "settings": asdict(settings),
        "steps_taken": curve[-1]["step"],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seconds": round(seconds),
        "head_scores": {name: [[round(x, 4) for x in row] for row in score.tolist()] for name, score in scores.items()},
        "curve": [{name: round(value, 4) for name, value in point.items()} for point in curve],
    }
