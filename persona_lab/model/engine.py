"""Rows of token ids that share prefixes -> hidden states, each shared prefix computed once.

All rows of a user begin with the same long text. A `Tree` packs the users of a batch into one
sequence in which every prefix stands once, followed by its rows' suffixes; the model runs over
that sequence in a single pass. Only attention has to know about the sharing: a suffix attends to
its own prefix and to itself, as if it stood alone. Both parts are computed by the flash kernel and
merged by their log-sum-exp, so no key or value is copied per row, and autograd gives the loss and
the gradients of separate rows.

Works for every transformers decoder that calls the attention interface (LLaMA, Phi-3, Gemma-3,
...): grouped-query heads, sliding windows, any dtype. Pure: no disk, no network.

Shape suffixes: T packed tokens, N rows, S longest suffix, P a prefix's length,
H query heads, K key/value heads, G = H / K, D head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import gcd
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

ATTENTION = "persona_lab_tree"
"""The name under which models use this module's attention (`attn_implementation`)."""


@dataclass(frozen=True)
class Group:
    """Rows that share a prefix, by their index in the caller's list."""

    prefix: Sequence[int]
    suffixes: Sequence[Sequence[int]]
    rows: Sequence[int]

    @property
    def n_tokens(self) -> int:
        """Tokens that are computed: the prefix once and every suffix."""
        return len(self.prefix) + sum(map(len, self.suffixes))


def group(rows: Sequence[list[int]], indices: Sequence[int], shortest: int = 1) -> Group:
    """Split rows, of these indices in the caller's list, into their longest common prefix and rest.

    Every suffix keeps `shortest` tokens, at least: as many hidden states are a row's own.
    """
    first, last = min(rows), max(rows)
    limit = min(map(len, rows)) - shortest
    n = next((i for i in range(limit) if first[i] != last[i]), limit)
    return Group(prefix=rows[0][:n], suffixes=[row[n:] for row in rows], rows=indices)


def pack(groups: Sequence[Group], budget: int) -> Iterator[list[Group]]:
    """Gather groups into batches of at most `budget` tokens; a larger one is a batch of its own."""
    batch: list[Group] = []
    room = budget
    for one in groups:
        if batch and one.n_tokens > room:
            yield batch
            batch, room = [], budget
        batch.append(one)
        room -= one.n_tokens
    if batch:
        yield batch


def parts(whole: Group, budget: int) -> Iterator[Group]:
    """Cut a group into groups of at most `budget` tokens, each with the whole prefix."""
    start, used = 0, len(whole.prefix)
    for i, suffix in enumerate(whole.suffixes):
        if i > start and used + len(suffix) > budget:
            yield Group(whole.prefix, whole.suffixes[start:i], whole.rows[start:i])
            start, used = i, len(whole.prefix)
        used += len(suffix)
    yield Group(whole.prefix, whole.suffixes[start:], whole.rows[start:])


@dataclass(frozen=True)
class Span:
    """Where one group stands in the packed sequence: tokens and rows, as half-open ranges."""

    tokens: slice
    prefix: slice
    suffix: slice
    rows: slice

    def has_prefix(self) -> bool:
        """Whether any token is shared."""
        return self.prefix.stop > self.prefix.start


class Trunk:
    """A prefix that was computed once for several trees of its rows.

    In training the trees attend to detached keys and values, whose gradients add up over their
    backward passes; `backward` then takes the sums through the prefix.
    """

    def __init__(self, model: PreTrainedModel, prefix: Sequence[int]) -> None:
        tree = Tree([Group(prefix[:-1], [prefix[-1:]], [0])], model.device)
        cache = TreeCache(tree)
        run(model, tree, cache)
        self._grown = cache.layers
        learns = torch.is_grad_enabled()
        self.layers: dict[int, tuple[Tensor, Tensor]] = {
            layer: (key.detach().requires_grad_(learns), value.detach().requires_grad_(learns))
            for layer, (key, value) in cache.layers.items()
        }

    def backward(self) -> None:
        """Add the prefix's share to the gradients of what is trained."""
        pairs = [
            (grown, leaf.grad)
            for layer, own in self._grown.items()
            for grown, leaf in zip(own, self.layers[layer], strict=True)
            if leaf.grad is not None and grown.requires_grad
        ]
        torch.autograd.backward([grown for grown, _ in pairs], [grad for _, grad in pairs])


