"""A report as a list of blocks, rendered as Markdown or as one self-contained HTML file.

Markdown refers to pictures in the same folder; HTML embeds them.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Heading(NamedTuple):
    """A heading; the report's title has level 1."""

    text: str
    level: int = 2


class Text(NamedTuple):
    """A paragraph, in which **bold** is the only markup."""

    text: str


class Bullets(NamedTuple):
    """A bullet list of paragraphs."""

    texts: list[str]


class Cell(NamedTuple):
    """A table cell; style is "" (plain), "b" (bold) or "u" (underlined)."""

    text: str
    style: str = ""


Row = Sequence[str | Cell] | None  # None draws a line between two groups of rows


class Table(NamedTuple):
    """A table, whose first column is aligned to the left and the others to the right."""

    header: list[str]
    rows: Sequence[Row]


class Picture(NamedTuple):
    """A PNG with its caption; `name` is its file name beside the Markdown report."""

    name: str
    caption: str
    png: bytes


Block = Heading | Text | Bullets | Table | Picture

CSS = """body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;
color:#111;background:#fff}
table{border-collapse:collapse;margin:1rem 0;font-size:13px;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .6rem;text-align:right;white-space:nowrap}
td:first-child,th:first-child{text-align:left}
thead th{border-bottom:2px solid #111}tr.line td{border-top:1.5px solid #111}
table{border-bottom:2px solid #111}
td.wide{white-space:normal;text-align:left}.scroll{overflow-x:auto}
figure{margin:1rem 0}img{max-width:100%}
figcaption{font-size:13px}.note{
position:sticky;top:0;background:#fff3cd;border:1px solid #111;padding:.4rem .8rem;font-weight:600}
@media print{.note{position:fixed;left:0;right:0}body{margin-top:3rem}}"""
WIDE_CELL = 60  # characters; longer cells wrap


def plural(count: int, noun: str) -> str:
    """Return "1 seed" or "3 seeds": a count with its noun in the right number."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def markdown(title: str, note: str, blocks: Sequence[Block]) -> str:
    """Return the report as Markdown.

    `note`, unless empty, is repeated below the title and below each heading of level 2.
    """
    notes = [f"**{note}**"] if note else []
    paragraphs = [f"# {title}", *notes]
    for block in blocks:
        match block:
            case Heading(text, level):
                paragraphs += ["#" * level + f" {text}", *(notes if level == 2 else [])]
            case Text(text):
                paragraphs.append(_escape_markdown(text))
            case Bullets(texts):
                paragraphs.append("\n".join(f"- {_escape_markdown(text)}" for text in texts))
            case Picture(name, caption, _):
                paragraphs += [f"![{caption}]({name})", f"*{caption}*"]
            case Table():
                paragraphs.append(markdown_table(block))
    return "\n\n".join(paragraphs) + "\n"


def _escape_markdown(text: str) -> str:
    return text.replace("<", "&lt;")


def markdown_table(table: Table) -> str:
    """Return a table as Markdown."""
    width = len(table.header)
    lines = [_markdown_row(table.header), "|---" + "|---:" * (width - 1) + "|"]
    for row in table.rows:
        # Markdown has no line between rows, so a row of dashes replaces it
        texts = ["---"] + [""] * (width - 1) if row is None else map(_markdown_cell, row)
        lines.append(_markdown_row(texts))
    return "\n".join(lines)


def _markdown_row(texts: Iterable[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _markdown_cell(content: str | Cell) -> str:
    cell = _as_cell(content)
    text = _escape_markdown(cell.text).replace("|", "\\|")
    return {"b": f"**{text}**", "u": f"<u>{text}</u>"}.get(cell.style, text)


def _as_cell(content: str | Cell) -> Cell:
    return content if isinstance(content, Cell) else Cell(content)


def as_html(title: str, note: str, blocks: Sequence[Block]) -> str:
    """Return the report as one HTML file that loads nothing else.

    `note`, unless empty, stays visible while scrolling and is printed on every page.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if note:
        parts.append(f'<div class="note">{html.escape(note)}</div>')
    parts += map(_html_block, blocks)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{CSS}</style>'
    body = "\n".join(parts)
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def _html_block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{_html_text(text)}</p>"
        case Bullets(texts):
            return "<ul>" + "".join(f"<li>{_html_text(text)}</li>" for text in texts) + "</ul>"
        case Picture(_, caption, png):
            source = "data:image/png;base64," + base64.b64encode(png).decode()
            caption = html.escape(caption)
            image = f'<img alt="{caption}" src="{source}">'
            return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
        case Table():
            return _html_table(block)


def _html_text(text: str) -> str:
    pieces = html.escape(text, quote=False).split("**")
    return "".join(f"<b>{piece}</b>" if i % 2 else piece for i, piece in enumerate(pieces))


def _html_table(table: Table) -> str:
    rows = []
    line_above = False
    for row in table.rows:
        if row is None:
            line_above = True
            continue
        cells = "".join(map(_html_cell, row))
        rows.append(f"<tr class=line>{cells}</tr>" if line_above else f"<tr>{cells}</tr>")
        line_above = False
    head = "".join(f"<th>{html.escape(text)}</th>" for text in table.header)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _html_cell(content: str | Cell) -> str:
    cell = _as_cell(content)
    text = html.escape(cell.text, quote=False)
    if cell.style:
        text = f"<{cell.style}>{text}</{cell.style}>"
    return f"<td class=wide>{text}</td>" if len(cell.text) > WIDE_CELL else f"<td>{text}</td>"
