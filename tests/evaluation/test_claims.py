from dataclasses import replace

import pytest

from persona_lab.evaluation import CLAIMS, OURS, TableRow, judge

NOISE = {"r10": 0.5, "r7": 0.9, "r8": 0.9, "r5": 0.9, "r9": 0.9, "random_ms_ml": 0.5}


@pytest.fixture
def table(run):
    """A persona row with the lowest error by far, single adapters all alike, no large model."""
    return {
        name: TableRow((run(noise, seed),)) for seed, (name, noise) in enumerate(NOISE.items(), 1)
    }


def by_name(table, prediction="expected"):
    return {judged.name: judged for judged in judge(table, prediction)}


def test_the_first_contrast_is_persona_against_single_and_names_are_unique():
    names = [claim.name for claim in (*CLAIMS, *OURS)]
    assert names[0] == "r10 > r7"
    assert len(set(names)) == len(names)


def test_claims_are_judged_beyond_noise_only(table):
    found = by_name(table)
    assert found["r10 > r7"].judgement == "contradicted"
    assert found["r10 < r7, r8"].judgement == "supported"
    assert found["r7 < r5"].judgement == "undecided"
    assert found["r10 < random_ms_ml"].judgement == "undecided"
    contrast = found["r10 < r7, r8"].contrast
    assert contrast.differences["rmse"].high < 0
    assert contrast.p("rmse") < contrast.adjusted["rmse"] < 0.05


def test_what_lacks_a_row_is_not_testable_and_says_which(table):
    found = by_name(table)["r7 < r4"]
    assert (found.judgement, found.why) == ("not testable", "r4 not in the table")


def test_a_stand_in_for_the_large_model_tests_nothing_about_it(table, run):
    played = TableRow((run(2.0, 9),), stands_in=True)
    found = by_name(table | {"r1": played, "r4": played})
    assert found["r7 < r1"].why == "a stand-in plays LLaMA-3 in r1"
    assert found["r7 < r1"].judgement == "not testable"
    assert found["r7 < r4"].judgement == "supported"
    real = by_name(table | {"r1": replace(played, stands_in=False)})
    assert real["r7 < r1"].judgement == "supported"


def test_rows_of_other_test_users_are_not_compared(table, run):
    found = by_name(table | {"r9": TableRow((run(0.9, 5, n_users=20),))})
    assert found["r10 < r9"].judgement == "not testable"


def all_rows(run, large, small):
    rows = {f"r{n}": TableRow((run(1, n, unrelated=large),)) for n in range(3)}
    return rows | {f"r{n}": TableRow((run(1, n, unrelated=small),)) for n in range(3, 11)}


@pytest.mark.parametrize(
    ("large", "small", "judgements"),
    [
        (0, 60, ("supported", "supported")),
        (60, 0, ("contradicted", "contradicted")),
        (1, 1, ("undecided", "undecided")),
    ],
)
def test_unrelated_responses_of_both_models(run, large, small, judgements):
    found = by_name(all_rows(run, large, small), "decoded")
    never, at_times = found["URR of r0, r1, r2 = 0"], found["URR of r3 to r10 > 0"]
    assert (never.judgement, at_times.judgement) == judgements
    assert never.shares["r2"].value == pytest.approx(large / 360)
    assert not any(name.startswith("URR") for name in by_name(all_rows(run, 0, 0)))


def test_few_responses_cannot_show_that_none_is_unrelated(run):
    rows = {f"r{n}": TableRow((run(1, n, n_users=20),)) for n in range(11)}
    assert by_name(rows, "decoded")["URR of r3 to r10 > 0"].judgement == "undecided"


def sized(run, noises, seed=0, **options):
    """A persona row: the larger of two personas, then the smaller, with other errors."""
    frame = run(1.0, seed, **options)
    error = frame["expected_rating"] - frame["rating"]
    noise = frame["persona"].map(dict(enumerate(noises)))
    return frame.assign(expected_rating=frame["rating"] + noise * error)


@pytest.mark.parametrize(
    ("noises", "judgement"),
    [((0.5, 1.0), "supported"), ((1.0, 0.5), "contradicted"), ((0.8, 0.8), "undecided")],
)
def test_error_by_the_size_of_personas(run, noises, judgement):
    frames = tuple(sized(run, noises, seed) for seed in (4, 5))
    found = by_name({"r10": TableRow(frames)})["r10 falls with size"]
    assert found.judgement == judgement
    # Twenty users against ten: one doubling.
    errors = [(each["expected_rating"] - each["rating"]) ** 2 for each in frames]
    rmse = [
        [error[each["persona"] == persona].mean() ** 0.5 for persona in (0, 1)]
        for each, error in zip(frames, errors, strict=True)
    ]
    assert found.trend.value == pytest.approx(sum(large - small for large, small in rmse) / 2)


def test_personas_of_one_size_test_nothing_about_size(run):
    rows = {"r10": TableRow((run(1.0).assign(persona=0),))}
    found = by_name(rows)["r10 falls with size"]
    assert (found.judgement, found.trend) == ("not testable", None)
    assert by_name({})["r10 falls with size"].why == "r10 not in the table"


def test_a_trend_must_hold_on_all_rows_too(run):
    frame = sized(run, (0.5, 1.0)).assign(user_mean=3.0)
    decoded = frame.assign(prediction=frame["expected_rating"].astype("Float64"))
    assert by_name({"r10": TableRow((decoded,))}, "decoded")["r10 falls with size"].judgement == (
        "supported"
    )
    # What the larger persona leaves out would be its largest errors.
    larger = decoded["persona"] == 0
    hidden = decoded["rating"].isin([1, 5]) & larger
    silent = decoded.assign(prediction=decoded["prediction"].mask(hidden))
    found = by_name({"r10": TableRow((silent,))}, "decoded")["r10 falls with size"]
    assert (found.trend.value < 0, found.judgement) == (True, "undecided")
