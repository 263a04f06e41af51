"""An experiment -> what it would take: rows, tokens, arithmetic, memory, time and money.

What the cache and the store hold is counted; what they lack is taken from a declared shape, and the
estimate says so. Computes no stage, loads no weights, needs no network; `Estimate.save` writes.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import TypeAdapter
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel

from persona_lab.cache import NotAtHand
from persona_lab.data import Cost, NoMovieInfo, Split, Synthetic
from persona_lab.evaluation import row_id
from persona_lab.experiment import Experiment
from persona_lab.lab import Lab
from persona_lab.model import lend
from persona_lab.model.engine import pack, parts
from persona_lab.model.train import by_prefix
from persona_lab.personas import Personas
from persona_lab.prompting import Example
from persona_lab.prompting.examples import catalogue
from persona_lab.tuning import Prepared, Tuning

# The declared shape: texts as long as the LLM-free distiller writes them on MovieLens-100K.
_PROFILE_WORDS, _MEMORY_WORDS, _SUMMARY_WORDS = 340, 40, 40
_TOKENS_PER_WORD = 1.4
_MOVIES = 4000
_PERSONAS = 4

_FOUR_BITS = 4.125 / 8  # bytes of a weight in 4 bits, with a scale of 8 bits for 64 of them
_ANSWER = 2  # tokens that a training row teaches: the digit and the end of the turn
_FILE = "plan.json"
_PIPED_WIDTH = 180


@dataclass(frozen=True)
class Work:
    """Rows for one model, packed as the engine packs them.

    Attributes:
        rows: Rows, of all epochs.
        tokens: Their tokens, were each row computed alone.
        unique_tokens: Tokens that are computed: shared prefixes once.
        attended: Pairs of a computed token and one that it attends to.
        largest: Tokens of the largest micro-batch.
        answers: Positions at which the vocabulary's head is applied.
    """

    rows: int = 0
    tokens: int = 0
    unique_tokens: int = 0
    attended: int = 0
    largest: int = 0
    answers: int = 0

    @classmethod
    def of(cls, rows: Sequence[list[int]], users: Sequence[int], budget: int, answers: int) -> Self:
        """Pack rows of token ids as the engine does, at most `budget` tokens at once.

        Args:
            rows: Token ids of each row.
            users: Whose they are.
            budget: Tokens computed at once; a single row may have more.
            answers: Positions of each row at which the head is applied.
        """
        attended = unique = largest = 0
        for batch in pack(list(by_prefix(rows, users, answers)), budget):
            at_once = sum(group.n_tokens for group in batch)
            if at_once > budget:
                at_once = max(part.n_tokens for part in parts(batch[0], budget))
            largest = max(largest, at_once)
            for group in batch:
                n = len(group.prefix)
                attended += n * (n + 1) // 2
                attended += sum(s * n + s * (s + 1) // 2 for s in map(len, group.suffixes))
                unique += group.n_tokens
        tokens = sum(map(len, rows))
        return cls(len(rows), tokens, unique, attended, largest, answers * len(rows))

    def __add__(self, other: "Work") -> "Work":
        sums = {name: n + getattr(other, name) for name, n in vars(self).items()}
        return Work(**sums | {"largest": max(self.largest, other.largest)})


@dataclass(frozen=True)
class Part:
    """A stage's result that is computed once for all runs that share it.

    Attributes:
        key: Equal where two runs share it.
        name: An adapter's name, or `predictions`.
        rows: Rows to train on, or to rate.
        work: What is computed for them, in all epochs.
        flop: Its floating-point operations.
    """

    key: str
    name: str
    rows: int
    work: Work
    flop: float


@dataclass(frozen=True)
class Estimate:
    """What one run would take if none of its adapters and predictions were stored.

    Attributes:
        label: Its row of Table 1, else its choices.
        model: The base model's name.
        distillation: Key that runs of the same memories share, and what an LLM's calls cost there;
            nothing where the memories are stored.
        parts: Its adapters, then its predictions, by each user's own adapter and by those that
            rate all users.
        adapter_parameters: Parameters of one adapter, held and stored in fp32.
        weights: Bytes of the base and of one adapter.
        activations: Bytes that the largest micro-batch keeps, of training or of rating.
        optimiser: Bytes of gradients and of AdamW's two moments.
        tflops: The throughput that time is stated at.
        assumed: What was not at hand, and what was taken instead.
    """

    label: str
    model: str
    distillation: tuple[str, Cost]
    parts: list[Part]
    adapter_parameters: int
    weights: float
    activations: float
    optimiser: float
    tflops: float
    assumed: list[str]

    def save(self, folder: Path) -> None:
        """Write plan.json."""
        (folder / _FILE).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return TypeAdapter(cls).validate_json((folder / _FILE).read_text())


def estimate(experiment: Experiment, lab: Lab) -> Estimate:
    """Count what a run would take.

    Arithmetic is that of the layers' matrices, of attention over what a token may see, and of the
    head at answers: 2 operations per weight and token forward; as many again backward through the
    frozen base, whose weights need no gradient; 4 more per adapter's weight; attention's backward
    is twice its forward. Sampling is counted at its full length. Embedding is left out.

    Args:
        experiment: The run's.
        lab: Its places; what is not at hand there is neither fetched nor computed.

    Raises:
        UserError: As the experiment itself would, where it has seen enough.
    """
    lab = lab.at_hand
    assumed: list[str] = []
    prepared = experiment.prepare(lab)
    written = all(entry.there for entry in prepared.entries.values())
    split = _split(experiment, lab, prepared, assumed)
    personas = prepared.personas.value if written else _personas(experiment, split, assumed)
    histories = split.train.groupby("user_id").size().tolist()
    cost = Cost()
    if not prepared.memories.there:
        cost = experiment.distiller.estimate(histories, split.scale)
    plan = experiment.adapter.plan(split.train, personas, experiment.seed)
    tuning = experiment.tuning(lab, prepared, plan)
    examples = _examples(experiment, tuning if written else None, split, assumed)
    shape = Shape.of(experiment, lab, trained=bool(plan.rows))

    parts, training = [], Work()
    for name, rows in plan.rows.items():
        work = _training(experiment, examples(rows, training=True))
        key = tuning.training(name).key
        parts.append(Part(key, name, len(rows), work, shape.training(work)))
        training = max(training, work, key=lambda work: work.largest)
    rating = _rating(experiment, examples(split.test, training=False))
    steps = 0 if experiment.decode.name == "expected" else experiment.decode.max_new_tokens - 1
    flop = shape.rating(rating, steps)
    for rater in (None, *plan.crossed):
        key = tuning.rating(rater).key
        parts.append(Part(key, "predictions", rating.rows, rating, flop))

    return Estimate(
        label=row_id(experiment.role, experiment.adapter.name, experiment.memory.name)
        or f"{experiment.role} · {experiment.adapter.name} · {experiment.memory.name}",
        model=experiment.model.name,
        distillation=(prepared.memories.key, cost),
        parts=parts,
        adapter_parameters=shape.adapter,
        weights=shape.held + 4 * shape.adapter,
        activations=max(shape.kept_in_training(training), shape.kept_in_rating(rating)),
        optimiser=12 * shape.adapter,
        tflops=experiment.trainer.tflops,
        assumed=assumed,
    )


def show(estimates: Sequence[Estimate]) -> None:
    """Print a table of runs, with the sum over them in which a shared part counts once."""
    lines = [
        {
            "run": run.label,
            "model": run.model,
            **_work(run.parts),
            **_memory(run),
            **_bill([run]),
        }
        for run in estimates
    ]
    if len(estimates) > 1:
        distinct = {part.key: part for run in estimates for part in run.parts}
        lines.append({"run": "all", **_work(distinct.values()), **_bill(estimates)})
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=_PIPED_WIDTH)
    table = Table(box=box.SIMPLE, title="What it would take", title_justify="left")
    for head in lines[0]:
        table.add_column(head, justify="left" if head in ("run", "model") else "right")
    for line in lines:
        if line["run"] == "all":
            table.add_section()
        table.add_row(*(line.get(head, "") for head in lines[0]))
    console.print(table)
    for assumption in dict.fromkeys(text for run in estimates for text in run.assumed):
        console.print(f"Estimated: {assumption}.", highlight=False)
    rates = sorted({f"{run.tflops:g}" for run in estimates})
    console.print(
        "Rows to train on by adapter, least to most. Tokens: of all epochs, were each row computed "
        "alone; computed: with a user's shared prefix once. GB: what is held at once. Time at "
        f"trainer.tflops={','.join(rates)}, an assumption; decoding runs below it. LLM: "
        "the distillation alone; movie texts and vectors that a server is asked for come on top.",
        highlight=False,
    )


def _work(parts: Iterable[Part]) -> dict[str, str]:
    parts = list(parts)
    trained = sorted(part.rows for part in parts if part.name != "predictions")
    sizes = [f"{n:,}" for n in dict.fromkeys([*trained[:1], *trained[-1:]])]
    rated = sum(part.rows for part in parts if part.name == "predictions")
    return {
        "train on": f"{len(trained)} x {'–'.join(sizes)}" if trained else "–",
        "rate": f"{rated:,}",
        "M tokens": f"{sum(part.work.tokens for part in parts) / 1e6:.3g}",
        "computed": f"{sum(part.work.unique_tokens for part in parts) / 1e6:.3g}",
        "PFLOP": f"{sum(part.flop for part in parts) / 1e15:.3g}",
    }


def _memory(run: Estimate) -> dict[str, str]:
    millions = run.adapter_parameters / 1e6
    return {
        "an adapter": f"{millions:.4g} M" if millions else "–",
        "MB": f"{4 * millions:.4g}" if millions else "–",
        "GB weights": f"{run.weights / 1e9:.3g}",
        "activations": f"{run.activations / 1e9:.3g}",
        "optimiser": f"{run.optimiser / 1e9:.3g}",
        "together": f"{(run.weights + run.activations + run.optimiser) / 1e9:.3g}",
    }


def _bill(runs: Sequence[Estimate]) -> dict[str, str]:
    seconds = {part.key: part.flop / run.tflops / 1e12 for run in runs for part in run.parts}
    cost = sum(dict(run.distillation for run in runs).values(), Cost())
    return {
        "time": _time(sum(seconds.values())),
        "LLM calls": f"{cost.calls:,}",
        "M LLM tokens": f"{cost.tokens / 1e6:.3g}",
        "money": f"{cost.money:,.2f}",
    }


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _split(experiment: Experiment, lab: Lab, prepared: Prepared, assumed: list[str]) -> Split:
    """The stored split; else that of the data, or of as many made-up users."""
    if prepared.split.there:
        return prepared.split.value
    data, protocol = experiment.data, experiment.protocol
    try:
        return data.split(prepared.ratings(), protocol, experiment.movie_info, lab.sources)
    except NotAtHand:
        pass
    likes = Synthetic(
        n_users=2 * data.n_users + 1,
        n_items=max(_MOVIES, data.max_ratings),
        n_personas=1,
        ratings_per_user=[data.min_ratings, data.max_ratings],
        opposition=0.0,
        seed=data.seed,
    )
    made_up = replace(data, reader=likes)
    ratings = likes.read(None, "error", data.scale)
    split = made_up.split(ratings, protocol, NoMovieInfo(), lab.sources)
    assumed.append(
        f"{data.name} is not in the cache: {data.n_users} users of {data.min_ratings} to "
        f"{data.max_ratings} ratings"
    )
    if isinstance(experiment.movie_info, NoMovieInfo):
        return split
    return replace(split, movies=split.movies.assign(summary=_words(_SUMMARY_WORDS)))


def _personas(experiment: Experiment, split: Split, assumed: list[str]) -> Personas:
    """As many users in each as there can be."""
    n_personas = min(getattr(experiment.personas, "n_personas", _PERSONAS), len(split.users))
    assumed.append(f"personas are not there yet: {n_personas} of as many users each")
    assignment = split.users[["user_id"]].assign(persona=np.arange(len(split.users)) % n_personas)
    return Personas(assignment, np.zeros((n_personas, 1)), pd.DataFrame())


def _examples(
    experiment: Experiment, tuning: Tuning | None, split: Split, assumed: list[str]
) -> Callable[..., list[Example]]:
    """The experiment's own examples, or ones of the declared lengths."""
    if tuning is not None:
        try:
            assert tuning.codec
            return tuning.examples
        except NotAtHand:
            pass
    what = f"the tokenizer of {experiment.model.name}" if tuning else "profiles and memories"
    assumed.append(
        f"{what} are not there yet: {_PROFILE_WORDS} words a profile, {_MEMORY_WORDS} a memory, "
        f"{_TOKENS_PER_WORD} tokens a word"
    )
    return partial(_declared_examples, experiment, split)


