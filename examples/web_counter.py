"""A small web service whose state survives any minority of its machines.

Every instance is a web server and a replica of the same guest book.  Put them behind any load
balancer: each answers for all, and one that dies takes nothing with it.

    wormspace up &                                        # or a real cluster
    python examples/web_counter.py --url worm://... --http 8081 &
    python examples/web_counter.py --url worm://... --http 8082 &

    curl -d 'Ada was here' localhost:8081/                # 1
    curl localhost:8082/                                  # 1  Ada was here
    kill -9 %2                                            # the one on 8081
    curl -d 'Grace, too' localhost:8082/                  # 2, within two seconds
"""

from __future__ import annotations

import argparse
import asyncio
import http
import logging

import wormspace
from wormspace.errors import WormError
from wormspace.smr import Replica, StateMachine, Table, command, query

HEAD_LIMIT = 16 * 1024
BODY_LIMIT = 64 * 1024


class GuestBook(StateMachine):
    """Everything the service knows.  Plain Python: no database, no cache, no queue."""

    lines: Table[int, str]

    @command
    def sign(self, line: str) -> int:
        """Add a line; returns its number."""
        if not line.strip():
            raise ValueError("say something")
        number = len(self.lines) + 1
        self.lines[number] = f"{line}  ({self.now:.0f})"
        return number

    @query
    def read(self, first: int = 1, count: int = 100) -> list[tuple[int, str]]:
        """Some lines, with their numbers."""
        return list(self.lines.scan(first, first + count))


class Web:
    """As much HTTP as this needs."""

    def __init__(self, book: Replica[GuestBook]) -> None:
        self._book = book

    async def on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One request, one answer."""
        try:
            async with asyncio.timeout(30):
                status, text = await self._answer(reader)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            status, text = http.HTTPStatus.BAD_REQUEST, "what was that?\n"
        body = text.encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: text/plain; charset=utf-8"
            f"\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[http.HTTPStatus, str]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, _, _ = head[0].partition(" ")
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        try:
            if method == "GET":
                lines = await self._book.call(GuestBook.read)
                return http.HTTPStatus.OK, "".join(f"{n}  {line}\n" for n, line in lines)
            if method == "POST":
                length = min(int(fields.get("content-length", "0")), BODY_LIMIT)
                line = (await reader.readexactly(length)).decode(errors="replace")
                return http.HTTPStatus.OK, f"{await self._book.call(GuestBook.sign, line)}\n"
        except ValueError as e:  # also the one that the command raised, on every replica
            return http.HTTPStatus.BAD_REQUEST, f"{e}\n"
        except WormError as e:
            return http.HTTPStatus.SERVICE_UNAVAILABLE, f"{e}\n"
        return http.HTTPStatus.METHOD_NOT_ALLOWED, "GET or POST\n"


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--url", default="file:./guest-book", help="the address space")
    parser.add_argument("--http", type=int, default=8080, help="the port of the web server")
    parser.add_argument("--host", default="127.0.0.1", help="how other replicas reach this one")
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    async with (
        wormspace.connect(arguments.url) as worm,
        await worm.replicate(GuestBook, "guest-book", host=arguments.host) as book,
    ):
        server = await asyncio.start_server(
            Web(book).on_connection, arguments.host, arguments.http, limit=HEAD_LIMIT
        )
        print(f"http://{arguments.host}:{arguments.http}/", flush=True)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
