"""The HTTP side: routes, streams, errors, limits. A request goes through here from top to bottom."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..errors import ModelError
from . import answers
from .address import Limits
from .admission import Admission, Full
from .answers import Delta, Letterhead, Outcome
from .bounds import Bounded
from .company import Company, Task
from .engine import Ended, Engine, Voice
from .guard import Guarded
from .metrics import Metrics
from .requests import ChatRequest, Refusal
from .speaking import Manner, TeamTalk

_HERE = ["127.0.0.1", "localhost", "[::1]", "::1"]
_ELSEWHERE = "/v1/"


class Service:
    """What the routes stand on: who answers, in which order, and where it is counted."""

    def __init__(self, company: Company, engine: Engine, limits: Limits, *, fingerprint: str) -> None:
        self.company, self.engine, self.limits, self.fingerprint = company, engine, limits, fingerprint
        self.admission = Admission(limits.waiting)
        self.metrics = Metrics(engine, self.admission)
        self.created = int(time.time())
        self._pool = ThreadPoolExecutor(limits.waiting + 8, thread_name_prefix="dialogue")

    def head(self, model: str) -> Letterhead:
        """The beginning of a new answer."""
        return Letterhead(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), model, self.fingerprint)

    async def task(self, asked: ChatRequest) -> Task:
        """What a request comes down to. Raises Refusal."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.company.task, asked)

    async def said(self, task: Task, manner: Manner, told: asyncio.Queue[tuple[int, Delta | None]]) -> Outcome:
        """One choice, as soon as there is room for it. Raises Ended, ModelError. told: hears what it says, and None at
        its end."""
        loop = asyncio.get_running_loop()

        def tell(delta: Delta) -> None:
            if delta.content or delta.reasoning:
                loop.call_soon_threadsafe(told.put_nowait, (manner.number, delta))

        async with self.admission.place(task.share):
            voice = Voice(self.engine, most=manner.most)
            try:
                outcome = await loop.run_in_executor(self._pool, task.work.speak, voice, manner, tell)
            finally:
                voice.cancel()
        if isinstance(task.work, TeamTalk):
            self.company.learn(outcome.said)
            self.metrics.turns.inc(len(outcome.extension["dialogue"]))
        else:
            self.metrics.turns.inc()
        return outcome

    async def close(self) -> None:
        """Ends the engine, and everything that waits for it."""
        self.engine.stop()
        await asyncio.to_thread(self.engine.join)
        self._pool.shutdown(wait=False, cancel_futures=True)


def application(service: Service) -> FastAPI:
    """The application, ready for any ASGI server. The engine runs from its start to its end."""
    limits = service.limits

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        yield
        await service.close()

    wrong: dict[int | str, dict[str, Any]] = {
        status: {"model": answers.ErrorBody} for status in (400, 401, 404, 405, 408, 413, 429, 500, 503, 504)
    }
    app = FastAPI(
        title="optima-lite",
        version=version("optima-lite"),
        lifespan=life,
        docs_url=None,  # these pages load their script from elsewhere
        redoc_url=None,
        responses=wrong,
    )
    app.add_middleware(Bounded, most=limits.body, seconds=limits.seconds)
    if limits.key:
        app.add_middleware(Guarded, key=limits.key)
    if limits.loopback:  # another site's name may lead here, and its pages could then read what is answered
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_HERE)
    if limits.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(limits.origins), allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    _add_errors(app)
    keyed = [Depends(HTTPBearer(auto_error=False))]  # for the description; `Guarded` looks

    @app.get("/health")
    async def health() -> Response:
        """Whether anything can be answered."""
        alive = service.engine.is_alive()
        return _json(200 if alive else 503, {"status": "ok" if alive else "the engine has ended"})

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", response_model=answers.ModelsBody, dependencies=keyed)
    async def models() -> Response:
        """Who can be asked."""
        found = [answers.model(name, service.created) for name in service.company.models]
        return _json(200, {"object": "list", "data": found})

    @app.get("/v1/models/{name}", response_model=answers.ModelBody, dependencies=keyed)
    async def model(name: str) -> Response:
        """Whether somebody can be asked."""
        if name not in service.company.models:
            raise Refusal(404, "there is no such model", param="model", code="model_not_found")
        return _json(200, answers.model(name, service.created))

    @app.post(
        "/v1/chat/completions",
        response_model=answers.CompletionBody,
        responses={200: {"content": {"text/event-stream": {}}}},
        dependencies=keyed,
    )
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """The team's answer, or a role's next message."""
        return await _answered(service, asked, request)

    return app


