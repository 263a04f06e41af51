"""Every adapter's predictions of all users -> its errors on the users of each adapter. Pure.

If personas are more than a division of the users, a persona's users are rated best by their own
adapter: the diagonal of the matrix.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from persona_lab.evaluation.metrics import score
from persona_lab.evaluation.uncertainty import paired_interval


def matrix(
    crossed: Mapping[str, pd.DataFrame],
    route: Mapping[int, str | None],
    decode: str,
    user_means: Mapping[int, float],
) -> list[dict[str, Any]]:
    """Score every adapter on every group of users.

    Args:
        crossed: Adapter -> its predictions of all users' test rows, all in the same order, as
            `score` takes them.
        route: user_id -> the user's own adapter, None for the frozen base.
        decode: Name of the decoding: `paper`, `greedy` or `expected`.
        user_means: Each user's mean training rating.

    Returns:
        One record per adapter and group: `adapter`, `users` (the group's own adapter), `n_users`,
        what `score` returns, and `difference`: `rmse` and `mae` of the expected rating, this
        adapter's minus the group's own one's, paired (`Difference`); None where they are the same
        or the group has none.
    """
    return [*_cells(crossed, route, decode, user_means)]


def _cells(
    crossed: Mapping[str, pd.DataFrame],
    route: Mapping[int, str | None],
    decode: str,
    user_means: Mapping[int, float],
) -> Iterator[dict[str, Any]]:
    for adapter, frame in crossed.items():
        own = frame["user_id"].map(dict(route))
        for users in [*crossed, *({None} & {*route.values()})]:
            group = own.isna() if users is None else own == users
            rows, difference = frame[group], None
            if users is not None and users in crossed and users != adapter:
                theirs = crossed[users].loc[group, "expected_rating"]
                both = paired_interval(
                    rows["user_id"], rows["rating"], rows["expected_rating"], theirs
                )
                difference = {name: asdict(ends) for name, ends in both.items()}
            yield {
                "adapter": adapter,
                "users": users,
                "n_users": int(rows["user_id"].nunique()),
                **score(rows, decode, user_means),
                "difference": difference,
            }
