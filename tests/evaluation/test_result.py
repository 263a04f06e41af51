import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from scales import HALVES, STARS

from persona_lab.errors import UserError
from persona_lab.evaluation import Result, Row, adapter_records, row_id, score
from persona_lab.evaluation.result import TABLE_1

ROW = Row(
    id="r10", setup="embedded", role="slm", model="smollm2", adapter="persona", memory="ms_ml",
    data="ml_100k", distiller="statistical", embedder="minilm", personas="kmeans",
    protocol="strict", decode="paper", peft="lora", seed=0, changed={"personas.n_personas": 8},
)  # fmt: skip
RESULT = Result(
    row=ROW, scale=STARS, cohort="reported", development=False, metrics={"rmse": 1.0, "urr": None},
    intervals={"rmse": {"value": 1.0, "low": 0.9, "high": 1.1}}, n_test=10, n_unrelated=1,
    truncated=2, baselines={"cohort": {"constant": {"rmse": 1.1}}},
    per_persona=[{"persona": 0, "rmse": 1.0}], timing={"split": {"seconds": 0.1}},
    cost={"tokens": 0}, versions={"torch": "2.13.0"}, keys={"split": "ab"}, reused=False,
    cuts={"memories": 3},
)  # fmt: skip


def test_every_row_of_table_1_has_its_id_and_anything_else_none():
    assert sorted(TABLE_1.values(), key=lambda i: int(i[1:])) == [f"r{n}" for n in range(11)]
    assert row_id("llm", "none", "ml") == "r2"
    assert row_id("slm", "persona", "ms_ml") == "r10"
    assert row_id("slm", "none", "ml") is None
    assert row_id("slm", "per_user", "ms") is None


def test_a_result_survives_the_file(tmp_path):
    RESULT.save(tmp_path)
    assert Result.load(tmp_path) == RESULT
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["schema"] == 2
    assert found["row"] == asdict(ROW)
    assert found["scale"]["labels"] == ["1", "2", "3", "4", "5"]
    halves = replace(RESULT, scale=HALVES)
    halves.save(tmp_path)
    assert Result.load(tmp_path) == halves


def test_a_number_that_json_cannot_hold_is_refused_and_leaves_no_result(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        replace(RESULT, metrics={"rmse": float("nan")}).save(tmp_path)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a run's result"),
        ("[]", "is not a run's result"),
        (json.dumps({"schema": 1, "row": asdict(ROW)}), "has schema 1, not 2"),
        (json.dumps({"schema": 2, "row": asdict(ROW)}), "lacks adapters, audit"),
        (json.dumps(asdict(RESULT) | {"schema": 2, "row": {"id": "r0"}}), "is not a run's result"),
    ],
)
def test_a_damaged_or_foreign_result_is_the_users_error(tmp_path, text, message):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=message):
        Result.load(tmp_path)


def test_a_folder_without_result_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match="no result"):
        Result.load(tmp_path)


def test_only_what_development_rows_give_is_an_objective():
    metrics = {"rmse": 1.0, "rmse_worst": 1.2}
    for_choosing = replace(RESULT, metrics=metrics, development=True)
    assert for_choosing.objective() == 1.2
    with pytest.raises(UserError, match="test rows of reported users"):
        replace(for_choosing, development=False).objective()


def records(route):
    """Adapters of users 1 to 4, of whom 1 and 2 are persona 0."""
    names = dict.fromkeys(name for name in route if name)
    route = dict(enumerate(route, 1))
    personas = pd.DataFrame({"user_id": [1, 2, 3, 4], "persona": [0, 0, 1, 1]})
    return adapter_records({name: {"n_rows": 9} for name in names}, route, {"b": "a"}, personas)


@pytest.mark.parametrize(
    ("route", "serving"),
    [
        ([None] * 4, "none"),
        (["a"] * 4, "all"),
        (["a", "a", "b", "b"], "personas"),
        (["a", "a", None, None], "personas"),
        (["a", "b", "a", "b"], "groups"),
        (["a", "b", "c", "d"], "users"),
    ],
)
def test_whom_adapters_serve_is_recorded_whatever_they_are_called(route, serving):
    scores = [{"persona": 0, "rmse": 1.0}, {"persona": 1, "rmse": 2.0}]
    assert replace(RESULT, adapters=records(route), per_persona=scores).serving == serving


def test_an_adapters_errors_are_those_of_whom_it_rates():
    scores = [{"persona": 0, "rmse": 1.0}, {"persona": 1, "rmse": 2.0}]
    adapters = records(["a", "a", "b", "b"])
    assert adapters["a"] == {"n_rows": 9, "serves": {"users": 2, "personas": [0]}, "start": None}
    assert adapters["b"]["start"] == "a"
    result = replace(RESULT, adapters=adapters, per_persona=scores)
    assert [result.scores_of(name) for name in "ab"] == scores
    single = replace(result, adapters=records(["a"] * 4))
    assert single.scores_of("a") == single.metrics
    assert replace(result, adapters=records(["a", "b"] * 2)).scores_of("a") is None


@pytest.mark.parametrize("decode", ["paper", "greedy"])
def test_no_search_is_won_by_silence(decode):
    """Not even against answers that err more than the user's mean."""
    rng = np.random.default_rng(0)
    truth, answers = rng.integers(1, 6, (2, 200))

    def objective(answered: np.ndarray) -> float:
        rows = pd.DataFrame(
            {
                "user_id": 1,
                "rating": truth,
                "prediction": pd.array(answers, dtype="Float64"),
                "expected_rating": 3.0,
                "digit_mass": 1.0,
                "user_mean": float(truth.mean()),
            }
        )
        rows.loc[~answered, "prediction"] = pd.NA
        metrics = score(rows, decode, STARS)
        return replace(RESULT, metrics=metrics, development=True).objective()

    shares = [objective(np.arange(200) < n) for n in (0, 50, 100, 150, 200)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] > truth.std()
