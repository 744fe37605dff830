"""Prompts, token ids and the generator put together: agents that talk."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..model.generate import Generator
from ..model.render import Rendered, Renderer, shorten
from ..model.sampling import Sampling, row_key
from ..records import Dialogue, Layout, Question, Rollouts, Turn
from ..settings.agents import Agent
from ..settings.workflow import QUESTION, Role, Step, Workflow
from ..tasks import answers
from ..tasks.answers import Scoring
from ..team.dialogue import Cue, converse, cues, extend, moment, stand, taken
from ..team.hearing import around, inputs
from ..team.prompts import Message, brief, filled, longest_brief, longest_talks, opening, view
from ..team.retrieval import Index, index_of
from ..team.streamed import Done
from ..team.tools import retrieve, run_tests
from .elsewhere import Elsewhere
from .reward import Own
from .stepping import Utterance, say_steps, say_whole, steps_read

Advance = Callable[[int, int], None]
"""Told of progress: dialogues that are newly done, tokens that were sampled. A dialogue under way counts as the share
of its turns that have been spoken, because most dialogues end at about the same time."""

Drafts = tuple[Question, Sequence[Dialogue]]
"""Unfinished dialogues about a question that stay together."""

_AROUND = 8  # tokens that stand around a message in a view: header, turn end, the speaker's name


@dataclass(frozen=True, slots=True)
class Speakers:
    """Who talks, and how, without anything that a process holds; see `Agents`. living: of a market's population."""

    workflow: Workflow
    layout: Layout = "alternating"
    living: tuple[Agent, ...] = ()


