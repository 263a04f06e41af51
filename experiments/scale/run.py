"""`python experiments/scale/run.py 1000 10000`: seconds and peak memory of each stage by users.

Synthetic users of 20 ratings each, in shards of 10,000: a process holds the texts of one at a time.
Writes results.csv and growth.png into --out, and what the stages make into a folder of the size
there, which goes when the size is done. A run that was cut off goes on at the shard where it was; a
size that results.csv has is not measured again.
"""

import argparse
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from persona_lab.cache import read, write
from persona_lab.compose import configure
from persona_lab.data import Ratings, Split
from persona_lab.distill import Memories, distil
from persona_lab.experiment import Experiment
from persona_lab.memory import Bank, Vectors, embed, item_text
from persona_lab.sources import Sources

HERE = Path(__file__).parent
RATINGS, ITEMS, SHARD, RECALLED = 20, 2000, 10_000, 10_000
# Users beside the selected ones, of whose ratings the movies' averages are.
OTHERS = 2000
# Reads and writes the folder of a size: the folder, its number of users, the number of a shard.
Task = Callable[[Path, int, int], None]


@cache
def configured(users: int) -> Experiment:
    """The stages' components for so many users."""
    return configure(
        *("data=synthetic", f"data.n_users={users}", "data.test_rows_per_user=null"),
        *(f"data.min_ratings={RATINGS}", f"data.max_ratings={RATINGS}"),
        *(f"data.reader.n_users={users + OTHERS}", f"data.reader.n_items={ITEMS}"),
        *("data.reader.n_personas=4", f"data.reader.ratings_per_user=[{RATINGS},{RATINGS}]"),
        *("embedder=hashed", "personas=minibatch", "personas.n_personas=4"),
    ).experiment


def select(folder: Path, users: int, shard: int) -> None:
    """Make the ratings, split them, and write the split in shards."""
    one, sources = configured(users), Sources(folder)
    ratings = one.data.ratings(sources)
    split = one.data.split(ratings, one.protocol, one.movie_info, sources)
    for number, part in enumerate(parts(split)):
        place(folder, number).mkdir(exist_ok=True)
        part.save(place(folder, number))


def distil_shard(folder: Path, users: int, shard: int) -> None:
    """Write a shard's memories; the percentiles of its users' traits are over the shard."""
    split = Split.load(place(folder, shard))
    ratings = Ratings(
        pd.concat([split.train, split.test]), split.movies, split.users, {}, split.scale
    )
    one = configured(users)
    memories = distil(one.distiller, split, ratings, one.protocol, 0, Sources(folder))
    (place(folder, shard) / "memories").mkdir(exist_ok=True)
    write(memories, place(folder, shard) / "memories")


def embed_shard(folder: Path, users: int, shard: int) -> None:
    """Write the vectors of a shard's profiles."""
    split, memories = Split.load(place(folder, shard)), read_memories(folder, shard)
    made = embed(configured(users).embedder.load(Sources(folder)), memories, split, enriched=False)
    np.save(place(folder, shard) / "profiles.npy", made.profiles)


def cluster(folder: Path, users: int, shard: int) -> None:
    """Find four personas among all users."""
    places = [place(folder, number) for number in range(shards(users))]
    first = np.load(places[0] / "profiles.npy")
    vectors = np.empty((users, first.shape[1]), dtype=np.float32)
    for number, each in enumerate(places):
        vectors[number * SHARD : (number + 1) * SHARD] = np.load(each / "profiles.npy")
    known = pd.concat([pd.read_parquet(each / "users.parquet") for each in places])
    found = configured(users).personas.fit(vectors, known, 0)
    assert found.n_personas == 4
    found.save(folder)


def recall(folder: Path, users: int, shard: int) -> None:
    """What is recalled for the first test rows of the first shard."""
    split, memories = Split.load(place(folder, 0)), read_memories(folder, 0)
    one = configured(users)
    encode = one.embedder.load(Sources(folder))
    vectors = Vectors(
        user_ids=split.users["user_id"].to_numpy(),
        profiles=np.load(place(folder, 0) / "profiles.npy"),
        item_ids=split.movies["item_id"].to_numpy(),
        items=encode([item_text(movie) for movie in split.movies.to_dict("records")])[0],
        interactions=None,
    )
    bank = Bank(memories, vectors, one.memory, one.protocol.recall_time)
    recalled = bank.recall_rows(split.test.head(RECALLED))
    assert all(recalled)