class Tree:
    """The packed sequence of several groups, and the index maps that attention needs.

    Attributes:
        ids: Token ids of shape (1, T).
        positions: Positions of shape (1, T), as in each row on its own.
        spans: One per group.
        lengths: Suffix lengths of shape (N,).
        ends: Packed index of each row's last token, of shape (N,).
        order: The rows' indices in the caller's list, of length N.
        trunk: Of the only group, where its prefix is computed already.
        n_before: Packed tokens that are computed already: the trunk's.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        device: torch.device | str = "cpu",
        trunk: Trunk | None = None,
    ) -> None:
        ids, positions, starts, lengths = ([], [], [], [])
        self.spans: list[Span] = []
        self.order = [row for one in groups for row in one.rows]
        for one in groups:
            begin, first, n = len(ids), len(starts), len(one.prefix)
            ids += one.prefix
            positions += range(n)
            for own in one.suffixes:
                starts.append(len(ids))
                lengths.append(len(own))
                ids += own
                positions += range(n, n + len(own))
            middle, end, rows = begin + n, len(ids), slice(first, len(starts))
            whole, prefix, suffix = slice(begin, end), slice(begin, middle), slice(middle, end)
            self.spans.append(Span(whole, prefix, suffix, rows))
        self.ids = torch.tensor([ids], device=device)
        self.positions = torch.tensor([positions], device=device)
        self.lengths = torch.tensor(lengths, device=device)
        self.ends = torch.tensor(starts, device=device) + self.lengths - 1
        offsets = np.arange(max(lengths))[None, :]
        inside = offsets < np.array(lengths)[:, None]
        padded = np.where(inside, np.array(starts)[:, None] + offsets, 0)
        self.padded = torch.from_numpy(padded).to(device)
        self.suffix_tokens = self.padded.new_tensor(padded[inside])
        self.suffix_slots = self.padded.new_tensor(np.flatnonzero(inside.ravel()))
        self.span = max(positions) + 1
        self.trunk = trunk
        self.n_before = len(groups[0].prefix) if trunk else 0
        self.suffix_queries = self.suffix_tokens - self.n_before
        self._masks: dict[int | None, list[Tensor]] = {}

    def queries(self, tokens: slice) -> slice:
        """Packed tokens' places among the queries, which a trunk's tokens are not."""
        return slice(max(tokens.start - self.n_before, 0), tokens.stop - self.n_before)

    def masks(self, window: int | None) -> list[Tensor]:
        """Per group, which of its t packed tokens may see which: bool of shape (t, t).

        For the kernels that know no tree, and as the text of what is seen; quadratic in a group.
        """
        if window not in self._masks:
            row = self.padded.new_full((self.ids.shape[1],), -1)
            rows = torch.arange(len(self.lengths), device=row.device)
            row[self.suffix_tokens] = rows.repeat_interleave(self.lengths)
            self._masks[window] = []
            for span in self.spans:
                own, at = row[span.tokens], self.positions[0, span.tokens]
                distance = at[:, None] - at[None, :]
                seen = ((own[None, :] == -1) | (own[:, None] == own[None, :])) & (distance >= 0)
                self._masks[window].append(seen if window is None else seen & (distance < window))
        return self._masks[window]


@dataclass
class TreeCache:
    """Keys and values of a tree, kept per layer so that its rows can go on token by token.

    Attributes:
        tree: The tree they belong to.
        layers: Per layer the packed keys and values of shape (K, T, D).
        added: Per layer the keys and values of decoded tokens, each of shape (N, K, steps, D).
    """

    tree: Tree
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    added: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


def trees(model: PreTrainedModel, groups: Sequence[Group], budget: int) -> Iterator[Tree]:
    """Groups -> trees of at most `budget` tokens, so that memory is bounded whatever a user's rows.

    The prefix of a group beyond the budget is computed once for all its trees. In training, a
    tree's backward pass must be done before the next one is asked for, and all must be asked for.
    A single row may have more tokens than the budget.
    """
    for batch in pack(groups, budget):
        if sum(one.n_tokens for one in batch) <= budget:
            yield Tree(batch, model.device)
            continue
        (large,) = batch
        trunk = Trunk(model, large.prefix) if large.prefix else None
        for part in parts(large, budget):
            yield Tree([part], model.device, trunk)
        if trunk:
            trunk.backward()


def run(model: PreTrainedModel, tree: Tree, cache: TreeCache | None = None) -> Tensor:
    """Hidden states of shape (T, hidden) after the last norm, in packed order.

    Those of a trunk, which are not computed again, are left out: shape (T - n_before, hidden).
    The model's `attn_implementation` is `ATTENTION`. The cache is filled with keys and values.
    """
    return _decoder(model)(
        input_ids=tree.ids[:, tree.n_before :],
        position_ids=tree.positions[:, tree.n_before :],
        use_cache=False,
        tree=tree,
        cache=cache,
    ).last_hidden_state[0]


def step(model: PreTrainedModel, tokens: Tensor, cache: TreeCache, n_before: int) -> Tensor:
    """Hidden states of shape (N, hidden) of one more token per row.

    `tokens` are of shape (N,), in the tree's row order, `n_before` were decoded before them. The
    cache was filled by `run`; their keys and values are added to it.
    """
    positions = cache.tree.positions[0, cache.tree.ends] + 1 + n_before
    return _decoder(model)(
        input_ids=tokens[None],
        position_ids=positions[None],
        use_cache=False,
        tree=cache.tree,
        cache=cache,
        next_positions=positions,
    ).last_hidden_state[0]


def _decoder(model: PreTrainedModel) -> nn.Module:
    if model.config._attn_implementation != ATTENTION:
        raise AssertionError(f"the model attends by {model.config._attn_implementation}")
    return model.get_decoder()


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: Tree,
    scaling: float,
    cache: TreeCache | None = None,
    next_positions: Tensor | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """The attention that transformers calls: query (1, H, T, D), key and value (1, K, T, D)."""
    unknown = sorted(name for name in ("softcap", "s_aux") if others.get(name) is not None)
    if unknown or dropout:
        raise NotImplementedError(f"attention with {unknown or 'dropout'} is not supported")
    layer: int = module.layer_idx  # pyright: ignore[reportAssignmentType]
    key, value = key.to(query.dtype), value.to(query.dtype)
    if next_positions is not None:
        assert cache is not None
        step = (cache, next_positions, layer, scaling, sliding_window)
        return _attend_step(query[0], key[0], value[0], *step).transpose(0, 1)[None], None
    if tree.trunk is not None:
        before_key, before_value = (t[None].to(key.dtype) for t in tree.trunk.layers[layer])
        key, value = torch.cat([before_key, key], 2), torch.cat([before_value, value], 2)
    if cache is not None:
        cache.layers[layer] = (key[0], value[0])
    window = None if sliding_window is None or sliding_window >= tree.span else sliding_window
    halves = (torch.float16, torch.bfloat16)
    flash = query.device.type == "cpu" or (query.is_cuda and query.dtype in halves)
    attend = _TwoParts.apply if window is None and flash else partial(_masked, window)
    return attend(query[0], key[0], value[0], tree, scaling).transpose(0, 1)[None], None


def _masked(
    window: int | None, query: Tensor, key: Tensor, value: Tensor, tree: Tree, scaling: float
) -> Tensor:
    """Attention over a tree by torch's own kernel and the tree's masks."""
    attend = nn.functional.scaled_dot_product_attention
    groups = query.shape[0] // key.shape[0]
    outs = []
    for span, mask in zip(tree.spans, tree.masks(window), strict=True):
        # The kernels that are thrifty with memory want as many heads of keys as of queries.
        wide = (t[None, :, span.tokens].repeat_interleave(groups, 1) for t in (key, value))
        own, seen = query[None, :, tree.queries(span.tokens)], mask[tree.n_before :]
        outs.append(attend(own, *wide, attn_mask=seen, scale=scaling)[0])
    return torch.cat(outs, dim=1)


def _attend_step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cache: TreeCache,
    positions: Tensor,
    layer: int,
    scaling: float,
    window: int | None,
) -> Tensor:
    """One token per row, query (H, N, D) and key (K, N, D), against all it may see -> (H, N, D)."""
    tree = cache.tree
    key, value = key.transpose(0, 1)[:, :, None], value.transpose(0, 1)[:, :, None]
    if layer in cache.added:
        before_key, before_value = cache.added[layer]
        key, value = torch.cat([before_key, key], 2), torch.cat([before_value, value], 2)
    cache.added[layer] = (key, value)
    packed_key, packed_value = cache.layers[layer]
    n_kv, n_added = packed_key.shape[0], key.shape[2]
    offsets = torch.arange(tree.padded.shape[1], device=key.device)
    reach = positions[:, None] - (window or tree.span + n_added + 1)
    begin = tree.positions[0, tree.ends] - tree.lengths + 1
    own_seen = (offsets < tree.lengths[:, None]) & (begin[:, None] + offsets > reach)
    added_position = (begin + tree.lengths)[:, None] + torch.arange(n_added, device=key.device)
    own_seen = torch.cat([own_seen, added_position > reach], 1)
    own_key = torch.cat([packed_key[:, tree.padded].transpose(0, 1), key], 2)
    own_value = torch.cat([packed_value[:, tree.padded].transpose(0, 1), value], 2)
    outs = []
    for span in tree.spans:
        q = query[:, span.rows].unflatten(0, (n_kv, -1))  # K G n D
        prefix = torch.einsum("kgnd,kpd->kgnp", q, packed_key[:, span.prefix])
        seen = tree.positions[0, span.prefix][None] > reach[span.rows]
        own = torch.einsum("kgnd,nksd->kgns", q, own_key[span.rows])
        seen = torch.cat([seen, own_seen[span.rows]], 1)
        scores = torch.cat([prefix, own], -1)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scaling
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1).to(query.dtype)
        to_prefix, to_own = weights.split([prefix.shape[-1], own.shape[-1]], -1)
        out = torch.einsum("kgnp,kpd->kgnd", to_prefix, packed_value[:, span.prefix])
        out = out + torch.einsum("kgns,nksd->kgnd", to_own, own_value[span.rows])
        outs.append(out.flatten(0, 1))
    return torch.cat(outs, 1)


_aten = torch.ops.aten


def _flash(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scaling: float
) -> tuple[Tensor, Tensor]:
    """The flash kernel on (B, H, n, D), with the log-sum-exp of its scores, (B, H, n)."""
    arguments = (query, key, value, 0.0, causal)
    if query.is_cuda:
        return _aten._scaled_dot_product_flash_attention(*arguments, scale=scaling)[:2]
    return _aten._scaled_dot_product_flash_attention_for_cpu(*arguments, scale=scaling)


def _flash_backward(*arguments: Tensor, causal: bool, scaling: float) -> tuple[Tensor, ...]:
    """Its backward pass: gradient, query, key, value, output, log-sum-exp -> three gradients."""
    _, query, key, _, _, lse = arguments
    if query.is_cuda:
        # Rows of equal length, and no dropout whose state would be needed.
        lengths = (None, None, query.shape[2], key.shape[2])
        state = (lse.new_zeros(2, dtype=torch.uint64), lse.new_zeros((), dtype=torch.uint64))
        backward = _aten._scaled_dot_product_flash_attention_backward
        return backward(*arguments, *lengths, 0.0, causal, *state, scale=scaling)
    backward = _aten._scaled_dot_product_flash_attention_for_cpu_backward
    return backward(*arguments, 0.0, causal, scale=scaling)


class _TwoParts(torch.autograd.Function):
    """Attention over a tree: every suffix token to its prefix and to its own row, merged.

    Written by hand since torch's own backward of two kernels merged by their log-sum-exp would
    need the gradient of that log-sum-exp, which the kernel does not give. With the merged output
    and log-sum-exp put in, each kernel's backward gives its part of the exact gradient.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, tree: Tree, scaling: float
    ) -> Tensor:
        groups = query.shape[0] // key.shape[0]
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        wide = torch.promote_types(query.dtype, torch.float32)
        lse = torch.empty(query.shape[:2], dtype=wide, device=query.device)
        for span in filter(Span.has_prefix, tree.spans):
            k, v = key[None, :, span.prefix], value[None, :, span.prefix]
            if tree.trunk is None:
                wide_k, wide_v = (t.repeat_interleave(groups, 1) for t in (k, v))
                o, n = _flash(query[None, :, span.prefix], wide_k, wide_v, True, scaling)
                out[:, span.prefix], lse[:, span.prefix] = o[0], n[0]
            # Heads that share keys and values become more queries of one head: no copy is made.
            suffix = tree.queries(span.suffix)
            q = query[:, suffix].unflatten(0, (-1, groups)).flatten(1, 2)[None]
            o, n = _flash(q, k, v, False, scaling)
            out[:, suffix] = o[0].unflatten(1, (groups, -1)).flatten(0, 1)
            lse[:, suffix] = n[0].unflatten(1, (groups, -1)).flatten(0, 1)
        own = _flash(*_own(query, key, value, tree), True, scaling)
        own_out, own_lse = (_rows_to_tokens(t, tree) for t in own)
        at = tree.suffix_queries
        sizes = [span.suffix.stop - span.suffix.start for span in tree.spans]
        prefixed = np.repeat([span.has_prefix() for span in tree.spans], sizes)
        with_prefix = torch.from_numpy(prefixed).to(out.device)
        prefix_lse = lse[:, at].masked_fill(~with_prefix, float("-inf"))
        prefix_out = out[:, at].masked_fill(~with_prefix[:, None], 0.0)
        merged = torch.logaddexp(prefix_lse, own_lse)
        share = torch.exp(prefix_lse - merged)[..., None].to(out.dtype)
        out[:, at] = prefix_out * share + own_out * (1 - share)
        lse[:, at] = merged
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.tree, ctx.scaling = tree, scaling
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, out, lse = ctx.saved_tensors
        tree, scaling = ctx.tree, ctx.scaling
        grad = grad.contiguous()
        d_query, d_key, d_value = (torch.zeros_like(t) for t in (query, key, value))
        for span in filter(Span.has_prefix, tree.spans):
            _prefix_backward(
                (query, key, value, out, lse, grad), (d_query, d_key, d_value), tree, span, scaling
            )
        # Many short rows: the CPU kernel's backward in half precision takes 3.6 times as long here.
        dtype = query.dtype if query.is_cuda else lse.dtype
        wide = [t.to(dtype) for t in (query, key, value, out, grad)]
        own = _own(wide[0], wide[1], wide[2], tree)
        own_out, own_grad = (_tokens_to_rows(t, tree, 0.0) for t in wide[3:])
        # Padded queries get an infinite normaliser, so that their weights are exactly zero.
        own_lse = _tokens_to_rows(lse, tree, float("inf"))
        parts = _flash_backward(own_grad, *own, own_out, own_lse, causal=True, scaling=scaling)
        dq, dk, dv = (t.to(query.dtype) for t in parts)
        d_query[:, tree.suffix_queries] += _rows_to_tokens(dq, tree)
        for target, part in ((d_key, dk), (d_value, dv)):
            summed = part.unflatten(1, (key.shape[0], -1)).sum(2)
            target[:, tree.suffix_tokens] += _rows_to_tokens(summed, tree)
        return d_query, d_key, d_value, None, None


