"""Rows of many callers in one running batch: each says what it would say alone, and nobody is forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.model.generate import Generator  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.model.render import Rendered  # noqa: E402
from optima_lite.model.sampling import Sampling  # noqa: E402
from optima_lite.serve.engine import Cancelled, Ended, Engine, Voice  # noqa: E402

HOWS = (Sampling(0.0, 1.0, 12), Sampling(1.0, 1.0, 20), Sampling(1.3, 0.8, 9), Sampling(0.7, 1.0, 16))
NAMES = ("one", "two")
PROMPTS = [tuple(range(20 + k, 60 + 3 * k)) for k in range(8)]


@pytest.fixture(scope="module")
def exact() -> Policy:
    """The bundled model in double precision, with two adapters that say different things."""
    from optima_lite.model.loading import load
    from optima_lite.settings.machine import Machine
    from optima_lite.settings.sections import ModelSettings

    policy = load(ModelSettings(name="tiny"), machine=Machine(), seed=0)
    policy.model.double()
    policy.hold(NAMES)
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in policy.weights(name):
                weight.normal_(0, 0.15)
    return policy


def generator(policy: Policy, **how: int) -> Generator:
    return Generator(policy, **{"max_batch_tokens": 1000, **how})


@pytest.fixture(scope="module")
def alone(exact: Policy) -> list[tuple[int, ...]]:
    """What every caller says by itself; found out before any engine owns the model."""
    said = []
    for k, prompt in enumerate(PROMPTS):
        exact.wear(NAMES[k // 2 % 2])
        plain = generator(exact, max_cache_bytes=0)
        said += plain.generate([prompt], sampling=HOWS[k % len(HOWS)], keys=[k])
    return said


def say(engine: Engine, k: int, **how: Any) -> tuple[int, ...]:
    voice = Voice(engine, **how)
    voice.wear(NAMES[k // 2 % 2])
    (said,) = voice.generate([PROMPTS[k]], sampling=HOWS[k % len(HOWS)], keys=[k])
    assert (voice.read, voice.said) == (len(PROMPTS[k]), len(said))
    return said


def all_at_once(work: Callable[[int], Any], numbers: Sequence[int]) -> list[Any]:
    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(work, numbers))


@pytest.fixture
def engine(exact: Policy, alone: object) -> Any:
    engine = Engine(generator(exact))
    engine.start()
    yield engine
    engine.stop()
    engine.join(20)
    assert not engine.is_alive() and not engine.failed


def test_everybody_says_what_they_would_say_alone(engine: Engine, alone: list[tuple[int, ...]]) -> None:
    """Other samplings, other adapters, other lengths, in one engine."""
    heard = all_at_once(lambda k: say(engine, k), range(8))
    assert heard == alone and len(set(heard)) == 8
    assert engine.running == engine.waiting == 0


def test_what_is_heard_on_the_way_is_what_was_said(engine: Engine) -> None:
    pieces: list[Sequence[int]] = []
    said = say(engine, 1, hear=pieces.append)
    assert [i for piece in pieces for i in piece] == list(said) and len(pieces) > 1


def test_a_limit_of_all_tokens_is_kept(engine: Engine) -> None:
    assert say(engine, 1, most=5) == say(engine, 1)[:5]
    voice = Voice(engine, most=7)
    said = voice.generate(PROMPTS[:3], sampling=HOWS[1], keys=[0, 1, 2])
    assert [len(one) for one in said] == [2, 2, 2]
    assert voice.generate(PROMPTS[:3], sampling=HOWS[1], keys=[0, 1, 2]) == [(), (), ()]


def test_who_is_cancelled_leaves_and_the_others_do_not_notice(engine: Engine, alone: list[tuple[int, ...]]) -> None:
    voices: dict[int, Voice] = {}
    begun = threading.Barrier(4)

    def one(k: int) -> Any:
        voices[k] = Voice(engine, hear=lambda ids: voices[k].cancel() if k % 2 else None)
        begun.wait()
        voices[k].wear(NAMES[k // 2 % 2])
        try:
            return voices[k].generate([PROMPTS[k]], sampling=HOWS[k % len(HOWS)], keys=[k])[0]
        except Cancelled:
            return "gone"

    heard = all_at_once(one, range(4))
    assert heard == [alone[0], "gone", alone[2], "gone"]
    assert engine.waiting == 0


def test_the_base_reads_between_batches(exact: Policy, alone: list[tuple[int, ...]]) -> None:
    rows = [Rendered(PROMPTS[k], ((30, 35),)) for k in range(3)]
    read = generator(exact, max_cache_bytes=0).losses(rows)
    engine = Engine(generator(exact))
    engine.start()
    heard = all_at_once(lambda k: Voice(engine).losses([rows[k]])[0] if k < 3 else say(engine, k), range(8))
    assert [one for (one,) in heard[:3]] == pytest.approx([one for (one,) in read], rel=1e-12)
    assert heard[3:] == alone[3:]
    engine.stop()
    engine.join(20)


def test_what_arrives_together_is_computed_once(exact: Policy) -> None:
    engine = Engine(generator(exact))
    voice, prompt = Voice(engine), tuple(range(20, 120))
    jobs = ThreadPoolExecutor(1)
    waiting = jobs.submit(voice.generate, [prompt] * 4, sampling=HOWS[1], keys=range(4))
    while not engine.waiting:
        pass
    engine.start()
    said = waiting.result()
    computed = engine.generator.counts.computed
    again = voice.generate([prompt], sampling=HOWS[0], keys=[0])
    assert len({*said}) == 4 and again
    assert computed <= len(prompt) + 4, "the prompt once, and its last token for each row"
    assert engine.generator.counts.computed == computed + 1, "and never again"
    engine.stop()
    engine.join(20)


def test_an_engine_that_breaks_lets_everybody_go_and_says_why(exact: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException] = []
    monkeypatch.setattr(threading, "excepthook", lambda hook: told.append(hook.exc_value))
    ended: list[bool] = []
    engine = Engine(generator(exact), at_end=lambda: ended.append(True))
    monkeypatch.setattr(engine.generator.states, "forward", lambda *_: 1 / 0)
    engine.start()
    for _ in range(2):
        with pytest.raises(Ended):
            say(engine, 0)
    engine.join(20)
    assert engine.failed and engine.ended and ended == [True]
    assert isinstance(told[0], ZeroDivisionError), "the error keeps its traceback"


def test_who_still_waits_when_the_engine_stops_is_let_go(exact: Policy) -> None:
    engine = Engine(generator(exact))
    engine.start()
    with pytest.raises(Ended):
        say(engine, 1, hear=lambda ids: engine.stop())
    engine.join(20)
    assert not engine.is_alive() and not engine.failed


class Work:
    """What goes through the model of an engine: calls of a slice, and the prompt tokens computed before each."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stretches = [0]
        states = engine.generator.states
        forward = states.forward

        def counted(base: Any, batch: Any) -> Any:
            columns = batch.ids.shape[1]
            if columns == 1:
                self.stretches.append(0)
            else:
                self.stretches[-1] += batch.ids.numel()
            return forward(base, batch)

        monkeypatch.setattr(states, "forward", counted)