def _declared_examples(
    experiment: Experiment, split: Split, rows: pd.DataFrame, *, training: bool
) -> list[Example]:
    """Prompts of the template's words and of stand-ins for what is not written yet."""
    memory = experiment.memory.in_training() if training else experiment.memory
    movies = catalogue(split.movies)
    numbers: dict[str, int] = {}
    # A word has as many tokens wherever it stands in the same prompt: prefixes stay shared.
    places = np.floor(np.arange(experiment.model.context + 1) * _TOKENS_PER_WORD).astype(int)
    n_tokens = np.diff(places)

    @cache
    def known(text: str) -> list[int]:
        return [numbers.setdefault(word, len(numbers)) for word in text.split()]

    examples = []
    for user, item in zip(rows["user_id"].tolist(), rows["item_id"].tolist(), strict=True):
        recalled = (movies[item], f"{item} {_words(_MEMORY_WORDS - 1)}")
        prompt = experiment.prompt.render(
            profile=f"{user} {_words(_PROFILE_WORDS - 1)}" if memory.profile else None,
            traits=(1, 1, 1) if memory.profile else None,
            memories=[recalled] * memory.top_k if memory.interactions else None,
            movie=movies[item],
            scale=split.scale,
        )
        words = [word for section in prompt.sections for word in known(section.text)]
        ids = np.repeat(words[: len(n_tokens)], n_tokens[: len(words)])
        limit = experiment.model.context - max(experiment.decode.max_new_tokens, _ANSWER)
        examples.append(Example(user, item, 3, ids[:limit].tolist(), {}))
    return examples


