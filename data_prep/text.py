"""Text from data and files as it may be shown in a terminal, a log, a message or a picture."""

import re

# What acts instead of being seen: C0 and C1 control characters (a terminal obeys ESC, and in 8-bit
# mode U+009B), marks that reorder or hide what follows them, line separators, lone surrogates.
# Joiners (U+200C, U+200D) are part of words and emoji.
ACTING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def shown(text: object) -> str:
    r"""Return text with each control character as an escape, such as \x1b or \u202e.

    For output to people only: files keep the text as it is.
    """
    return ACTING.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def shown_lines(text: str) -> str:
    """Return text of our own layout, whose line breaks are meant, with the rest escaped."""
    return "\n".join(map(shown, text.split("\n")))
