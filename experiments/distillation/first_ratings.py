"""The first ratings of a few real users -> what a local model makes of them, printed as JSON.

python experiments/distillation/first_ratings.py [ratings per user] [choices ...]
"""

import dataclasses
import json
import sys

from persona_lab.compose import configure
from persona_lab.distill import History
from persona_lab.distill.histories import histories, history_rows


def main(n_ratings: int, choices: list[str]) -> None:
    """Distil the first `n_ratings` training ratings of every selected user."""
    run = configure("distiller=local", "data.n_users=5", *choices)
    one, sources = run.experiment, run.lab.sources
    ratings = one.data.ratings(sources)
    split = one.data.split(ratings, one.protocol, one.movie_info, sources)
    whole = histories(history_rows(split, ratings, one.distiller.scope), split.scale)
    first = [History(each.user_id, each.rows.head(n_ratings), each.scale) for each in whole]
    for memories in one.distiller.distill(first, one.data.seed, sources):
        print(json.dumps(dataclasses.asdict(memories), indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
