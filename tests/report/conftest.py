"""A sweep's folder with made-up predictions, scored by the real evaluation."""

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scales import STARS

from persona_lab.evaluation import Result, Row, assess, baselines, beyond
from persona_lab.evaluation.result import TABLE_1

ROW = Row(
    id=None, setup="embedded", role="slm", model="smollm2", adapter="none", memory="ms",
    data="ml_100k", distiller="statistical", embedder="minilm", personas="kmeans",
    protocol="strict", decode="paper", peft="lora", seed=0,
)  # fmt: skip


def trained(adapter: str, rows: Iterable[int] | None = None) -> dict[str, dict[str, Any]]:
    """Adapters of a mode, with their training rows, and whom they rate of four personas."""
    rows = rows or (range(100, 140, 10) if "persona" in adapter else [120])
    own = {
        "none": {},
        "per_user": {f"user_{n}": {"users": 1, "personas": []} for n in range(40)},
        "persona": {f"persona_{n}": {"users": 10, "personas": [n]} for n in range(4)},
        "random_persona": {f"group_{n}": {"users": 10, "personas": []} for n in range(4)},
    }.get(adapter, {"single": {"users": 40, "personas": [0, 1, 2, 3]}})
    sizes = dict(zip(own, rows, strict=False))
    return {
        name: {"n_rows": sizes.get(name, 9), "serves": serves, "start": None}
        for name, serves in own.items()
    }


PERSONAS = {
    "users": [
        {"user_id": n, "persona": n % 4, "x": n / 40, "y": n % 7 / 7, "profile": f"movie m{n % 4}"}
        for n in range(40)
    ],
    "explained": [0.5, 0.25],
    "curve": [
        {"k": 1, "inertia": 9.0, "silhouette": None}, {"k": 2, "inertia": 4.0, "silhouette": 0.5},
        {"k": 4, "inertia": 2.0, "silhouette": 0.4},
    ],
}  # fmt: skip


BEYOND = {
    "ece": 0.25,
    "reliability": [],
    "rps": 0.125,
    "rps_interval": {"value": 0.125, "low": None, "high": None},
    "spearman": {"value": None, "n_users": 0},
    "wasserstein": {"decoded": 1.5, "expected": 0.5},
    "macro": {"rmse": 1.25, "mae": 0.75},
    "slices": [
        {"slice": "history", "value": value, "n_users": 20, "n": 320, "n_unrelated": 3, "rmse": 1.5,
         "mae": 1.0, "rmse_expected": 1.25, "mae_expected": None}
        for value in ("low", "high")
    ],
    "responses": [{"response": '"\n', "n": 1200, "user_id": 7, "item_id": 9}] * 6,
}  # fmt: skip


def crossed(adapter, users, rmse, difference=None):
    """A cell of the matrix of adapters and users; the difference is (value, low, high, p)."""
    ends = difference and dict(zip(("value", "low", "high", "p"), difference, strict=True))
    ends = ends and ends | {"detectable": 0.25}
    return {
        "adapter": adapter, "users": users, "n_users": 20, "rmse": rmse + 1, "mae": 0.5,
        "urr": 0.25, "n_test": 320, "n_unrelated": 80, "digit_mass": 0.9, "rmse_expected": rmse,
        "mae_expected": 0.75, "difference": ends and {"rmse": ends, "mae": ends},
    }  # fmt: skip


MATRIX = [
    crossed("persona_0", "persona_0", 1.0),
    crossed("persona_0", "persona_1", 1.5, (0.25, 0.125, 0.375, 0.001)),
    crossed("persona_1", "persona_0", 1.125, (0.125, -0.5, 0.75, 0.5)),
    crossed("persona_1", "persona_1", 1.25),
]
HOSTILE = (
    "<script>alert(1)</script>", "<script>document.title='owned'</script>",
    "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>",
    "</pre><script>alert(1)</script>", "</code></p></article></details><h1>owned</h1>",
    "</title><script>alert(1)</script>", "</style><style>body{display:none}</style>",
    "<iframe src=javascript:alert(1)></iframe>", "<a href='javascript:alert(1)'>here</a>",
    "<meta http-equiv=refresh content='0;url=http://bad'>", "<base href=http://bad/>",
    "<link rel=stylesheet href=http://bad>", "<form action=http://bad><input autofocus>",
    "<object data=http://bad>", "<!--", "<![CDATA[", "-->", "&lt;b&gt;&amp;", "\"'><b>x</b>",
    "{{ 7 * 7 }}{% raw %}", "${7*7}", "=cmd|'/c calc'!A1", "+1+1", "-2+3", "@SUM(1)",
    "\t=1+1", "<|im_end|><|im_start|>system", "<|eot_id|>[INST]<<SYS>>", "\x1b[31mred\x07\x00",
    "\u202eevil\u2066 \u200b", "\\input{/etc/passwd}$\\write18{ls}$", "| a | [x](http://bad) `",
)  # fmt: skip


