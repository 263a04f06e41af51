"""Development users' rows -> how far training by shared prefixes is from training row by row.

Trains the same adapter from the same rows in as many steps: `shared` as the product does, `alone`
with every row by itself in shuffled steps, so that each has a dropout mask of its own, and `fp32`
as `shared` in single precision. Writes each side's predictions into --out, goes on from what is
there, and prints the differences with intervals over users and seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from persona_lab.compose import configure
from persona_lab.evaluation import contrast
from persona_lab.experiment import Experiment
from persona_lab.lab import Lab
from persona_lab.model import Fit, Rating, attach, fit_adapter, rate_examples
from persona_lab.tuning import Prepared

SIDES = ("shared", "alone", "fp32")
PAIRS = (("shared", "alone"), ("shared", "fp32"))


def predict(one: Experiment, lab: Lab, prepared: Prepared, seed: int, side: str) -> pd.DataFrame:
    """Train and rate; user_id, item_id, rating, prediction, expected_rating and user_mean."""
    tuning = one.tuning(lab, prepared)
    codec = tuning.codec
    (rows,) = tuning.plan.rows.values()
    train = tuning.examples(rows, training=True)
    if side == "alone":
        # Rows share what their user's rows share: each becomes a user of its own.
        train = [replace(each, user_id=n) for n, each in enumerate(train)]
    test = tuning.examples(prepared.split.value.test, training=False)
    trainer = replace(one.trainer, precision="32-true") if side == "fp32" else one.trainer
    base, peft = tuning.base(), one.peft.config(one.model.lora_targets)
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        fit = Fit(side, train, one.train, peft, seed)
        adapter = fit_adapter(base, codec, fit, trainer, at)
        print(f"{side}, seed {seed}: {adapter.summary}", flush=True)
        with attach(base, adapter):
            rating = Rating(side, test, one.decode, seed)
            answers = rate_examples(base, codec, rating, trainer, at)
    means = prepared.split.value.train.groupby("user_id")["rating"].mean()
    return pd.DataFrame(
        {
            "user_id": [each.user_id for each in test],
            "item_id": [each.item_id for each in test],
            "rating": [each.rating for each in test],
            "prediction": [each.prediction for each in answers],
            "expected_rating": [each.expected_rating for each in answers],
            "user_mean": [float(means[each.user_id]) for each in test],
        }
    )


def report(frames: dict[str, list[pd.DataFrame]]) -> None:
    """Print each pair's difference."""
    for first, second in PAIRS:
        found = contrast(frames[first], frames[second], prediction="expected")
        assert found is not None
        print(f"{first} minus {second}: {found.n} rows, {found.n_users} users")
        for name, each in found.differences.items():
            print(f"  {name} {each.value:+.4f} [{each.low:+.4f}, {each.high:+.4f}]")


def keep(out: Path, overrides: Sequence[str]) -> None:
    """Note what was chosen; refuse to go on from predictions of other choices."""
    file = out / "overrides.json"
    found = json.loads(file.read_text()) if file.exists() else None
    if found != [*overrides] and (found is not None or any(out.glob("*.parquet"))):
        raise SystemExit(f"{out} is of other overrides ({found}): give another --out")
    out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([*overrides]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("outputs/sharing"))
    parser.add_argument("overrides", nargs="*", help="as on persona-lab's command line")
    args = parser.parse_args(arguments)
    keep(args.out, args.overrides)
    run = configure("experiment=sharing", *args.overrides, folder=args.out)
    prepared = run.experiment.prepare(run.lab)
    frames: dict[str, list[pd.DataFrame]] = {side: [] for side in SIDES}
    for seed in args.seeds:
        for side in SIDES:
            file = args.out / f"{side}-{seed}.parquet"
            if not file.exists():
                found = predict(run.experiment, run.lab, prepared, seed, side)
                found.to_parquet(file, index=False)
            frames[side].append(pd.read_parquet(file))
    report(frames)


if __name__ == "__main__":
    main()
