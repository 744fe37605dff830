"""One step of a message, as an agent of a stream says it: the row that is sampled for it, and the turn that it becomes.

A message that goes on does so from the very ids that were said, with the random numbers of the same key; so an agent
that hears nobody says in steps what it would have said in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..model.decoding import Row, Stop
from ..model.generate import Generator
from ..model.render import Rendered, Renderer
from ..model.sampling import Sampling
from ..model.spelling import Speller
from ..records import Dialogue, Question, Turn
from ..settings.workflow import Streaming, Workflow
from ..tasks import answers
from ..team.dialogue import Cue, stand
from ..team.hearing import overheard
from ..team.segments import Segmenter


class Utterance:
    """What is said next in a stream. ids: what its speaker has read, and what it has said of the message so far."""

    def __init__(self, question: Question, cue: Cue, *, workflow: Workflow, renderer: Renderer) -> None:
        assert workflow.stream is not None
        self._cue, self._workflow, self._renderer, self._how = cue, workflow, renderer, workflow.stream
        name, now = cue.step.name, stand(cue.dialogue.turns, workflow)
        seen = overheard(question, now, cue.step, workflow=workflow, format=cue.dialogue.format, following=True)
        going_on = now.stream.open(name)
        self._earlier = [now.turns[k] for k in going_on.steps] if going_on else []
        self._begun = [i for turn in self._earlier for i in turn.ids]
        self._before = sum(len(turn.ids) for turn in now.said(name)) - len(self._begun)
        self._answers = bool(now.stream.member(name).hears)
        self._last = not self._answers and len(self._earlier) + 1 >= self._how.most
        # An answer to others is one step, whatever its sentences; and the last step may be all that is left.
        all_of_it = self._how.border == "sentence" if self._answers else self._last and not self._how.cuts
        self._bordered = not all_of_it
        self.ids = (*renderer.prompt(seen[:-1] if going_on else seen), *self._begun)

    def row(self, *, sampling: Sampling, key: int) -> Row:
        """What is to be carried on, where it has room `left` for a word. All that an agent says takes no more tokens
        than one whole message may."""
        most = sampling.max_new_tokens - self._before
        if self._how.step_tokens and self._bordered:
            most = min(most, len(self._begun) + self._how.step_tokens)
        watch = self._watch if self._bordered else None
        self._row = Row(key, len(self.ids) - len(self._begun), [*self.ids], most, watch)
        return self._row

    @property
    def turn(self) -> Turn:
        """What was said, once the row has been carried on."""
        ids = tuple(self._row.said[len(self._begun) :])
        text = self._renderer.text(ids) if self._answers and not self._bordered else self._text(ids)
        counts = self._cue.step.name in self._workflow.answer
        answer = answers.extract(text, metric=self._workflow.metric) if counts else None
        return Turn(self._workflow.speaker(self._cue.step), ids, text, answer, self._finished(ids))

    def _text(self, ids: Sequence[int]) -> str:
        steps, found = _Steps(self._renderer, self._how, self._earlier), list[str]()
        while ids or not found:
            after = steps.take(ids) or len(ids)
            found.append(steps.end())
            ids = ids[after:]
        return "\n".join(filter(None, found))

    def _finished(self, ids: Sequence[int]) -> bool:
        """Whether the message is over with this step. Of a whole message the last step that it may have ends it; an
        answer to others always does, unless it was cut."""
        if ids and ids[-1] in self._renderer.end_ids:
            return True
        handed_on = self._bordered and (self._row.paused or len(ids) == self._how.step_tokens)
        return handed_on and (self._answers or self._last)

    def _watch(self, said: Sequence[int]) -> Stop:
        steps = _Steps(self._renderer, self._how, self._earlier)
        steps.take(said[len(self._begun) :])
        return steps.take


def say_steps(
    generator: Generator, steps: Sequence[Utterance], *, keys: Sequence[int], sampling: Sampling
) -> list[Turn]:
    """What is said at the steps that can be taken now, in one batch; one without room for a word is silent."""
    rows = [step.row(sampling=sampling, key=key) for step, key in zip(steps, keys, strict=True)]
    generator.carry_on([row for row in rows if row.left > 0], sampling=sampling)
    return [step.turn for step in steps]


def say_whole(
    generator: Generator,
    renderer: Renderer,
    how: Streaming,
    prompts: Sequence[tuple[int, ...]],
    *,
    keys: Sequence[int],
    sampling: Sampling,
) -> list[Row]:
    """The rows of messages that are handed on whole, carried on to the end that they would have in a stream."""
    watch, most = watching(renderer, how) if how.cuts else None, sampling.max_new_tokens
    rows = [Row(key, len(ids), [*ids], most, watch) for ids, key in zip(prompts, keys, strict=True)]
    generator.carry_on(rows, sampling=sampling)
    return rows


def steps_read(
    question: Question, dialogue: Dialogue, *, workflow: Workflow, renderer: Renderer
) -> list[tuple[int, list[int], Rendered]]:
    """All that was read and said at each step of a workflow that streams, with who speaks there and the numbers of the
    turns that are its spans; a message of several turns has as many spans."""
    now = stand(dialogue.turns, workflow)
    found = []
    for step in now.steps:
        numbers = [k for message in now.stream.messages(step.name) for k in message.steps if now.turns[k].ids]
        if not numbers:
            continue
        row = renderer.conversation(overheard(question, now, step, workflow=workflow))
        lengths = iter([len(now.turns[k].ids) for k in numbers])
        spans: list[tuple[int, int]] = []
        for start, end in row.spans:
            while start < end:
                spans.append((start, start + next(lengths)))
                start = spans[-1][1]
        found.append((workflow.speaker(step), numbers, Rendered(row.ids, tuple(spans), in_steps=True)))
    return found


def watching(renderer: Renderer, how: Streaming) -> Callable[[Sequence[int]], Stop]:
    """What ends a message that is handed on whole with the last step that it may have, as it would end in a stream."""

    def watch(said: Sequence[int]) -> Stop:
        steps, since, count = _Steps(renderer, how, ()), 0, 0

        def stop(tokens: Sequence[int]) -> int | None:
            nonlocal since, count
            begin = 0
            while begin < len(tokens):
                end = begin + how.step_tokens - since if how.step_tokens else len(tokens)
                some = tokens[begin:end]
                after = steps.take(some)
                begin, since = begin + (after or len(some)), since + (after or len(some))
                if after or since == how.step_tokens:
                    steps.end()
                    since, count = 0, count + 1
                    if count == how.most:
                        return begin
            return None

        stop(said)
        return stop

    return watch


class _Steps:
    """The steps of one message, as its tokens come. earlier: those that it begins with."""

    def __init__(self, renderer: Renderer, how: Streaming, earlier: Sequence[Turn]) -> None:
        self._segmenter, self._spell = Segmenter(how), Speller(renderer.decode)
        self._done: list[str] = []
        for turn in earlier:
            self._done = self._segmenter.feed(self._spell(turn.ids))
            self.end()

    def take(self, tokens: Sequence[int]) -> int | None:
        """More tokens. After how many of them a step ends, with which the others do not count; None if none does."""
        if not self._segmenter.may_end(self._spell.peek(tokens)):
            self._segmenter.feed(self._spell(tokens))
            return None
        for number, token in enumerate(tokens, start=1):
            self._done = self._segmenter.feed(self._spell([token]))
            if self._done:
                return number
        return None

    def end(self) -> str:
        """The text of the step that has ended, at a border or without one."""
        done, self._done = self._done, []
        return "\n".join(filter(None, done)) if done else self._segmenter.take()
