"""The pages of docs/ say what is there: links, fields, options, decisions and numbers."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from persona_lab.distill.traits import CUTS
from persona_lab.report.paper import TABLE_1

ROOT = Path(__file__).parents[1]
KINDS = ("docs/*.md", "*.md", "experiments/**/*.md")
PAGES = [page for kind in KINDS for page in sorted(ROOT.glob(kind))]
GENERATOR = runpy.run_path(str(ROOT / "docs/configuration.py"))
CONFIGURED: set[str] = GENERATOR["configured"]()
GROUPS = {name for name in CONFIGURED if "." not in name}
SCALARS = {"seed", "rerun", "verify", "cache"}
CITED = re.compile(r"[Dd]ecisions? ((?:\d+b?(?:, (?:and )?| and )?)+)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def decisions() -> list[str]:
    return re.findall(r"^### (\d+b?)\. ", read("docs/decisions.md"), re.MULTILINE)


def table_rows(page: str, heading: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of the table below a heading."""
    section = read(page).split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines[2:]}


def spans(page: Path) -> Iterator[str]:
    without_blocks = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    yield from re.findall(r"`([^`\n]+)`", without_blocks)


def test_the_page_of_the_configuration_is_current() -> None:
    assert read("docs/configuration.md") == GENERATOR["page"](), "run docs/configuration.py"


def test_the_page_of_the_configuration_describes_every_field() -> None:
    page = read("docs/configuration.md")
    for field in CONFIGURED - GROUPS:
        (line,) = re.findall(rf"^\| `{re.escape(field)}` \|.*", page, re.MULTILINE)
        default, about = line.split(" | ")[1:3]
        assert default
        assert len(about.strip(" |")) > 3, field


def test_every_cited_decision_has_an_entry() -> None:
    found = decisions()
    assert found == [*map(str, range(1, 5)), "4b", *map(str, range(5, 30))]
    files = [path for room in ("persona_lab", "conf", "tests") for path in (ROOT / room).rglob("*")]
    cited: dict[str, str] = {}
    for path in files:
        if path.suffix in (".py", ".yaml", ".html"):
            words = re.sub(r"\s+#?\s*", " ", path.read_text(encoding="utf-8"))
            for numbers in CITED.findall(words):
                cited |= dict.fromkeys(re.findall(r"\d+b?", numbers), path.name)
    assert len(cited) > 20
    assert {number: file for number, file in cited.items() if number not in found} == {}


def test_pages_cite_decisions_that_exist() -> None:
    cells = " ".join(re.findall(r"\(([\db, ]+)\)", read("docs/paper.md")))
    assert {*re.findall(r"\d+b?", cells)} <= {*decisions()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [head.lower().replace(" ", "-") for head in heads], link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fields_and_options_exist(page: Path) -> None:
    for span in spans(page):
        # `+experiment=mine` and `slm=my_phi3` are options of the reader's own.
        for word in span.split():
            name, equals, options = word.partition("=")
            group = name.partition(".")[0]
            if group not in GROUPS or not re.fullmatch(r"[a-z_]+(\.[a-z_]+)*(\.\*)?", name):
                continue
            if name.endswith(".*"):
                assert any(field.startswith(name[:-1]) for field in CONFIGURED), word
            elif "." in name:
                assert name in CONFIGURED, word
            elif equals and group not in SCALARS:
                folder = "model" if group in ("slm", "llm") else group
                for option in filter(re.compile(r"(?!my_)\w+$").match, options.split(",")):
                    assert (ROOT / f"conf/{folder}/{option}.yaml").exists(), word


def test_the_papers_numbers() -> None:
    shown = table_rows("docs/decisions.md", "The paper's Table 1")
    assert {row: tuple(map(float, cells[-3:])) for row, cells in shown.items()} == TABLE_1


def test_the_cuts_of_traits() -> None:
    shown = table_rows("docs/decisions.md", "Traits")
    assert {trait: tuple(map(int, cells[-1].split(","))) for trait, cells in shown.items()} == CUTS
