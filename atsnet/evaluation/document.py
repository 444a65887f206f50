"""A short document of headings, text, tables and pictures, written as Markdown and as one HTML file.

The HTML file carries its pictures within it and asks for nothing from outside, so that it can be mailed and opened
without a network, by day or in dark mode.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MARKDOWN_SYNTAX: Final = re.compile(r"([\\`*_\[\]<>#|$~])")

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5c636b; --line: #d9dce0; --paper: #ffffff; --card: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa3ad; --line: #3a3f46; --paper: #16181b; --card: #212429; }
  img.chart { filter: invert(0.89) hue-rotate(180deg); }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 78rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
p { max-width: 52rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
.words { text-align: left; white-space: normal; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 0.8rem; }
.cards div { background: var(--card); border-radius: 0.5rem; padding: 0.7rem 1rem; }
.cards b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.cards span { color: var(--soft); font-size: 0.85rem; display: block; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; max-width: 100%; } figcaption { color: var(--soft); max-width: 52rem; }
figure.chart { flex: 1 1 26rem; max-width: 40rem; }
img { max-width: 100%; border-radius: 0.4rem; }
"""


@dataclass(frozen=True, slots=True)
class Heading:
    """Of a section."""

    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Card:
    """One figure that a reader looks for first."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cards:
    """The figures side by side."""

    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of plain text; columns of numbers are aligned right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = frozenset({0})
    """Columns that are aligned left."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG file beside the document."""

    name: str
    caption: str
    chart: bool = True
    """Dark lines on white, whose lightness is turned round in dark mode; a photograph is left as it is."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures side by side where there is room."""

    pictures: tuple[Picture, ...]


Block = Heading | Paragraph | Cards | Table | Pictures


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The document with its pictures by name, as relative links."""
    return "\n\n".join([f"# {_escape(title)}", *map(_block_as_markdown, blocks)]) + "\n"


def to_html(title: str, blocks: Sequence[Block], folder: Path) -> str:
    """The document as one page; its pictures are read from `folder`."""
    body = "\n".join(_block_as_html(block, folder) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _block_as_markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {_escape(text)}"
        case Paragraph(text):
            return _escape(text)
        case Cards(cards):
            rows = tuple((card.name, card.value, card.note) for card in cards)
            return _block_as_markdown(Table(("figure", "value", ""), rows, frozenset({0, 2})))
        case Table(header, rows, words):
            rule = ["---" if index in words else "---:" for index in range(len(header))]
            lines = [map(_escape, header), rule, *(map(_escape, row) for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Pictures(pictures):
            return "\n\n".join(
                f"![{_escape(picture.caption)}]({picture.name})\n\n*{_escape(picture.caption)}*" for picture in pictures
            )


def _block_as_html(block: Block, folder: Path) -> str:
    match block:
        case Heading(text):
            return f"<h2>{html.escape(text)}</h2>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Cards(cards):
            inner = "".join(
                f"<div>{html.escape(card.name)}<b>{html.escape(card.value)}</b><span>{html.escape(card.note)}</span></div>"
                for card in cards
            )
            return f'<div class="cards">{inner}</div>'
        case Table(header, rows, words):
            lines = [_row_as_html("th", header, words), *(_row_as_html("td", row, words) for row in rows)]
            return f'<div class="scroll"><table>\n{chr(10).join(lines)}\n</table></div>'
        case Pictures(pictures):
            return f'<div class="pictures">{"".join(_picture_as_html(picture, folder) for picture in pictures)}</div>'


def _row_as_html(tag: str, cells: Sequence[str], words: frozenset[int]) -> str:
    parts = []
    for index, cell in enumerate(cells):
        kind = ' class="words"' if index in words else ""
        parts.append(f"<{tag}{kind}>{html.escape(cell)}</{tag}>")
    return f"<tr>{''.join(parts)}</tr>"


def _picture_as_html(picture: Picture, folder: Path) -> str:
    data = base64.b64encode((folder / picture.name).read_bytes()).decode("ascii")
    kind, caption = ' class="chart"' if picture.chart else "", html.escape(picture.caption)
    return (
        f'<figure{kind}><img{kind} alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def _escape(text: str) -> str:
    return _MARKDOWN_SYNTAX.sub(r"\\\1", text)
