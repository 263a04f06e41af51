"""What task=plan says, against what a run then does, and against what is known of the models."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from configured import configured
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig

from persona_lab import estimate as module
from persona_lab.cache import Cache, NotAtHand
from persona_lab.component import component
from persona_lab.compose import configure
from persona_lab.data import Cost, Scale
from persona_lab.distill import Statistical
from persona_lab.estimate import Estimate, estimate, show
from persona_lab.experiment import Experiment
from persona_lab.lab import Lab
from persona_lab.model import lend
from persona_lab.model.decode import head
from persona_lab.model.engine import Tree, pack, run
from persona_lab.model.loggers import NoLogger
from persona_lab.model.train import by_prefix
from persona_lab.sources import Sources

SMOKE = ("experiment=smoke", "train.tokens_per_microbatch=2600", "trainer.tokens_per_batch=5000")


@functools.cache
def experiment(*overrides: str) -> Experiment:
    return configure(*overrides).experiment


def lab(cache: Path) -> Lab:
    return Lab(Sources(cache), Cache(cache / "store"), cache, NoLogger())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the shared stages of SMOKE are stored."""
    cache = tmp_path_factory.mktemp("prepared")
    experiment(*SMOKE).prepare(lab(cache))
    return cache


def test_what_is_at_hand_is_counted_as_a_run_computes_it(prepared: Path, tmp_path: Path) -> None:
    one = experiment(*SMOKE)
    told = estimate(one, lab(prepared))
    assert told.assumed == []
    stages = one.prepare(lab(prepared))
    own = replace(lab(prepared), folder=tmp_path)
    adapters = one.tuning(own, stages).adapters()
    *trained, rated = told.parts
    assert [part.name for part in trained] == list(adapters)
    for part, entry in zip(trained, adapters.values(), strict=True):
        summary = entry.value.summary
        assert (part.rows, part.work.unique_tokens) == (
            *(summary["n_rows"], summary["unique_tokens"]),
        )
        weights = entry.value.weights.values()
        assert told.adapter_parameters == sum(tensor.numel() for tensor in weights)
    assert rated.rows == len(stages.split.value.test)
    assert rated.work.unique_tokens < rated.work.tokens


def test_arithmetic_is_what_torch_counts(prepared: Path) -> None:
    one = experiment(*SMOKE, "adapter=none")
    stages = one.prepare(lab(prepared))
    examples = one.tuning(lab(prepared), stages).examples(stages.split.value.test, training=False)
    model = one.model.load(Sources(prepared), torch.float32, "cpu")
    groups = list(by_prefix([e.ids for e in examples], [e.user_id for e in examples]))
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        for batch in pack(groups, one.trainer.tokens_per_batch):
            tree = Tree(batch)
            head(model, run(model, tree)[tree.ends])
    (part,) = estimate(one, lab(prepared)).parts
    counts = counted.get_flop_counts()["Global"]
    matrices, attention = module.Shape.of(one, lab(prepared), trained=False).forward(part.work)
    # The kernel of attention on the CPU is not among torch's counters.
    assert sum(counts.values()) == matrices
    assert attention > 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_phi3"])
def test_activations_are_what_torch_keeps(model: str, precision: str, tmp_path: Path) -> None:
    weights = "float32" if precision == "32-true" else "bfloat16"
    one = experiment(
        *("experiment=smoke", f"slm={model}", "peft.r=4", f"trainer.weights={weights}"),
        *(f"trainer.precision={precision}", "model.random.intermediate_size=224"),
    )
    base = one.model.load(Sources(tmp_path), one.trainer.dtype, "cpu")
    rows = [[*range(2, 402), i, *range(30)] for i in (402, 403)]
    tree = Tree(list(by_prefix(rows, [0, 0])))
    own = {parameter.data_ptr() for parameter in base.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with lend(base, one.peft.config(one.model.lora_targets), 0) as lent:
        lent.train()
        own |= {parameter.data_ptr() for parameter in base.parameters()}
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda each: each), autocast:
            run(base, tree)
    seen = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    scale = module.Shape.of(one, lab(tmp_path), trained=True)
    told = scale.layers * scale.kept * tree.ids.shape[1]
    assert told == pytest.approx(seen, rel=0.15)


