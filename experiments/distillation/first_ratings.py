"""The first ratings of a few real users -> what a local model makes of them, printed as JSON.

python experiments/distillation/first_ratings.py [ratings per user] [choices ...]
"""

import dataclasses
import json
import sys
from pathlib import Path

from hydra import compose, initialize_config_module

from persona_lab import configure
from persona_lab.distill import History
from persona_lab.distill.histories import histories, history_rows


def main(n_ratings: int, choices: list[str]) -> None:
    """Distil the first `n_ratings` training ratings of every selected user."""
    with initialize_config_module(configure.CONF, version_base="1.3"):
        cfg = compose("config", ["distiller=local", "data.n_users=5", *choices])
    run = configure.build(cfg, {}, Path.cwd())
    one = run.experiment
    ratings = one.data.ratings(run.sources)
    split = one.data.split(ratings, one.protocol, one.movie_info, run.sources)
    whole = histories(history_rows(split, ratings, one.distiller.scope), split.scale)
    first = [History(each.user_id, each.rows.head(n_ratings), each.scale) for each in whole]
    for memories in one.distiller.distill(first, one.data.seed, run.sources):
        print(json.dumps(dataclasses.asdict(memories), indent=1))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
