"""Recommends with a finished run: to everybody in a file, to one user, or click by click:

python experiments/recommend.py --run=runs/x --histories=users.parquet --k=10 --output=top.parquet
python experiments/recommend.py --run=runs/x --user=42
python experiments/recommend.py --run=runs/x --interactive
"""

import itertools
import os
import sys

from data_prep.settings import UserError
from ttt4rec_jax.cli.parser import Parser, add_run, check_run
from ttt4rec_jax.serving import files
from ttt4rec_jax.serving.files import Reader, Writer

DESCRIPTION = f"""Recommends with the best parameters of a run, whose folder is all that is needed (--user without --histories
reads the run's data as well). Just one of --histories with --output, --user, --interactive.

{files.__doc__.split("whatever their size. Imports no JAX.")[1].strip()}"""
HISTORIES_AT_ONCE = 4096
SHOWN = 10  # last clicks of a user


def parser(program: str) -> Parser:
    """The command line."""
    found = Parser(program, DESCRIPTION)
    add_run(found)
    add = found.add_argument
    add(
        "--histories",
        metavar="FILE",
        default="",
        help="users' clicks, .parquet, .csv, .jsonl, or - for stdin",
    )
    add(
        "--output",
        metavar="FILE",
        default="",
        help="where to write, .parquet, .csv, .jsonl, or - for stdout",
    )
    add(
        "--user", metavar="ID", default="", help="print the history and recommendations of one user"
    )
    add(
        "--interactive",
        action="store_true",
        help="ask for clicks one by one and print how the list moves",
    )
    add("--k", type=int, default=10, help="items to recommend (default: 10)")
    add(
        "--unknown",
        choices=("error", "skip"),
        default="error",
        help="clicks on items that the run's data does not have",
    )
    add("--include_seen", action="store_true", help="recommend items of the history, too")
    add("--exclude", metavar="ID,ID", default="", help="items never to recommend")
    add("--include_only", metavar="ID,ID", default="", help="the only items to recommend")
    add(
        "--whole_history",
        action="store_true",
        help="read histories from their first click on, as a session does",
    )
    add("--program_cache", default="", help="folder of compiled programs; none: keep none")
    return found


def check(asked) -> None:
    """Raises UserError for flags that do not go together, before anything is imported or read."""
    check_run(asked)
    if asked.output and (not asked.histories or asked.user or asked.interactive):
        raise UserError("--output: goes with --histories alone")
    if asked.interactive and (asked.histories or asked.whole_history):
        raise UserError(
            "--interactive: asks for the clicks itself; leave out --histories and --whole_history"
        )
    if not (asked.output or asked.user or asked.interactive):
        raise UserError("nothing to do; give --histories and --output, or --user, or --interactive")


def filters(asked) -> dict:
    """What Recommender takes beside histories and k."""
    found = {"exclude_seen": not asked.include_seen, "exclude": ids(asked.exclude)}
    if asked.include_only:
        found["include_only"] = ids(asked.include_only)
    return found


def ids(text: str) -> list[str]:
    return [id for id in text.split(",") if id]


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def recommend_to_file(recommender, asked, source: Reader, target: Writer) -> None:
    """Streams histories through the model, a part in memory at a time."""
    from tqdm import tqdm

    users = 0
    empty = 0
    with target, tqdm(total=source.total, unit=source.unit, unit_scale=True, disable=None) as bar:
        histories = iter(source)
        while part := list(itertools.islice(histories, HISTORIES_AT_ONCE)):
            names, clicks = zip(*part, strict=True)
            found = recommender.recommend(
                clicks,
                asked.k,
                unknown=asked.unknown,
                whole_history=asked.whole_history,
                **filters(asked),
            )
            target.write(list(names), found)
            users = users + len(part)
            empty = empty + sum(one.source == "popularity" for one in found)
            bar.total = source.total
            bar.unit = source.unit
            bar.set_postfix_str(f"{users:,} users", refresh=False)
            bar.update(source.done - bar.n)
    popular = f"; {empty:,} of them had no click and got what is popular" if empty else ""
    note(f"{users:,} users{popular}")