@pytest.mark.parametrize(
    ("row", "parameters", "adapter"), [("r0", 8.03e9, 0), ("r9", 3.82e9, 100_663_296)]
)
def test_the_papers_rows_with_nothing_at_hand(
    row: str, parameters: float, adapter: int, tmp_path: Path
) -> None:
    one = experiment("setup=paper", f"row={row}", "data.n_users=20")
    told = estimate(one, lab(tmp_path))
    assert len(told.assumed) == 3
    assert told.distillation[1].money > 0
    assert told.assumed[0].startswith("ml_1m is not in the cache: 20 users of 100 to 200 ratings")
    assert told.adapter_parameters == adapter
    assert told.weights == pytest.approx(2 * parameters + 4 * adapter, rel=1e-3)
    assert told.optimiser == 12 * adapter
    # 40% of about 150 ratings a user.
    assert told.parts[-1].rows == pytest.approx(20 * 60, rel=0.1)
    assert [part.rows for part in told.parts[:-1]] == (
        [pytest.approx(5 * 90, rel=0.2)] * 4 if adapter else []
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("peft", ["lora", "rslora", "dora", "ia3", "qlora"])
def test_every_kind_of_adapter_is_counted(peft: str, tmp_path: Path) -> None:
    overrides = ("setup=paper", "row=r6", "data.n_users=4", "personas.n_personas=2")
    told = estimate(experiment(*overrides, f"peft={peft}", "peft.r=8"), lab(tmp_path))
    if peft in ("lora", "rslora", "qlora"):
        assert told.adapter_parameters == 32 * 2 * 8 * (3072 + 3072)
    assert 0 < told.adapter_parameters < 32 * 2 * 8 * 2 * 3072 * 1.1
    base = told.weights - 4 * told.adapter_parameters
    # A quarter of two bytes, but for embeddings and head, which stay as they are.
    assert base == pytest.approx(2.26e9 if peft == "qlora" else 7.64e9, rel=0.01)


def test_declared_sizes_are_the_models(real_sources: Sources) -> None:
    declared = experiment("slm=smollm2").model
    config = AutoConfig.from_pretrained(declared._folder(real_sources))
    fetched = sum(p.numel() for p in declared.outline(real_sources).parameters())
    outline = declared.outline(Sources(Path("nowhere"), offline=True))
    assert sum(p.numel() for p in outline.parameters()) == fetched
    for name in ("hidden_size", "num_hidden_layers", "num_key_value_heads", "vocab_size"):
        assert getattr(outline.config, name) == getattr(config, name)


def test_runs_share_what_does_not_differ(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (
        estimate(experiment(*SMOKE, f"decode={name}"), lab(prepared))
        for name in ("paper", "expected")
    )
    keys = [[part.key for part in each.parts] for each in (one, other)]
    assert keys[0][:-1] == keys[1][:-1]
    assert keys[0][-1] != keys[1][-1]
    assert one.parts[-1].flop > other.parts[-1].flop
    one.save(tmp_path)
    assert Estimate.load(tmp_path) == one
    show([one, other])
    head, *_ = [line for line in capsys.readouterr().out.splitlines() if "all" in line.split()]
    assert f"{len(one.parts) - 1} x" in head


@component
class Paid(Statistical):
    def estimate(self, sizes: Sequence[int], scale: Scale) -> Cost:
        return Cost(len(sizes), 2_000_000, 500_000, sum(sizes) / 100)


def test_what_runs_share_is_paid_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [experiment(*SMOKE, row) for row in ("row=r3", "row=r4")]
    told = [
        estimate(replace(run, distiller=Paid(**vars(run.distiller))), lab(tmp_path)) for run in runs
    ]
    key, cost = told[0].distillation
    assert told[1].distillation == (key, cost)
    assert cost.calls == 8
    told[0].save(tmp_path)
    assert Estimate.load(tmp_path) == told[0]
    show(told)
    said = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    bills = {line[0]: line[-3:] for line in said}
    assert bills["r3"] == bills["r4"] == bills["all"] == ["8", "2.5", f"{cost.money:.2f}"]


def test_an_outline_counts_an_adapter_by_hand() -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 16, "layers": 2, "heads": 2, "kv_heads": 1}
    random = {"architecture": "llama", "vocab_size": 300, **sizes}
    model = configured("model=tiny", random=random)
    config = configured("peft=lora", r=2).config(["o_proj"])
    with lend(model.outline(Sources(Path())), config, 0) as lent:
        assert lent.get_nb_trainable_parameters()[0] == 2 * 2 * (8 + 8)


def test_what_is_not_at_hand_is_neither_fetched_nor_computed(tmp_path: Path) -> None:
    one = experiment("data=ml_100k", "slm=smollm2")
    with pytest.raises(NotAtHand, match="is not in the cache"):
        one.data.ratings(Sources(tmp_path, offline=True))
    smoke = experiment("experiment=smoke")
    prepared = smoke.prepare(lab(tmp_path).at_hand)
    assert [*prepared.entries] == ["split", "memories", "vectors", "personas"]
    for stage, entry in prepared.entries.items():
        assert not entry.there
        with pytest.raises(NotAtHand, match=rf"{stage} .* is not in the store"):
            entry.require()
    assert not any(tmp_path.iterdir())
    # What a stage is found by is known before it is there.
    assert smoke.prepare(lab(tmp_path)).keys() == prepared.keys()
