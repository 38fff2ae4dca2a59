"""A right solution in plain torch; the tests break it, one edit at a time."""

import math

import torch
from torch import nn


class PositionalEncoding:
    def __init__(self, d_model, max_len):
        position = torch.arange(max_len, dtype=torch.float64)[:, None]
        column = torch.arange(0, d_model, 2, dtype=torch.float64)
        angle = position / 10000 ** (column / d_model)
        table = torch.zeros(max_len, d_model, dtype=torch.float64)
        table[:, 0::2] = torch.sin(angle)
        table[:, 1::2] = torch.cos(angle[:, : d_model // 2])
        self.encoding = table.float()

    def get_encoding(self):
        return self.encoding


def add_positional_encoding(word_embeddings, positional_encodings):
    return word_embeddings + positional_encodings


def weights_of(Q, K, mask=None):
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
        scores = scores.masked_fill(~mask.any(-1, keepdim=True), 0.0)
    weights = torch.softmax(scores, dim=-1)
    return weights if mask is None else weights.masked_fill(~mask, 0.0)


def att_score(Q, K, V):
    weights = weights_of(Q, K)
    return weights @ V, weights


def create_mask(seq_len):
    return torch.ones(seq_len, seq_len, dtype=torch.bool).tril()


def attention_score(Q, K, V, mask=None):
    return weights_of(Q, K, mask) @ V


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
        self.W_O = nn.Linear(d_v, d_v)
        heads = [SelfAttention(d_in, d_k // num_heads, d_v // num_heads) for _ in range(num_heads)]
        self.heads = nn.ModuleList(heads)

    def forward(self, X, mask=None):
        outputs = [head(X, mask) for head in self.heads]
        return self.W_O(torch.cat(outputs, dim=-1))
