"""A report as a list of blocks, written as Markdown with its pictures beside it, or as one HTML file that holds them."""

import base64
import html
from typing import NamedTuple


class Heading(NamedTuple):
    text: str
    level: int = 2


class Text(NamedTuple):
    """A paragraph. **bold** is the only mark."""

    text: str


class Bullets(NamedTuple):
    """Paragraphs in a list."""

    texts: list[str]


class Cell(NamedTuple):
    """A cell of a table; style: "" or "b" (bold) or "u" (underlined)."""

    text: str
    style: str = ""


class Table(NamedTuple):
    """rows: lists of text or Cell, or None for a line between rows."""

    header: list[str]
    rows: list


class Picture(NamedTuple):
    """A PNG; name: its file beside the Markdown."""

    name: str
    caption: str
    png: bytes


CSS = """body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}
table{border-collapse:collapse;margin:1rem 0;font-size:13px;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .6rem;text-align:right;white-space:nowrap}td:first-child,th:first-child{text-align:left}
thead th{border-bottom:2px solid #111}tr.line td{border-top:1.5px solid #111}table{border-bottom:2px solid #111}
td.wide{white-space:normal;text-align:left}.scroll{overflow-x:auto}figure{margin:1rem 0}img{max-width:100%}
figcaption{font-size:13px}.note{
position:sticky;top:0;background:#fff3cd;border:1px solid #111;padding:.4rem .8rem;font-weight:600}
@media print{.note{position:fixed;left:0;right:0}body{margin-top:3rem}}"""


def markdown(title: str, note: str, blocks: list) -> str:
    """note: what every page should say; in Markdown at the top and under every heading of level 2."""
    said = [f"**{note}**"] if note else []
    lines = [f"# {title}", *said]
    for block in blocks:
        match block:
            case Heading(text, level):
                lines += ["#" * level + f" {text}", *(said if level == 2 else [])]
            case Text(text):
                lines.append(_md(text))
            case Bullets(texts):
                lines.append("\n".join(f"- {_md(text)}" for text in texts))
            case Picture(name, caption, _):
                lines += [f"![{caption}]({name})", f"*{caption}*"]
            case Table(header, rows):
                body = [
                    "| " + " | ".join(header) + " |",
                    "|---" + "|---:" * (len(header) - 1) + "|",
                ]
                for row in rows:
                    cells = (
                        ["---"] + [""] * (len(header) - 1)
                        if row is None
                        else [_md_cell(c) for c in row]
                    )
                    body.append("| " + " | ".join(cells) + " |")
                lines.append("\n".join(body))
    return "\n\n".join(lines) + "\n"


def _md(text: str) -> str:
    return text.replace("<", "&lt;")


def _md_cell(cell) -> str:
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    text = _md(cell.text).replace("|", "\\|")
    return {"b": f"**{text}**", "u": f"<u>{text}</u>"}.get(cell.style, text)


def as_html(title: str, note: str, blocks: list) -> str:
    """One file that needs no other. note: kept in view, and on every printed page."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if note:
        parts.append(f'<div class="note">{html.escape(note)}</div>')
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"<h{level}>{html.escape(text)}</h{level}>")
            case Text(text):
                parts.append(f"<p>{_html(text)}</p>")
            case Bullets(texts):
                parts.append(
                    "<ul>" + "".join(f"<li>{_html(text)}</li>" for text in texts) + "</ul>"
                )
            case Picture(_, caption, png):
                source = "data:image/png;base64," + base64.b64encode(png).decode()
                caption = html.escape(caption)
                parts.append(
                    f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>'
                )
            case Table(header, rows):
                parts.append(_html_table(header, rows))
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{CSS}</style>'
    return (
        f'<!doctype html><html lang="en"><head>{head}</head><body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _html(text: str) -> str:
    pieces = html.escape(text, quote=False).split("**")
    return "".join(f"<b>{piece}</b>" if i % 2 else piece for i, piece in enumerate(pieces))


def _html_table(header: list[str], rows: list) -> str:
    lines = []
    line_above = False
    for row in rows:
        if row is None:
            line_above = True
            continue
        cells = []
        for cell in (c if isinstance(c, Cell) else Cell(c) for c in row):
            text = html.escape(cell.text, quote=False)
            text = f"<{cell.style}>{text}</{cell.style}>" if cell.style else text
            cells.append(f"<td{' class=wide' * (len(cell.text) > 60)}>{text}</td>")
        lines.append(f"<tr{' class=line' * line_above}>{''.join(cells)}</tr>")
        line_above = False
    head = "".join(f"<th>{html.escape(text)}</th>" for text in header)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
