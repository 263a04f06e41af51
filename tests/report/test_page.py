import re
from html.parser import HTMLParser

from persona_lab.report import build
from persona_lab.report.page import html

VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """Collects tags, links and text, and checks that every tag is closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action")]
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
    assert page.tags.count("svg") == 1


def test_the_page_shows_every_row_the_baselines_and_the_failure(table_1):
    page = Page(html(build(table_1.folder)))
    for said in (
        "1.171 / 0.881 / 1.77%",
        "628 of 640",
        "user + item bias",
        "1 of 12 runs failed",
    ):
        assert said in page.text
    assert page.tags.count("table") == 11
    assert page.tags.count("details") == 6


def test_hostile_text_stays_text(sweep):
    hostile = "<img src=x onerror=alert(1)>\"'&</style></svg><script>alert(2)</script>"
    sweep.add("run", adapter=hostile, model=hostile, changed={hostile: hostile})
    sweep.fail("broken", error=hostile)
    page = Page(html(build(sweep.folder)))
    assert not {"img", "script"} & set(page.tags)
    assert page.text.count("alert(2)") >= 4


def test_failures_alone_make_a_page_without_a_plot(sweep):
    sweep.fail("a", error="ValueError: no")
    page = Page(html(build(sweep.folder)))
    assert "ValueError: no" in page.text
    assert "svg" not in page.tags
    assert "Details" not in page.text
