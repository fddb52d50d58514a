"""The catalogue as a table: in a terminal (--dataset=list), and as the part of docs/data.md."""

from collections.abc import Callable, Hashable

from data_prep.catalogue import CATALOGUE
from data_prep.catalogue.entry import Source

UNKNOWN = "-"
HEADER = ("name", "clicks", "download", "licence", "title", "page")
BELOW = (
    "clicks: as counted by the publisher, before any condition or filter; -: not known\n"
    "by hand: needs an account or a click on terms; a run says what to download and where to put "
    "it\nfilters, citations and what counts as a click: docs/data.md"
)


def listing() -> str:
    """Return a line for each data set, with columns of equal width, and what they mean."""
    rows = [HEADER]
    for source in CATALOGUE.values():
        rows.append(
            (
                source.name,
                f"{source.clicks:,}" if source.clicks else UNKNOWN,
                download(source),
                licence(source),
                source.title,
                source.page,
            )
        )
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEADER))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if n in (1, 2) else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, "", BELOW])


def download(source: Source) -> str:
    """Return the size of a data set's download, or that a person has to fetch it."""
    if source.by_hand:
        return "by hand"
    if not source.file:
        return "none"
    return f"{source.megabytes:,} MB" if source.megabytes else UNKNOWN


def licence(source: Source) -> str:
    """Return the name of a data set's licence."""
    return source.licence.split(";")[0].split(" (")[0].rstrip(".")


def markdown() -> str:
    """Return the catalogue as a table of Markdown, a row for each family, and notes below it."""
    lines = [
        "| `--dataset=` | what | clicks | download | users, items of at least | licence |",
        "|---|---|---|---|---|---|",
    ]
    for sources in _grouped(lambda source: source.family or source.name):
        first = sources[0]
        name = f"{first.family}:NAME" if first.family else first.name
        cores = f"{first.user_core}, {first.item_core}"
        cells = (
            f"`{name}`",
            first.group if first.family else first.title,
            _clicks(sources),
            _downloads(sources),
            cores if cores != "1, 1" else "none",
            licence(first),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    for sources in _grouped(lambda source: (source.family, source.citation, source.filters)):
        if sources[0].page:
            lines.append(_remarks(sources))
    return "\n".join(lines)


def _remarks(sources: list[Source]) -> str:
    """Return what is to be known about data sets that share it, as an item of a list."""
    first = sources[0]
    names = [first.family] if first.family else [source.name for source in sources]
    parts = [f"- {', '.join(f'`{name}`' for name in names)} ([page]({first.page}))."]
    if first.family:
        members = ", ".join(f"`{source.name.partition(':')[2]}`" for source in sources)
        parts.append(f"NAME is one of {members}.")
    if first.layout.where:
        parts.append(f'By default `--where="{first.layout.where}"`.')
    parts += [first.note] if first.note else []
    parts.append(f"Filters: {first.filters}. *{first.citation}*")
    return " ".join(parts)


def _grouped(key: Callable[[Source], Hashable]) -> list[list[Source]]:
    """Return the data sets in order, those with the same key together."""
    groups: dict[Hashable, list[Source]] = {}
    for source in CATALOGUE.values():
        groups.setdefault(key(source), []).append(source)
    return list(groups.values())


def _clicks(sources: list[Source]) -> str:
    known = sorted(source.clicks for source in sources if source.clicks)
    if not known:
        return UNKNOWN
    return f"{known[0]:,}" + (f" to {known[-1]:,}" if len(known) > 1 else "")


def _downloads(sources: list[Source]) -> str:
    if len(sizes := {source.megabytes for source in sources}) == 1:
        return download(sources[0])
    return f"up to {max(sizes):,} MB"
