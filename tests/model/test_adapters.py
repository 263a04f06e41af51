"""Who trains on what, by hand-worked and random personas; adapters lent and taken back."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from persona_lab.component import describe
from persona_lab.errors import UserError
from persona_lab.model import (
    AdapterMode,
    BaseModel,
    Decode,
    Dora,
    Ia3,
    Lora,
    NoAdapter,
    Peft,
    PersonaAdapters,
    PerUser,
    QLora,
    RandomPersona,
    RsLora,
    SingleFull,
    SingleMax,
    SingleMin,
    Train,
    TrainedAdapter,
    Trainer,
    attach,
    fit_adapter,
    lend,
    rate_examples,
)
from persona_lab.model.adapters import describe_size, take_share, weights_of
from persona_lab.model.engine import Tree, group, run
from persona_lab.model.quantise import quantise
from persona_lab.personas import Personas
from persona_lab.prompting import Codec, Example

MakePersonas = Callable[[dict[int, int]], Personas]
MODES = [NoAdapter, PersonaAdapters, RandomPersona, PerUser, SingleMax, SingleMin, SingleFull]

# user -> (persona, training rows): personas of 12, 7 and 3 rows.
TOY = {10: (0, 6), 11: (0, 4), 12: (0, 2), 20: (1, 5), 21: (1, 2), 30: (2, 3)}


def rows_of(counts: dict[int, int]) -> pd.DataFrame:
    return pd.DataFrame(
        [(user, 1000 * user + n) for user, count in counts.items() for n in range(count)],
        columns=["user_id", "item_id"],
        dtype="int64",
    )


def taken_of(rows: pd.DataFrame) -> dict[Any, Any]:
    return rows["user_id"].value_counts().sort_index().to_dict()


def pairs(rows: pd.DataFrame) -> set[tuple[int, int]]:
    return set(rows[["user_id", "item_id"]].itertuples(index=False, name=None))


@pytest.fixture
def toy(make_personas: MakePersonas) -> tuple[pd.DataFrame, Personas]:
    rows = rows_of({user: count for user, (_, count) in TOY.items()})
    # The rows of a split are in the order of time; what is drawn must not lean on theirs.
    shuffled = rows.sample(frac=1, random_state=1)
    return shuffled, make_personas({user: persona for user, (persona, _) in TOY.items()})


def test_no_adapter_routes_everyone_to_the_base(toy: tuple[pd.DataFrame, Personas]) -> None:
    plan = NoAdapter().plan(*toy, 0)
    assert plan.rows == {}
    assert plan.route == dict.fromkeys(TOY)


def test_each_persona_has_its_own_adapter(toy: tuple[pd.DataFrame, Personas]) -> None:
    rows, personas = toy
    plan = PersonaAdapters().plan(rows, personas, 0)
    assert {name: taken_of(part) for name, part in plan.rows.items()} == {
        "persona_0": {10: 6, 11: 4, 12: 2},
        "persona_1": {20: 5, 21: 2},
        "persona_2": {30: 3},
    }
    assert plan.route == {user: f"persona_{persona}" for user, (persona, _) in TOY.items()}


@pytest.mark.parametrize("mode", [PersonaAdapters, RandomPersona])
def test_a_matrix_crosses_the_adapters_of_personas(
    mode: Callable[..., AdapterMode], toy: tuple[pd.DataFrame, Personas]
) -> None:
    crossing, plain = (mode(matrix=matrix).plan(*toy, 0) for matrix in (True, False))
    assert crossing.crossed == tuple(crossing.rows)
    assert plain.crossed == ()
    assert (crossing.route, crossing.rows.keys()) == (plain.route, plain.rows.keys())
    assert describe(mode(matrix=True)) == describe(mode())


def test_random_personas_have_the_personas_sizes_and_their_users_rows(
    make_personas: MakePersonas,
) -> None:
    persona_of = {user: min(user // 5, 2) for user in range(30)}
    rows, personas = rows_of(dict.fromkeys(persona_of, 3)), make_personas(persona_of)
    plans = [RandomPersona().plan(rows, personas, seed) for seed in (0, 0, 1)]
    assert plans[0].route == plans[1].route != plans[2].route
    for plan in plans:
        groups = {name: {u for u in plan.route if plan.route[u] == name} for name in plan.rows}
        assert {name: len(users) for name, users in groups.items()} == {
            "random_persona_0": 5,
            "random_persona_1": 5,
            "random_persona_2": 20,
        }
        assert plan.route.keys() == persona_of.keys()
        for name, users in groups.items():
            assert pairs(plan.rows[name]) == pairs(rows[rows["user_id"].isin(users)])
            # Five of thirty at random: that they are a persona's own is next to impossible.
            assert len({persona_of[user] for user in users}) > 1
    # The run's personas stay what they are: predictions are told apart by them.
    assert dict(zip(*personas.assignment.to_dict("list").values(), strict=True)) == persona_of


def test_each_user_has_its_own_adapter_on_what_its_persona_would_train_on(
    toy: tuple[pd.DataFrame, Personas],
) -> None:
    rows, personas = toy
    fields: dict[str, Any] = {"rows_per_user": 5, "max_rows": 6}
    plan = PerUser(**fields).plan(rows, personas, 0)
    assert plan.route == {user: f"user_{user}" for user in TOY}
    by_persona = PersonaAdapters(**fields).plan(rows, personas, 0)
    assert {user: pairs(plan.rows[f"user_{user}"]) for user in TOY} == {
        user: {pair for pair in pairs(by_persona.rows[f"persona_{persona}"]) if pair[0] == user}
        for user, (persona, _) in TOY.items()
    }
    without = rows[rows["user_id"] != 21]
    with pytest.raises(UserError, match="user 21 has no training rows"):
        PerUser().plan(without, personas, 0)
    plan = PerUser(on_empty="base").plan(without, personas, 0)
    assert plan.route[21] is None
    assert plan.rows.keys() == {f"user_{user}" for user in TOY if user != 21}


def test_sizes_of_the_single_adapters(toy: tuple[pd.DataFrame, Personas]) -> None:
    largest, smallest = (mode().plan(*toy, 0) for mode in (SingleMax, SingleMin))
    # 12 of 22 rows: exactly 3.27, 2.18, 1.09, 2.73, 1.09, 1.64; largest remainders 20, 30.
    assert taken_of(largest.rows["single"]) == {10: 3, 11: 2, 12: 1, 20: 3, 21: 1, 30: 2}
    # 3 of those 12: exactly .75, .5, .25, .75, .25, .5; remainders 10, 20, then 11 before 30.
    assert taken_of(smallest.rows["single"]) == {10: 1, 11: 1, 20: 1}
    assert largest.route == smallest.route == dict.fromkeys(TOY, "single")


def test_one_adapter_may_have_all_rows(toy: tuple[pd.DataFrame, Personas]) -> None:
    rows, personas = toy
    plan = SingleFull().plan(rows, personas, 0)
    assert pairs(plan.rows["single"]) == pairs(rows)
    capped = SingleFull(rows_per_user=3, max_rows=4).plan(rows, personas, 0)
    assert len(capped.rows["single"]) == 4 + 4 + 3
    assert plan.route == dict.fromkeys(TOY, "single")


def test_caps_come_before_all_else(toy: tuple[pd.DataFrame, Personas]) -> None:
    rows, personas = toy
    per_user = PersonaAdapters(rows_per_user=3).plan(rows, personas, 0)
    assert [len(part) for part in per_user.rows.values()] == [8, 5, 3]
    both = PersonaAdapters(rows_per_user=3, max_rows=4).plan(rows, personas, 0)
    assert [len(part) for part in both.rows.values()] == [4, 4, 3]
    # 4 of the 8 rows 3, 3, 2.
    assert taken_of(both.rows["persona_0"]) == {10: 2, 11: 1, 12: 1}
    for name, part in both.rows.items():
        assert pairs(part) < pairs(per_user.rows[name]) or len(part) == 3
    largest = SingleMax(rows_per_user=3, max_rows=4).plan(rows, personas, 0).rows["single"]
    smallest = SingleMin(rows_per_user=3, max_rows=4).plan(rows, personas, 0).rows["single"]
    assert (len(largest), len(smallest)) == (4, 3)
    assert pairs(largest) < set().union(*(pairs(part) for part in both.rows.values()))


def test_a_persona_without_rows(toy: tuple[pd.DataFrame, Personas]) -> None:
    rows, personas = toy
    rows = rows[rows["user_id"] != 30]
    with pytest.raises(UserError, match="persona 2 has no training rows"):
        PersonaAdapters().plan(rows, personas, 0)
    with pytest.raises(UserError, match="smallest persona has no training rows"):
        SingleMin().plan(rows, personas, 0)
    plan = PersonaAdapters(on_empty="base").plan(rows, personas, 0)
    assert list(plan.rows) == ["persona_0", "persona_1"]
    assert plan.route[30] is None
    assert plan.route[21] == "persona_1"
    smallest = SingleMin(on_empty="base").plan(rows, personas, 0)
    assert len(smallest.rows["single"]) == 7
    assert smallest.route[30] == "single"


@pytest.mark.parametrize("mode", [SingleMax, SingleMin, SingleFull])
def test_no_rows_at_all_is_the_users_error(
    toy: tuple[pd.DataFrame, Personas], mode: type[SingleMax | SingleMin | SingleFull]
) -> None:
    with pytest.raises(UserError, match="no training rows"):
        mode(rows_per_user=0, on_empty="base").plan(*toy, 0)


@st.composite
def populations(draw: st.DrawFn) -> tuple[dict[int, int], dict[int, int]]:
    """Rows per user, and personas of which each has a user with rows."""
    n_personas = draw(st.integers(1, 4))
    extra = draw(st.lists(st.integers(0, n_personas - 1), max_size=8))
    persona_of = dict(enumerate([*range(n_personas), *extra]))
    counts = {user: draw(st.integers(1, 12)) for user in persona_of}
    return counts, persona_of


# The fixture only builds; it has no state that examples could share.
PURE = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PURE
@given(populations(), st.integers(0, 3), st.none() | st.integers(1, 20))
def test_rules_of_the_sizes(
    make_personas: MakePersonas,
    population: tuple[dict[int, int], dict[int, int]],
    seed: int,
    max_rows: int | None,
) -> None:
    counts, persona_of = population
    rows, personas = rows_of(counts), make_personas(persona_of)
    by_persona = PersonaAdapters(max_rows=max_rows).plan(rows, personas, seed)
    sizes = []
    for persona in range(personas.n_personas):
        own = rows[rows["user_id"].map(persona_of) == persona]
        part = by_persona.rows[f"persona_{persona}"]
        assert len(part) == min(len(own), max_rows or len(own))
        # With no cap exactly the persona's rows, and never another's.
        assert pairs(part) <= pairs(own)
        assert not part.duplicated().any()
        sizes.append(len(part))
    largest = SingleMax(max_rows=max_rows).plan(rows, personas, seed).rows["single"]
    smallest = SingleMin(max_rows=max_rows).plan(rows, personas, seed).rows["single"]
    assert (len(largest), len(smallest)) == (max(sizes), min(sizes))
    pooled = pd.concat(list(by_persona.rows.values()))
    assert pairs(smallest) <= pairs(largest) <= pairs(pooled)
    shares(largest, pooled)
    shares(smallest, largest)
    # Each user's part of min is the beginning of the user's part of max.
    for user, part in smallest.groupby("user_id"):
        whole = largest.loc[largest["user_id"] == user, "item_id"].tolist()
        assert whole[: len(part)] == part["item_id"].tolist()


def shares(part: pd.DataFrame, whole: pd.DataFrame) -> None:
    """Every user gives the same share, rounded down or up."""
    taken = part["user_id"].value_counts()
    for user, count in whole["user_id"].value_counts().items():
        exact = count * len(part) / len(whole)
        assert np.floor(exact) <= taken.get(user, 0) <= np.ceil(exact)


def test_all_is_a_share() -> None:
    rows = rows_of({1: 3, 2: 5})
    assert pairs(take_share(rows, 8)) == pairs(rows)
    assert take_share(rows, 0).empty


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode is not NoAdapter])
def test_draws_depend_on_the_seed_alone(
    toy: tuple[pd.DataFrame, Personas], mode: type[PersonaAdapters]
) -> None:
    def draw(seed: int) -> dict[str, list[int]]:
        plan: Any = mode(rows_per_user=2).plan(*toy, seed)
        return {name: part["item_id"].tolist() for name, part in plan.rows.items()}

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


def test_a_users_rows_do_not_depend_on_other_users(toy: tuple[pd.DataFrame, Personas]) -> None:
    rows, personas = toy
    mode = PersonaAdapters(rows_per_user=2, on_empty="base")
    whole = mode.plan(rows, personas, 0).rows["persona_0"]
    part = mode.plan(rows[rows["user_id"].isin([10, 12])], personas, 0).rows["persona_0"]
    assert pairs(part) == {pair for pair in pairs(whole) if pair[0] != 11}


def test_every_mode_takes_the_fields_of_every_other() -> None:
    """So that one command sweeps over them all."""
    modes: list[AdapterMode] = [
        mode(rows_per_user=3, max_rows=9, on_empty="base") for mode in MODES
    ]
    assert [mode.name for mode in modes] == [
        "none",
        "persona",
        "random_persona",
        "per_user",
        "single_max",
        "single_min",
        "single_full",
    ]


KINDS = [Lora, RsLora, Dora, Ia3, QLora]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_is_stored_and_rates(
    kind: type[Lora | RsLora | Dora | Ia3 | QLora],
    tiny: BaseModel,
    codec: Codec,
    sources: Any,
    make_examples: Callable[..., list[Example]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    peft: Peft = kind(r=4, alpha=8, dropout=0.0)
    if peft.quantisation is not None:
        request.getfixturevalue("four_bits")
    base = copy.deepcopy(tiny.load(sources, torch.float32, "cpu"))
    for parameter in base.parameters():
        if parameter.dim() == 2:
            # As large as a trained model's, so that a factor of them matters.
            parameter.data *= 15
    if peft.quantisation is not None:
        quantise(base, peft.quantisation, "cpu")
    examples = make_examples()
    options: dict[str, Any] = {"folder": tmp_path, "seed": 0, "name": "toy"}
    recipe, trainer = Train(lr=0.03, epochs=6, batch_size=6, warmup=0.0), Trainer()
    config = peft.config(["q_proj", "k_proj", "down_proj"])
    trained = [
        fit_adapter(base, codec, examples, each, config, trainer, logger=None, **options)
        for each in (replace(recipe, epochs=1), recipe)
    ]
    assert trained[1].summary["loss"] < trained[0].summary["loss"] - 0.1

    trained[1].save(tmp_path)
    loaded = TrainedAdapter.load(tmp_path)

    def ratings(adapter: TrainedAdapter | None, *, merge: bool = False) -> list[float]:
        with attach(base, adapter, merge=merge):
            answers = rate_examples(base, codec, examples, Decode("expected"), trainer, **options)
        return [answer.expected_rating for answer in answers]

    frozen, beside = ratings(None), ratings(trained[1])
    assert np.abs(np.subtract(beside, frozen)).max() > 0.05
    assert ratings(loaded) == beside
    if peft.quantisation is None:
        assert ratings(loaded, merge=True) == pytest.approx(beside, abs=1e-4)
    else:
        with pytest.raises(UserError, match=r"use decode\.merge=false"):
            ratings(loaded, merge=True)
    assert ratings(None) == frozen


ROWS = [[5, 6, 7, row, 9] for row in range(4)]
LORA = Lora(r=4, alpha=8, dropout=0.0)


def hidden(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        return run(model, Tree([group(ROWS, range(len(ROWS)))]))


def spread(adapter: PeftModel, seed: int) -> None:
    """Give an adapter weights that change the outputs, as training does."""
    torch.manual_seed(seed)
    for parameter in adapter.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)


def trained(base: PreTrainedModel, seed: int) -> TrainedAdapter:
    config = LORA.config(["q_proj", "k_proj"])
    with lend(base, config, seed) as lent:
        spread(lent, seed)
        return TrainedAdapter(config, weights_of(lent), {"n_rows": 12, "loss": 0.5})


@pytest.fixture
def base(llama: PreTrainedModel) -> PreTrainedModel:
    return llama.requires_grad_(False)


def test_a_lent_adapter_leaves_nothing_behind(base: PreTrainedModel) -> None:
    before, modules = hidden(base), [type(module) for module in base.modules()]
    names = set(vars(base))
    weights = copy.deepcopy(base.state_dict())
    with lend(base, LORA.config(["q_proj", "k_proj"]), seed=0) as lent:
        lent.train()
        spread(lent, 0)
        run(base, Tree([group(ROWS, range(4))])).sum().backward()
        assert not torch.equal(hidden(base), before)
    assert torch.equal(hidden(base), before)
    assert [type(module) for module in base.modules()] == modules
    assert set(vars(base)) == names
    assert not hasattr(base, "peft_config")
    assert not any(p.requires_grad or p.grad is not None for p in base.parameters())
    assert not any(module.training for module in base.modules())
    assert all(torch.equal(t, weights[name]) for name, t in base.state_dict().items())


def test_an_adapter_is_taken_back_also_after_an_error(base: PreTrainedModel) -> None:
    def stop() -> None:
        with lend(base, LORA.config(["q_proj"]), 0) as lent:
            spread(lent, 0)
            raise KeyboardInterrupt

    before = hidden(base)
    with pytest.raises(KeyboardInterrupt):
        stop()
    assert torch.equal(hidden(base), before)
    assert not hasattr(base, "peft_config")


def test_a_fresh_adapter_changes_nothing_and_depends_on_its_seed(base: PreTrainedModel) -> None:
    before = hidden(base)
    drawn = []
    for seed in (0, 0, 1):
        with lend(base, LORA.config(["q_proj", "k_proj"]), seed) as lent:
            assert torch.equal(hidden(base), before)
            assert {n for n, p in lent.named_parameters() if p.requires_grad} == {
                n for n, _ in lent.named_parameters() if "lora_" in n
            }
            drawn.append(weights_of(lent))
    name = next(name for name in drawn[0] if "lora_A" in name)
    assert torch.equal(drawn[0][name], drawn[1][name])
    assert not torch.equal(drawn[0][name], drawn[2][name])


def test_one_adapter_does_not_leak_into_the_next(base: PreTrainedModel) -> None:
    first, second = trained(base, 1), trained(base, 2)
    alone = {}
    for seed, adapter in ((1, first), (2, second)):
        with attach(base, adapter):
            alone[seed] = hidden(base)
    assert not torch.allclose(alone[1], alone[2], atol=1e-2)
    for merge in (False, True):
        for seed, adapter in ((2, second), (1, first), (2, second)):
            with attach(base, adapter, merge=merge):
                torch.testing.assert_close(hidden(base), alone[seed], rtol=1e-3, atol=1e-4)
    # What was trained is a copy: the base's next adapter does not write into it.
    fresh = trained(base, 1)
    assert all(torch.equal(t, first.weights[name]) for name, t in fresh.weights.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_an_adapter_rates_as_it_was_trained(base: PreTrainedModel, dtype: torch.dtype) -> None:
    base = copy.deepcopy(base).to(dtype)
    config = LoraConfig(r=4, target_modules=["q_proj", "k_proj"], init_lora_weights=False)
    with lend(base, config, seed=0) as lent:
        weights = weights_of(lent)
    assert {t.dtype for t in weights.values()} == {torch.promote_types(dtype, torch.float32)}
    with attach(base, TrainedAdapter(config, weights, {})):
        named = [(name, p) for name, p in base.named_parameters() if "lora" in name]
        attached = {name.replace(".default", ""): p for name, p in named}
    assert len(attached) == len(weights)
    for name, parameter in attached.items():
        assert torch.equal(parameter, weights[f"base_model.model.{name}"])


def test_a_merged_adapter_is_taken_out_bit_by_bit(base: PreTrainedModel) -> None:
    before, adapter = hidden(base), trained(base, 1)
    with attach(base, adapter):
        beside = hidden(base)
    with attach(base, adapter, merge=True):
        merged = hidden(base)
    torch.testing.assert_close(merged, beside, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(merged, before, atol=1e-2)
    assert torch.equal(hidden(base), before)


def test_an_adapter_tells_its_size(base: PreTrainedModel) -> None:
    n_base = sum(p.numel() for p in base.parameters())
    with lend(base, LORA.config(["q_proj", "k_proj"]), seed=0) as lent:
        told = describe_size(lent)
    # Rank 4 on two layers: query 32 x 32, key 32 x 16.
    share = 896 / (n_base + 896)
    assert told == f"896 parameters to train, {share:.1%} of all; rank 4 of at most 16"


def test_no_adapter_attached_is_the_base(base: PreTrainedModel) -> None:
    before = hidden(base)
    with attach(base, None):
        assert torch.equal(hidden(base), before)


# PEFT asks transformers for a property by its former name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_saved_adapter_is_a_standard_peft_folder(base: PreTrainedModel, tmp_path: Path) -> None:
    adapter = trained(base, 1)
    adapter.save(tmp_path)
    names = {"adapter_config.json", "adapter_model.safetensors"}
    assert {file.name for file in tmp_path.iterdir()} >= names
    loaded = TrainedAdapter.load(tmp_path)
    assert loaded.summary == adapter.summary
    assert isinstance(loaded.summary["n_rows"], int)
    assert loaded.weights.keys() == adapter.weights.keys()
    with attach(base, adapter):
        expected = hidden(base)
    with attach(base, loaded):
        assert torch.equal(hidden(base), expected)
    foreign = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    model: Any = foreign.base_model.model
    assert torch.equal(hidden(model), expected)
    assert not torch.allclose(hidden(base), expected, atol=1e-2)
