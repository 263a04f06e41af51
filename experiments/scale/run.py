"""`python experiments/scale/run.py 1000 10000`: seconds and peak memory of each stage by users.

Synthetic users of 20 ratings each; one process per size. Users are taken in shards, so that no more
than one shard's texts are in memory; vectors go to disk shard by shard. Writes results.csv and
growth.png beside this file, and what the stages make into a folder that is removed at the end.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

from persona_lab.assets import Assets
from persona_lab.data import Data, NoMovieInfo, Protocol, Ratings, Split, Synthetic
from persona_lab.distill import Memories, Statistical, distil
from persona_lab.memory import Bank, Hashed, Memory, Vectors, embed
from persona_lab.personas import MiniBatchPersonas

HERE = Path(__file__).parent
RATINGS, ITEMS, SHARD, RECALLED = 20, 2000, 2000, 10_000
PROTOCOL = Protocol("strict", "outside_cohort", "training", "final", True, "earlier")
MEMORY = Memory("ms_ml", profile=True, interactions=True)
STAGES = ("selection", "distillation", "embedding", "clustering", "recall")


class Clock:
    """Seconds and peak memory of named stages; a stage may be entered many times."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.peaks = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure what is done inside; Linux forgets the peak of what came before."""
        Path("/proc/self/clear_refs").write_text("5")
        start = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - start
        (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
        self.peaks[stage] = max(self.peaks[stage], int(line.split()[1]) / 2**10)


def shards(split: Split, ratings: Ratings) -> Iterator[tuple[Split, Ratings]]:
    """The split and the ratings of some users after others."""
    users = split.users["user_id"].to_numpy()
    frame = ratings.frame.sort_values("user_id", ignore_index=True)
    for start in range(0, len(users), SHARD):
        first, last = users[start], users[min(start + SHARD, len(users)) - 1]
        cut = {
            name: part[part["user_id"].between(first, last)].reset_index(drop=True)
            for name, part in (("train", split.train), ("test", split.test), ("users", split.users))
        }
        low, high = frame["user_id"].searchsorted([first, last + 1])
        yield replace(split, **cut), replace(ratings, frame=frame.iloc[low:high])


def measure(n_users: int, folder: Path) -> list[dict[str, float | str]]:
    """Run the stages for so many users, in this process."""
    clock = Clock()
    reader = Synthetic(n_users + n_users // 100, ITEMS, 4, [RATINGS, RATINGS], 1.0, seed=0)
    data = Data("synthetic", reader, min_ratings=RATINGS, max_ratings=RATINGS, n_users=n_users)
    with clock("selection"):
        ratings = data.ratings(Assets(folder))
        split = data.split(ratings, PROTOCOL, NoMovieInfo(), Assets(folder))
    encode = Hashed("hashed").load(Assets(folder))
    shape = (n_users, Hashed("hashed").dim)
    vectors = np.lib.format.open_memmap(folder / "profiles.npy", "w+", np.float32, shape)
    sample: list[pd.DataFrame] = []
    kept: list[Memories] = []
    first: list[Vectors] = []
    done = 0
    for part, own in shards(split, ratings):
        with clock("distillation"):
            memories = distil(Statistical(), part, own, PROTOCOL, data.seed, Assets(folder))
            place = folder / f"memories-{done}"
            place.mkdir()
            memories.save(place)
        with clock("embedding"):
            made = embed(encode, memories, part, enriched=False)
            vectors[done : done + len(part.users)] = made.profiles
        done += len(part.users)
        if sum(map(len, sample)) < RECALLED:
            sample.append(part.test)
            kept.append(memories)
            first.append(made)
    vectors.flush()
    with clock("clustering"):
        found = MiniBatchPersonas("minibatch", n_personas=4).fit(vectors, split.users, 0)
    rows = pd.concat(sample).head(RECALLED)
    users = pd.concat([each.profiles for each in kept])["user_id"].to_numpy()
    with clock("recall"):
        known = replace(first[0], user_ids=users, profiles=np.asarray(vectors[: len(users)]))
        remembered = replace(kept[0], interactions=pd.concat([m.interactions for m in kept]))
        recalled = Bank(remembered, known, MEMORY, "earlier").recall_rows(rows)
    assert found.n_personas == 4
    assert sum(map(bool, recalled)) == len(rows)
    disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return [
        {
            "users": n_users,
            "stage": stage,
            "seconds": round(clock.seconds[stage], 2),
            "peak_mb": round(clock.peaks[stage]),
            "disk_mb": round(disk / 2**20),
            "rows_recalled": len(rows),
        }
        for stage in STAGES
    ]


def draw(table: pd.DataFrame, file: Path) -> None:
    """Seconds and peak memory by users, one line per stage."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axis, column, label in zip(
        axes, ("seconds", "peak_mb"), ("seconds", "peak memory, MB"), strict=True
    ):
        for stage in STAGES:
            part = table[table["stage"] == stage]
            axis.loglog(part["users"], part[column], marker="o", markersize=4, label=stage)
        axis.set(xlabel="users", ylabel=label)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=110)


def _child(n_users: int, folder: str, answer: "multiprocessing.Queue[str]") -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer.put(json.dumps(measure(n_users, Path(folder))))


def main() -> None:
    """Measure each size in a process of its own, keeping what other calls have measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("users", nargs="+", type=int)
    given = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    results = HERE / "results.csv"
    for n_users in given.users:
        folder = tempfile.mkdtemp(prefix="scale-")
        answer = spawn.Queue()
        child = spawn.Process(target=_child, args=(n_users, folder, answer))
        child.start()
        try:
            found = pd.DataFrame(json.loads(answer.get()))
        finally:
            child.join()
            shutil.rmtree(folder)
        print(found.to_string(index=False), flush=True)
        if results.exists():
            before = pd.read_csv(results)
            found = pd.concat([before[before["users"] != n_users], found])
        table = found.sort_values("users", kind="stable")
        table.to_csv(results, index=False)
        draw(table, HERE / "growth.png")


if __name__ == "__main__":
    main()
