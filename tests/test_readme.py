"""What README.md tells a reader to type does what it says."""

import re
import shlex
from pathlib import Path

import pytest
from command import command

from persona_lab.evaluation import Result

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
# Chosen behind the reader's command, so that it takes seconds and no download.
TINY = [
    *("slm=tiny", "llm=tiny", "data=synthetic", "embedder=hashed", "logger=none"),
    *("data.reader.n_users=60", "data.n_users=5", "data.test_rows_per_user=2"),
    *("adapter.rows_per_user=2", "peft.r=8", "trainer.precision=32-true"),
]


@pytest.fixture
def ablation(tmp_path: Path) -> list[str]:
    """Follow "Adding to it" up to the command; returns the command and its variant."""
    told = README.split("**An ablation**")[1].split("**A data set**")[0]
    (name,) = re.findall(r"Put this into `(.+?)`", told)
    (content,) = re.findall(r"```yaml\n(.+?)```", told, re.DOTALL)
    once, variant = re.findall(r"`(persona-lab .+?|-m .+?)`", told)
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(content, encoding="utf-8")
    program, arguments = once.split(" ", 1)
    return [once, f"{program} {variant.replace('...', arguments)}"]


def follow(typed: str, folder: Path) -> list[Path]:
    """Type a command in a folder; returns the folders of the runs that it made."""
    program, *arguments = shlex.split(typed)
    assert program == "persona-lab"
    given = [*arguments, *TINY, f"cache={folder / 'cache'}"]
    assert command(folder, *given) == "0"
    return sorted(file.parent for file in folder.glob("*/*/*/**/result.json"))


def test_an_ablation_in_one_file(ablation: list[str], tmp_path: Path) -> None:
    once, seeds = ablation
    (run,) = follow(once, tmp_path)
    assert Result.load(run).row.changed["memory.top_k"] == 3
    one, two, three, _ = follow(seeds, tmp_path)
    results = [Result.load(each) for each in (one, two, three, run)]
    assert {each.row.changed["memory.top_k"] for each in results} == {3}
    assert sorted(each.row.seed for each in results) == [0, 0, 1, 2]
    report = one.parent / "report.html"
    assert "memory.top_k" in report.read_text(encoding="utf-8")
