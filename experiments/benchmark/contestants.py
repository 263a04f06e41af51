"""Rows -> how long each contestant takes to train on them or to answer them, and what it said.

Ours is the project's public path. A peer gets its own copy of the weights, with sdpa attention,
PEFT's adapter with the same weights, and the batch size that a search found best for it.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from arithmetic import now
from datasets import Dataset
from peft import get_peft_model, set_peft_model_state_dict
from prompts import Rows
from torch import Tensor, nn
from transformers import (
    DynamicCache,
    GenerationConfig,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from persona_lab.model import (
    Decode,
    Fit,
    Rating,
    TrainedAdapter,
    UserAgentModule,
    attach,
    lend,
    rate_examples,
)
from persona_lab.model.adapters import weights_of
from persona_lab.model.train import by_prefix
from persona_lab.prompting import Example

NEW_TOKENS = 4
_LR = 3e-4


@dataclass(frozen=True)
class Outcome:
    """What was measured: rows of one pass, its seconds, and the loss or the answers."""

    rows: int
    seconds: float
    loss: float | None = None
    answers: dict[tuple[int, int], str] | None = None


class Contestant(Protocol):
    """One way of doing the work."""

    def __call__(self, rows: Sequence[Example], batch: int, dropout: bool = True) -> Outcome:
        """Take one optimiser step on the rows, or answer them.

        Args:
            rows: Of one or several users.
            batch: Rows computed at once; ours has no such choice.
            dropout: Whether the adapter's dropout is on in training.
        """
        ...


def random_adapter(rows: Rows) -> TrainedAdapter:
    """An adapter that changes the outputs, as a trained one does; a fresh one would not."""
    config = copy.copy(rows.peft)
    config.init_lora_weights = False
    with lend(rows.base, config, seed=0) as lent:
        return TrainedAdapter(rows.peft, weights_of(lent), {})


@dataclass
class Ours:
    """The shared-prefix engine, through the module that the product trains with."""

    rows: Rows
    adapter: TrainedAdapter

    def __call__(self, rows: Sequence[Example], batch: int, dropout: bool = True) -> Outcome:
        """One optimiser step (see `Contestant`)."""
        config = copy.copy(self.adapter.config)
        config.lora_dropout = config.lora_dropout if dropout else 0.0
        sizes = {"batch_size": len(rows), "rows_per_prefix": len(rows)}
        recipe = replace(self.rows.recipe, lr=_LR, epochs=1, **sizes)
        # Copies: the optimiser changes in place what it is given.
        weights = {name: t.clone() for name, t in self.adapter.weights.items()}
        with (
            lend(self.rows.base, config, 0, weights) as lent,
            tempfile.TemporaryDirectory() as folder,
        ):
            lent.train()
            fit = Fit("the benchmark", list(rows), recipe, config, seed=0)
            module = _Timed(self.rows.base, self.rows.codec, fit)
            trainer = self.rows.trainer.lightning(Path(folder), None, "training")
            trainer.fit(module)
        (loss,) = module.losses
        return Outcome(len(rows), module.seconds, loss)


class _Timed(UserAgentModule):
    """The product's module, with the seconds of its optimiser steps."""

    seconds = 0.0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._began = now()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seconds += now() - self._began


@dataclass
class OursRating:
    """The product's way of rating.

    Attributes:
        way: Of answering, from the setup's; `generate_fully` is what peers do.
    """

    rows: Rows
    adapter: TrainedAdapter
    way: Callable[[Decode], Decode]

    def __call__(self, rows: Sequence[Example], batch: int, dropout: bool = True) -> Outcome:
        """Answer rows (see `Contestant`)."""
        with (
            attach(self.rows.base, self.adapter),
            tempfile.TemporaryDirectory() as folder,
        ):
            rating = Rating("the benchmark", list(rows), self.way(self.rows.decode), seed=0)
            began = now()
            responses = rate_examples(
                *(self.rows.base, self.rows.codec, rating, self.rows.trainer, Path(folder))
            )
            seconds = now() - began
        answers = {_key(row): each.text for row, each in zip(rows, responses, strict=True)}
        return Outcome(len(rows), seconds, answers=answers)


