import numpy as np
import pandas as pd
import pytest

from persona_lab.report import build
from persona_lab.report.lines import alone, lines


def test_the_seeds_of_a_configuration_are_scored_together(sweep):
    results = [sweep.add(name, id="r9", seed=i, noise=0.4 + i, unrelated=8 * i)
               for i, name in enumerate("ab")]  # fmt: skip
    sweep.add("c", id="r10", seed=0)
    line, other = lines(build(sweep.folder).runs)
    assert ([run.name for run in line.runs], [run.name for run in other.runs]) == (
        ["a", "b"],
        ["c"],
    )
    frames = pd.concat([run.predictions for run in line.runs])
    errors = (frames["prediction"] - frames["rating"]).dropna().astype(float)
    assert line.metrics["rmse"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert line.metrics["mae"] == pytest.approx(errors.abs().mean())
    assert (line.metrics["urr"], line.n_unrelated) == (8 / 1280, 8)
    assert line.metrics["digit_mass"] == pytest.approx(0.9)
    # Two numbers deviate by half their difference, over the root of a half.
    own = [result.metrics["rmse"] for result in results]
    deviation = abs(own[0] - own[1]) / np.sqrt(2)
    assert line.rmse_by_seed == pytest.approx((sum(own) / 2, deviation))
    # Of two seeds that differ, the interval reaches from one to the other.
    ends = line.intervals["rmse_expected"]
    assert ends["low"] < results[0].metrics["rmse_expected"] < ends["value"]
    assert ends["value"] < results[1].metrics["rmse_expected"] < ends["high"]


def test_lines_of_adapters_share_what_varies_between_their_seeds(sweep):
    for i, name in enumerate("ab"):
        sweep.add(name, id="r9", adapter="persona", seed=i, noise=0.4 + i)
    once = sweep.add("c", id="r5", adapter="single_max", noise=0.4)
    frozen = sweep.add("d", id="r3", adapter="none", noise=0.4)
    other = sweep.add("e", id="r5", adapter="single_max", model="phi3", noise=0.4)
    found = {line.first.name: line for line in lines(build(sweep.folder).runs)}
    assert found["a"].between == found["c"].between
    deviation = found["a"].rmse_by_seed[1]
    assert np.sqrt(found["c"].between["decoded"].rmse) == pytest.approx(deviation)
    wide = found["c"].intervals["rmse"]
    assert wide["value"] == pytest.approx(once.metrics["rmse"])
    assert wide["high"] - wide["low"] > 10 * deviation  # one degree of freedom
    assert found["c"].intervals["urr"] == once.intervals["urr"]
    assert (found["d"].intervals, found["d"].between) == (frozen.intervals, {})
    assert found["e"].intervals == other.intervals


def test_a_run_alone_keeps_the_numbers_of_its_result(sweep):
    result = sweep.add("a", id="r9", unrelated=3)
    (line,) = lines(build(sweep.folder).runs)
    assert (line.metrics, line.intervals) == (result.metrics, result.intervals)
    assert (line.label, line.n_unrelated, line.rmse_by_seed) == ("r9 · no adapter · M_s", 3, None)


def test_only_runs_that_differ_in_nothing_but_a_seed_stand_together(sweep):
    sweep.add("a", seed=0)
    sweep.add("b", seed=1, changed={"memory.top_k": 3})
    sweep.add("c", seed=1, decode="greedy")
    sweep.add("d", seed=1, cohort="dev")
    sweep.add("e", seed=0)
    sweep.add("f", seed=2)
    (sweep.folder / "f" / "predictions.parquet").unlink()
    assert [len(line.runs) for line in lines(build(sweep.folder).runs)] == [1] * 6


def test_lines_of_one_name_are_told_apart_without_their_seed(sweep):
    for k in (2, 4):
        for seed in (0, 1):
            name = f"{k}-personas.n_personas={k},seed={seed}"
            sweep.add(name, id="r9", seed=seed, changed={"personas.n_personas": k})
    assert [line.label for line in lines(build(sweep.folder).runs)] == [
        f"r9 · no adapter · M_s · 2 seeds · {k}-personas.n_personas={k}" for k in (2, 4)
    ]


def test_seeds_of_which_one_never_answers_are_scored_on_the_others(sweep):
    result = sweep.add("a", seed=0)
    sweep.add("b", seed=1, unrelated=640)
    (line,) = lines(build(sweep.folder).runs)
    assert line.metrics["rmse"] == pytest.approx(result.metrics["rmse"])
    assert (line.metrics["urr"], line.rmse_by_seed) == (0.5, None)
    assert alone(line.runs[1]).metrics["rmse"] is None