def _words(n: int) -> str:
    return " ".join(["word"] * n)


def _training(experiment: Experiment, examples: Sequence[Example]) -> Work:
    recipe, work = experiment.train, Work()
    for epoch in range(recipe.epochs):
        for step in recipe.steps(examples, experiment.seed, epoch):
            # A row's last token that is computed is its answer: it predicts the end of the turn.
            rows = [[*examples[i].ids, -1 - int(examples[i].rating)] for i in step]
            users = [examples[i].user_id for i in step]
            work += Work.of(rows, users, recipe.tokens_per_microbatch, answers=_ANSWER)
    return work


def _rating(experiment: Experiment, examples: Sequence[Example]) -> Work:
    rows, users = [row.ids for row in examples], [row.user_id for row in examples]
    return Work.of(rows, users, experiment.trainer.tokens_per_batch, answers=1)


@dataclass(frozen=True)
class Shape:
    """A base model with an adapter, as numbers.

    Attributes:
        held: Bytes of the base.
        layers_weights: Those of its layers' matrices, which every token passes.
        head: Those of the head.
        layers: Number of layers.
        query: Width of all query heads together.
        adapter: Parameters of one adapter.
        kept: Bytes that a layer keeps of a token for its backward pass.
        cached: Bytes of a token's keys and values in a layer.
        logits: Bytes of an answer's logits.
    """

    held: float
    layers_weights: int
    head: int
    layers: int
    query: int
    adapter: int
    kept: float
    cached: int
    logits: int

    @classmethod
    def of(cls, experiment: Experiment, lab: Lab, *, trained: bool) -> Self:
        """Count a model by its outline: no weights are loaded."""
        model = experiment.model.outline(lab.sources)
        config: Any = model.config
        head_dim = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        layers: int = config.num_hidden_layers
        everything = sum(p.numel() for p in model.parameters())
        stack: Any = model.get_decoder().layers
        matrices = sum(p.numel() for p in stack.parameters() if p.dim() == 2)
        own = 4 if experiment.trainer.weights == "float32" else 2
        packed = _FOUR_BITS if experiment.peft.quantisation else None
        number = 4 if experiment.trainer.computes == "32-true" else 2
        adapter, inputs = _adapter(experiment, model) if trained else (0, 0)
        query = config.num_attention_heads * head_dim
        pair = 2 * config.num_key_value_heads * head_dim
        # Norms keep their inputs in fp32, an adapter its own after dropout and the mask of that.
        # What torch keeps was measured; a test holds this to it.
        kept = config.hidden_size * (8 + 2 * number) + inputs / layers * (number + 1)
        kept += number * (2 * query + pair + 3 * config.intermediate_size)
        return cls(
            held=(everything - matrices) * own + matrices * (packed or own),
            layers_weights=matrices,
            head=config.hidden_size * config.vocab_size,
            layers=layers,
            query=query,
            adapter=adapter,
            kept=kept,
            cached=pair * number,
            logits=config.vocab_size * (number + 8),
        )

    def forward(self, work: Work) -> tuple[float, float]:
        """Operations of the base's matrices, and of attention."""
        matrices = 2.0 * self.layers_weights * work.unique_tokens + 2.0 * self.head * work.answers
        return matrices, 4.0 * self.layers * self.query * work.attended

    def training(self, work: Work) -> float:
        """Operations of a forward and a backward pass."""
        matrices, attention = self.forward(work)
        return 2 * matrices + 3 * attention + 6.0 * self.adapter * work.unique_tokens

    def rating(self, work: Work, steps: int) -> float:
        """Operations of scoring all rows and of `steps` more tokens for each."""
        adapter = 2.0 * self.adapter
        matrices, attention = self.forward(work)
        length = work.tokens / max(work.rows, 1)
        step = 2.0 * (self.layers_weights + self.head) + 4.0 * self.layers * self.query * length
        per_token = adapter * work.unique_tokens
        return matrices + attention + per_token + steps * work.rows * (step + adapter)

    def kept_in_training(self, work: Work) -> float:
        """Bytes that the largest micro-batch keeps for its backward pass."""
        rows = work.largest * work.answers / max(work.unique_tokens, 1)
        return self.layers * self.kept * work.largest + self.logits * rows

    def kept_in_rating(self, work: Work) -> float:
        """Bytes that the largest batch keeps: its keys and values, and one layer."""
        rows = work.largest * work.answers / max(work.unique_tokens, 1)
        return (self.layers * self.cached + self.kept) * work.largest + self.logits * rows


def _adapter(experiment: Experiment, model: PreTrainedModel) -> tuple[int, int]:
    """Parameters of one adapter, and the widths of all its inputs together."""
    with lend(model, experiment.peft.config(experiment.model.lora_targets), seed=0) as lent:
        parameters, _ = lent.get_nb_trainable_parameters()
        adapted: list[Any] = [m for m in lent.modules() if isinstance(m, BaseTunerLayer)]
        return parameters, sum(module.in_features for module in adapted)
