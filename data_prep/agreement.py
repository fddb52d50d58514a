"""Whether the settings of data preparation agree with one another and with the form of the file."""

from typing import Any

from data_prep.errors import UserError
from data_prep.suffixes import file_suffix

BY_TIME = ("temporal", "rolling")  # the splits that need times
OF_OWN_FILES = (
    "user_col",
    "item_col",
    "time_col",
    "columns",
    "layout",
    "separator",
    "member",
    "comment_prefix",
    "time_format",
)


def check_agreement(config: Any) -> None:
    """Raise UserError if settings (a DataConfig) contradict one another."""
    _check_own_file(config)
    _check_split(config)
    if config.where:
        # imports polars, which others need not wait for
        from data_prep.where import check_condition

        check_condition(config.where)


def _check_own_file(config: Any) -> None:
    """Raise UserError for options about a file that do not fit it or one another."""
    if not file_suffix(config.dataset):
        for name in OF_OWN_FILES:
            if getattr(config, name):
                raise UserError(
                    f"--{name}: only for a file of your own; the columns of {config.dataset!r} are "
                    "known; leave it out"
                )
    if config.layout == "sequences":
        for name in ("columns", "time_col", "time_format", "where", "user_col", "item_col"):
            if getattr(config, name):
                raise UserError(
                    f"--{name}: not for --layout=sequences, whose rows hold a user and items alone"
                )


def _check_split(config: Any) -> None:
    """Raise UserError if the data have no times, or the parts no order, for a split by time."""
    if config.split not in BY_TIME:
        return
    if config.time_col == "none" or config.layout == "sequences":
        raise UserError(
            f"--split={config.split}: needs times, and none are read; use leave_one_out"
        )
    if config.split == "rolling":
        if config.validation_time == 1:
            raise UserError("--validation_time: found 1.0, expected less with --split=rolling")
        if config.window > config.windows:
            raise UserError(
                f"--window: found {config.window}, expected at most --windows={config.windows}"
            )
    elif not config.validation_time < config.test_time:
        raise UserError(
            f"--validation_time: found {config.validation_time}, expected less than "
            f"--test_time={config.test_time}"
        )
