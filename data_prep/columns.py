"""Find the columns of user, item and time in a user's own file, by their names and values."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from data_prep.catalogue.entry import Layout
from data_prep.settings import UserError, nearest
from data_prep.times import is_clock, resolution

# in the order in which they are tried; case, spaces, underscores and hyphens are ignored
KNOWN = {
    "user": "user userid reviewerid uid customerid customer visitorid visitor memberid accountid "
    "playerid username sessionid session",
    "item": "item itemid parentasin asin iid movieid movie productid product sku goodsid articleid "
    "newsid trackid songid artistid bookid videoid gameid businessid recipeid listingid",
    "time": "time timestamp ts unixreviewtime unixtime unixtimestamp datetime date createdat "
    "created eventtime clicktime timestampms timems reviewtime ratingtime timeframe tdat dateadded "
    "eventdate",
}
NONE = "none"  # --time_col=none
FEW = 100  # values that are looked at to tell which of several columns is the time


class Columns(NamedTuple):
    """The columns of user and item, those of the time (none, one, or date and clock), notices."""

    user: str
    item: str
    times: tuple[str, ...]
    notices: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.user, self.item, *self.times)


def plain(name: str) -> str:
    """Return a column's name without case, spaces, "_", "-" and RecBole's ":type" suffix."""
    return re.sub(r"[\s_\-]", "", name.split(":")[0]).lower()


def find_columns(
    layout: Layout,
    names: Sequence[str],
    label: str,
    samples: Mapping[str, Sequence[str]] | None = None,
) -> Columns:
    """Return the user, item and time columns among those of a file.

    layout: contains the names that the user has set. samples: some values of each column, which
    decide between several that may be the time. Raise UserError if a column is not found or not
    unique.
    """
    if not any(map(plain, names)):
        raise UserError(f"{label}: the first line names no columns; expected a header")
    notices: list[str] = []
    user, item = (
        _find_column(role, getattr(layout, role), names, label, notices)
        for role in ("user", "item")
    )
    times = _find_times(layout, names, label, samples or {}, notices)
    found = Columns(user, item, times, tuple(notices))
    if len(set(found.names)) < len(found.names):
        raise UserError(
            f"{label}: user, item and time are the columns {', '.join(found.names)}; expected "
            "different ones"
        )
    return found


def _find_times(
    layout: Layout,
    names: Sequence[str],
    label: str,
    samples: Mapping[str, Sequence[str]],
    notices: list[str],
) -> tuple[str, ...]:
    """Return the columns of the time: none, one, or two that are joined."""
    if layout.time == NONE:
        return ()
    if layout.time and layout.time not in names and "," in layout.time:
        wanted = [part.strip() for part in layout.time.split(",")]
        return tuple(_find_column("time", part, names, label, notices) for part in wanted)
    candidates = [] if layout.time else _known("time", names)
    if not layout.time and not candidates and layout.names:
        return ()  # --columns names no time
    if len(candidates) < 2:
        return (_find_column("time", layout.time, names, label, notices),)
    values = {name: [v for v in samples.get(name, ()) if v][:FEW] for name in candidates}
    steps = {name: resolution(values[name]) for name in candidates}
    usable = [name for name in candidates if steps[name] is not None]
    clocks = [name for name in candidates if is_clock(values[name])]
    days = [name for name in usable if steps[name] == 86_400_000_000]
    if clocks and days and len(usable) == len(days):
        chosen: tuple[str, ...] = (days[0], clocks[0])
    else:  # the finest; among equals the first
        best = min(usable or candidates, key=lambda name: steps[name] or 0)
        chosen = (_find_column("time", best, names, label, notices),)
    _note("time", "--time_col", chosen, candidates, notices)
    return chosen


def _find_column(
    role: str, wanted: str, names: Sequence[str], label: str, notices: list[str]
) -> str:
    """Return the column of a role: the wanted one, or, if that is "", one with a known name."""
    listed = ", ".join(names[:20]) or "none"
    if wanted:
        matches = [n for n in names if n == wanted] or _named(plain(wanted), names)
        if not matches:
            near = nearest(wanted, list(names))
            raise UserError(
                f"{label}: no column {wanted!r}{near}; its columns are {listed}; name the {role} "
                f"with --{role}_col"
            )
    else:
        candidates = _known(role, names)
        matches = _named(plain(candidates[0]), names) if candidates else []
        if not matches:
            none = ", or --time_col=none if the rows are in order" if role == "time" else ""
            raise UserError(
                f"{label}: none of its columns looks like the {role}; they are {listed}; name it "
                f"with --{role}_col{none}; if the first line is not a header, name the columns "
                "with --columns"
            )
        _note(role, f"--{role}_col", matches[:1], candidates, notices)
    if len(matches) > 1:
        raise UserError(
            f"{label}: column {matches[0]!r} occurs {len(matches)} times, expected once; rename "
            "the others"
        )
    return matches[0]


def _note(
    role: str, flag: str, chosen: Sequence[str], candidates: Sequence[str], notices: list[str]
) -> None:
    others = [name for name in candidates if name not in chosen]
    if others:
        notices.append(
            f"the {role} is read from {' and '.join(chosen)}, not from {', '.join(others)}; {flag} "
            "names another"
        )


def may_be_times(layout: Layout, names: Sequence[str]) -> list[str]:
    """Return the columns whose values tell which is the time; [] if none are needed."""
    candidates = [] if layout.time else _known("time", names)
    return candidates if len(candidates) > 1 else []


def _known(role: str, names: Sequence[str]) -> list[str]:
    """Return the columns with usual names of a role, in the order in which they are tried."""
    found = [name for known in KNOWN[role].split() for name in _named(known, names)]
    return list(dict.fromkeys(found))


def _named(plain_name: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if plain(name) == plain_name]
