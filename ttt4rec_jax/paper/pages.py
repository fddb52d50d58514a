"""Tables of the report in pages that are written by hand, such as README.md.

A page has a comment where a table begins, <!-- reproduction: NAME -->, and one where it ends,
<!-- end -->. What is between them is replaced.
"""

import re
import statistics
from pathlib import Path

from data_prep.errors import UserError
from ttt4rec_jax.paper.document import Cell, Row, Table, markdown_table
from ttt4rec_jax.paper.jobs import EXTRAS, PAPER, TITLES, Plan
from ttt4rec_jax.paper.results import Results, scores, table1_runs
from ttt4rec_jax.runs.folder import write_text

SHORT = {"beauty": "Beauty", "electronics": "Electronics", "ml1m": "MovieLens-1M"}
PLACE = re.compile(r"(<!-- reproduction: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def ndcg_table(plan: Plan, results: Results, models: tuple[str, ...] = PAPER + EXTRAS) -> Table:
    """Return test NDCG@5 at 1:99 of each model by preset and data set, mean ± deviation over seeds.

    The best of the paper's models is bold once all are finished; "-" where nothing is.
    """
    columns = {
        f"{preset}, {SHORT.get(dataset, dataset)}": by_model
        for preset in plan.presets
        for dataset, by_model in table1_runs(plan, results, preset).items()
    }

    def cell(model: str, column: str) -> Cell:
        known = {m: scores(runs) for m, runs in columns[column].items() if runs}
        if model not in known:
            return Cell("-")
        is_whole = set(PAPER) <= known.keys()
        best = is_whole and max(PAPER, key=lambda m: statistics.fmean(known[m]))
        return Cell(_short(known[model]), "b" if model == best else "")

    rows: list[Row] = [
        [TITLES[model], *(cell(model, column) for column in columns)]
        for model in models
        if any(by_model.get(model) for by_model in columns.values())  # finished anywhere
    ]
    return Table(["model", *columns], rows)


def _short(numbers: list[float]) -> str:
    """Return ".2585 ± .0047": four decimals without the leading 0."""
    parts = [statistics.fmean(numbers)]
    if len(numbers) > 1:
        parts.append(statistics.stdev(numbers))
    return " ± ".join(f"{part:.4f}".replace("0.", ".", 1) for part in parts)


def fill(text: str, tables: dict[str, Table], where: str) -> str:
    """Return a page with its tables replaced. Raises UserError for a name that is not a table."""

    def replaced(place: re.Match) -> str:
        begin, name, end = place.groups()
        if name not in tables:
            raise UserError(f"{where}: no table {name!r}; expected one of {', '.join(tables)}")
        return f"{begin}{markdown_table(tables[name])}\n{end}"

    return PLACE.sub(replaced, text)


def update(pages: list[Path], tables: dict[str, Table]) -> None:
    """Replace the tables in pages; each is written whole. Raises UserError."""
    for page in pages:
        try:
            text = page.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"--pages: {page} cannot be read ({error}); name a page") from error
        if not PLACE.search(text):
            raise UserError(
                f"--pages: {page} has no place for a table; mark one by the lines "
                "<!-- reproduction: ndcg --> and <!-- end -->"
            )
        write_text(page, fill(text, tables, str(page)))
