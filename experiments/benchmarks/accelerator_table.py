"""The figures of accelerator.py as a page of Markdown."""

from typing import Any

from data_prep.text import shown_lines


def page(figures: dict) -> str:
    """Return all sections of accelerator.py's JSON as a page."""
    lines = ["# Accelerator benchmark", ""]
    if figures["note"]:
        lines += [f"**{figures['note']}**", ""]
    lines += [f"- {name}: {value}" for name, value in figures["about"].items()]
    for name, section in figures["sections"].items():
        lines += ["", f"## {name}", "", f"{section['about']}. **{state(section)}**"]
        if section["rows"]:
            lines += ["", *table(section["rows"])]
    return shown_lines("\n".join(lines)) + "\n"


def state(section: dict) -> str:
    """Return what became of a section, in one line."""
    line = f"{section['status']}, {section['seconds']:.0f} s"
    failed = sum("error" in row for row in section["rows"])
    if failed:
        line += f"; {failed} of {len(section['rows'])} rows with errors"
    return f"{line}: {section['error']}" if section["error"] else line


def table(rows: list[dict]) -> list[str]:
    """Return rows as the lines of a table. A row may lack columns that others have."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    columns.sort(key=lambda name: name == "error")  # last
    cells = [[cell(row.get(name)) for name in columns] for row in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    return [f"| {' | '.join(line)} |" for line in lines]


def cell(value: Any) -> str:
    """Return a value as the text of a cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) >= 1000):
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "/").replace("\n", " ")
