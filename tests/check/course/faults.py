"""One fault each: an edit of submissions/right.py, and the checks that it loses."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from regard.check.load import load_module

SUBMISSIONS = Path(__file__).parent / "submissions"
RIGHT = (SUBMISSIONS / "right.py").read_text(encoding="utf-8")

#: name -> (what is replaced, what by)
FAULTS: dict[str, tuple[str, str]] = {
    "sin and cos swapped": (
        "table[:, 0::2] = torch.sin(angle)\n        table[:, 1::2] = torch.cos(angle[:, : d_model // 2])",
        "table[:, 0::2] = torch.cos(angle)\n        table[:, 1::2] = torch.sin(angle[:, : d_model // 2])",
    ),
    "base 1000": ("10000 **", "1000 **"),
    "table in float16": ("table.float()", "table.half().float()"),
    "positions in float16": ("angle = position /", "angle = position.half() /"),
    "an exponent of i in place of 2i": ("(column / d_model)", "(column / 2 / d_model)"),
    "odd d_model leaves the last column": (
        "torch.arange(0, d_model, 2, dtype=torch.float64)\n",
        "torch.arange(0, d_model - 1, 2, dtype=torch.float64)\n",
    ),
    "table in float64": ("table.float()", "table"),
    "adds in place": (
        "return word_embeddings + positional_encodings",
        "return word_embeddings.add_(positional_encodings)",
    ),
    "softmax over the queries": ("softmax(scores, dim=-1)", "softmax(scores, dim=-2)"),
    "scale of d_k": ("math.sqrt(Q.shape[-1])", "Q.shape[-1]"),
    "softmax by hand": ("torch.softmax(scores, dim=-1)", "scores.exp() / scores.exp().sum(-1, keepdim=True)"),
    "inverted": ("    if mask is not None:\n", "    if mask is not None:\n        mask = ~mask\n"),
    "mask ignored": ("weights_of(Q, K, mask) @ V", "weights_of(Q, K) @ V"),
    "fill of -1e10": (
        "scores = scores.masked_fill(~mask, -math.inf)\n"
        "        scores = scores.masked_fill(~mask.any(-1, keepdim=True), 0.0)\n"
        "    weights = torch.softmax(scores, dim=-1)\n"
        "    return weights if mask is None else weights.masked_fill(~mask, 0.0)",
        "scores = scores.masked_fill(~mask, -1e10)\n    return torch.softmax(scores, dim=-1)",
    ),
    "fill of -inf": (
        "        scores = scores.masked_fill(~mask.any(-1, keepdim=True), 0.0)\n"
        "    weights = torch.softmax(scores, dim=-1)\n"
        "    return weights if mask is None else weights.masked_fill(~mask, 0.0)",
        "    return torch.softmax(scores, dim=-1)",
    ),
    "a little of the future": (
        "weights if mask is None else weights.masked_fill(~mask, 0.0)",
        "weights if mask is None else weights.masked_fill(~mask, 1e-7)",
    ),
    "top row off by one": (".tril()", ".tril(-1)"),
    "one position too many": (".tril()", ".tril(1)"),
    "upper triangle": (".tril()", ".triu()"),
    "a mask of numbers": ("dtype=torch.bool).tril()", "dtype=torch.float32).tril()"),
    "writes into Q": (
        "    return weights_of(Q, K, mask) @ V",
        "    output = weights_of(Q, K, mask) @ V\n    Q.detach().mul_(2.0)\n    return output",
    ),
    "returns a tuple": (
        "    return weights_of(Q, K, mask) @ V",
        "    return weights_of(Q, K, mask) @ V, weights_of(Q, K, mask)",
    ),
    "cut off from its inputs": ("return weights_of(Q, K, mask) @ V", "return (weights_of(Q, K, mask) @ V).detach()"),
    "no weights": ("return weights @ V, weights", "return weights @ V"),
    "scores for weights": ("return weights @ V, weights", "return weights @ V, Q @ K.transpose(-2, -1)"),
    "prints": ("    weights = weights_of(Q, K)\n", "    print(Q.shape)\n    weights = weights_of(Q, K)\n"),
    "prints in forward": ("        outputs =", "        print(X.shape)\n        outputs ="),
    "3-D only": ("K.transpose(-2, -1)", "K.transpose(1, 2)"),
    "3-D only, promised": (
        "def att_score(Q, K, V):\n    weights = weights_of(Q, K)",
        'def att_score(Q, K, V):\n    """Q is (batch, heads, length, d_k)."""\n    assert Q.dim() == 3\n'
        "    weights = weights_of(Q, K)",
    ),
    "weights promised": (
        "def attention_score(Q, K, V, mask=None):",
        'def attention_score(Q, K, V, mask=None):\n    """Attention.\n\n    Returns: output, attention weights."""',
    ),
    "Wk before Wq": (
        "self.Wq = nn.Linear(d_in, d_k)\n        self.Wk = nn.Linear(d_in, d_k)",
        "self.Wk = nn.Linear(d_in, d_k)\n        self.Wq = nn.Linear(d_in, d_k)",
    ),
    "no bias": ("self.Wv = nn.Linear(d_in, d_v)", "self.Wv = nn.Linear(d_in, d_v, bias=False)"),
    "dropout in eval": ("self.Wv(X), mask)", "nn.functional.dropout(self.Wv(X), 0.1), mask)"),
    "W_O without bias": ("self.W_O = nn.Linear(d_v, d_v)", "self.W_O = nn.Linear(d_v, d_v, bias=False)"),
    "W_O last": (
        "        self.W_O = nn.Linear(d_v, d_v)\n"
        "        heads = [SelfAttention(d_in, d_k // num_heads, d_v // num_heads) for _ in range(num_heads)]\n",
        "        heads = [SelfAttention(d_in, d_k // num_heads, d_v // num_heads) for _ in range(num_heads)]\n"
        "        self.W_O = nn.Linear(d_v, d_v)\n",
    ),
    "no W_O": ("return self.W_O(torch.cat(outputs, dim=-1))", "return torch.cat(outputs, dim=-1)"),
    "view without transpose": (
        "torch.cat(outputs, dim=-1)",
        "torch.stack(outputs, dim=1).reshape(*X.shape[:2], -1)",
    ),
    "mask not passed to the heads": ("[head(X, mask) for head in self.heads]", "[head(X) for head in self.heads]"),
    "mask for the first head alone": (
        "[head(X, mask) for head in self.heads]",
        "[head(X, mask if i == 0 else None) for i, head in enumerate(self.heads)]",
    ),
    "heads of whole width": (
        "self.W_O = nn.Linear(d_v, d_v)\n        heads = [SelfAttention(d_in, d_k // num_heads, d_v // num_heads)",
        "self.W_O = nn.Linear(num_heads * d_v, d_v)\n        heads = [SelfAttention(d_in, d_k, d_v)",
    ),
    "heads in a plain list": ("self.heads = nn.ModuleList(heads)", "self.heads = heads"),
    "widths that do not divide": (
        "        assert d_k % num_heads == 0\n        assert d_v % num_heads == 0\n"
        "        self.W_O = nn.Linear(d_v, d_v)",
        "        self.W_O = nn.Linear(d_v // num_heads * num_heads, d_v)",
    ),
    "another name": ("def att_score(", "def attn_score("),
    "sys.exit in a call": (
        "    return torch.ones(seq_len, seq_len",
        "    raise SystemExit(1)\n    return torch.ones(seq_len, 1",
    ),
}

#: name -> the checks that it loses, task by task; * for all of a task.
LOST: dict[str, str] = {
    "sin and cos swapped": "PositionalEncoding: formula odd_width large_positions; add_positional_encoding: numbers",
    "base 1000": "PositionalEncoding: formula odd_width large_positions; add_positional_encoding: numbers",
    "table in float16": "PositionalEncoding: formula odd_width large_positions; add_positional_encoding: numbers",
    "positions in float16": "PositionalEncoding: large_positions",
    "an exponent of i in place of 2i": (
        "PositionalEncoding: formula odd_width large_positions; add_positional_encoding: numbers"
    ),
    "odd d_model leaves the last column": "PositionalEncoding: odd_width",
    "table in float64": "PositionalEncoding: shape",
    "adds in place": "add_positional_encoding: inputs_untouched",
    "softmax over the queries": (
        "att_score: formula weights large_scores leading_axes; attention_score: without_mask with_mask "
        "half_precision leading_axes; SelfAttention: formula future half_precision; MultiHeadSelfAttention: "
        "numbers formula mask_reaches_every_head any_mask half_precision"
    ),
    "scale of d_k": (
        "att_score: formula weights large_scores leading_axes; attention_score: without_mask with_mask "
        "half_precision leading_axes; SelfAttention: formula half_precision; MultiHeadSelfAttention: numbers "
        "formula any_mask half_precision"
    ),
    "softmax by hand": "att_score: large_scores",
    "inverted": (
        "attention_score: with_mask future half_precision empty_row leading_axes gradients; SelfAttention: "
        "formula future half_precision empty_row; MultiHeadSelfAttention: mask_reaches_every_head any_mask "
        "half_precision empty_row"
    ),
    "mask ignored": (
        "attention_score: with_mask future half_precision empty_row leading_axes gradients; SelfAttention: "
        "formula future half_precision empty_row; MultiHeadSelfAttention: mask_reaches_every_head any_mask "
        "half_precision empty_row"
    ),
    "fill of -1e10": (
        "attention_score: half_precision empty_row; SelfAttention: half_precision empty_row; "
        "MultiHeadSelfAttention: half_precision empty_row"
    ),
    "fill of -inf": "attention_score: empty_row; SelfAttention: empty_row; MultiHeadSelfAttention: empty_row",
    "a little of the future": (
        "attention_score: future empty_row leading_axes gradients; SelfAttention: future empty_row; "
        "MultiHeadSelfAttention: mask_reaches_every_head empty_row"
    ),
    "top row off by one": "create_mask: lower_triangle",
    "one position too many": "create_mask: lower_triangle",
    "upper triangle": "create_mask: lower_triangle",
    "a mask of numbers": "create_mask: boolean",
    "writes into Q": (
        "attention_score: without_mask future inputs_untouched gradients; SelfAttention: gradients; "
        "MultiHeadSelfAttention: gradients"
    ),
    "returns a tuple": (
        "attention_score: returns_the_output; SelfAttention: returns_the_output; MultiHeadSelfAttention: *"
    ),
    "cut off from its inputs": (
        "attention_score: gradients; SelfAttention: gradients; MultiHeadSelfAttention: gradients"
    ),
    "no weights": "att_score: pair weights large_scores",
    "scores for weights": "att_score: weights large_scores",
    "prints": "att_score: quiet",
    "prints in forward": "MultiHeadSelfAttention: quiet",
    "3-D only": "",
    "3-D only, promised": "att_score: leading_axes",
    "weights promised": "attention_score: promised_weights",
    "Wk before Wq": "MultiHeadSelfAttention: numbers",
    "no bias": "SelfAttention: numbers projections; MultiHeadSelfAttention: numbers biases",
    "dropout in eval": (
        "SelfAttention: numbers formula permutation future half_precision steady; MultiHeadSelfAttention: numbers "
        "formula mask_reaches_every_head any_mask permutation half_precision steady"
    ),
    "W_O without bias": "MultiHeadSelfAttention: numbers biases",
    "W_O last": "MultiHeadSelfAttention: numbers",
    "no W_O": "MultiHeadSelfAttention: numbers formula any_mask half_precision gradients",
    "view without transpose": (
        "MultiHeadSelfAttention: numbers formula mask_reaches_every_head any_mask permutation half_precision empty_row"
    ),
    "mask not passed to the heads": "MultiHeadSelfAttention: mask_reaches_every_head any_mask half_precision empty_row",
    "mask for the first head alone": (
        "MultiHeadSelfAttention: mask_reaches_every_head any_mask half_precision empty_row"
    ),
    "heads of whole width": "MultiHeadSelfAttention: numbers head_widths",
    "heads in a plain list": "MultiHeadSelfAttention: head_widths half_precision",
    "widths that do not divide": "MultiHeadSelfAttention: indivisible",
    "another name": "att_score: *",
    "sys.exit in a call": "create_mask: *",
}


def edited(name: str) -> str:
    """The text of the right solution with this fault."""
    old, new = FAULTS[name]
    assert RIGHT.count(old) == 1, f"{name}: {RIGHT.count(old)} places to edit"
    return RIGHT.replace(old, new)


def loaded(folder: Path, text: str, name: str = "solution.py") -> ModuleType:
    """A submission with this text, loaded from a file in the folder."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_module(path)
