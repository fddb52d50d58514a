"""The way from HTTP workers to the device process: requests and answers over a Unix socket.

A request is its length, a number (both 4 bytes) and JSON; its answer is its length, the same
number, a status, seconds to wait (2 bytes each) and the body. Answers come in any order.
"""

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import cast

from ttt4rec_jax.service.problems import Problem
from ttt4rec_jax.service.requests import CONTROL, Answer, Request

logger = logging.getLogger(__name__)
ASK = struct.Struct(">II")
REPLY = struct.Struct(">IIHH")
LOST = "The device process is gone."


class Frames(asyncio.Protocol):
    """One end of a connection: splits what arrives, and joins what is written in one turn."""

    header: struct.Struct

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.arrived = bytearray()
        self.to_write: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand each whole frame to `received`."""
        self.arrived += data
        start = 0
        size = self.header.size
        while len(self.arrived) - start >= size:
            length, *fields = self.header.unpack_from(self.arrived, start)
            stop = start + size + length
            if len(self.arrived) < stop:
                break
            self.received(fields, bytes(self.arrived[start + size : stop]))
            start = stop
        del self.arrived[:start]

    def received(self, fields: list[int], content: bytes) -> None:
        """Take a frame."""
        raise NotImplementedError

    def write(self, frame: bytes) -> None:
        """Write a frame, together with the others of this turn of the loop."""
        if not self.to_write:
            self.loop.call_soon(self._flush)
        self.to_write.append(frame)

    def _flush(self) -> None:
        if self.transport and not self.transport.is_closing():
            self.transport.write(b"".join(self.to_write))
        self.to_write.clear()


class SocketLink(Frames):
    """A worker's end."""

    header = REPLY

    def __init__(self, lost: Callable[[], None]):
        """lost: is called when the device process is gone."""
        super().__init__()
        self.lost = lost
        self.waiting: dict[int, asyncio.Future[Answer]] = {}
        self.number = 0

    async def ask(self, request: Request) -> Answer:
        """Return the answer to a request. Raises Problem if the device process is gone."""
        if self.transport is None or self.transport.is_closing():
            raise Problem("not-ready", LOST, retry_after=2)
        self.number = number = (self.number + 1) % 2**32
        future = self.waiting[number] = self.loop.create_future()
        content = request.to_bytes()
        self.write(ASK.pack(len(content), number) + content)
        try:
            return await future
        finally:
            self.waiting.pop(number, None)

    def received(self, fields: list[int], content: bytes) -> None:
        """Give an answer to who waits for it."""
        number, status, retry_after = fields
        future = self.waiting.get(number)
        if future and not future.done():  # else its client has given up
            future.set_result(Answer(status, content, retry_after))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell everyone who waits."""
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(Problem("not-ready", LOST, retry_after=2))
        self.lost()


class Channel(Frames):
    """The device process's end of one worker's connection.

    submit: queues a request with its owner, a pair of this channel and a number; control: answers
    one that needs no batch.
    """

    header = ASK

    def __init__(self, submit: Callable, control: Callable):
        super().__init__()
        self.submit = submit
        self.control = control
        self.tasks: set[asyncio.Task] = set()

    def received(self, fields: list[int], content: bytes) -> None:
        """Queue a request."""
        (number,) = fields
        try:
            request = Request.from_bytes(content)
            if request.kind in CONTROL:
                task = self.loop.create_task(self._control(number, request))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            else:
                self.submit(request, (self, number))
        except Problem as problem:
            self.reply(number, Answer.of(problem))

    def reply(self, number: int, answer: Answer) -> None:
        """Write an answer."""
        header = REPLY.pack(len(answer.body), number, answer.status, answer.retry_after)
        self.write(header + answer.body)

    async def _control(self, number: int, request: Request) -> None:
        try:
            answer = await self.control(request)
        except Exception:
            logger.exception("a request of kind %s failed", request.kind)
            answer = Answer.of(Problem("internal", "The log of the service says more."))
        self.reply(number, answer)


def deliver(answers: list[tuple[tuple[Channel, int], Answer]]) -> None:
    """Write answers to the channels that they came by."""
    for (channel, number), answer in answers:
        channel.reply(number, answer)
