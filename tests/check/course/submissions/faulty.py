"""A solution with seven faults that its author's own tests, all of shapes and of one seed, do not see."""
# ruff: noqa: T201

import math

import torch
from torch import nn


class PositionalEncoding:
    def __init__(self, d_model, max_len):
        self.encoding = torch.zeros(max_len, d_model)
        for pos in range(max_len):
            for i in range(d_model // 2):
                angle = pos / 10000 ** (2 * i / d_model)
                self.encoding[pos, 2 * i] = math.sin(angle)
                self.encoding[pos, 2 * i + 1] = math.cos(angle)

    def get_encoding(self):
        return self.encoding


def add_positional_encoding(word_embeddings, positional_encodings):
    return word_embeddings + positional_encodings


def att_score(Q, K, V):
    """Scaled dot-product attention.

    Args:
        Q: queries (batch, num_heads, seq_len, d_k)
        K: keys (batch, num_heads, seq_len, d_k)
        V: values (batch, num_heads, seq_len, d_v)

    Returns:
        the output and the attention weights
    """
    scores = torch.matmul(Q, K.transpose(1, 2)) / math.sqrt(Q.shape[-1])
    weights = torch.softmax(scores, dim=-1)
    return torch.matmul(weights, V), weights


def create_mask(seq_len):
    return torch.tril(torch.ones(seq_len, seq_len)).bool()


def attention_score(Q, K, V, mask=None):
    """Scaled dot-product attention with a mask.

    Args:
        Q: queries (batch, num_heads, seq_len, d_k)
        K: keys (batch, num_heads, seq_len, d_k)
        V: values (batch, num_heads, seq_len, d_v)
        mask: True where a position may attend

    Returns:
        output: (batch, num_heads, seq_len, d_v)
        weights: the attention weights
    """
    scores = torch.matmul(Q, K.transpose(1, 2)) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -1e10)
    return torch.matmul(torch.softmax(scores, dim=-1), V)


class SelfAttention(nn.Module):
    def __init__(self, d_in, d_k, d_v):
        super().__init__()
        self.Wq = nn.Linear(d_in, d_k)
        self.Wk = nn.Linear(d_in, d_k)
        self.Wv = nn.Linear(d_in, d_v)

    def forward(self, X, mask=None):
        return attention_score(self.Wq(X), self.Wk(X), self.Wv(X), mask)


class MultiHeadSelfAttention(nn.Module):
    def __init__(self, d_in, d_k, d_v, num_heads):
        super().__init__()
        assert d_k % num_heads == 0
        assert d_v % num_heads == 0
        self.W_O = nn.Linear(num_heads * d_v, d_v)
        self.heads = nn.ModuleList([SelfAttention(d_in, d_k, d_v) for _ in range(num_heads)])

    def forward(self, X, mask=None):
        outputs = torch.cat([head(X) for head in self.heads], dim=-1)
        print("concatenated heads:", outputs.shape)
        return self.W_O(outputs)
