"""A run folder's user agents give the run's predictions."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from command import command

import persona_lab
from persona_lab.agents import Agents
from persona_lab.errors import UserError


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Agents:
    folder = tmp_path_factory.mktemp("run")
    choices = "experiment=smoke", "hydra.run.dir=smoke", f"cache={folder / 'cache'}"
    assert command(folder, *choices) == "0"
    return persona_lab.load_agents(folder / "smoke")


def test_agents_give_the_runs_predictions(agents: Agents) -> None:
    frame = pd.read_parquet(agents.lab.folder / "predictions.parquet")
    for user_id, rows in list(frame.groupby("user_id"))[:3]:
        rated = agents[int(str(user_id))].rate(rows["item_id"].tolist())
        assert list(rated) == ["user_id", "item_id", "prediction", "expected_rating", "response"]
        assert rated["expected_rating"].to_numpy() == pytest.approx(
            rows["expected_rating"].to_numpy(), rel=1e-4
        )


def test_an_agent_knows_its_user(agents: Agents) -> None:
    frame = pd.read_parquet(agents.lab.folder / "predictions.parquet")
    assert sorted(agents) == sorted(frame["user_id"].unique())
    user_id, item_id, persona = frame.loc[0, ["user_id", "item_id", "persona"]].astype(int)
    agent = agents[user_id]
    assert agent.persona == persona
    assert "I " in agent.profile
    (memory,) = agent.recall(int(item_id))
    assert memory.item_id != item_id
    assert "I rated" in memory.text
    title = agents.prepared.split.value.movies.set_index("item_id").loc[item_id, "title"]
    assert agent.recall(str(title)) == [memory]


def test_what_the_store_has_lost_is_not_made_again(agents: Agents, tmp_path: Path) -> None:
    entry = next(iter(agents.adapters.values()))
    aside = tmp_path / "lost"
    shutil.move(entry.folder, aside)
    try:
        with pytest.raises(UserError, match=r"adapter .* is not in the store any more \(make it "):
            persona_lab.load_agents(agents.lab.folder)
    finally:
        shutil.move(aside, entry.folder)


def test_unknown_users_and_movies_are_named(agents: Agents) -> None:
    with pytest.raises(KeyError, match="user 999999"):
        agents[999999]
    agent = agents[next(iter(agents))]
    with pytest.raises(UserError, match="0 movies have the title 'No Such Movie'"):
        agent.rate(["No Such Movie"])
    with pytest.raises(UserError, match="is not the folder of a run"):
        persona_lab.load_agents(agents.lab.folder.parent)
