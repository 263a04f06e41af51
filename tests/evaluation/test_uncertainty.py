import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from persona_lab.evaluation import uncertainty
from persona_lab.evaluation.uncertainty import (
    SeedVariance,
    holm,
    interval,
    paired_interval,
    seed_variance,
)


def simulated(rng, n_users, rows_per_user, spread, noise):
    """Errors with a part that all rows of a user share; the true RMSE is hypot(spread, noise)."""
    users = np.repeat(np.arange(n_users), rows_per_user)
    shared = np.repeat(rng.normal(0, spread, n_users), rows_per_user)
    return users, shared + rng.normal(0, noise, users.size)


def coverage(covers, n_draws=300) -> float:
    return float(np.mean([covers(np.random.default_rng(seed)) for seed in range(n_draws)]))


def test_interval_covers_the_true_rmse_at_its_level_when_users_differ():
    def covers(rng):
        users, errors = simulated(rng, n_users=40, rows_per_user=20, spread=0.5, noise=1.0)
        found = interval(users, np.zeros(users.size), errors)["rmse"]
        return found.low <= np.hypot(0.5, 1.0) <= found.high

    assert 0.91 <= coverage(covers) <= 0.98


def test_drawing_rows_instead_of_users_would_cover_too_rarely():
    def covers(rng):
        users, errors = simulated(rng, n_users=20, rows_per_user=10, spread=1.0, noise=0.3)
        found = interval(np.arange(users.size), np.zeros(users.size), errors)["rmse"]
        return found.low <= np.hypot(1.0, 0.3) <= found.high

    assert coverage(covers, n_draws=100) < 0.7


def test_paired_interval_covers_the_true_difference():
    def covers(rng):
        users, first = simulated(rng, n_users=40, rows_per_user=20, spread=0.3, noise=1.0)
        _, second = simulated(rng, n_users=40, rows_per_user=20, spread=0.6, noise=1.0)
        found = paired_interval(users, np.zeros(users.size), first, second)["rmse"]
        return found.low <= np.hypot(0.3, 1.0) - np.hypot(0.6, 1.0) <= found.high

    assert 0.91 <= coverage(covers) <= 0.98


def test_pairing_narrows_the_interval_of_a_difference():
    rng = np.random.default_rng(0)
    users, first = simulated(rng, n_users=50, rows_per_user=20, spread=1.0, noise=1.0)
    zeros = np.zeros(users.size)
    second = first + rng.normal(0, 0.1, users.size)
    paired = paired_interval(users, zeros, first, second)["rmse"]
    alone = interval(users, zeros, first)["rmse"]
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)


def test_hand_worked_case():
    found = paired_interval([7, 7, 9], [1, 2, 3], [1, 2, 5], [2, 3, 3])
    assert found["rmse"].value == pytest.approx(np.sqrt(4 / 3) - np.sqrt(2 / 3))
    assert found["mae"].value == pytest.approx(2 / 3 - 2 / 3)
    # Only two users: a resample holds both, or one of them twice.
    assert found["rmse"].low == pytest.approx(0 - 1)
    assert found["rmse"].high == pytest.approx(2 - 0)


def test_the_variance_between_seeds_is_added_to_that_of_users():
    rng = np.random.default_rng(0)
    users, shared = simulated(rng, n_users=40, rows_per_user=20, spread=0.0, noise=1.0)
    zeros = np.zeros(users.size)
    alike = interval(users, zeros, np.stack([shared, shared]))["rmse"]
    apart = interval(users, zeros, np.stack([0.5 * shared, 1.5 * shared]))["rmse"]
    one = interval(users, zeros, shared)["rmse"]
    assert (alike.value, alike.low, alike.high) == pytest.approx((one.value, one.low, one.high))
    assert apart.value == pytest.approx(one.value * np.sqrt((0.25 + 2.25) / 2))
    # Two seeds an RMSE apart: their mean's standard error is half of that, with one degree of
    # freedom where users vary little.
    reach = one.value / 2 * stats.t.ppf(0.975, 1)
    assert apart.high - apart.value == pytest.approx(reach, rel=0.2)


@pytest.mark.parametrize("n_seeds", [2, 3])
def test_seeds_that_differ_by_chance_alone_are_told_apart_at_the_level_only(n_seeds):
    def rejects(rng):
        users, _ = simulated(rng, n_users=30, rows_per_user=5, spread=0.3, noise=1.0)
        # What training adds moves all users of a seed alike, more than users vary.
        sides = [
            np.stack(
                [rng.normal(0, 1.0, users.size) * rng.uniform(0.7, 1.3) for _ in range(n_seeds)]
            )
            for _ in range(2)
        ]
        found = paired_interval(users, np.zeros(users.size), *sides)["rmse"]
        return found.p <= 0.05 and (found.low > 0 or found.high < 0)

    assert coverage(rejects, 200) <= 0.09


