"""A `Fit` -> a trained adapter; a `Rating` -> responses: Lightning, on one device or several.

Writes what the logger writes, and a temporary folder where several processes train.
"""

import ctypes
import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from lightning.pytorch.loggers import CSVLogger, Logger
from peft import PeftConfig
from transformers import PreTrainedModel

from persona_lab.errors import UserError
from persona_lab.model.adapters import TrainedAdapter
from persona_lab.model.decode import Response
from persona_lab.model.lending import describe_size, lend, weights_of
from persona_lab.model.module import Fit, Rating, UserAgentModule, diverged
from persona_lab.model.ranks import rank, spread
from persona_lab.model.trainer import Trainer, quietly
from persona_lab.prompting import Codec

_log = logging.getLogger(__name__)


def fit_adapter(
    base: PreTrainedModel,
    codec: Codec,
    fit: Fit,
    trainer: Trainer,
    folder: Path,
    logger: Logger | None = None,
) -> TrainedAdapter:
    """Train an adapter; the base is unchanged afterwards.

    Args:
        base: Shared frozen base model.
        codec: Its way of reading and answering.
        fit: What is trained, on what and how.
        trainer: Where it is trained.
        folder: For what Lightning may write.
        logger: Of the loss, as `<name>/loss`.

    Raises:
        UserError: Its training diverged, or what it starts from is of another kind.
    """
    with lend(base, fit.config, fit.seed, _first_weights(fit)) as lent:
        _log.info("%s: %s", fit.name, describe_size(lent))
        lent.train()
        if rank():
            # Adapters begin alike in all processes; their dropout must not be alike.
            torch.manual_seed(fit.seed + rank())
        module = UserAgentModule(base, codec, fit)
        with quietly():
            lightning = trainer.lightning(folder, logger, f"training {fit.name}", fit.recipe.epochs)
            lightning.fit(module)
        weights = weights_of(lent)
    # No loss has seen the last step's weights.
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        step = f"step {len(module.losses)}, whose loss was {module.losses[-1]:.4g}"
        raise diverged(fit.name, f"weights are not finite after {step}")
    last = module.losses[-len(module.losses) // fit.recipe.epochs :]
    summary = {
        "n_rows": len(fit.examples),
        "n_steps": len(module.losses),
        "loss": sum(last) / len(last),
        "unique_tokens": module.unique_tokens,
    }
    return TrainedAdapter(fit.config, weights, summary)


def _first_weights(fit: Fit) -> dict[str, torch.Tensor] | None:
    if fit.start is None:
        return None
    if _facts(fit.start.config) != _facts(fit.config):
        raise UserError(
            f"{fit.name} is to go on from an adapter of another kind",
            "give both the same peft and model.lora_targets",
        )
    # The optimiser changes in place what it is given.
    return {name: tensor.clone() for name, tensor in fit.start.weights.items()}


def _facts(config: PeftConfig) -> dict[str, object]:
    """A configuration without what PEFT notes in it when it is used and stored."""
    notes = {"base_model_name_or_path", "inference_mode", "peft_version"}
    lists = list | set | tuple
    return {
        name: sorted(value) if isinstance(value, lists) else value
        for name, value in config.to_dict().items()
        if name not in notes
    }


def fit_on_devices(
    load: Callable[[], PreTrainedModel],
    codec: Codec,
    fit: Fit,
    trainer: Trainer,
    folder: Path,
    logger: Logger | None = None,
) -> TrainedAdapter:
    """`fit_adapter` here or, on several devices, in a process for each.

    Without dropout the adapter is that of one process, up to the order in which gradients are
    added. The caller alone touches the cache and the logger.

    Args:
        load: Gives the base, in the process that calls it; picklable.
        codec: As in `fit_adapter`, and so the others.
        fit: What is trained, on what and how.
        trainer: Says on how many devices.
        folder: For what Lightning may write, and where processes meet.
        logger: Gets the losses of several devices when they are done.
    """
    if trainer.n_devices == 1:
        adapter = fit_adapter(load(), codec, fit, trainer, folder, logger)
        _trim_heap()
        return adapter
    with TemporaryDirectory(dir=folder, prefix=".ranks-") as place:
        work = partial(_fit_as_rank, load, codec, fit, trainer, Path(place))
        spread(trainer.n_devices, trainer.accelerator, Path(place), work)
        if logger is not None:
            metric = f"{fit.name}/loss"
            for step, loss in enumerate(pd.read_csv(Path(place, "metrics.csv"))[metric]):
                logger.log_metrics({metric: float(loss)}, step)
        return TrainedAdapter.load(Path(place, "adapter"))


def _trim_heap() -> None:
    """Give freed memory back to the system: glibc keeps gigabytes of what training freed."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _fit_as_rank(
    load: Callable[[], PreTrainedModel], codec: Codec, fit: Fit, trainer: Trainer, folder: Path
) -> None:
    """One process's part of `fit_on_devices`; the first one tells of progress and saves."""
    if rank() > 0:
        fit_adapter(load(), codec, fit, replace(trainer, progress=False), folder)
        return
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("persona_lab").setLevel(logging.INFO)
    curve = CSVLogger(folder, name="", version="")
    adapter = fit_adapter(load(), codec, fit, trainer, folder, curve)
    (folder / "adapter").mkdir()
    adapter.save(folder / "adapter")


def rate_examples(
    model: PreTrainedModel, codec: Codec, rating: Rating, trainer: Trainer, folder: Path
) -> list[Response]:
    """Answer examples, in their order, by a model with its adapter attached (or by the base)."""
    module = UserAgentModule(model, codec, rating, trainer.tokens_per_batch)
    with quietly():
        lightning = trainer.lightning(folder, None, f"rating by {rating.name}")
        lightning.predict(module, return_predictions=False)
    return [module.responses[i] for i in range(len(rating.examples))]
