"""Prompts' token ids and a model -> ratings: each value's probability, sampled responses, parsed.

The first answer position gives the values' probabilities, whatever the decoding (decisions 14, 15).
Randomness comes from a generator per row, so that batching cannot change a result.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from transformers import PreTrainedModel

from persona_lab.component import component
from persona_lab.data import Scale
from persona_lab.errors import UserError
from persona_lab.model.engine import Group, TreeCache, run, step, trees
from persona_lab.prompting import Codec, Example


@dataclass(frozen=True)
class Response:
    """What a model answered to one example.

    Attributes:
        text: The response; empty under `expected`, which reads probabilities alone.
        prediction: The rating parsed or expected, None when there is none.
        expected_rating: Mean of the scale's values under their probabilities.
        probabilities: Of the scale's values, of shape (n_values,), summing to 1.
        digit_mass: The values' share of the whole vocabulary's probability.
    """

    text: str
    prediction: float | None
    expected_rating: float
    probabilities: np.ndarray
    digit_mass: float


@component
class Decode:
    """How a response is drawn and read.

    Attributes:
        name: `paper` samples, `greedy` takes the likeliest token, `expected` predicts the mean of
            the scale's values under their probabilities.
        temperature: Of the softmax when sampling; at 0 it would be `greedy`.
        top_k: Tokens that sampling may draw.
        max_new_tokens: Length of a response.
        pattern: Regular expression whose first group is the rating and gives a value of the scale
            alone; `{values}` in it stands for any of them, `{high}` for the highest.
        merge: Merge adapters into the base before rating; must agree with unmerged.
    """

    name: Literal["paper", "greedy", "expected"]
    temperature: PositiveFloat
    top_k: PositiveInt
    max_new_tokens: PositiveInt
    pattern: str
    merge: bool

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise UserError(
                f"decode.pattern is no regular expression: {error}", "mend it, see its default"
            ) from error
        if not groups:
            raise UserError("decode.pattern has no group", "put ( and ) around the rating in it")

    def parse(self, text: str, scale: Scale) -> float | None:
        """The rating in a response, None when it is unrelated (decision 14).

        Raises:
            UserError: The pattern's first group gives anything but a value of the scale.
        """
        match = self._search(text, scale)
        if match is None:
            return None
        if (label := match.group(1)) not in scale.labels:
            raise UserError(
                f"decode.pattern {self.pattern!r} finds {label!r} in the response {text!r}",
                f"let its first group give one of {scale.listed} alone, as ({{values}}) does",
            )
        return scale.values[scale.labels.index(label)]

    def settled(self, text: str, scale: Scale) -> bool:
        """Whether no further token can change the rating that the text holds."""
        match = self._search(text, scale)
        # "4." may go on as "4.5", "4" as "45"; after "4 " or "4\n" the rating stands.
        return match is not None and text[match.end() : match.end() + 1].isspace()

    def _search(self, text: str, scale: Scale) -> re.Match[str] | None:
        # The longest first: of "4.5" the 4 alone is no rating.
        labels = sorted(scale.labels, key=len, reverse=True)
        pattern = self.pattern.replace("{values}", "|".join(map(re.escape, labels)))
        return re.search(pattern.replace("{high}", re.escape(scale.labels[-1])), text)


def respond(
    model: PreTrainedModel,
    codec: Codec,
    decode: Decode,
    groups: Sequence[Group],
    examples: Sequence[Example],
    seed: int,
    budget: int,
) -> dict[int, Response]:
    """Answer rows by a model on the engine's attention; responses by their index in `examples`.

    `Group.rows` index `examples`, the seed is that of the rows' generators, and `budget` tokens are
    computed at once; a single row may have more.
    """
    samples = decode.name != "expected"
    values = np.asarray(codec.scale.values, dtype=float)
    responses: dict[int, Response] = {}
    with torch.inference_mode():
        for tree in trees(model, groups, budget):
            cache = TreeCache(tree) if samples and decode.max_new_tokens > 1 else None
            logits = head(model, run(model, tree, cache)[tree.ends - tree.n_before])
            of_values = logits[:, list(codec.value_ids)].double()
            probabilities = of_values.softmax(-1).cpu().numpy()
            mass = (of_values.logsumexp(-1) - logits.double().logsumexp(-1)).exp().tolist()
            rows = [examples[i] for i in tree.order]
            texts = _generate(model, codec, decode, logits, cache, rows, seed) if samples else None
            for n, index in enumerate(tree.order):
                p = probabilities[n] / probabilities[n].sum()
                expected = float(p @ values)
                text = texts[n] if texts else ""
                prediction = decode.parse(text, codec.scale) if samples else expected
                responses[index] = Response(text, prediction, expected, p, mass[n])
    return responses


def _generate(
    model: PreTrainedModel,
    codec: Codec,
    decode: Decode,
    logits: Tensor,
    cache: TreeCache | None,
    rows: Sequence[Example],
    seed: int,
) -> list[str]:
    generators = [np.random.default_rng([seed, row.user_id, row.item_id]) for row in rows]
    draws = np.stack([generator.random(decode.max_new_tokens) for generator in generators])
    # As written: a clean-up would make "4 .5" of a settled "4 " into "4.5".
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    tokens: list[list[int]] = [[] for _ in rows]
    texts = [""] * len(rows)
    done = np.zeros(len(rows), dtype=bool)
    for n in range(decode.max_new_tokens):
        chosen = _choose(logits, decode, draws[:, n])
        for i in np.flatnonzero(~done):
            if chosen[i] in codec.stop_ids:
                done[i] = True
                continue
            tokens[i].append(int(chosen[i]))
            texts[i] = str(codec.tokenizer.decode(tokens[i], **options))
            done[i] = decode.settled(texts[i], codec.scale)
        if done.all() or n + 1 == decode.max_new_tokens:
            break
        assert cache is not None
        logits = head(model, step(model, torch.from_numpy(chosen).to(model.device), cache, n))
    return texts


def _choose(logits: Tensor, decode: Decode, draws: np.ndarray) -> np.ndarray:
    """Next token of every row: the likeliest, or drawn at the row's own random number."""
    if decode.name == "greedy":
        return logits.argmax(-1).cpu().numpy()
    top, ids = logits.double().topk(min(decode.top_k, logits.shape[-1]), dim=-1)
    cumulated = (top / decode.temperature).softmax(-1).cumsum(-1)
    at = torch.from_numpy(draws).to(logits.device)[:, None] * cumulated[:, -1:]
    place = torch.searchsorted(cumulated, at, right=True).clamp(max=ids.shape[-1] - 1)
    return ids.gather(-1, place)[:, 0].cpu().numpy()


def head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits of shape (N, vocabulary), computed at the given positions only."""
    to_vocabulary = model.get_output_embeddings()
    assert to_vocabulary is not None
    return to_vocabulary(hidden)
