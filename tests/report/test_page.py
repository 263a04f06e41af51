import re
from html.parser import HTMLParser

from persona_lab.report import build
from persona_lab.report.figures import draw
from persona_lab.report.page import html as page_of
from persona_lab.report.tables import plain, visible

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
    assert page.tags.count("svg") == 5
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
    assert page.tags.count("table") == 13
    assert page.tags.count("details") == 7 + 11


HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>",
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


def test_hostile_titles_and_responses_stay_text_everywhere(sweep):
    """Also as a model's, an adapter's and a setting's name, and as an error."""
    for i, text in enumerate(HOSTILE):
        sweep.add(
            f"{i}", adapter=text, model=text, title=text, response=text, unrelated=2,
            changed={text: text}, n_users=2,
        )  # fmt: skip
        sweep.fail(f"broken{i}", error=text)
    report = build(sweep.folder)
    page = Page(page_of(report, draw(report, None)[:1]))
    assert {*page.tags} <= TAGS
    assert page.tags.count("h1") == page.tags.count("body") == 1
    assert page.tags.count("style") == 1 + page.tags.count("svg")
    assert all(link.startswith("#") for link in page.links)
    for text in HOSTILE:
        assert page.text.count(visible(text)) >= 3, text
        assert plain(text) in page.text
    assert page.text.isprintable() or {*page.text} - {"\n"} <= {
        c for c in page.text if c.isprintable()
    }


def test_failures_alone_make_a_page_without_a_plot(sweep):
    sweep.fail("a", error="ValueError: no")
    page = Page(html(build(sweep.folder)))
    assert "ValueError: no" in page.text
    assert "svg" not in page.tags
    assert "Details" not in page.text