@dataclass(frozen=True)
class Agents:
    """All that is needed to hold a dialogue, and to score it. layout: of the chat (see `prompts.view`). own, tool: the
    user's own term of the reward and tool, None where the recipe uses none. indexes: by their names in the workflow
    where facts are looked up, beside the question's own. elsewhere: who speaks for roles that our model does not."""

    generator: Generator
    renderer: Renderer
    workflow: Workflow
    scoring: Scoring
    layout: Layout = "alternating"
    own: Own | None = None
    tool: Callable[[Question, str], str] | None = None
    indexes: Mapping[str, Index] = field(default_factory=dict)
    elsewhere: Elsewhere = field(default_factory=Elsewhere)

    @property
    def speakers(self) -> Speakers:
        """Who they are, for another process."""
        return Speakers(self.workflow, self.layout)

    def fit(self, questions: Sequence[Question], *, max_turn_tokens: int) -> list[Question]:
        """The questions with facts short enough that a dialogue of full length stays within the model's limit.

        Cut by the rule of `render.shorten`; count the changes with `shortened`. Raises DataError when a question does
        not even fit without its facts.
        """
        return [self._fit(question, max_turn_tokens) for question in questions]

    def _fit(self, question: Question, max_turn_tokens: int) -> Question:
        bare = replace(question, contexts=((), ()))
        longest = Turn(0, (self.generator.policy.pad_id,) * max_turn_tokens, "")
        formats = 40  # tokens set aside for a format instruction and the line that introduces the facts
        rooms = []
        for used, shown in self._longest(bare, longest):
            room = self.generator.policy.max_length - used - formats
            if shown or room < 0:
                rooms.append(room // max(shown, 1))
        return shorten(question, self.renderer, room=min(rooms, default=self.generator.policy.max_length))

    def _longest(self, bare: Question, longest: Turn) -> Iterator[tuple[int, int]]:
        """The most tokens of everything that is read in a dialogue, facts apart, and how many shares of facts are read
        with it."""
        workflow = self.workflow
        for speaker, speakers in longest_talks(workflow):
            turns = [replace(longest, speaker=one) for one in speakers]
            messages = view(bare, turns, speaker, workflow=workflow, layout=self.layout)
            shares = {"all": len(bare.contexts), "share": 1, "none": 0}[workflow.roles[speaker].facts]
            talking = (step for step in workflow.steps if step.reads is None)
            most = max(around(step, workflow, length=self._length) for step in talking)
            yield len(self.renderer.conversation(messages).ids) + most, shares
        for step in workflow.steps:
            if step.reads is not None and not step.tool:
                messages, inputs, shares = longest_brief(bare, step, workflow=workflow)
                used = len(self.renderer.prompt(messages)) + (inputs + 1) * len(longest.ids)
                yield used + around(step, workflow, length=self._length), shares

    def _length(self, text: str) -> int:
        return len(self.renderer.encode(text))

    def windows(
        self, drafts: Sequence[Drafts], *, sampling: Sampling, times: int = 1, sides: int = 1
    ) -> Iterator[Sequence[Drafts]]:
        """The drafts in windows, of which each is to be carried to its end before the next begins: as many as the
        prefix cache can hold with all that will be said, or as make a batch where it cannot even hold one.

        The first window reckons with messages of full length, each later one with the mean of what has been sampled
        since. times: how often each draft is carried on, of which only the latest needs the cache. sides: 2 where the
        base model reads every view as well, whose states are its own.
        """
        turns, before, done = self.workflow.max_steps, self._said, 0
        growth = turns * (sampling.max_new_tokens + _AROUND)
        while drafts:
            fitting = self._fitting(drafts, growth, sides) if turns > 1 else len(drafts)  # one turn reuses nothing
            window, drafts = drafts[:fitting], drafts[fitting:]
            yield window
            done += times * sum(len(dialogues) for _, dialogues in window)
            growth = turns * _AROUND + (self._said - before) // done

    @property
    def _said(self) -> int:
        """Tokens so far, here and elsewhere."""
        return self.generator.counts.sampled + self.elsewhere.tokens

    def _fitting(self, drafts: Sequence[Drafts], growth: int, sides: int) -> int:
        """How many drafts, from the first on, belong into one window when every view grows by so many tokens."""
        states = self.generator.states
        openings: set[tuple[int, ...]] = set()
        grown = 0
        for count, (question, dialogues) in enumerate(drafts if states.room else ()):
            begun = [self._openings(question, dialogue.format) for dialogue in dialogues]
            openings.update(*begun)
            grown += sum(map(len, begun)) * growth
            if sides * (sum(map(len, openings)) + grown) > states.room:
                row = max(map(len, openings)) + growth
                return count or max(1, states.max_batch_tokens // (row * len(dialogues)))
        return len(drafts)

    def extent(self, question: Question, *, growth: int) -> tuple[int, int]:
        """Tokens that a dialogue keeps in the prefix cache when every view of it grows by so many; and its longest."""
        begun = [len(ids) + growth for ids in self._openings(question, None)]
        return sum(begun), max(begun)

    def _openings(self, question: Question, format: str | None) -> list[tuple[int, ...]]:
        """What every view of a dialogue begins with: the conversation for each role in it, and each template; of the
        roles that our model speaks."""
        workflow = self.workflow
        own = [step for step in workflow.steps if not step.tool and not self._role(step).spoken_by]
        speakers = sorted({workflow.speaker(step) for step in own if step.reads is None})
        views = [self._talk_prompt(question, (), speaker, format) for speaker in speakers]
        templates = [step for step in own if step.reads is not None]
        return views + [self.renderer.prompt(longest_brief(question, step, workflow=workflow)[0]) for step in templates]

    def talk(
        self,
        questions: Sequence[Question],
        drafts: Sequence[Dialogue],
        *,
        sampling: Sampling,
        seed: Sequence[object],
        advance: Advance,
    ) -> list[Dialogue]:
        """Every draft carried on to its end; `questions` holds those that the drafts are about.

        seed: what distinguishes this sampling from others (run seed, iteration, ...); with the question's id, the
        rollout and the turn it decides every row's random numbers.
        """
        by_id = {question.id: question for question in questions}
        told = 0

        def speak(ready: Sequence[Cue]) -> list[Turn]:
            nonlocal told
            turns = self.speak([(by_id[cue.dialogue.question], cue) for cue in ready], sampling=sampling, seed=seed)
            going = {(cue.dialogue.question, cue.dialogue.rollout): len(cue.dialogue.turns) for cue in ready}
            begun = (sum(going.values()) + len(ready)) // self.workflow.most_turns
            done = len(drafts) - len(going) + begun
            advance(done - told, sum(len(turn.ids) for turn in turns))
            told = done
            return turns

        finished = converse(drafts, workflow=self.workflow, speak=speak)
        advance(len(drafts) - told, 0)
        return finished

    def speak(self, ready: Sequence[tuple[Question, Cue]], *, sampling: Sampling, seed: Sequence[object]) -> list[Turn]:
        """What is said at every step that can be taken, sampled in one go for each adapter; tools answer by
        themselves."""
        room = sampling.max_new_tokens
        said = {k: self._use(question, cue, room) for k, (question, cue) in enumerate(ready) if cue.step.tool}
        keyed = [row_key(*seed, cue.dialogue.question, cue.dialogue.rollout, cue.number) for _, cue in ready]
        for name in self.workflow.elsewhere:
            numbers = [
                k for k, (_, cue) in enumerate(ready) if k not in said and self._role(cue.step).spoken_by == name
            ]
            turns = self._hear(name, [ready[k] for k in numbers], [keyed[k] for k in numbers], sampling)
            said |= zip(numbers, turns, strict=True)
        for adapter, most in dict.fromkeys((role.adapter, role.max_tokens) for role in self.workflow.roles):
            alike = (adapter, most)
            numbers = [k for k, (_, cue) in enumerate(ready) if k not in said and self._manner(cue.step) == alike]
            if not numbers:
                continue
            keys = [keyed[k] for k in numbers]
            limited = replace(sampling, max_new_tokens=min(most or room, room))
            self.generator.wear(adapter)
            say = self._say_steps if self.workflow.streams else self._say
            said |= zip(numbers, say([ready[k] for k in numbers], keys, limited), strict=True)
        return [said[k] for k in range(len(ready))]

    def _say(self, ready: Sequence[tuple[Question, Cue]], keys: Sequence[int], sampling: Sampling) -> list[Turn]:
        prompts = [self.prompt_of(question, cue) for question, cue in ready]
        if self.workflow.stream is None:
            sampled = self.generator.generate(prompts, sampling=sampling, keys=keys)
            return [self.turn(cue, ids) for (_, cue), ids in zip(ready, sampled, strict=True)]
        rows = say_whole(self.generator, self.renderer, self.workflow.stream, prompts, keys=keys, sampling=sampling)
        turns = [self.turn(cue, tuple(row.said)) for (_, cue), row in zip(ready, rows, strict=True)]
        return [replace(turn, finished=turn.finished or row.paused) for turn, row in zip(turns, rows, strict=True)]

    def _say_steps(self, ready: Sequence[tuple[Question, Cue]], keys: Sequence[int], sampling: Sampling) -> list[Turn]:
        steps = [Utterance(*one, workflow=self.workflow, renderer=self.renderer) for one in ready]
        return say_steps(self.generator, steps, keys=keys, sampling=sampling)

    def _hear(
        self, name: str, ready: Sequence[tuple[Question, Cue]], keys: Sequence[int], sampling: Sampling
    ) -> list[Turn]:
        """What a model elsewhere says."""
        told = [self._told(question, cue) for question, cue in ready]
        spoken = self.elsewhere.say(name, told, keys, sampling=sampling, renderer=self.renderer)
        turns = [self.turn(cue, ids) for (_, cue), (ids, _) in zip(ready, spoken, strict=True)]
        return [replace(turn, finished=whole, spoken_by=name) for turn, (_, whole) in zip(turns, spoken, strict=True)]

    def _told(self, question: Question, cue: Cue) -> list[Message]:
        """What the speaker of a step sees as messages, in the layout that every model knows."""
        if cue.step.reads is not None:
            return self._brief(question, cue)
        turns, speaker = cue.dialogue.turns, self.workflow.speaker(cue.step)
        return view(question, turns, speaker, workflow=self.workflow, format=cue.dialogue.format)

    def _role(self, step: Step) -> Role:
        return self.workflow.roles[self.workflow.speaker(step)]

    def _manner(self, step: Step) -> tuple[str, int | None]:
        """The adapter of who takes a step, and the tokens that it may say."""
        role = self._role(step)
        return role.adapter, role.max_tokens

    def _use(self, question: Question, cue: Cue, most_tokens: int) -> Turn:
        asked, step = filled(cue.step, self._done(cue), given={"question": question.text}), cue.step
        said = self.use(question, step, asked)
        if step.speaker == "plugin" or step.index != QUESTION:  # from elsewhere than the question: room for a message
            said = self.renderer.cut(said, most_tokens)
        return Turn(self.workflow.speaker(step), (), said)

    def use(self, question: Question, step: Step, asked: str) -> str:
        """What the tool of a step says to what it is asked."""
        if step.speaker == "run_tests":
            return run_tests(question, asked)
        if step.speaker == "retrieve":
            own = step.index == QUESTION
            index = index_of(sum(question.contexts, ())) if own else self.indexes[step.index]
            return retrieve(index, asked, at_most=step.at_most)
        assert self.tool is not None, "a recipe with such a step is refused without the function"
        return self.tool(question, asked)

    def _done(self, cue: Cue) -> Done:
        """What the template of a step can be filled with."""
        if self.workflow.streams:
            return inputs(cue.step, stand(cue.dialogue.turns, self.workflow), self.workflow)
        return moment(cue.dialogue.turns, self.workflow).done

    def next_cue(self, dialogue: Dialogue) -> Cue:
        """The next step of an unfinished dialogue; of steps side by side the first that was not taken yet."""
        return cues(dialogue, self.workflow)[0]

    def prompt(self, question: Question, dialogue: Dialogue) -> tuple[int, ...]:
        """What the next speaker of an unfinished dialogue sees, as ids up to the header of its turn."""
        return self.prompt_of(question, self.next_cue(dialogue))

    def prompt_of(self, question: Question, cue: Cue) -> tuple[int, ...]:
        """What the speaker of a step sees, as ids up to the header of its turn. Raises KeyError for an input of its
        template that nobody has written."""
        speaker, turns, format = self.workflow.speaker(cue.step), cue.dialogue.turns, cue.dialogue.format
        if self.workflow.streams:
            return Utterance(question, cue, workflow=self.workflow, renderer=self.renderer).ids
        if cue.step.reads is not None:
            return self.renderer.prompt(self._brief(question, cue))
        return self._talk_prompt(question, turns, speaker, format)

    def _brief(self, question: Question, cue: Cue) -> list[Message]:
        return brief(question, self._done(cue), cue.step, workflow=self.workflow, format=cue.dialogue.format)

    def _talk_prompt(
        self, question: Question, turns: Sequence[Turn], speaker: int, format: str | None
    ) -> tuple[int, ...]:
        messages = view(question, turns, speaker, workflow=self.workflow, format=format, layout=self.layout)
        return self.renderer.prompt(messages, opening=opening(self.workflow, speaker, layout=self.layout))

    def turn(self, cue: Cue, ids: tuple[int, ...]) -> Turn:
        """What is said at a step, by the ids of the message."""
        text = self.renderer.text(ids)
        finished = bool(ids) and ids[-1] in self.renderer.end_ids
        answer = answers.extract(text, metric=self.workflow.metric) if cue.step.name in self.workflow.answer else None
        return Turn(self.workflow.speaker(cue.step), ids, text, answer, finished)

    def views(self, question: Question, dialogue: Dialogue) -> list[Rendered]:
        """Everything said in a dialogue after what its speaker saw, own turns marked, without the format instruction:
        the conversation once for each speaker in it, then every step that reads inputs of its own. What models
        elsewhere have said is among it only where ours has said nothing."""
        said = self.readings(question, dialogue)
        ours = [row for who, _, row in said if not self.workflow.roles[who].spoken_by]
        return ours or [row for _, _, row in said]

    def lessons(
        self, question: Question, dialogue: Dialogue, learnt: frozenset[int] | None = None
    ) -> list[tuple[str, Rendered]]:
        """The views of a dialogue from which somebody learns, each with the adapter of who speaks in it.

        learnt: the numbers of the turns that are marked as own in them, all for None; a view without any is left out.
        """
        return [
            (self.workflow.roles[who].adapter, row if learnt is None else _narrowed(row, own, learnt))
            for who, own, row in self.readings(question, dialogue)
            if not self.workflow.roles[who].spoken_by and (learnt is None or not learnt.isdisjoint(own))
        ]

    def readings(self, question: Question, dialogue: Dialogue) -> list[tuple[int, list[int], Rendered]]:
        """The views of a dialogue, each with who speaks in it and the numbers of the turns that are its spans."""
        workflow, layout = self.workflow, self.layout
        if workflow.streams:
            return steps_read(question, dialogue, workflow=workflow, renderer=self.renderer)
        steps = taken(dialogue.turns, workflow)
        talked: dict[int, list[int]] = {}  # who reads the conversation, and the turns that they said in it
        for number, (step, turn, _) in enumerate(steps):
            if step.reads is None:
                talked.setdefault(turn.speaker, []).append(number)
        seen = [
            (who, own, view(question, dialogue.turns, who, workflow=workflow, layout=layout))
            for who, own in sorted(talked.items())
        ]
        for number, (step, turn, before) in enumerate(steps):
            if step.reads is not None and not step.tool:
                messages = [*brief(question, before, step, workflow=workflow), Message("assistant", turns=(turn,))]
                seen.append((turn.speaker, [number], messages))
        rows = ((who, own, self.renderer.conversation(messages)) for who, own, messages in seen)
        in_steps = workflow.stream is not None
        return [(who, own, replace(row, in_steps=True) if in_steps else row) for who, own, row in rows]

    def unfold(self, question: Question, *, sampling: Sampling, seed: Sequence[object]) -> Iterator[Dialogue]:
        """One dialogue as it grows: yielded whenever something has been said, the last time with its ending."""
        dialogue = Dialogue(question.id, 0)
        while dialogue.ending is None:
            ready = [(question, cue) for cue in cues(dialogue, self.workflow)]
            dialogue = extend(dialogue, *self.speak(ready, sampling=sampling, seed=seed), workflow=self.workflow)
            yield dialogue


def _narrowed(row: Rendered, own: Sequence[int], learnt: frozenset[int]) -> Rendered:
    """A view in which of its own turns, by their numbers, only those to be learnt are marked."""
    return replace(row, spans=tuple(span for span, k in zip(row.spans, own, strict=True) if k in learnt))


def sample(
    agents: Agents,
    questions: Sequence[Question],
    *,
    rollouts: int,
    sampling: Sampling,
    seed: Sequence[object],
    formats: Sequence[str] = (),
    advance: Advance = lambda done, tokens: None,
) -> list[Rollouts]:
    """`rollouts` dialogues of every question. formats: names of the pool to sample with, none twice before all were
    used."""
    agents.generator.forget()  # a chunk's batches must not depend on the chunks before it
    drafts: list[Drafts] = []
    for question in questions:
        order = list(formats)
        random.Random(row_key(*seed, question.id, "formats")).shuffle(order)
        for k in range(rollouts):
            drafts.append((question, [Dialogue(question.id, k, format=order[k % len(order)] if order else None)]))
    finished: list[Dialogue] = []
    for window in agents.windows(drafts, sampling=sampling):
        asked, started = [question for question, _ in window], [draft for _, one in window for draft in one]
        finished += agents.talk(asked, started, sampling=sampling, seed=seed, advance=advance)
    return [
        Rollouts(question, tuple(finished[i * rollouts : (i + 1) * rollouts])) for i, question in enumerate(questions)
    ]
