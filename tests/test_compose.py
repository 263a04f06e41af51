"""Configurations are built and checked, and a row names what was chosen."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf

from persona_lab import compose
from persona_lab.component import component
from persona_lab.errors import UserError


@component
class Toy:
    """A component as conf/ names them."""

    size: int
    rate: float = 0.5
    kind: Literal["round", "square"] = "round"
    parts: Sequence[str] = ()
    inner: "Toy | None" = None


class Plain:
    """A class of the user's own that is no component."""

    def __init__(self, size: int) -> None:
        if size > 3:
            raise UserError(f"size is {size}", "take less")


TOY = f"{__name__}.Toy"


@pytest.fixture(scope="module")
def smoke() -> DictConfig:
    with hydra.initialize_config_module(compose.CONF, version_base="1.3"):
        return hydra.compose("config", ["experiment=smoke"])


@pytest.fixture
def _hydra() -> Iterator[None]:
    with hydra.initialize_config_module(compose.CONF, version_base="1.3"):
        yield


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"size": "abc"}, "toy.size is 'abc' (it should be a valid integer)"),
        ({"size": True}, "toy.size is True (it should be a valid integer)"),
        ({"size": 1, "kind": "oval"}, "toy.kind is 'oval' (it should be 'round' or 'square')"),
        ({"size": 1, "parts": "ab"}, "toy.parts is 'ab'"),
        ({}, "toy.size is not given (add toy.size=...)"),
        ({"size": 1, "siez": 2}, "'toy.siez' does not exist (did you mean toy.size?)"),
        ({"size": 1, "inner": {"_target_": TOY, "size": 0.5}}, "toy.inner.size is 0.5"),
        ({"size": 1, "inner": {"_target_": "no.such.Class"}}, "toy.inner: no.such.Class cannot be"),
    ],
)
def test_make_names_the_field(fields: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose.make({"toy": {"_target_": TOY, **fields}})
    assert said in str(caught.value)


def test_make_takes_what_fits() -> None:
    inner = {"_target_": TOY, "size": 2, "parts": ["a", "b"]}
    node = {"toy": {"_target_": TOY, "size": 1, "rate": 1, "inner": inner}, "other": [3, {"a": 4}]}
    toy = Toy(1, rate=1, inner=Toy(2, parts=["a", "b"]))
    assert compose.make(node) == {"toy": toy, "other": [3, {"a": 4}]}


def test_a_class_of_the_users_own_says_itself_what_does_not_fit() -> None:
    with pytest.raises(UserError, match=r"^toy: .*unexpected keyword argument 'rate' \(see the"):
        compose.make({"toy": {"_target_": f"{__name__}.Plain", "size": 1, "rate": 2}})
    with pytest.raises(UserError, match=r"^size is 9 \(take less\)"):
        compose.make({"toy": {"_target_": f"{__name__}.Plain", "size": 9}})


@pytest.mark.usefixtures("_hydra")
def test_a_plain_class_of_the_users_own_is_named_in_a_row() -> None:
    cfg = hydra.compose("config", ["experiment=smoke"], return_hydra_config=True)
    cfg.data.reader = {"_target_": f"{__name__}.Plain", "size": 3}
    changed = compose.row(cfg, cfg.hydra.runtime.choices)["changed"]
    assert (changed["data.reader._target_"], changed["data.reader.size"]) == (
        *(f"{__name__}.Plain", 3),
    )


def test_configure_makes_what_a_command_line_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = compose.configure(
        *("experiment=smoke", "seed=3", "cache=mine", "rerun=true", "task=plan"),
        *("data.path=my/ratings.zip", "logger=csv"),
    )
    assert (run.experiment.seed, run.experiment.data.path) == (3, f"{tmp_path}/my/ratings.zip")
    lab = run.lab
    assert (lab.folder, lab.sources.cache, lab.cache.root, lab.rerun) == (
        *(tmp_path, tmp_path / "mine", tmp_path / "mine" / "store", True),
    )
    assert (type(run.task).__name__, type(lab.logger).__name__) == ("Plan", "Csv")
    assert compose.configure(folder=tmp_path / "own").lab.folder == tmp_path / "own"
    with pytest.raises(UserError, match=r"^data\.n_users is 'many' \(it should be a valid integer"):
        compose.configure("data.n_users=many")


@pytest.mark.parametrize(
    "override",
    [
        *("seed=-1", "seed=null", "rerun=foo", "verify=1", "cache=3"),
        *("adapter.rows_per_user=-5", "adapter.max_rows=0", "peft.r=0", "peft.dropout=1"),
        *("train.epochs=0", "train.batch_size=0", "train.lr=-1", "train.warmup=2"),
        *("train.schedule=cosy", "train.tokens_per_microbatch=0", "trainer.precision=foo"),
        *("trainer.tokens_per_batch=0", "decode.top_k=0", "decode.temperature=0"),
        *("decode.max_new_tokens=0", "memory.top_k=0", "memory.min_similarity=1.5"),
        *("memory.query=users", "memory.key=movie", "personas.n_personas=0", "personas.n_init=0"),
        *("data.n_users=0", "data.seed=-1", "data.cohort=test", "data.test_rows_per_user=0"),
        *("data.train_fraction=1", "data.validation_fraction=1", "data.min_ratings=0"),
        *("data.reader.opposition=1.5", "data.reader.ratings_per_user=[5]", "embedder.dim=0"),
        *("distiller.batch_size=0", "protocol.item_mean=mine", "protocol.title_check=maybe"),
        *("model.context=0", "data.reader.seed=-1"),
    ],
)
def test_impossible_values_are_named(smoke: DictConfig, override: str, tmp_path: Path) -> None:
    cfg = OmegaConf.merge(smoke, OmegaConf.from_dotlist([override]))
    assert isinstance(cfg, DictConfig)
    with pytest.raises(UserError) as caught:
        compose.build(cfg, {}, tmp_path, tmp_path)
    line = str(caught.value)
    assert line.startswith(f"{override.split('=')[0]} is ")
    assert "(it should " in line
    assert "Value" not in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("overrides", "folder"),
    [
        (["row=r3", "experiment=table1"], "04-r3"),
        (["row=r3", "seed=1"], "04-r3,seed=1"),
        (["data.path=/a b/c.zip", "memory=ms"], "04-data.path=_a_b_c.zip,memory=ms"),
        ([], "04"),
    ],
)
def test_job_folder(overrides: list[str], folder: str) -> None:
    assert compose._job_folder(4, overrides) == folder


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        ([], {}),
        (["row=r3", "seed=5", "protocol=paper", "decode=greedy", "rerun=true"], {}),
        (["logger=none", "trainer.tokens_per_batch=9", "cache=/x", "slm=tiny"], {}),
        (["data.n_users=7", "memory.top_k=2"], {"data.n_users": 7, "memory.top_k": 2}),
        (["data.path=/home/me/ml.zip"], {"data.path": "ml.zip"}),
        (["prompt=movie_only", "prompt.order=static_first"],
         {"prompt": "movie_only", "prompt.order": "static_first"}),
        (["setup=paper", "train.lr=0.001"], {"train.lr": 0.001}),
        (["trainer.precision=bf16-mixed"], {"trainer.precision": "bf16-mixed"}),
        (["protocol.item_mean=none"], {"protocol.item_mean": "none"}),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("_hydra")
def test_row_tells_what_changed(overrides: list[str], changed: dict[str, object]) -> None:
    cfg = hydra.compose("config", overrides, return_hydra_config=True)
    assert compose.row(cfg, cfg.hydra.runtime.choices)["changed"] == changed


@pytest.mark.usefixtures("_hydra")
def test_row_names_the_choices() -> None:
    cfg = hydra.compose("config", ["row=r2", "llm=tiny", "seed=3"], return_hydra_config=True)
    named = compose.row(cfg, cfg.hydra.runtime.choices)
    assert named["model"] == "tiny_llama"
    assert [named[key] for key in ("setup", "role", "adapter", "memory", "seed")] == [
        *("embedded", "llm", "none", "ml", 3)
    ]