def test_the_variance_between_seeds_is_pooled_by_hand():
    zeros = np.zeros(2)
    two = [[1.0, 1.0], [3.0, 3.0]]  # RMSE 1 and 3: squares 2, one degree of freedom
    three = [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]  # squares 2, two degrees
    found = seed_variance([(zeros, two), (zeros, three), (zeros, [[9.0, 9.0]])])
    assert found == SeedVariance(pytest.approx(4 / 3), pytest.approx(4 / 3), 3)
    assert seed_variance([(zeros, [[1.0, 2.0]])]) is None
    # A seed that rated nothing has no error.
    nan = float("nan")
    assert seed_variance([(zeros, [[1.0, 1.0], [nan, nan]])]) is None
    assert seed_variance([(zeros, [[1.0, nan], [3.0, 3.0]])]).rmse == pytest.approx(2)


def test_a_known_variance_between_seeds_takes_the_place_of_that_of_these_seeds():
    users = np.arange(20)
    alike = np.ones((2, 20))  # neither users nor these seeds vary
    zeros, known = np.zeros(20), SeedVariance(0.04, 0.09, 5)
    found = interval(users, zeros, alike, between=known)
    assert found["rmse"].high - 1 == pytest.approx(stats.t.ppf(0.975, 5) * np.sqrt(0.04 / 2))
    assert 1 - found["mae"].low == pytest.approx(stats.t.ppf(0.975, 5) * np.sqrt(0.09 / 2))
    # One seed against the mean of two rows of two seeds each: 1 + 2 / 4 / 2 of the variance.
    sides, between = [alike[:1], alike * 2, alike * 2], [known] * 3
    paired = paired_interval(users, zeros, *sides, between=between)["rmse"]
    error = np.sqrt(0.04 * (1 + 0.25))
    assert (paired.value, paired.high + 1) == pytest.approx((-1, stats.t.ppf(0.975, 5) * error))
    assert paired.p == pytest.approx(2 * stats.t.sf(1 / error, 5))
    # A side that was not trained adds nothing.
    frozen = paired_interval(users, zeros, alike, alike[:1] * 2, between=[known, None])["rmse"]
    assert frozen.high + 1 == pytest.approx(stats.t.ppf(0.975, 5) * np.sqrt(0.04 / 2))


def seeds_of_a_table(rng, planted=0.0):
    """Six rows of two seeds, each seed with an error of its own; the first errs less by a plant."""
    users, _ = simulated(rng, n_users=30, rows_per_user=5, spread=0.0, noise=1.0)
    scales = rng.uniform(0.85, 1.15, (6, 2, 1))
    scales[0] -= planted
    return users, scales * np.sign(rng.normal(size=(6, 2, users.size))) * np.ones(users.size)


def found_between_two(planted, pooled):
    def rejects(rng):
        users, table = seeds_of_a_table(rng, planted)
        zeros = np.zeros(users.size)
        known = seed_variance((zeros, row) for row in table) if pooled else None
        found = paired_interval(users, zeros, *table[:2], between=[known] * 2)["rmse"]
        return found.p <= 0.05 and found.high < 0

    return coverage(rejects, 200)


def test_pooling_over_a_tables_rows_finds_more_at_the_same_level(monkeypatch):
    monkeypatch.setattr(uncertainty, "RESAMPLES", 199)
    monkeypatch.setattr(uncertainty, "FLIPS", 999)
    assert found_between_two(0.0, pooled=True) <= 0.05  # of one side
    assert found_between_two(0.4, pooled=True) > 0.9 > 0.6 > found_between_two(0.4, pooled=False)


def test_a_row_that_one_seed_did_not_rate_counts_in_the_other_by_hand():
    nan = float("nan")
    found = interval([1, 1, 2], [0, 0, 0], [[1, nan, 2], [2, 2, nan]])
    assert found["rmse"].value == pytest.approx(np.sqrt((1 + 4 + 4 + 4) / 4))
    assert found["mae"].value == pytest.approx(7 / 4)
    assert found["rmse"].low < found["rmse"].value < found["rmse"].high


def test_against_several_the_mean_of_their_errors_counts():
    users, ratings = [1, 1, 2], [1, 2, 3]
    found = paired_interval(users, ratings, [1, 2, 5], [2, 3, 3], [1, 2, 3])
    assert found["rmse"].value == pytest.approx(np.sqrt(4 / 3) - (np.sqrt(2 / 3) + 0) / 2)