def cells(table, column):
    return list(table.frame[column])


def ratings_of(n_users: int, n_items: int, rng: np.random.Generator) -> pd.DataFrame:
    user, item = np.divmod(np.arange(n_users * n_items), n_items)
    liked = rng.normal(3.5, 0.5, n_users)[user] + rng.normal(0, 0.6, n_items)[item]
    rating = np.clip(np.rint(liked + rng.normal(0, 0.8, user.size)), 1, 5).astype(int)
    return pd.DataFrame({"user_id": user, "item_id": item, "rating": rating})


@cache
def split_of(seed: int, n_users: int):
    """40 selected users of 60, the first `n_users` of them tested, and the split's baselines."""
    ratings = ratings_of(60, 40, np.random.default_rng(seed))
    rows = ratings[ratings["user_id"] < 40]
    means = ratings[ratings["user_id"] >= 40].groupby("item_id")["rating"].mean()
    test = rows[(rows["item_id"] >= 24) & (rows["user_id"] < n_users)]
    train, movies = rows[rows["item_id"] < 24], means.rename("mean").reset_index()
    split = SimpleNamespace(train=train, test=test, movies=movies)
    return split, baselines(split, ratings, STARS)


@cache
def scored(seed, split_seed, n_users, noise, unrelated, decode, response, digit_mass):
    """A run's made-up predictions and all that evaluation says of them: shared by tests."""
    split, found = split_of(split_seed, n_users)
    rng = np.random.default_rng(seed)
    expected = np.clip(split.test["rating"] + rng.normal(0, noise, len(split.test)), 1, 5)
    predictions = split.test.assign(
        response=response,
        prediction=pd.array(np.rint(expected), dtype="Float64"),
        expected_rating=expected,
        **{f"p{n}": 0.2 for n in range(1, 6)},
        digit_mass=digit_mass,
        persona=split.test["user_id"] % 4,
    ).reset_index(drop=True)
    predictions.loc[predictions.index[:unrelated], "prediction"] = pd.NA
    predictions = found.beside(predictions)
    more = beyond(predictions, split.train, dict.fromkeys(range(40), 1), STARS)
    assessed = assess(predictions, decode, STARS) | {"baselines": found.metrics}
    return predictions, assessed | {"beyond": more}


class Sweep:
    """Writes run folders; every run of one `seed` has the same test rows."""

    def __init__(self, folder):
        self.folder = folder

    def add(
        self, name: str, *, split_seed=0, noise=0.9, unrelated=0, cohort="reported", n_users=40,
        digit_mass=0.9, facts=None, response="4", title="Fargo", **fields,
    ) -> Result:  # fmt: skip
        """Write a run."""
        row = replace(ROW, **fields)
        seed = sum(map(ord, name))
        predictions, assessment = scored(
            seed, split_seed, n_users, noise, unrelated, row.decode, response, digit_mass
        )
        result = Result(
            row=row, scale=STARS, cohort=cohort, truncated=0, reused=False,
            timing={"split": {"seconds": 0.4, "rows_per_second": None},
                    "predictions": {"seconds": 61.5, "rows_per_second": 10.4}},
            cost={"tokens": 123456, "money": 0.0}, versions={"torch": "2.13.0"},
            keys={"split": f"split{split_seed}", "personas": "p", "predictions": name},
            **assessment
            | {"adapters": trained(row.adapter), "development": cohort == "dev"}
            | (facts or {}),
        )  # fmt: skip
        self.write(name, {"state": "completed", "error": None}, result, predictions)
        row = {name: int(predictions[name].iloc[0]) for name in ("user_id", "item_id")}
        prompt = f"MOVIE: {title}"
        self.beside(name, "examples", [row | {"title": title, "prompt": prompt}])
        return result

    def beside(self, name, kind, content):
        (self.folder / name / f"{kind}.json").write_text(json.dumps(content))

    def write(self, name, status, result=None, predictions=None):
        folder = self.folder / name
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps(status))
        if result is not None:
            result.save(folder)
        if predictions is not None:
            predictions.to_parquet(folder / "predictions.parquet")

    def fail(self, name, error="ValueError: no", state="failed", overrides=("adapter=persona",)):
        self.write(name, {"state": state, "error": error, "overrides": list(overrides)})

    def table_1(self):
        for i, ((role, adapter, memory), row) in enumerate(TABLE_1.items()):
            model = {"llm": "gemma3", "slm": "smollm2"}[role]
            self.add(
                f"row={row}", id=row, role=role, adapter=adapter, memory=memory, model=model,
                noise=1.3 - 0.06 * i, unrelated=12 if row == "r3" else 0,
            )  # fmt: skip
            self.beside(f"row={row}", "personas", PERSONAS)


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    return Sweep(tmp_path / "sweep")


@pytest.fixture(scope="session")
def table_1(tmp_path_factory) -> Sweep:
    made = Sweep(tmp_path_factory.mktemp("reports") / "table1")
    made.table_1()
    made.fail("row=r11")
    return made
