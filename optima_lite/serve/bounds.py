"""The body of a request within bounds: a limit of bytes, and of seconds for a client that sends it drop by drop."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Bounded:
    """An application that reads no more than `most` bytes of a body, and waits `seconds` for it."""

    def __init__(self, app: ASGIApp, *, most: int, seconds: float) -> None:
        self._app, self._most, self._seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. While its body is read, HTTPException 413 or 408 is raised where it is out of bounds."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read, whole = 0, False
        until = asyncio.get_running_loop().time() + self._seconds

        async def bounded() -> Message:
            nonlocal read, whole
            if whole:
                return await receive()  # now it waits for the client to go away
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"the body did not arrive within {self._seconds:g} seconds") from error
            read += len(message.get("body", b""))
            if read > self._most:
                raise HTTPException(413, f"the body is larger than {self._most} bytes")
            whole = not message.get("more_body", False)
            return message

        await self._app(scope, bounded, send)
