import base64
import re
from html.parser import HTMLParser
from pathlib import Path

from atsnet.evaluation.document import (
    Block,
    Card,
    Cards,
    Heading,
    Paragraph,
    Picture,
    Pictures,
    Table,
    to_html,
    to_markdown,
)

BLOCKS: tuple[Block, ...] = (
    Cards((Card("AUROC", "97 %", "of <all> images"),)),
    Heading("By | defect"),
    Paragraph("names_with_lines & *stars*"),
    Table(("label", "images"), (("a|b", "12"), ("<script>", "3"))),
    Pictures((Picture("roc.png", 'A "curve".'), Picture("misses.png", "Misses.", chart=False))),
)


def _folder(path: Path) -> Path:
    for name in ("roc.png", "misses.png"):
        (path / name).write_bytes(b"PNG of " + name.encode())
    return path


def test_markdown_escapes_what_the_data_could_say() -> None:
    assert to_markdown("A <title>", BLOCKS) == (
        "# A \\<title\\>\n\n"
        "| figure | value |  |\n| --- | ---: | --- |\n| AUROC | 97 % | of \\<all\\> images |\n\n"
        "## By \\| defect\n\n"
        "names\\_with\\_lines & \\*stars\\*\n\n"
        "| label | images |\n| --- | ---: |\n| a\\|b | 12 |\n| \\<script\\> | 3 |\n\n"
        '![A "curve".](roc.png)\n\n*A "curve".*\n\n![Misses.](misses.png)\n\n*Misses.*\n'
    )


class _Page(HTMLParser):
    """Collects a page's text, and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.attributes: dict[str, list[dict[str, str | None]]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.setdefault(tag, []).append(dict(attrs))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_everything_and_asks_for_nothing(tmp_path: Path) -> None:
    text = to_html("A <title>", BLOCKS, _folder(tmp_path))
    page = _Page()
    page.feed(text)
    assert page.open == []
    for expected in ("A <title>", "of <all> images", "names_with_lines & *stars*", "a|b", "<script>", 'A "curve".'):
        assert expected in page.text
    assert "script" not in page.attributes
    assert "link" not in page.attributes
    assert "http" not in text
    sources = [picture["src"] or "" for picture in page.attributes["img"]]
    assert [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources] == [
        b"PNG of roc.png",
        b"PNG of misses.png",
    ]
    assert page.attributes["img"][0]["alt"] == 'A "curve".'


def test_charts_alone_are_turned_round_in_dark_mode(tmp_path: Path) -> None:
    text = to_html("t", BLOCKS, _folder(tmp_path))
    assert re.search(r"prefers-color-scheme: dark.*img\.chart \{ filter: invert", text, re.DOTALL)
    page = _Page()
    page.feed(text)
    assert [picture.get("class") for picture in page.attributes["img"]] == ["chart", None]


def test_numbers_are_aligned_right_and_words_left(tmp_path: Path) -> None:
    page = _Page()
    page.feed(to_html("t", BLOCKS, _folder(tmp_path)))
    assert [cell.get("class") for cell in page.attributes["td"]] == ["words", None, "words", None]