def generate_fully(decode: Decode) -> Decode:
    """No row stops before its fourth token or its end, as in generate: no text fits the pattern."""
    return replace(stop_early(decode), pattern="(?!)({values})")


def stop_early(decode: Decode) -> Decode:
    """A row stops at a rating that stands."""
    return replace(decode, name="greedy", max_new_tokens=NEW_TOKENS)


def score_only(decode: Decode) -> Decode:
    """The probabilities alone."""
    return replace(decode, name="expected")


class _Peer:
    """A copy of the weights on transformers' own attention, with the adapter beside them."""

    def __init__(self, rows: Rows, adapter: TrainedAdapter) -> None:
        base = copy.deepcopy(rows.base)
        base.set_attn_implementation("sdpa")
        self.codec, self.weights = rows.codec, dict(adapter.weights)
        self.device = base.device
        self.bf16 = rows.trainer.precision == "bf16-mixed"
        self.model = get_peft_model(base, copy.copy(adapter.config))
        set_peft_model_state_dict(self.model, self.weights)
        self.pad = self.codec.stop_ids[0]

    def autocast(self) -> torch.autocast:
        """As the product's trainer does it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


class _TrainingPeer(_Peer):
    """What TRL's and transformers' trainers share: arguments, clock, dropout."""

    def _arguments(self, kind: type, folder: str, n_rows: int, batch: int, **more: Any) -> Any:
        return kind(
            output_dir=folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=-(-n_rows // batch),
            max_steps=1,
            learning_rate=_LR,
            weight_decay=0.01,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            bf16=self.bf16,
            gradient_checkpointing=False,
            train_sampling_strategy="group_by_length",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=1,
            log_level="error",
            use_cpu=self.device.type == "cpu",
            **more,
        )

    def _columns(self, rows: Sequence[Example]) -> list[dict[str, list[int]]]:
        """Prompt and answer, with labels on the answer alone."""
        table = []
        for row in rows:
            answer = self.codec.answer(row.rating)
            labels = [-100] * len(row.ids) + answer
            table.append({"input_ids": row.ids + answer, "labels": labels})
        return table

    def __call__(self, rows: Sequence[Example], batch: int, dropout: bool = True) -> Outcome:
        """One optimiser step (see `Contestant`)."""
        set_peft_model_state_dict(self.model, self.weights)
        clock = _Clock()
        with tempfile.TemporaryDirectory() as folder, _dropout(self.model, dropout):
            trainer = self._trainer(folder, rows, min(batch, len(rows)), clock)
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return Outcome(len(rows), clock.seconds, clock.loss)

    def _trainer(self, folder: str, rows: Sequence[Example], batch: int, clock: _Clock) -> Any:
        raise NotImplementedError


class Trl(_TrainingPeer):
    """TRL's SFTTrainer: loss on the completion only, its fused head, rows grouped by length."""

    def _trainer(self, folder: str, rows: Sequence[Example], batch: int, clock: _Clock) -> Any:
        arguments = self._arguments(SFTConfig, folder, len(rows), batch, max_length=None)
        return SFTTrainer(
            self.model,
            args=arguments,
            train_dataset=Dataset.from_list(self._columns(rows)),
            processing_class=self.codec.tokenizer,
            callbacks=[clock],
        )


class Transformers(_TrainingPeer):
    """transformers' Trainer: padded on the left, so that the head runs at answer positions only."""

    def _trainer(self, folder: str, rows: Sequence[Example], batch: int, clock: _Clock) -> Any:
        arguments = self._arguments(
            TrainingArguments, folder, len(rows), batch, remove_unused_columns=False
        )
        return Trainer(
            self.model,
            args=arguments,
            data_collator=self._collate,
            train_dataset=self._columns(rows),  # pyright: ignore[reportArgumentType]
            callbacks=[clock],
        )

    def _collate(self, rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        n_answer = sum(label != -100 for label in rows[0]["labels"])
        ids, mask = _left_padded([row["input_ids"] for row in rows], self.pad)
        # The position before the answer predicts its first token; its own label is not used.
        kept = n_answer + 1
        labels = torch.tensor([row["labels"][-kept:] for row in rows])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "logits_to_keep": kept}


