"""Who shows no key is refused before anything that was sent is read."""

from __future__ import annotations

import hmac

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .answers import problem


class Guarded:
    """An application whose `/v1/` wants `key`, as `Authorization: Bearer KEY`. Everything else is open."""

    def __init__(self, app: ASGIApp, *, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request: passed on, or answered with 401."""
        if scope["type"] == "http" and scope["path"].startswith("/v1/") and not self._shown(scope):
            body = problem(401, "the API key is missing or wrong", code="invalid_api_key")
            refusal = JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _shown(self, scope: Scope) -> bool:
        kind, _, shown = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(shown.strip(), self._key)
