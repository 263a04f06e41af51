"""A run folder -> its adapters in the forms that other programs read, one folder for each.

`python -m persona_lab.export <run folder> --to fused|peft|vllm <out>`. Reads the run's folder and
the store; trains and computes nothing again.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from transformers import PreTrainedConfig

from persona_lab.agents import Agents
from persona_lab.cache import Entry, locked, publish
from persona_lab.compose import load_agents
from persona_lab.errors import UserError
from persona_lab.model import TrainedAdapter
from persona_lab.model.export import as_published, save_fused, vllm_rank


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a run's adapters, say how they are loaded; the exit code, 1 after a user's error."""
    parser = argparse.ArgumentParser(prog="python -m persona_lab.export", description=__doc__)
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("--to", required=True, choices=["fused", "peft", "vllm"])
    parser.add_argument("out", type=Path, help="gets a folder per adapter")
    given = parser.parse_args(arguments)
    try:
        print(export(given.run, given.to, given.out))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def export(run_folder: Path, to: str, out: Path) -> str:
    """Write each of a run's adapters into a folder of its name below `out`.

    Args:
        run_folder: A run's folder.
        to: `fused`: whole models with the adapter merged, for stock transformers; `peft`: adapters
            of the model as published, for stock PEFT; `vllm`: the same where vLLM takes them.
        out: Where to.

    Returns:
        What was written and how it is loaded.

    Raises:
        UserError: The run has no adapters or the store no longer has them, a folder is in the way,
            or an adapter has no such form.
    """
    agents = load_agents(run_folder)
    if not agents.adapters:
        raise UserError(f"{run_folder} is a run without adapters", "name one that trained some")
    folders = {name: out / name for name in agents.adapters}
    for folder in folders.values():
        _refuse_taken(folder)
    write = {"fused": _whole_models, "peft": _peft_folders, "vllm": _vllm_folders}[to]
    usage = write(agents, folders)
    return "\n".join([*map(str, folders.values()), "", usage])


def _refuse_taken(folder: Path) -> None:
    if folder.exists():
        raise UserError(f"{folder} is already there", "name another folder")


def _write(folder: Path, build: Callable[[Path], None]) -> None:
    with locked(folder):
        # Another export may have come first.
        _refuse_taken(folder)
        publish(folder, build)


def _whole_models(agents: Agents, folders: Mapping[str, Path]) -> str:
    experiment = agents.experiment
    if experiment.peft.quantisation is not None:
        raise UserError(
            "the run's base was held in 4 bits, and no whole weights give what it gave",
            "use --to peft, and load the base in 4 bits",
        )
    base = experiment.model.load(agents.lab.sources, experiment.trainer.dtype, "cpu")
    tokenizer = agents.tuning.codec.tokenizer

    def build(name: str, folder: Path) -> None:
        save_fused(base, agents.adapters[name].read(), folder)
        tokenizer.save_pretrained(folder)

    for name, folder in folders.items():
        _write(folder, partial(build, name))
    return f"AutoModelForCausalLM.from_pretrained({str(next(iter(folders.values())))!r})"


def _peft_folders(agents: Agents, folders: Mapping[str, Path]) -> str:
    published = _Published.of(agents)
    for name, folder in folders.items():
        _write(folder, published.form(agents.adapters[name]).save)
    options = ", sliding_window=None" if published.window_is_off else ""
    if (kind := agents.experiment.peft.quantisation) is not None:
        bits = f'load_in_4bit=True, bnb_4bit_quant_type="{kind}", bnb_4bit_use_double_quant=True'
        options += f", quantization_config=BitsAndBytesConfig({bits})"
    (name, first), *_ = folders.items()
    return (
        f"base = AutoModelForCausalLM.from_pretrained({published.shown!r}{options})\n"
        f"model = PeftModel.from_pretrained(base, {str(first)!r}, adapter_name={name!r})\n"
        "and the others by model.load_adapter(<folder>, <name>); model.set_adapter(<name>) chooses"
    )


def _vllm_folders(agents: Agents, folders: Mapping[str, Path]) -> str:
    published = _Published.of(agents)
    rank = 0
    for name, folder in folders.items():
        adapter = published.form(agents.adapters[name])
        # A run's adapters are of one kind and rank: what vLLM does not take is seen at the first.
        rank = max(rank, vllm_rank(adapter))
        _write(folder, adapter.save)
    command = ["vllm", "serve", published.shown, "--enable-lora", "--max-lora-rank", str(rank)]
    if published.window_is_off:
        command += ["--hf-overrides", '{"sliding_window": null}']
    if agents.experiment.peft.quantisation is not None:
        command += ["--quantization", "bitsandbytes"]
    command += ["--lora-modules", *(f"{name}={folder}" for name, folder in folders.items())]
    return shlex.join(command)


@dataclass(frozen=True)
class _Published:
    """A run's base model as others load it: where from, and its configuration there."""

    base: str | None
    config: PreTrainedConfig
    window_is_off: bool

    @classmethod
    def of(cls, agents: Agents) -> Self:
        model, sources = agents.experiment.model, agents.lab.sources
        config = model.outline(sources).config
        # transformers' Phi-3 would see less of a prompt than the run's.
        window = getattr(config, "sliding_window", None)
        off = window is not None and model.sliding_window == "off"
        return cls(model.published(sources), config, off)

    @property
    def shown(self) -> str:
        """The base in a command; one of random weights is nowhere."""
        return self.base or "<base>"

    def form(self, entry: Entry[TrainedAdapter]) -> TrainedAdapter:
        """An adapter in the form that fits the model as published."""
        return as_published(entry.read(), self.config, self.base)


if __name__ == "__main__":
    sys.exit(main())