def _own(query: Tensor, key: Tensor, value: Tensor, tree: Tree) -> tuple[Tensor, Tensor, Tensor]:
    """Each row's suffix on its own, padded on the right: three tensors of shape (N, H, S, D)."""
    groups = query.shape[0] // key.shape[0]
    # What stands where a row has ended is never read.
    own_query = query[:, (tree.padded - tree.n_before).clamp(min=0)].transpose(0, 1)
    own_key, own_value = (
        t[:, tree.padded].transpose(0, 1).repeat_interleave(groups, 1) for t in (key, value)
    )
    return own_query.contiguous(), own_key, own_value


def _rows_to_tokens(rows: Tensor, tree: Tree) -> Tensor:
    """(N, H, S, ...) -> (H, suffix tokens, ...)."""
    return rows.transpose(0, 1).flatten(1, 2)[:, tree.suffix_slots]


def _tokens_to_rows(tokens: Tensor, tree: Tree, padding: float) -> Tensor:
    """(H, T, ...) -> (N, H, S, ...)."""
    n, s = tree.padded.shape
    rows = tokens.new_full((tokens.shape[0], n * s, *tokens.shape[2:]), padding)
    rows[:, tree.suffix_slots] = tokens[:, tree.suffix_queries]
    return rows.unflatten(1, (n, s)).transpose(0, 1).contiguous()