def history_of(recommender, asked) -> list:
    """The clicks of --user: from --histories, or from the data of the run."""
    if asked.histories:
        for user, clicks in Reader(asked.histories):
            if str(user) == asked.user:
                return clicks
        raise UserError(f"--user: {asked.user!r} is not in {asked.histories}")
    from data_prep.prepare import prepare
    from ttt4rec_jax.runs import items
    from ttt4rec_jax.runs.folder import RunFolder, load_config

    config = load_config(RunFolder(asked.run).config)
    prepared = prepare(config.data, asked.data_dir, asked.cache_dir)
    if items.ids_of(prepared) != recommender.items.ids:
        raise UserError(
            f"--user: {prepared} has other items than the run; give the data that it was trained on, or --histories"
        )
    return [recommender.items.ids[item - 1] for item in items.history_of(prepared, asked.user)]


def table(found, before: list | None = None) -> str:
    """Recommendations as lines: rank, move since the list `before`, score, id, title."""
    lines = []
    for rank, (id, score) in enumerate(zip(found.ids, found.scores, strict=True)):
        title = (found.titles[rank] or "") if found.titles else ""
        moved = (
            "" if before is None else f"{move(rank, before.index(id) if id in before else None):>5}"
        )
        lines.append(f"{rank + 1:>4}{moved}  {score:>10.4f}  {id!s:<12}  {title}".rstrip())
    return "\n".join(lines) or "   nothing is left to recommend"


def move(rank: int, before: int | None) -> str:
    """How far an item has come since it stood at `before`."""
    if before is None:
        return "new"
    return "=" if rank == before else f"{before - rank:+d}"


def by_whom(found, clicks: int) -> str:
    return (
        "no click yet: what is popular, by clicks"
        if found.source == "popularity"
        else f"after {clicks} clicks"
    )


def show_user(recommender, asked) -> None:
    """Prints one user's last clicks and recommendations."""
    history = history_of(recommender, asked)
    found = recommender.recommend(
        [history],
        asked.k,
        unknown=asked.unknown,
        whole_history=asked.whole_history,
        **filters(asked),
    )[0]
    print(
        f"user {asked.user}: {len(history)} clicks"
        + (f", the last {SHOWN}:" if len(history) > SHOWN else "")
    )
    for id in history[-SHOWN:]:
        print(f"      {id!s:<12}  {recommender.items.title(id)}".rstrip())
    print(f"\nrecommended ({by_whom(found, len(history))}):\n{table(found)}")


def converse(recommender, asked) -> None:
    """Reads clicks from stdin, by id or by a part of a title, and prints how the list moves."""
    session = recommender.open_session(
        history_of(recommender, asked) if asked.user else [], asked.unknown
    )
    how = (
        "each click costs the same"
        if session.is_constant_cost
        else f"the last {recommender.config.max_len} clicks are read anew"
    )
    print(f"{recommender.config.model}, {len(recommender.items):,} items; {how}")
    print("give an id or a part of a title; an empty line ends")
    before = None
    while True:
        found = session.recommend(asked.k, **filters(asked))
        print(f"{by_whom(found, session.clicks)}:\n{table(found, before)}", flush=True)
        before = found.ids
        while True:
            print("click> ", end="", flush=True)
            text = sys.stdin.readline().strip()
            if not text:
                print()
                return
            if (id := recommender.items.get(text)) is not None:
                break
            titled = recommender.items.search(text)
            if len(titled) == 1:
                id = titled[0]
                break
            some = "".join(
                f"\n      {id!s:<12}  {recommender.items.title(id)}" for id in titled[:SHOWN]
            )
            more = ", the first are:" if len(titled) > SHOWN else ":" if titled else ""
            print(f"{text!r} is no id, and {len(titled)} titles hold it{more}{some}")
        session.observe(id)
        print(f"{id}  {recommender.items.title(id)}".rstrip())


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 2 a mistake told in one line, 130 interrupted."""
    try:
        asked = parser(argv[0]).parse_args(argv[1:])
        check(asked)
        source, target = (
            (Reader(asked.histories), Writer(asked.output)) if asked.output else (None, None)
        )
        from ttt4rec_jax.cli.run import keep_programs
        from ttt4rec_jax.serving.recommender import (
            Recommender,  # imports JAX, which a wrong flag need not wait for
        )

        keep_programs(asked.program_cache)
        recommender = Recommender.load(asked.run, asked.data_dir, asked.cache_dir)
        if asked.k > len(recommender.items):
            note(
                f"note: --k={asked.k}, but there are {len(recommender.items):,} items: lists are shorter"
            )
        if target:
            recommend_to_file(recommender, asked, source, target)
        elif asked.interactive:
            converse(recommender, asked)
        else:
            show_user(recommender, asked)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads stdout has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
