"""Print recommendations: for a file of histories, for one user, or click by click.

Imports no JAX, so that a wrong flag is reported at once.
"""

import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.settings import UserError
from data_prep.text import shown
from ttt4rec_jax.cli.command import exit_code
from ttt4rec_jax.cli.recommend_flags import COMMAND, RecommendFlags, seconds_at
from ttt4rec_jax.cli.surroundings import start_jax
from ttt4rec_jax.runs.items import Catalogue
from ttt4rec_jax.serving.files import Reader, Writer
from ttt4rec_jax.serving.histories import History
from ttt4rec_jax.serving.load_export import Recommendation

if TYPE_CHECKING:
    from ttt4rec_jax.serving.recommender import Recommender

BATCH_HISTORIES = 4096  # histories of a file that are held in memory at a time
MAX_SHOWN = 10  # clicks of a user, or titles that match a text, that are printed


def main(argv: list[str]) -> int:
    """Recommend as the flags say. Returns the exit code; see command.exit_code."""
    return exit_code(lambda: run(COMMAND.parse(argv).settings(RecommendFlags)))


def run(args: RecommendFlags) -> None:
    """Do what the flags of experiments/recommend.py ask for. Raise UserError."""
    reader = Reader(args.histories) if args.output else None
    writer = Writer(args.output, args.csv_escape) if args.output else None
    start_jax()  # a wrong file name is reported before
    from ttt4rec_jax.pipeline.devices import enable_compilation_cache
    from ttt4rec_jax.serving.recommender import Recommender

    enable_compilation_cache(args.program_cache)
    args.import_own()
    recommender = Recommender.load(args.run, args.data_dir, args.cache_dir)
    items = recommender.items
    if args.k > len(items):
        note(f"note: --k={args.k} exceeds the {len(items):,} items; lists are shorter")
    options: dict[str, Any] = {
        "unknown": args.unknown,
        "exclude_seen": not args.include_seen,
        "exclude": split_ids(args.exclude),
        "include_only": split_ids(args.include_only) if args.include_only else None,
    }
    reads_times = recommender.config.time != "none"
    asked = {"whole_history": args.whole_history, "at": seconds_at(args.at)}
    if reader and writer:
        reader.reads_times = reads_times
        recommend_to_file(recommender, reader, writer, args.k, **asked, **options)
        return
    history = History(args.user, [], [])
    if args.histories:
        history = history_in_file(args.histories, args.user, reads_times)
    elif args.user:
        history = history_in_data(items, args.run, args.user, args.data_dir, args.cache_dir)
    if not reads_times:
        history = history._replace(times=None)
    if args.interactive:
        converse(recommender, history, args.k, **options)
    else:
        show_user(recommender, history, args.k, **asked, **options)


def split_ids(text: str) -> list[str]:
    """Return the ids of a comma-separated list."""
    return [id for id in text.split(",") if id]


def note(text: str) -> None:
    """Print a line that is not part of the result."""
    print(text, file=sys.stderr, flush=True)


def recommend_to_file(
    recommender: "Recommender", reader: Reader, writer: Writer, k: int, **options: Any
) -> None:
    """Read histories, recommend, and write to a file batch by batch, with a progress bar.

    options: those of Recommender.recommend.
    """
    from tqdm import tqdm

    num_users = 0
    num_empty = 0
    # disable=None: tqdm hides the bar when stderr is not a terminal
    with writer, tqdm(total=reader.total, unit=reader.unit, unit_scale=True, disable=None) as bar:
        histories = iter(reader)
        while batch := list(itertools.islice(histories, BATCH_HISTORIES)):
            users, clicks, times = zip(*batch, strict=True)
            given = times if reader.reads_times else None
            recommendations = recommender.recommend(clicks, k, times=given, **options)
            writer.write(list(users), recommendations)
            num_users += len(batch)
            num_empty += sum(one.source == "popularity" for one in recommendations)
            bar.total = reader.total
            bar.unit = reader.unit
            bar.set_postfix_str(f"{num_users:,} users", refresh=False)
            bar.update(reader.done - bar.n)
    empty = f"; {num_empty:,} without clicks received popular items" if num_empty else ""
    note(f"{num_users:,} users{empty}")


def history_in_file(path: str, user: str, reads_times: bool) -> History:
    """Return the clicks of a user in a file of histories. Raise UserError if there are none."""
    for history in Reader(path, reads_times):
        if str(history.user) == user:
            return history
    raise UserError(f"--user: {user!r} is not in {path}")


