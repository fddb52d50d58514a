"""What an entry of the catalogue says: where a data set comes from, and how its file holds clicks.

Nothing here reads a file or imports polars.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How a file holds clicks.

    kind: csv, json, parquet, ipc, sequences or impressions (MIND's); "" if there is no file, or if
    its name decides. user, item, time: column names, "" if they are to be found. separator: "" if
    it is to be found. names: those of the columns of a file without header. header: None if it is
    to be found. comment: how lines begin that are no rows. member: the file in an archive.
    encoding: of a text that is not UTF-8. events: the key of a JSON object under which it holds its
    clicks, "" if each object is one. time_format: of dates, "" if it is to be found. where: a
    condition in SQL, see where.py.
    """

    kind: str
    user: str = ""
    item: str = ""
    time: str = ""
    separator: str = ""
    names: tuple[str, ...] = ()
    header: bool | None = None
    quoted: bool = True
    comment: str = ""
    member: str = ""
    encoding: str = ""
    events: str = ""
    time_format: str = ""
    where: str = ""

    @property
    def has_times(self) -> bool:
        """Whether clicks have times; otherwise they are in the order of the rows."""
        return self.kind != "sequences" and self.time != "none"


NO_FILE = Layout(kind="")  # for generated data


@dataclasses.dataclass(frozen=True, kw_only=True)
class Titles:
    """Where an archive holds the titles of its items: a member with lines of id and title.

    column: the position of the title among the fields of a line, whose first is the id.
    quoted: whether double quotes enclose fields.
    """

    member: str
    separator: str
    encoding: str = "latin-1"
    column: int = 1
    quoted: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A data set: its file, its licence, its default filters (a core of 0 or 1 filters nothing).

    name: what --dataset says. title: what it is. group: what its family is. file: its path in
    data_dir. url: where it is downloaded from; "" if a person has to fetch it, as `by_hand` says.
    md5: the official checksum, if one is published. megabytes: the size of the download, 0 if
    unknown. others: other files, each with its layout, the first of which is used that is in
    data_dir if `file` is not. clicks: how many its publisher or its paper counts before any
    condition or filter, 0 if unknown. page: the address that describes it. filters: what the
    default filters are, and whose. note: what a click is and what else has to be known, in
    sentences of Markdown. licence: begins with its name, up to the first semicolon. time_unit: of
    the times that are stored, "" if it follows from their form.
    """

    name: str
    title: str = ""
    group: str = ""
    file: str = ""
    url: str = ""
    by_hand: str = ""
    md5: str = ""
    megabytes: int = 0
    layout: Layout = NO_FILE
    user_core: int = 1
    item_core: int = 1
    titles: Titles | None = None
    others: tuple[tuple[str, Layout], ...] = ()
    clicks: int = 0
    page: str = ""
    filters: str = ""
    note: str = ""
    licence: str = ""
    citation: str = ""
    time_unit: str = "seconds"

    @property
    def family(self) -> str:
        """The name before the colon, "" if the data set is none of several."""
        return self.name.rpartition(":")[0]