class _Clock(TrainerCallback):
    """Seconds and loss of a trainer's optimiser steps."""

    def __init__(self) -> None:
        self.seconds, self.loss = 0.0, None

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._began = now()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds += now() - self._began

    def on_log(self, *args: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        self.loss = (logs or {}).get("loss", self.loss)


class Generate(_Peer):
    """transformers' `generate` on batches of rows of similar length, padded on the left."""

    def __call__(self, rows: Sequence[Example], batch: int, dropout: bool = True) -> Outcome:
        """Answer rows (see `Contestant`)."""
        self.model.eval()
        began = now()
        with torch.inference_mode(), self.autocast():
            answers = dict(self._answers(rows, batch))
        return Outcome(len(rows), now() - began, answers=answers)

    def _answers(
        self, rows: Sequence[Example], batch: int
    ) -> Iterator[tuple[tuple[int, int], str]]:
        ordered = sorted(rows, key=lambda row: len(row.ids))
        for start in range(0, len(ordered), batch):
            part = ordered[start : start + batch]
            ids, mask = _left_padded([row.ids for row in part], self.pad)
            yield from self._generate(part, ids, mask)

    def _generate(
        self, rows: Sequence[Example], ids: Tensor, mask: Tensor, **more: Any
    ) -> Iterator[tuple[tuple[int, int], str]]:
        config = GenerationConfig(
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=list(self.codec.stop_ids),
            pad_token_id=self.pad,
        )
        out: Any = self.model.generate(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            generation_config=config,
            **more,
        )
        for row, new in zip(rows, out[:, ids.shape[1] :].tolist(), strict=True):
            ends = (i for i, token in enumerate(new) if token in self.codec.stop_ids)
            said = new[: next(ends, len(new))]
            options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
            yield _key(row), str(self.codec.tokenizer.decode(said, **options))


class GenerateCached(Generate):
    """`generate` on a user's prefix computed once: its DynamicCache is copied for each batch."""

    def _answers(
        self, rows: Sequence[Example], batch: int
    ) -> Iterator[tuple[tuple[int, int], str]]:
        ordered = sorted(rows, key=lambda row: len(row.ids))
        for each in by_prefix([row.ids for row in ordered], [row.user_id for row in ordered]):
            prefix = torch.tensor([each.prefix], device=self.device)
            cache = DynamicCache(config=self.model.config)
            self.model(input_ids=prefix, past_key_values=cache, logits_to_keep=1)
            for start in range(0, len(each.rows), batch):
                part = [ordered[i] for i in each.rows[start : start + batch]]
                suffixes, mask = _left_padded(each.suffixes[start : start + batch], self.pad)
                before = prefix.cpu().expand(len(part), -1)
                copied = copy.deepcopy(cache)
                copied.batch_repeat_interleave(len(part))
                yield from self._generate(
                    part,
                    torch.cat([before, suffixes], 1),
                    torch.cat([torch.ones_like(before), mask], 1),
                    past_key_values=copied,
                )


def _key(row: Example) -> tuple[int, int]:
    return row.user_id, row.item_id


def _left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = [[pad] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


@contextmanager
def _dropout(model: nn.Module, on: bool) -> Iterator[None]:
    """Leave an adapter's dropout as it is, or switch it off for a while."""
    layers = [each for each in model.modules() if isinstance(each, nn.Dropout)]
    before = [layer.p for layer in layers]
    for layer in layers:
        layer.p = layer.p if on else 0.0
    try:
        yield
    finally:
        for layer, p in zip(layers, before, strict=True):
            layer.p = p


TRAINING: dict[str, type[_TrainingPeer]] = {"trl": Trl, "transformers": Transformers}
EVALUATION: dict[str, type[Generate]] = {
    "generate": Generate,
    "generate_cached_prefix": GenerateCached,
}
