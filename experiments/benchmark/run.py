"""The benchmark: rows per second of the shared-prefix engine and of its peers, side by side.

Writes into --out, after every measurement, `measurements.jsonl` (all that was measured; a run that
was cut off goes on from it), `results.json`, `details.json`, `table.md` and `curves.png`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import contestants as c
import numpy as np
import psutil
import torch
from arithmetic import peak, products, products_of_training
from prompts import Choice, Rows, lengths, load, with_prefix
from transformers.utils import logging as transformers_logging

from persona_lab.model.train import answered, by_prefix
from persona_lab.prompting import Example

HERE = Path(__file__).parent
OURS = {"train": ["ours"], "evaluate": ["ours", "ours_stopping_early", "ours_scoring"]}
PEERS = {"train": list(c.TRAINING), "evaluate": list(c.EVALUATION)}
# A batch size this much slower than the best so far ends the search: larger ones are slower still.
HOPELESS = 1.15
PACKAGES = ["persona-lab", "torch", "transformers", "peft", "trl", "datasets"]


@dataclass(frozen=True)
class Cell:
    """What is compared, on which rows.

    Attributes:
        what: `train` or `evaluate`.
        prompts: `ms` or `ms_ml`.
        order: Of the prompt (`prompt.order`).
        rows_per_user: Rows of a user that are there together.
        precision: Lightning's name of it.
        prefix: Tokens that every user's prefix is cut or repeated to; None: as written.
        n_users: Users of a step.
        peers: Contestants beside ours; none where the cell is a point of a curve of ours.
        rounds: How often it is measured, against other cells.
    """

    what: str
    prompts: str
    order: str
    rows_per_user: int
    precision: str
    prefix: int | None
    n_users: int
    peers: tuple[str, ...]
    rounds: int


def cells(args: argparse.Namespace) -> list[Cell]:
    """Headlines first, then the curves."""

    def cell(what: str, prompts: str, rows: int, **more: Any) -> Cell:
        usual = {"order": "paper", "prefix": None, "rounds": args.repeats}
        peers = tuple(peer for peer in PEERS[what] if args.peers is None or peer in args.peers)
        usual |= {"peers": peers, "n_users": max(1, args.least_rows // rows)}
        return Cell(what, prompts, rows_per_user=rows, precision=args.precision, **(usual | more))

    most = args.rows_per_user[0]
    found = []
    for rows in args.rows_per_user:
        found += [cell(what, prompts, rows) for prompts in args.prompts for what in args.only]
    if "ms_ml" in args.prompts:
        found += [cell(what, "ms_ml", most, order="static_first") for what in args.only]
    few = (args.repeats + 1) // 2
    for what in args.only:
        for rows in args.curve_rows:
            found.append(cell(what, args.prompts[0], rows, peers=(), rounds=few))
        for prefix in args.curve_prefixes:
            peers = tuple(PEERS[what][:1])
            found.append(
                cell(what, args.prompts[0], 8, prefix=prefix, peers=peers, rounds=few, n_users=1)
            )
    return found


class Bench:
    """Measures cells and keeps what was measured."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.log = args.out / "measurements.jsonl"
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.records: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.peers: dict[str, c.Contestant] = {}

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes."""
        return self.args.trainer == "gpu"

    def record(self, kind: str, **fields: Any) -> None:
        """Append a measurement to the file at once."""
        self.records.append(json.loads(json.dumps({"kind": kind, **fields})))
        with self.log.open("a") as stream:
            stream.write(json.dumps(self.records[-1]) + "\n")

    def found(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """Measurements of a kind, with these fields."""
        wanted = json.loads(json.dumps({"kind": kind, **fields}))
        return [r for r in self.records if all(r.get(key) == wanted[key] for key in wanted)]

    def rows(self, prompts: str, order: str = "paper") -> Rows:
        """The real rows of a choice of prompts."""
        a = self.args
        about = (a.precision, a.movie_info, a.quick, a.trainer, a.shape)
        return load(Choice(prompts, order, *about))

    def contestant(self, name: str, prompts: str, order: str = "paper") -> c.Contestant:
        """A contestant; peers keep one copy of the weights each for the whole run."""
        rows = self.rows(prompts, order)
        if name == "ours":
            return c.Ours(rows, self.adapter)
        decodes = {
            "ours_rating": c.generate_fully,
            "ours_stopping_early": c.stop_early,
            "ours_scoring": c.score_only,
        }
        if name in decodes:
            return c.OursRating(rows, self.adapter, decodes[name])
        return self.peer(name)

    @cached_property
    def adapter(self) -> Any:
        """The adapter that every contestant begins with, or answers by."""
        return c.random_adapter(self.rows(self.args.prompts[0]))

    def peer(self, name: str) -> c.Contestant:
        """A peer with its own copy of the weights."""
        if name not in self.peers:
            kind = {**c.TRAINING, **c.EVALUATION}[name]
            self.peers[name] = kind(self.rows(self.args.prompts[0]), self.adapter)
        return self.peers[name]

    def machine(self) -> None:
        """Note where this runs; refuse to mix two machines or settings in one file."""
        facts = {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "precision": self.args.precision,
            "summaries": "csv" if self.args.movie_info else "filler",
            "quick": self.args.quick,
            "shape": self.args.shape,
            "gpu": torch.cuda.get_device_name() if self.on_gpu else None,
            "versions": {name: version(name) for name in PACKAGES},
        }
        before = self.found("machine")
        if before and before[0]["facts"] != json.loads(json.dumps(facts)):
            raise SystemExit(f"{self.log} is of another setting: give another --out, or --fresh")
        if not before:
            self.record("machine", facts=facts)

    def measure_peak(self) -> None:
        """The machine's matrix products; the highest of a run is its peak."""
        dtype = torch.bfloat16 if self.args.precision == "bf16-mixed" else torch.float32
        config = self.rows(self.args.prompts[0]).base.config
        device = "cuda" if self.on_gpu else "cpu"
        self.record("peak", flops=peak(config, dtype, self.args.peak_seconds, device=device))

    def plan(self, prompts: str) -> None:
        """What `task=plan` expects of a step of ours on a GPU, and what the step took."""
        if self.found("plan", prompts=prompts):
            return
        rows = self.rows(prompts)
        own = rows.of("train", 0, 1, self.args.rows_per_user[0])
        ours = self.contestant("ours", prompts)
        ours(own, 1)
        torch.cuda.reset_peak_memory_stats()
        outcome = ours(own, 1)
        held = torch.cuda.max_memory_allocated()
        measured = {"held": held, "seconds": outcome.seconds}
        self.record("plan", prompts=prompts, planned=rows.plan(own), measured=measured)
        print(self.records[-1], flush=True)

    def check(self, prompts: str) -> None:
        """Every contestant must give the same loss without dropout, and the same answers."""
        if self.found("check", prompts=prompts):
            return
        rows = self.rows(prompts).of("train", 0, 2, 2)
        ours = self.contestant("ours", prompts)(rows, 1, dropout=False).loss
        wanted = self.args.peers
        training, rating = (
            [peer for peer in peers if wanted is None or peer in wanted]
            for peers in (c.TRAINING, c.EVALUATION)
        )
        losses = {p: self.peer(p)(rows, 2, dropout=False).loss for p in training}
        rows = self.rows(prompts).of("evaluate", 0, 2, 4)
        said = self.contestant("ours_rating", prompts)(rows, 1).answers
        answers = {p: self.peer(p)(rows, 4).answers for p in rating}
        flips = {p: _flips(said, theirs) for p, theirs in answers.items()}
        self.record("check", prompts=prompts, ours=ours, losses=losses, rows=len(rows), flips=flips)
        bound = 1e-3 if self.args.precision == "32-true" else 5e-2
        apart = {peer: loss for peer, loss in losses.items() if not abs(loss - ours) <= bound}
        if apart or (self.args.precision == "32-true" and any(flips.values())):
            raise SystemExit(f"not the same work: loss {ours} against {apart}, flips {flips}")

    def best_batch(self, what: str, prompts: str, peer: str) -> int:
        """The peer's fastest batch size; every size tried is recorded."""
        key = {"what": what, "prompts": prompts, "peer": peer}
        grid = {each["batch"]: each["rows_s"] for each in self.found("search", **key)}
        for batch in self.args.batch_sizes:
            if batch in grid:
                continue
            if grid and max(grid.values()) > HOPELESS * grid[max(grid)]:
                break
            n_rows = 16 if peer == "generate_cached_prefix" else max(batch, 2)
            if self.found("out_of_memory", **key, batch=batch):
                break
            try:
                outcome = self.peer(peer)(self.rows(prompts).of(what, 0, 1, n_rows), batch)
            except torch.OutOfMemoryError:
                self.record("out_of_memory", **key, batch=batch)
                break
            grid[batch] = outcome.rows / outcome.seconds
            self.record("search", **key, batch=batch, rows_s=grid[batch])
            print(f"  {what} {prompts} {peer}: batch {batch}, {grid[batch]:.2f} rows/s", flush=True)
        return max(grid, key=lambda batch: grid[batch])

    def measure(self, cell: Cell) -> None:
        """One round of a cell: ours and its peers after each other, in turning order."""
        rounds = len(self.found("sample", cell=asdict(cell)))
        rows = self.rows(cell.prompts, cell.order).of(
            cell.what, rounds * cell.n_users, cell.n_users, cell.rows_per_user
        )
        if cell.prefix is not None:
            rows = with_prefix(rows, cell.prefix)
        headline = cell.prefix is None and bool(cell.peers)
        names = OURS[cell.what] if headline else OURS[cell.what][:1]
        names = [*names, *cell.peers]
        outcomes, batches = {}, {}
        for name in names if rounds % 2 == 0 else names[::-1]:
            batch, theirs = 1, rows
            if name in cell.peers:
                batches[name] = batch = self.best_batch(cell.what, cell.prompts, name)
                theirs = _spread(rows, max(batch, self.args.peer_rows), name)
            inner = "ours_rating" if (name, cell.what) == ("ours", "evaluate") else name
            outcomes[name] = self.contestant(inner, cell.prompts, cell.order)(theirs, batch)
        said = outcomes["ours"].answers
        self.record(
            "sample",
            cell=asdict(cell),
            rows=len(rows),
            tokens=lengths(rows),
            operations=self.operations(cell, rows, said),
            rows_s={name: each.rows / each.seconds for name, each in outcomes.items()},
            flips={p: _flips(said, outcomes[p].answers) for p in cell.peers if said is not None},
            batches=batches,
            compared={p: outcomes[p].rows for p in cell.peers},
        )
        shown = ", ".join(f"{name} {rate:.3f}" for name, rate in self.records[-1]["rows_s"].items())
        print(f"{_title(cell)}, round {rounds + 1}: {shown} rows/s", flush=True)

    def operations(self, cell: Cell, rows: list[Example], said: dict[Any, str] | None) -> float:
        """The arithmetic on unique tokens that the rows cannot do without."""
        loaded = self.rows(cell.prompts, cell.order)
        rank = loaded.peft.r
        if cell.what == "train":
            groups = answered(rows, loaded.codec).groups
            n_answer = len(loaded.codec.answer(1))
            return products_of_training(loaded.base.config, groups, rank, n_answer)
        groups = list(by_prefix([row.ids for row in rows], [row.user_id for row in rows]))
        ids = (
            loaded.codec.tokenizer(t, add_special_tokens=False)["input_ids"] for t in said.values()
        )  # pyright: ignore[reportOptionalMemberAccess]
        # The last token that is chosen needs no pass of its own; an end of the turn is chosen too.
        steps = float(np.mean([min(len(each) + 1, c.NEW_TOKENS) - 1 for each in ids]))
        return products(loaded.base.config, groups, rank, 1, steps)

    def memory(self, cell: Cell, name: str) -> None:
        """Growth of a fresh process's memory while a contestant works once."""
        key = {"what": cell.what, "prompts": cell.prompts, "contestant": name}
        if self.found("memory", **key):
            return
        batch = self.best_batch(cell.what, cell.prompts, name) if name in cell.peers else 1
        if self.on_gpu:
            growth = self.growth_on_gpu(name, cell.what, cell.prompts, batch)
            self.record("memory", **key, batch=batch, growth=growth)
            return
        own = [*sys.argv[1:], "--child", name, cell.what, cell.prompts, str(batch)]
        out = subprocess.run(
            [sys.executable, __file__, *own], capture_output=True, text=True, check=True
        )
        self.record("memory", **key, batch=batch, growth=float(out.stdout.split()[-1]))

    def once(
        self, name: str, what: str, prompts: str, batch: int
    ) -> tuple[c.Contestant, list[Example]]:
        """A contestant, and the rows that its memory is measured on."""
        inner = "ours_rating" if (name, what) == ("ours", "evaluate") else name
        n_rows = self.args.rows_per_user[0] if name == "ours" else batch
        return self.contestant(inner, prompts), self.rows(prompts).of(what, 0, 1, n_rows)

    def growth_on_gpu(self, name: str, what: str, prompts: str, batch: int) -> float:
        """By how many MB the GPU's memory grows at its highest while a contestant works once."""
        contestant, rows = self.once(name, what, prompts, batch)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contestant(rows, batch)
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def child(self, name: str, what: str, prompts: str, batch: str) -> None:
        """Print by how many MB the resident memory grows at its highest."""
        contestant, rows = self.once(name, what, prompts, int(batch))
        process = psutil.Process()
        before = highest = process.memory_info().rss
        done = threading.Event()

        def watch() -> None:
            nonlocal highest
            while not done.wait(0.005):
                highest = max(highest, process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        contestant(rows, int(batch))
        done.set()
        watcher.join()
        print((highest - before) / 2**20)

    def run(self) -> None:
        """Check, then measure the cell that is furthest behind, until all are done or time is."""
        deadline = time.monotonic() + 60 * self.args.minutes
        self.machine()
        todo = cells(self.args)
        for prompts in self.args.prompts if self.on_gpu else ():
            self.plan(prompts)
        for prompts in self.args.prompts:
            self.check(prompts)
        while time.monotonic() < deadline:
            done = {cell: len(self.found("sample", cell=asdict(cell))) for cell in todo}
            cell = min(todo, key=lambda each: done[each] / each.rounds)
            if done[cell] >= cell.rounds:
                break
            self.measure_peak()
            self.measure(cell)
            self.write()
        for what in self.args.only:
            first = next(cell for cell in todo if cell.what == what)
            for name in () if self.args.quick else ("ours", *first.peers):
                if time.monotonic() < deadline:
                    self.memory(first, name)
        self.write()

    def write(self) -> None:
        """Everything that follows from the measurements so far."""
        top = max(max(each["flops"].values()) for each in self.found("peak"))
        results, curves = [], []
        samples = self.found("sample")
        for cell in {json.dumps(each["cell"]): each["cell"] for each in samples}.values():
            own = [each for each in samples if each["cell"] == cell]
            summary = _summary(cell, own, top)
            if cell["peers"] and cell["prefix"] is None:
                results += [self._result(cell, own, summary, peer) for peer in cell["peers"]]
            else:
                peers = {p: float(np.median([s["rows_s"][p] for s in own])) for p in cell["peers"]}
                curves.append(summary | {"prefix": cell["prefix"], "peers": peers})
        details = {
            "machine": self.found("machine")[0]["facts"] | {"peak_gflops": top / 1e9},
            "search": self.found("search"),
            "out_of_memory": self.found("out_of_memory"),
            "checks": self.found("check"),
            "memory": self.found("memory"),
            "plans": self.found("plan"),
            "curves": curves,
        }
        out = self.args.out
        (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        (out / "details.json").write_text(json.dumps(details, indent=1) + "\n")
        (out / "table.md").write_text(table(results))
        plot(results, curves, out / "curves.png")

    def _result(
        self, cell: dict[str, Any], own: list[Any], summary: dict[str, Any], peer: str
    ) -> dict[str, Any]:
        pairs = [(each["rows_s"]["ours"], each["rows_s"][peer]) for each in own]
        result = {
            **{key: cell[key] for key in ("what", "prompts", "rows_per_user", "precision")},
            "peer": peer,
            "ours_rows_s": summary["ours_rows_s"],
            "peer_rows_s": float(np.median([theirs for _, theirs in pairs])),
            "ratio": interval([ours / theirs for ours, theirs in pairs]),
            "peak_share": summary["peak_share"],
            "order": cell["order"],
            "rounds": len(own),
            "peer_batch": own[-1]["batches"][peer],
            "prefix_tokens": summary["prefix_tokens"],
            "suffix_tokens": summary["suffix_tokens"],
        }
        if cell["what"] == "evaluate":
            flips = sum(each["flips"][peer] for each in own)
            compared = sum(each["compared"][peer] for each in own)
            result |= {"new_tokens": c.NEW_TOKENS, "flips": flips, "compared": compared}
            for name in OURS["evaluate"][1:]:
                rates = [each["rows_s"][name] for each in own]
                result[f"{name}_rows_s"] = float(np.median(rates))
        return result


def _summary(cell: dict[str, Any], own: list[dict[str, Any]], top: float) -> dict[str, Any]:
    shares = [each["operations"] * each["rows_s"]["ours"] / each["rows"] / top for each in own]
    prefix, suffix = np.median([each["tokens"] for each in own], 0).tolist()
    return {
        **{key: cell[key] for key in ("what", "prompts", "rows_per_user", "precision")},
        "ours_rows_s": float(np.median([each["rows_s"]["ours"] for each in own])),
        "peak_share": float(np.median(shares)),
        "prefix_tokens": prefix,
        "suffix_tokens": suffix,
    }


def interval(ratios: Sequence[float]) -> dict[str, float]:
    """Median of the rounds' ratios, with its 95% bootstrap interval over rounds."""
    drawn = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(drawn, 1), [0.025, 0.975])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| | prompts | order | rows per user | peer (batch) | ours, rows/s | peer, rows/s | "
        "ratio [95%] | share of peak |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        ratio = "**{median:.2f}** [{low:.2f}, {high:.2f}]".format(**each["ratio"])
        lines.append(
            f"| {each['what']} | {each['prompts']} | {each['order']} | {each['rows_per_user']} | "
            f"{each['peer']} ({each['peer_batch']}) | {each['ours_rows_s']:.2f} | "
            f"{each['peer_rows_s']:.2f} | {ratio} | {each['peak_share']:.0%} |"
        )
    return "\n".join(lines) + "\n"


def plot(results: Sequence[Any], curves: Sequence[Any], file: Path) -> None:
    """Rows per second against rows per user and against the prefix's length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained", squeeze=False)
    for row, what in zip(axes, ("train", "evaluate"), strict=True):
        own = [each for each in curves if each["what"] == what]
        for axis, key in zip(row, ("rows_per_user", "prefix"), strict=True):
            points = [each for each in own if (each["prefix"] is None) == (key == "rows_per_user")]
            if not points:
                axis.set_visible(False)
                continue
            points.sort(key=lambda each: each[key])
            x = [each[key] for each in points]
            axis.plot(x, [each["ours_rows_s"] for each in points], "o-", label="persona_lab")
            for peer in {peer for each in points for peer in each["peers"]}:
                axis.plot(x, [each["peers"][peer] for each in points], "s--", label=peer)
            if key == "rows_per_user":
                same = [r for r in results if r["what"] == what and r["order"] == "paper"]
                same = [r for r in same if r["prompts"] == points[0]["prompts"]]
                for peer in dict.fromkeys(each["peer"] for each in same):
                    at = sorted(
                        (r["rows_per_user"], r["peer_rows_s"]) for r in same if r["peer"] == peer
                    )
                    axis.plot(*zip(*at, strict=True), "s--", label=peer)
            axis.set_title(f"{what}, {points[0]['prompts']}")
            axis.set_xlabel("rows per user" if key == "rows_per_user" else "prefix tokens, 8 rows")
            axis.set_ylabel("rows/s")
            axis.set_ylim(bottom=0)
            axis.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _flips(ours: dict[Any, str] | None, theirs: dict[Any, str] | None) -> int:
    assert ours is not None
    assert theirs is not None
    return sum(ours[key] != text for key, text in theirs.items())


def _spread(rows: Sequence[Example], n: int, peer: str) -> list[Example]:
    """`n` of the rows, evenly over their lengths; all, where what rows share is the point."""
    if peer == "generate_cached_prefix" or n >= len(rows):
        return list(rows)
    ordered = sorted(rows, key=lambda row: len(row.ids))
    return [ordered[int((i + 0.5) * len(rows) / n)] for i in range(n)]


def _title(cell: Cell) -> str:
    prefix = "" if cell.prefix is None else f", prefix {cell.prefix}"
    return f"{cell.what} {cell.prompts} {cell.order}, {cell.rows_per_user} rows per user{prefix}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Rows per second, ours and peers'.")
    add = parser.add_argument
    add("--out", type=Path, default=HERE)
    add("--fresh", action="store_true", help="forget what --out holds")
    add("--quick", action="store_true", help="a tiny random model and few rows: does it run?")
    add("--only", nargs="+", choices=["train", "evaluate"], default=["train", "evaluate"])
    add("--prompts", nargs="+", choices=["ms", "ms_ml"], default=["ms", "ms_ml"])
    add("--peers", nargs="*", choices=[*c.TRAINING, *c.EVALUATION], default=None)
    add("--rows-per-user", nargs="+", type=int, default=[26, 8], help="the first is the headline")
    add("--curve-rows", nargs="*", type=int, default=[1, 2, 4, 8, 16, 26, 32])
    add("--curve-prefixes", nargs="*", type=int, default=[170, 340, 680, 1360])
    add("--batch-sizes", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    add("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    add("--trainer", choices=["cpu", "gpu"], default="cpu")
    add("--shape", help="of a model in conf/model: random weights of its sizes")
    add("--movie-info", help="CSV file with summaries and casts; without it, filler")
    add("--repeats", type=int, default=5, help="rounds of a headline")
    add("--peer-rows", type=int, default=4, help="rows that a peer is given in a round, at least")
    add("--least-rows", type=int, default=8, help="rows that ours is given in a round, at least")
    add("--minutes", type=float, default=40.0, help="begin no measurement after these")
    add("--peak-seconds", type=float, default=0.3, help="per shape and round")
    add("--threads", type=int, default=None)
    add("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.quick:
        args.prompts = args.prompts[:1]
        args.rows_per_user, args.curve_rows, args.curve_prefixes = [4], [1], [32]
        args.batch_sizes, args.repeats, args.peer_rows, args.peak_seconds = [1, 2], 1, 2, 0.005
        args.least_rows = 1
    return args


def main() -> None:
    """Measure, and print the table."""
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    # Of third parties' many words none is about the measurement.
    warnings.simplefilter("ignore")
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    args.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(args)
    if args.child:
        bench.child(*args.child)
        return
    if args.fresh:
        bench.log.unlink(missing_ok=True)
        bench = Bench(args)
    bench.run()
    print((args.out / "table.md").read_text())


if __name__ == "__main__":
    main()
