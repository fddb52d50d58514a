"""Recommend with a finished run: to every user in a file, to one user, or click by click."""

import itertools
import sys
from pathlib import Path

from data_prep.settings import UserError
from ttt4rec_jax.cli.command import exit_code
from ttt4rec_jax.cli.recommend_flags import COMMAND, RecommendFlags
from ttt4rec_jax.serving.files import Reader, Writer

HISTORIES_AT_ONCE = 4096
SHOWN = 10  # last clicks of a user


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

    config = load_config(RunFolder(Path(asked.run)).config)
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
    """Recommend as the flags say. Returns the exit code, see command.exit_code."""
    return exit_code(lambda: _recommend(argv))


def _recommend(argv: list[str]) -> None:
    args = COMMAND.parse(argv).settings(RecommendFlags)
    source = Reader(args.histories) if args.output else None
    target = Writer(args.output) if args.output else None
    # These import JAX, which a wrong flag need not wait for.
    from ttt4rec_jax.cli.devices import enable_compilation_cache
    from ttt4rec_jax.serving.recommender import Recommender

    enable_compilation_cache(args.program_cache)
    recommender = Recommender.load(args.run, args.data_dir, args.cache_dir)
    if args.k > len(recommender.items):
        note(
            f"note: --k={args.k}, but there are {len(recommender.items):,} items: lists are shorter"
        )
    if source is not None and target is not None:
        recommend_to_file(recommender, args, source, target)
    elif args.interactive:
        converse(recommender, args)
    else:
        show_user(recommender, args)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