def _prefix_backward(
    saved: tuple[Tensor, ...],
    grads: tuple[Tensor, Tensor, Tensor],
    tree: Tree,
    span: Span,
    scaling: float,
) -> None:
    """Adds to `grads` what comes through the prefix's keys and values."""
    query, key, value, out, lse, grad = saved
    d_query, d_key, d_value = grads
    groups = query.shape[0] // key.shape[0]
    k, v = key[None, :, span.prefix], value[None, :, span.prefix]
    if tree.trunk is None:
        wide_k, wide_v = (t.repeat_interleave(groups, 1) for t in (k, v))
        q, o, g, n = (t[None, :, span.prefix].contiguous() for t in (query, out, grad, lse))
        dq, dk, dv = _flash_backward(g, q, wide_k, wide_v, o, n, causal=True, scaling=scaling)
        d_query[:, span.prefix] = dq[0]
        d_key[:, span.prefix] = dk[0].unflatten(0, (-1, groups)).sum(1)
        d_value[:, span.prefix] = dv[0].unflatten(0, (-1, groups)).sum(1)
    # The CPU kernel's backward goes side by side over batch and heads only: heads that share keys
    # become more queries, which are cut into parts so that every thread has as much to do.
    n_threads = 1 if query.is_cuda else torch.get_num_threads()
    n_parts = n_threads // gcd(n_threads, k.shape[1])
    suffix = tree.queries(span.suffix)
    n_suffix = suffix.stop - suffix.start
    short = -n_suffix % n_parts

    def cut(tensor: Tensor, padding: float = 0.0) -> Tensor:
        """(H, n, ...) -> (n_parts, K, G m, ...)."""
        own = nn.functional.pad(tensor[:, suffix].flatten(2), (0, 0, 0, short), value=padding)
        whole = own.view(-1, groups, n_parts, own.shape[1] // n_parts, own.shape[2])
        return whole.permute(2, 0, 1, 3, 4).flatten(2, 3)

    q, o, g = cut(query), cut(out), cut(grad)
    n = cut(lse[..., None], float("inf"))[..., 0]
    wide_k, wide_v = (t.expand(n_parts, -1, -1, -1) for t in (k, v))
    dq, dk, dv = _flash_backward(g, q, wide_k, wide_v, o, n, causal=False, scaling=scaling)
    dq = dq.unflatten(2, (groups, -1)).permute(1, 2, 0, 3, 4).flatten(2, 3).flatten(0, 1)
    d_query[:, suffix] = dq[:, :n_suffix]
    d_key[:, span.prefix] += dk.sum(0)
    d_value[:, span.prefix] += dv.sum(0)


AttentionInterface.register(ATTENTION, _attend)
