import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import pytest

from persona_lab.report import build
from persona_lab.report.cells import plain
from persona_lab.report.figures import draw
from persona_lab.report.notes import QUESTION, answer
from persona_lab.report.page import html as page_of
from persona_lab.report.page import visible

from .conftest import BEYOND, HOSTILE, MATRIX, crossed

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
VOID = {"meta", "br", "img", "link", "input"}
TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "section", "div", "h1",
    "h2", "h3", "ul", "li", "p", "table", "thead", "tbody", "tr", "th", "td", "span", "details",
    "summary", "article", "pre", "code", "figure", "figcaption", "svg", "g", "defs", "path", "use",
    "text", "clippath", "rect", "tspan",
}  # fmt: skip


def html(report):
    return page_of(report, draw(report, None))


class Page(HTMLParser):
    """Collects tags, links and text, and checks that every tag is closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action")]
        self.ids += [v or "" for k, v in attrs if k == "id"]
        assert not [k for k, _ in attrs if k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_else(table_1):
    text = html(build(table_1.folder))
    page = Page(text)
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert re.findall(r"url\((?!#)", text) == []
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert page.tags.count("svg") == 4
    assert len(page.ids) == len({*page.ids})


def test_the_page_shows_every_row_the_baselines_and_the_failure(table_1):
    page = Page(html(build(table_1.folder)))
    for said in (
        "1.171 / 0.881 / 1.77%",
        "628 of 640",
        "user + item bias",
        "1 of 12 runs failed",
    ):
        assert said in page.text


def test_the_first_screen_is_the_question_its_answer_one_table_and_one_figure(table_1):
    report = build(table_1.folder)
    text = html(report)
    first = text[: text.index("What the rows show")]
    said = unescape(re.sub("<[^>]*>", "", first))
    assert QUESTION in said
    for sentence in answer(report):
        assert sentence in said
    assert (first.count("<table"), first.count("<svg")) == (2, 1)  # one of failures, folded
    assert first.count("<details") == 2
    rest = text[len(first) :]
    assert rest.count("<table") + rest.count("<figure") + rest.count("<article") > 20
    opened = re.sub(r"<details>.*?</details>", "", f"<details>{rest}", flags=re.DOTALL)
    assert not re.search("<(table|svg|article|li)", opened)


def test_the_page_shows_seeds_together_the_matrix_and_what_is_too_small_to_show(sweep):
    for name, row, seed in (("a", "r9", 0), ("b", "r9", 1), ("c", "r5", 0)):
        adapter = "persona" if row == "r9" else "single_max"
        facts = {"matrix": MATRIX} if name == "a" else {}
        sweep.add(name, id=row, adapter=adapter, seed=seed, facts=facts)
    text = html(build(sweep.folder))
    page = Page(text)
    for said in ("2 × 640", "over users and seeds", "Table 1 by seed", "users of persona_1 (20)"):
        assert said in page.text, said
    assert text.count("on the diagonal their own adapter") == 1
    # Every row and the best one against simple predictors, decoded and expected.
    family = "for 20 differences from simple predictors on these test rows. Differences in RMSE"
    assert page.text.count(family) == 2


def test_the_page_sets_a_verdict_off_from_its_interval(sweep):
    sweep.add("a", id="r9", noise=0.2)
    text = html(build(sweep.folder))
    cell = '</span><span class="verdict"> lower</span></td>'
    assert text.count(cell) > 5
    assert " lower" in Page(text).text


@pytest.fixture
def hostile(sweep):
    """A report in which every text is hostile: titles, responses, names, settings and errors."""
    text = " ".join(HOSTILE)
    response = {"response": text, "n": 2, "user_id": 0, "item_id": 24}
    finding = {"place": text, "what": text, "checked": 1, "found": 1, "examples": [text]}
    for name in ("a", "b"):
        sweep.add(
            name, adapter=text, model=text, title=text, response=text, unrelated=2,
            changed={text: name + text}, n_users=2,
            facts={"beyond": BEYOND | {"responses": [response]}, "audit": [finding],
                   "matrix": [crossed(text, text, 1.0)]},
        )  # fmt: skip
    sweep.fail("broken", error=text)
    return build(sweep.folder)


def test_hostile_titles_and_responses_stay_text_everywhere(hostile):
    page = Page(page_of(hostile, draw(hostile, None)[:1]))
    check_harmless(page)
    assert page.text.isprintable() or {*page.text} - {"\n"} <= {
        c for c in page.text if c.isprintable()
    }


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_hostile_texts_stay_text_in_a_browser(hostile, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page_of(hostile, draw(hostile, None)[:1]), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'u'}"]
    command = [str(BROWSER), *options, "--dump-dom", file.as_uri()]
    shown = subprocess.run(command, capture_output=True, check=True, timeout=120)
    page = Page(shown.stdout.decode())
    check_harmless(page)
    assert page.text.lstrip().startswith(QUESTION)  # the title, which a script would have changed


def check_harmless(page: Page):
    assert {*page.tags} <= TAGS
    assert page.tags.count("h1") == page.tags.count("body") == 1
    assert page.tags.count("style") == 1 + page.tags.count("svg")
    assert all(link.startswith("#") for link in page.links)
    for text in HOSTILE:
        assert page.text.count(visible(text)) >= 3, text
        assert page.text.count(plain(text)) >= 3


def test_failures_alone_make_a_page_without_a_plot(sweep):
    sweep.fail("a", error="ValueError: no")
    page = Page(html(build(sweep.folder)))
    assert "ValueError: no" in page.text
    assert "svg" not in page.tags
    assert page.tags.count("table") == 1