STAGES: dict[str, Task] = {
    "selection": select,
    "distillation": distil_shard,
    "embedding": embed_shard,
    "clustering": cluster,
    "recall": recall,
}
IN_SHARDS = {"distillation", "embedding"}


def shards(users: int) -> int:
    """Number of shards of so many users."""
    return -(-users // SHARD)


def place(folder: Path, shard: int) -> Path:
    """Where the files of a shard are."""
    return folder / f"shard-{shard:04}"


def read_memories(folder: Path, shard: int) -> Memories:
    """The memories of a shard."""
    return read(Memories, place(folder, shard) / "memories")


def parts(split: Split) -> Iterator[Split]:
    """The split of some users after others."""
    for start in range(0, len(split.users), SHARD):
        users = split.users.iloc[start : start + SHARD]
        ends = [users["user_id"].iloc[0], users["user_id"].iloc[-1] + 1]
        train, test = (
            rows.iloc[slice(*rows["user_id"].searchsorted(ends))].reset_index(drop=True)
            for rows in (split.train, split.test)
        )
        yield replace(split, train=train, test=test, users=users.reset_index(drop=True))


def measured(stage: str, folder: Path, users: int, shard: int) -> dict[str, float | str]:
    """Do a stage, or a shard's part of it, in this process, and say what it took."""
    # Linux then forgets the peak of what came before.
    Path("/proc/self/clear_refs").write_text("5")
    start, cpu = time.time(), time.process_time()
    STAGES[stage](folder, users, shard)
    end, cpu = time.time(), time.process_time() - cpu
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    peak = int(line.split()[1]) / 2**10
    return {
        **{"stage": stage, "shard": shard, "start": start, "end": end},
        **{"cpu_seconds": cpu, "peak_mb": peak},
    }


def run_stage(stage: str, folder: Path, users: int, pool: Executor) -> pd.DataFrame:
    """Do what is still to be done of a stage.

    Args:
        stage: Its name.
        folder: Of the size; its tasks.csv keeps what was done.
        users: The size.
        pool: Does the tasks.

    Returns:
        One row per shard of the stage: stage, shard, start and end (seconds since 1970),
        cpu_seconds, peak_mb.
    """
    tasks = folder / "tasks.csv"
    done = pd.read_csv(tasks) if tasks.exists() else pd.DataFrame({"stage": [], "shard": []})
    known = set(done.loc[done["stage"] == stage, "shard"])
    numbers = range(shards(users) if stage in IN_SHARDS else 1)
    missing = [number for number in numbers if number not in known]
    for row in pool.map(partial(measured, stage, folder, users), missing):
        pd.DataFrame([row]).to_csv(tasks, mode="a", header=not tasks.exists(), index=False)
    done = pd.read_csv(tasks)
    return done[done["stage"] == stage]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of the spans (start, end) lasted."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


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


def main() -> None:
    """Measure each size, keeping what other calls have measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("users", nargs="+", type=int)
    add("--out", type=Path, default=HERE)
    add("--processes", type=int, default=os.cpu_count(), help="that take shards; one per core")
    add("--fresh", action="store_true", help="measure again what --out has of these sizes")
    given = parser.parse_args()
    results = given.out / "results.csv"
    for users in given.users:
        folder = given.out / f"{users}-users"
        if given.fresh:
            shutil.rmtree(folder, ignore_errors=True)
        known = pd.read_csv(results).to_dict("records") if results.exists() else []
        rows: list[Any] = [row for row in known if row["users"] != users]
        if len(known) == len(rows) + len(STAGES) and not given.fresh:
            print(f"{users:,} users: measured already, see {results} (--fresh begins again)")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(given.processes, spawn) as pool:
            for stage in STAGES:
                tasks = run_stage(stage, folder, users, pool)
                found = {
                    "users": users,
                    "stage": stage,
                    "seconds": round(covered(zip(tasks["start"], tasks["end"], strict=True)), 2),
                    "cpu_seconds": round(tasks["cpu_seconds"].sum(), 2),
                    "processes": min(given.processes, len(tasks)),
                    "peak_mb": round(tasks["peak_mb"].max()),
                    "disk_mb": round(size(folder) / 2**20),
                }
                print(*(f"{name}={value}" for name, value in found.items()), flush=True)
                rows.append(found)
                table = pd.DataFrame(rows).sort_values("users", kind="stable")
                table.to_csv(results, index=False)
        draw(pd.read_csv(results), given.out / "growth.png")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
