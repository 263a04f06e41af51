"""Rows and a model's sizes -> the arithmetic that cannot be avoided; a machine -> its peak.

Counted are multiplications and additions of matrix products (2 per pair) on *unique* tokens, each
user's prefix once:

- a projection from m to n: m n per token; an adapter of rank r beside it: r (m + n);
- attention: 2 d per query head and pair of tokens that may see each other, d the head's size;
- the last layer's queries, outputs and feed-forward, and the head: at answer positions only.

A backward pass needs the gradient of a product's input and of what is trained: as much again for
frozen weights, twice as much for adapters and attention. In the first layer nothing below queries,
keys and values needs a gradient. Norms, softmax and embedding are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from persona_lab.model.engine import Group


def now() -> float:
    """Seconds on the clock, when all that was begun is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def products(config: Any, groups: Sequence[Group], rank: int, answers: int, steps: float) -> float:
    """Floating-point operations of a forward pass over rows that share prefixes.

    Args:
        config: The model's, in the layout of LLaMA.
        groups: The users' rows.
        rank: Of the adapters on queries and keys.
        answers: Positions at the end of a row whose logits are needed.
        steps: Tokens decoded behind each row, on average, that run through the model.
    """
    forward, _ = _count(config, groups, rank, answers, steps)
    return 2 * forward


def products_of_training(config: Any, groups: Sequence[Group], rank: int, answers: int) -> float:
    """Floating-point operations of a forward and a backward pass (see `products`)."""
    return 2 * sum(_count(config, groups, rank, answers, 0.0))


def _count(
    config: Any, groups: Sequence[Group], rank: int, answers: int, steps: float
) -> tuple[float, float]:
    hidden, inner = config.hidden_size, config.intermediate_size
    size = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = size * config.num_attention_heads, size * config.num_key_value_heads
    lora_query, lora_key = rank * (hidden + queries), rank * (hidden + keys)
    # What a token costs before attention that all tokens need, and what only those that go on do.
    needed = 2 * hidden * keys
    going_on = 2 * hidden * queries + 3 * hidden * inner
    n_rows = sum(len(each.suffixes) for each in groups)
    decoded = n_rows * steps
    tokens = sum(each.n_tokens for each in groups) + decoded
    last = n_rows * answers + decoded
    pairs = sum(map(_pairs, groups))
    row_lengths = sum(len(g.prefix) * len(g.suffixes) + sum(map(len, g.suffixes)) for g in groups)
    pairs_last = answers * row_lengths + steps * row_lengths
    pairs += steps * row_lengths
    full = config.num_hidden_layers - 1
    head = last * hidden * config.vocab_size
    frozen = tokens * (full * (needed + going_on) + needed) + last * going_on + head
    adapters = tokens * (full * (lora_query + lora_key) + lora_key) + last * lora_query
    attention = 2 * queries * (full * pairs + pairs_last)
    below_first = tokens * (needed + hidden * queries + 2 * rank * hidden) + queries * pairs
    return (
        frozen + adapters + attention,
        frozen + 2 * adapters + 2 * attention - below_first,
    )


def _pairs(group: Group) -> float:
    prefix = len(group.prefix)
    own = [len(suffix) for suffix in group.suffixes]
    return prefix * (prefix + 1) / 2 + sum(n * prefix + n * (n + 1) / 2 for n in own)


def peak(
    config: Any,
    dtype: torch.dtype,
    seconds: float,
    tokens: int = 4096,
    device: str = "cpu",
) -> dict[str, float]:
    """Measured operations per second of torch's matrix product, at the model's shapes and a square.

    Args:
        config: The model's.
        dtype: Data type of the factors.
        seconds: For each shape.
        tokens: Rows of the left factor.
        device: Where.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    keys = hidden // config.num_attention_heads * config.num_key_value_heads
    # A GPU needs more to do at once, and time to begin.
    square, repeats = (8192, 10) if device == "cuda" else (2048, 1)
    shapes = [(tokens, hidden, hidden), (tokens, hidden, keys), (tokens, hidden, inner)]
    shapes += [(tokens, inner, hidden), (square, square, square)]
    found = {}
    for m, k, n in shapes:
        left = torch.randn(m, k, dtype=dtype, device=device)
        right = torch.randn(n, k, dtype=dtype, device=device)
        torch.nn.functional.linear(left, right)
        times = []
        end = now() + seconds
        while not times or now() < end:
            start = now()
            for _ in range(repeats):
                torch.nn.functional.linear(left, right)
            times.append((now() - start) / repeats)
        found[f"{m}x{k}x{n}"] = 2 * m * k * n / sorted(times)[len(times) // 2]
    return found
