"""Every adapter's predictions of all users -> its errors on the users of each adapter. Pure.

If personas are more than a division of the users, a persona's users are rated best by their own
adapter: the diagonal of the matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from persona_lab.data import Scale
from persona_lab.evaluation.contrast import Contrast, adjust
from persona_lab.evaluation.metrics import score
from persona_lab.evaluation.uncertainty import Difference, paired_interval


def matrix(
    crossed: Mapping[str, pd.DataFrame],
    route: Mapping[int, str | None],
    decode: str,
    user_means: Mapping[int, float],
    scale: Scale,
) -> list[dict[str, Any]]:
    """Score every adapter on every group of users.

    Args:
        crossed: Adapter -> its predictions of all users' test rows, all in the same order, as
            `score` takes them.
        route: user_id -> the user's own adapter, None for the frozen base.
        decode: Name of the decoding.
        user_means: Each user's mean training rating.
        scale: What a rating can be.

    Returns:
        One record per adapter and group: `adapter`, `users` (the group's own adapter), `n_users`,
        what `score` returns, and `difference`: `rmse` and `mae` of the expected rating, this
        adapter's minus the group's own one's, paired (`Difference`); None where they are the same
        or the group has none.
    """
    cells = []
    for adapter, frame in crossed.items():
        frame = frame.assign(user_mean=frame["user_id"].map(user_means))
        own = frame["user_id"].map(dict(route))
        for users in [*crossed, *({None} & {*route.values()})]:
            group = own.isna() if users is None else own == users
            rows, difference = frame[group], None
            if users is not None and users != adapter:
                theirs = crossed[users].loc[group, "expected_rating"]
                difference = paired_interval(
                    rows["user_id"], rows["rating"], rows["expected_rating"], theirs
                )
            cells.append(
                {
                    "adapter": adapter,
                    "users": users,
                    "n_users": int(rows["user_id"].nunique()),
                    **score(rows, decode, scale),
                    "difference": difference and {m: asdict(d) for m, d in difference.items()},
                }
            )
    return cells


def off_diagonal(cells: Sequence[Mapping[str, Any]]) -> list[Contrast]:
    """The differences in a `matrix`, in its order, their p corrected together."""
    contrasts = {}
    for place, cell in enumerate(cells):
        if cell["difference"]:
            both = {metric: Difference(**ends) for metric, ends in cell["difference"].items()}
            contrasts[place] = Contrast(
                "expected", cell["n_test"], cell["n_users"], (1, 1), both, None
            )
    return [*adjust(contrasts).values()]
