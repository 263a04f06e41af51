"""The ledger: who may ask, what is kept, and what goes from one machine to another."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona_lab.distill import ledger
from persona_lab.distill.ledger import Attempt, Call, Ledger
from persona_lab.errors import UserError
from persona_lab.ledger import main

CALL = Call("toy/1", "toy", {"body": {"messages": ["hello"]}, "sample": 0}, at_most=0.5)
ANSWER = Attempt("answered", '{"choices": []}', 7, 2, 3, 0.25, 0.1)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_the_key_is_the_request_whatever_its_order(request: dict[str, object]) -> None:
    turned = dict(reversed(list(request.items())))
    assert Call("a", "m", request).key == Call("b", "n", turned, 1.0).key
    assert (
        Call("a", "m", {**request, "sample": 0}).key != Call("a", "m", {**request, "sample": 1}).key
    )


def test_one_asks_and_the_others_wait(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as one, Ledger(path) as two:
        assert one.claim(CALL).result().ours
        assert two.claim(CALL).result() == ledger.Claim()
        one.record(CALL.key, Attempt("status 500")).result()
        assert not two.claim(CALL).result().ours
        assert one.record(CALL.key, ANSWER).result() == ANSWER
        assert two.claim(CALL).result() == ledger.Claim(ANSWER)
        # A second answer, whoever paid for it, changes nothing.
        assert two.record(CALL.key, Attempt("answered", "other")).result() == ANSWER
    assert [row["outcome"] for row in ledger.attempts(path)] == ["status 500", "answered"]


def test_a_dead_owner_blocks_nobody(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ask = (
        "import os; from pathlib import Path; from persona_lab.distill.ledger import *\n"
        f"ledger = Ledger(Path({str(path)!r})).__enter__()\n"
        f"assert ledger.claim({CALL!r}).result().ours; os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", ask], check=False).returncode == 9
    with Ledger(path) as mine:
        assert mine.claim(CALL).result() == ledger.Claim(ours=True, lost=0.5)
    assert [row["outcome"] for row in ledger.attempts(path)] == ["abandoned"]


def test_an_exported_ledger_answers_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there, file = tmp_path / "here", tmp_path / "there", tmp_path / "export.jsonl"
    here.mkdir()
    there.mkdir()
    with Ledger(here / "ledger.sqlite") as mine:
        mine.claim(CALL).result()
        mine.record(CALL.key, ANSWER).result()
    assert main(["--cache", str(here), "export"]) == 0
    file.write_text(capsys.readouterr().out)
    for added in (1, 0):
        assert main(["--cache", str(there), "import", str(file)]) == 0
        assert capsys.readouterr().out.startswith(f"{added} calls added")
    with Ledger(there / "ledger.sqlite") as theirs:
        found = theirs.claim(CALL).result().answer
    assert found is not None
    assert (found.body, found.money) == (ANSWER.body, ANSWER.money)
    for doing in ("list", "sum"):
        assert main(["--cache", str(there), doing]) == 0
        head, line = capsys.readouterr().out.splitlines()
        assert dict(zip(head.split("\t"), line.split("\t"), strict=True))["money"] == "0.250000"
    row = json.loads(file.read_text())
    row["request"]["sample"] = 1
    file.write_text(json.dumps(row))
    assert main(["--cache", str(there), "import", str(file)]) == 1
    assert "line 1 has another key than its request" in capsys.readouterr().err


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_older_version_keeps_its_answers(tmp_path: Path, version: int) -> None:
    path, more = tmp_path / "ledger.sqlite", ", expires REAL" * (version == 1)
    batched = [Call("toy/1", "toy", {"sample": sample}) for sample in (1, 2)]
    db = sqlite3.connect(path)
    db.executescript(f"""
        CREATE TABLE calls (key TEXT PRIMARY KEY, purpose TEXT NOT NULL, model TEXT NOT NULL,
            request TEXT NOT NULL, owner TEXT{more}, at_most REAL NOT NULL);
        CREATE TABLE attempts (id INTEGER PRIMARY KEY, key TEXT NOT NULL, at REAL NOT NULL,
            seconds REAL NOT NULL, outcome TEXT NOT NULL, tokens_in INTEGER NOT NULL,
            tokens_cached INTEGER NOT NULL, tokens_out INTEGER NOT NULL, money REAL NOT NULL,
            body TEXT NOT NULL);
        CREATE INDEX attempts_of ON attempts (key);
        CREATE UNIQUE INDEX answers ON attempts (key) WHERE outcome = 'answered';
        CREATE TABLE batches (token TEXT PRIMARY KEY, id TEXT, owner TEXT NOT NULL{more});
        PRAGMA user_version = {version};
    """)
    sql = "INSERT INTO calls (key, purpose, model, request, owner, at_most) VALUES (?,?,?,?,?,?)"
    for call, owner in zip([CALL, *batched], [None, "batch:one", "batch:two"], strict=True):
        db.execute(sql, (call.key, "toy/1", "toy", call.canonical, owner, 0.5))
    db.execute(
        "INSERT INTO attempts VALUES (1, ?, 0.0, 0.1, 'answered', 7, 2, 3, 0.25, ?)",
        (CALL.key, ANSWER.body),
    )
    db.executemany(
        "INSERT INTO batches (token, id, owner) VALUES (?, ?, 'dead')",
        [("one", "batch_7"), ("two", None)],
    )
    db.commit()
    db.close()
    for _ in range(2):
        with Ledger(path) as mine:
            assert mine.claim(CALL).result() == ledger.Claim(ANSWER)
            claims = [mine.claim(call).result() for call in batched]
            assert [claim.batch for claim in claims] == ["one batch_7", "two"]
            assert mine.batch("two").result() == (False, [batched[1].key])
    assert [row["outcome"] for row in ledger.attempts(path)] == ["answered"]


@pytest.mark.parametrize("ascii_only", [True, False])
def test_any_text_comes_back_from_an_export(tmp_path: Path, ascii_only: bool) -> None:
    # Some of these end a line for `str.splitlines`.
    text = "one\u0085two\u2028three\u2029four\x0bfive\r\nsix é"
    call = Call("toy/1", "toy", {"body": {"messages": [text]}})
    path, file = tmp_path / "ledger.sqlite", tmp_path / "export.jsonl"
    with Ledger(path) as mine:
        mine.claim(call).result()
        mine.record(call.key, Attempt("answered", text)).result()
    (line,) = ledger.export(path)
    assert line.isascii()
    # Lines that hold the letters themselves are as good.
    line = line if ascii_only else json.dumps(json.loads(line), ensure_ascii=False)
    file.write_text(f"{line}\n", encoding="utf-8")
    path.unlink()
    assert main(["--cache", str(tmp_path), "import", str(file)]) == 0
    with Ledger(path) as theirs:
        found = theirs.claim(call).result().answer
    assert found is not None
    assert found.body == text


def test_what_is_no_ledger_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cache", str(tmp_path), "sum"]) == 1
    assert "there is no ledger" in capsys.readouterr().err
    path = tmp_path / "ledger.sqlite"
    path.write_text("this is no database, and long enough to be seen as none " * 20)
    with pytest.raises(UserError, match="cannot be used: file is not a database"), Ledger(path):
        pass
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(UserError, match="has version 9"), Ledger(path):
        pass