def history_in_data(
    items: Catalogue, run: str | Path, user: str, data_dir: str, cache_dir: str
) -> History:
    """Return the clicks of a user in the data of a run. Raise UserError.

    items: those of the run; data_dir, cache_dir: the flags of main.py.
    """
    from data_prep.prepare import prepare
    from ttt4rec_jax.runs.folder import RunFolder, load_config
    from ttt4rec_jax.runs.items import history_of, ids_of

    config = load_config(RunFolder(Path(run)).config)
    prepared = prepare(config.data, data_dir, cache_dir)
    if ids_of(prepared) != items.ids:
        raise UserError(
            f"--user: {prepared} does not hold the items of the run; "
            "give the data that the run was trained on, or --histories"
        )
    clicks, times = history_of(prepared, user)
    return History(user, [items.ids[item - 1] for item in clicks], times)


def show_user(recommender: "Recommender", history: History, k: int, **options: Any) -> None:
    """Print a user's last clicks and recommendations. options: those of Recommender.recommend."""
    clicks = history.items
    times = None if history.times is None else [history.times]
    (recommendation,) = recommender.recommend([clicks], k, times=times, **options)
    last = f", the last {MAX_SHOWN}:" if len(clicks) > MAX_SHOWN else ""
    print(f"user {shown(str(history.user))}: {format_clicks(len(clicks))}{last}")
    for id in clicks[-MAX_SHOWN:]:
        print(f"      {format_item(recommender.items, id)}")
    print(f"\nrecommended ({format_source(recommendation, len(clicks))}):")
    print(format_table(recommendation))


def converse(
    recommender: "Recommender", history: History, k: int, unknown: str, **filters: Any
) -> None:
    """Read clicks from stdin, by id or part of a title, and print the new list after each.

    unknown: as in Recommender.open_session; filters: those of Recommender.recommend. Clicks are
    made, and lists are asked for, at the present.
    """
    items = recommender.items
    session = recommender.open_session(history.items, unknown, history.times)
    is_timed = recommender.config.time != "none"
    is_request = recommender.config.time == "request"
    cost = (
        "every click takes the same time"
        if session.is_constant_cost
        else f"every click reads the last {recommender.config.max_len} clicks again"
    )
    print(f"{recommender.config.model}, {len(items):,} items; {cost}")
    print("enter an item's id or part of its title; an empty line ends the session")
    before = None
    while True:
        at = time.time() if is_request else None
        recommendation = session.recommend(k, at=at, **filters)
        print(f"{format_source(recommendation, session.clicks)}:")
        print(format_table(recommendation, before), flush=True)
        before = recommendation.ids
        id = ask_for_click(items)
        if id is None:
            return
        session.observe(id, time=time.time() if is_timed else None)
        print(format_item(items, id))


def ask_for_click(items: Catalogue) -> int | str | None:
    """Ask until a line of stdin identifies an item, and return its id; None for an empty line."""
    while True:
        print("click> ", end="", flush=True)
        text = sys.stdin.readline().strip()
        if not text:
            print()
            return None
        if (id := items.get(text)) is not None:
            return id
        matches = items.search(text)
        if len(matches) == 1:
            return matches[0]
        print(format_matches(items, text, matches))


def format_table(recommendation: Recommendation, before: list | None = None) -> str:
    """Return a line per item: rank, change since the list `before`, score, id, title."""
    lines = []
    for rank, (id, score) in enumerate(zip(recommendation.ids, recommendation.scores, strict=True)):
        title = shown(recommendation.titles[rank] or "") if recommendation.titles else ""
        move = "" if before is None else f"{format_move(rank, before, id):>5}"
        lines.append(
            f"{rank + 1:>4}{move}  {score:>10.4f}  {shown(id):<12}  {shown(title)}".rstrip()
        )
    return "\n".join(lines) or "   no items are left to recommend"


def format_move(rank: int, before: list, id: int | str) -> str:
    """Return how far an item has risen since the list `before`: new, =, +3 or -3."""
    if id not in before:
        return "new"
    rise = before.index(id) - rank
    return f"{rise:+d}" if rise else "="


def format_source(recommendation: Recommendation, num_clicks: int) -> str:
    """Return what a list is based on."""
    if recommendation.source == "popularity":
        return "no clicks yet: popular items"
    return f"after {format_clicks(num_clicks)}"


def format_clicks(count: int) -> str:
    """Return a number of clicks in words."""
    return f"{count} click{'s' * (count != 1)}"


def format_item(items: Catalogue, id: int | str) -> str:
    """Return an id and its title, if any."""
    return f"{shown(id):<12}  {shown(items.title(id))}".rstrip()


def format_matches(items: Catalogue, text: str, matches: list) -> str:
    """Return the answer to a text that is not an id and not part of exactly one title."""
    more = "; the first are:" if len(matches) > MAX_SHOWN else ":" if matches else ""
    shown = "".join(f"\n      {format_item(items, id)}" for id in matches[:MAX_SHOWN])
    return f"{text!r} is not an id, and {len(matches)} titles contain it{more}{shown}"