async def _answered(service: Service, asked: ChatRequest, request: Request) -> Response:
    began, known = time.monotonic(), asked.model in service.company.models
    model = asked.model if known else "unknown"

    def count(status: int) -> None:
        service.metrics.requests.labels(model, str(status)).inc()
        service.metrics.seconds.labels(model).observe(time.monotonic() - began)

    status: int | None = 500
    try:
        async with AsyncExitStack() as stack:
            if not service.engine.is_alive():
                raise Ended
            if asked.choices > service.admission.most:
                raise Refusal(400, f"n is more than the {service.admission.most} that may wait at all", param="n")
            stack.enter_context(service.admission.counted(asked.choices))
            task = await service.task(asked)
            if asked.stream:
                status = None  # it counts itself
                return _Stream(service, asked, task, stack.pop_all(), count, began)
            outcomes = await _unless_gone(request, _all_said(service, task), service.limits.seconds)
            status = 200
    except (Refusal, Full, Ended, ModelError, TimeoutError) as error:
        refusal = _refusal(error, service.limits)
        status = refusal.status
        raise refusal from error
    except _Gone:
        status = 499
        return Response(status_code=status)  # nobody reads it
    finally:
        if status is not None:
            count(status)
    return _json(200, answers.completion(service.head(asked.model), outcomes))


class _Gone(Exception):
    """The client has gone away."""


def _refusal(error: Exception, limits: Limits) -> Refusal:
    """What the client is told of an error."""
    match error:
        case Refusal():
            return error
        case Full():
            return Refusal(429, f"{limits.waiting} requests are waiting already", code="rate_limit_exceeded")
        case TimeoutError():
            return Refusal(504, f"no answer within {limits.seconds:g} seconds", code="timeout")
        case ModelError():
            return Refusal(503, str(error), code="out_of_memory")
    return Refusal(503, "the server is going down", code="shutting_down")


async def _all_said(service: Service, task: Task) -> list[Outcome]:
    told: asyncio.Queue[tuple[int, Delta | None]] = asyncio.Queue()
    return await _together([service.said(task, manner, told) for manner in task.manners])


async def _together(works: Sequence[Awaitable[Outcome]]) -> list[Outcome]:
    """All of them side by side; when one fails, the others end, too."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for one in tasks:
            one.cancel()


async def _unless_gone(request: Request, work: Awaitable[list[Outcome]], seconds: float) -> list[Outcome]:
    """What comes of the work, which ends when the client goes away, or time is up."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        async with asyncio.timeout(seconds):
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _Gone
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Stream(StreamingResponse):
    """An answer bit by bit. held: what is given back at its end, whatever that is."""

    def __init__(
        self,
        service: Service,
        asked: ChatRequest,
        task: Task,
        held: AsyncExitStack,
        count: Callable[[int], None],
        began: float,
    ) -> None:
        self._service, self._asked, self._task, self._held = service, asked, task, held
        self._count, self._began = count, began
        self._source = self._events()
        super().__init__(self._source, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it; what it held is free afterwards, also where the client went away before the first byte."""
        async with self._held:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._source.aclose()

    async def _events(self) -> AsyncGenerator[str, None]:
        service, head = self._service, self._service.head(self._asked.model)
        told: asyncio.Queue[tuple[int, Delta | None]] = asyncio.Queue()
        status = 499  # until it is known better: the client has gone
        works = asyncio.ensure_future(_together([self._one(manner, told) for manner in self._task.manners]))
        try:
            async with asyncio.timeout(service.limits.seconds):
                for manner in self._task.manners:
                    yield _event(answers.opening_chunk(head, manner.number))
                first, going = True, len(self._task.manners)
                while going:
                    number, delta = await told.get()
                    if delta is None:
                        going -= 1
                        continue
                    if first:
                        service.metrics.first.labels(self._asked.model).observe(time.monotonic() - self._began)
                        first = False
                    yield _event(answers.delta_chunk(head, number, delta))
                outcomes = await works
            for number, outcome in enumerate(outcomes):
                yield _event(answers.closing_chunk(head, number, outcome))
            if self._asked.stream_options and self._asked.stream_options.include_usage:
                yield _event(answers.usage_chunk(head, outcomes))
            yield "data: [DONE]\n\n"
            status = 200
        except (Ended, ModelError, TimeoutError) as error:
            refusal = _refusal(error, service.limits)
            status = refusal.status
            yield _event(answers.problem(refusal.status, refusal.message, code=refusal.code))
        finally:
            works.cancel()
            self._count(status)

    async def _one(self, manner: Manner, told: asyncio.Queue[tuple[int, Delta | None]]) -> Outcome:
        try:
            return await self._service.said(self._task, manner, told)
        finally:
            told.put_nowait((manner.number, None))


def _event(chunk: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def _json(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """JSON of ASCII characters alone: half a surrogate pair in a client's text cannot break it."""
    return Response(json.dumps(body), status, media_type="application/json", headers=dict(headers or {}))


def _add_errors(app: FastAPI) -> None:
    """Every error has OpenAI's shape."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        again = {"Retry-After": "1"} if error.status == 429 else {}
        return _json(
            error.status,
            answers.problem(error.status, error.message, param=error.param, code=error.code),
            headers=again,
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][1:]))[:200]
        return _json(400, answers.problem(400, f"{place or 'body'}: {first['msg']}"[:500], param=place or None))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        told = str(error.detail)
        if error.status_code == 404 and request.url.path.startswith(_ELSEWHERE):
            told = f"there is no {request.url.path[:100]} here; this server answers POST /v1/chat/completions"
        return _json(error.status_code, answers.problem(error.status_code, told), headers=error.headers)

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        return _json(500, answers.problem(500, "something is wrong in the server; its terminal shows what"))
