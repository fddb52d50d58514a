"""Read clicks from MIND's behaviors.tsv: a user's history, and the news shown at a time.

A line holds, separated by tabs: the number of the impression, the user, the time, the history (news
that the user had clicked before the fifth week, in order), and the news shown, each followed by -1
if it was clicked and by -0 if not (F. Wu et al., ACL 2020, and msnews.github.io).
"""

from collections.abc import Iterator

FIELDS = 5
# The history is that of the first four weeks, and begins on this day. Its times are unknown.
BEFORE = "10/12/2019 12:00:00 AM"


def clicks(lines: Iterator[bytes]) -> Iterator[tuple[int, tuple[str, str, str] | str]]:
    """Yield each click's line and its user, item and time, or the problem with a line.

    A user's history is the same in all lines and yielded once, at the first.
    """
    known: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n").split("\t")
        except UnicodeDecodeError:
            yield number, "not UTF-8 text"
            continue
        if len(fields) != FIELDS:
            yield number, f"{len(fields)} fields, expected {FIELDS}"
            continue
        _, user, time, history, shown = fields
        if user not in known:
            known.add(user)
            for item in history.split():
                yield number, (user, item, BEFORE)
        for entry in shown.split():
            item, _, label = entry.rpartition("-")
            if label == "1":
                yield number, (user, item, time)
            elif label != "0":
                yield number, f"{entry[:40]!r} among the news shown, expected it to end in -0 or -1"