def test_the_test_over_users_is_that_of_scipy_on_users_sums():
    rng = np.random.default_rng(0)
    users, first = simulated(rng, n_users=10, rows_per_user=8, spread=0.3, noise=1.0)
    second = first * rng.uniform(0.7, 1.5, 10)[users]
    found = paired_interval(users, np.zeros(users.size), first, second)
    for metric, loss in (("rmse", np.square), ("mae", np.abs)):
        sums = np.bincount(users, weights=loss(first) - loss(second))
        exact = stats.permutation_test(
            (sums,), np.sum, permutation_type="samples", n_resamples=2048
        )
        assert found[metric].p == pytest.approx(exact.pvalue, abs=0.02)


def rejections(factor, n_draws=200) -> float:
    def rejects(rng):
        users, first = simulated(rng, n_users=20, rows_per_user=10, spread=0.5, noise=1.0)
        _, second = simulated(rng, n_users=20, rows_per_user=10, spread=0.5, noise=1.0)
        found = paired_interval(users, np.zeros(users.size), first, factor * second)
        return found["rmse"].p <= 0.05

    return coverage(rejects, n_draws)


def test_a_planted_difference_is_found_and_a_planted_null_at_the_level_only():
    assert rejections(1.5) > 0.95
    assert 0.01 <= rejections(1.0) <= 0.09


def test_the_detectable_difference_is_found_in_four_of_five_tries():
    rng = np.random.default_rng(0)
    n = 30
    differences = np.abs(rng.normal(0, 1, n))
    found = paired_interval(np.arange(n), np.zeros(n), differences + 1, np.ones(n))["mae"]
    standard_error = differences.std(ddof=1) / np.sqrt(n)
    critical = stats.t.ppf(0.975, n - 1)
    power = 1 - stats.nct.cdf(critical, n - 1, found.detectable / standard_error)
    assert power == pytest.approx(0.8, abs=0.05)


def test_holm_by_hand():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 no smaller than what comes before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_one_user_leaves_no_interval():
    found = interval([3, 3], [1, 5], [2, 5])
    assert found["rmse"].value == pytest.approx(np.sqrt(0.5))
    assert (found["rmse"].low, found["mae"].high) == (None, None)
    paired = paired_interval([3, 3], [1, 5], [2, 5], [1, 5])["rmse"]
    assert (paired.low, paired.p, paired.detectable) == (None, None, None)


def test_the_interval_is_the_same_in_any_row_order_and_block_size(monkeypatch):
    users, errors = simulated(np.random.default_rng(1), 30, 7, 0.5, 1.0)
    zeros, shuffled = np.zeros(users.size), np.random.default_rng(2).permutation(users.size)
    found = interval(users, zeros, errors)
    again = interval(users[shuffled], zeros, errors[shuffled])
    assert again["rmse"].low == pytest.approx(found["rmse"].low)
    monkeypatch.setattr(uncertainty, "_CELLS", 100)
    monkeypatch.setattr(uncertainty, "_KEPT", 0)
    blocks = interval(users, zeros, errors)
    assert vars(blocks["rmse"]) == pytest.approx(vars(found["rmse"]))


def test_a_missing_prediction_is_refused():
    given = [3.0, float("nan")]
    with pytest.raises(AssertionError, match="without a prediction"):
        paired_interval([1, 2], [3, 4], [3.0, 4.0], given)
    with pytest.raises(AssertionError, match="no seed has a rating for"):
        interval([1, 2], [3, 4], given)


rows = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 5), st.floats(1, 5), st.floats(1, 5)), min_size=1
)


@settings(max_examples=50, deadline=None)
@given(rows)
def test_values_are_the_plain_errors_and_swapping_flips_the_sign(drawn):
    users, rating, first, second = map(np.array, zip(*drawn, strict=True))
    one, two = interval(users, rating, first), interval(users, rating, second)
    assert one["rmse"].value == pytest.approx(np.sqrt(np.mean((first - rating) ** 2)))
    assert one["mae"].value == pytest.approx(np.mean(np.abs(first - rating)))
    there = paired_interval(users, rating, first, second)
    back = paired_interval(users, rating, second, first)
    for metric in ("rmse", "mae"):
        difference = one[metric].value - two[metric].value
        assert there[metric].value == pytest.approx(difference, abs=1e-12)
        if there[metric].low is not None:
            assert there[metric].low == pytest.approx(-back[metric].high, abs=1e-9)
