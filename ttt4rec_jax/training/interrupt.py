"""Ctrl-C and SIGTERM as a request that a loop can honour at a safe place."""

import signal


class Interrupted(Exception):
    """The run was asked to stop, and has saved where it was."""


class StopRequest:
    """Turns Ctrl-C and SIGTERM into `asked` while it is entered; a second one stops at once (KeyboardInterrupt)."""

    def __init__(self):
        self.asked = False

    def __enter__(self):
        self._before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def _ask(self, number, frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *exc):
        for number, handler in self._before.items():
            signal.signal(number, handler)