LONG = [tuple(range(20 + k, 180 + k)) for k in range(2)]


def join_in(engine: Engine, work: Callable[[int], Any], count: int) -> list[Any]:
    """What comes of works that begin together in the middle of what somebody else says."""
    begun: list[Any] = []
    others = ThreadPoolExecutor(count)

    def begin(ids: Sequence[int]) -> None:
        if not begun:
            begun.extend(others.submit(work, k) for k in range(count))
            while engine.waiting <= count:
                pass

    engine.start()
    speaker = Voice(engine, hear=begin)
    speaker.wear("one")
    speaker.generate([PROMPTS[0]], sampling=Sampling(1.0, 1.0, 60), keys=[7])
    found = [one.result() for one in begun]
    engine.stop()
    engine.join(20)
    return found


@pytest.mark.parametrize("stretch", [64, 10_000])
def test_who_speaks_does_not_wait_for_a_long_prompt(
    exact: Policy, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    """Between two of its tokens never more than a stretch is computed for others, though their prompts are longer; and
    what they say, and what is computed for it in all, is as without the stretches."""
    monkeypatch.setattr("optima_lite.serve.arrivals.STRETCH", stretch)
    exact.wear("one")
    plain = generator(exact, max_cache_bytes=0)
    wanted = plain.generate(LONG, sampling=HOWS[0], keys=[0, 1])
    engine = Engine(generator(exact))
    work = Work(engine, monkeypatch)

    def read(k: int) -> Any:
        voice = Voice(engine)
        (said,) = voice.generate([LONG[k]], sampling=HOWS[0], keys=[k])
        return said, voice.read, voice.reused

    assert join_in(engine, read, 2) == [(said, 160, 0) for said in wanted]
    assert engine.generator.counts.computed == 2 * 160 + len(PROMPTS[0])
    assert engine.generator.counts.reused == 0
    longest = max(work.stretches[1:])
    assert longest == (64 if stretch == 64 else 2 * 159), "all but the last token, which goes with the others'"


def test_a_prompt_that_the_cache_cannot_hold_joins_as_it_is(exact: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optima_lite.serve.arrivals.STRETCH", 16)
    engine = Engine(generator(exact, max_cache_bytes=0))
    work = Work(engine, monkeypatch)
    (said,) = join_in(engine, lambda k: Voice(engine).generate([LONG[k]], sampling=HOWS[0], keys=[k]), 1)
    assert said and max(work.stretches[1:]) == 16 + 159, "it is tried once, in vain"
