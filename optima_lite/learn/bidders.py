"""The agents of a market, who talk as `Agents` do, but by auction: put together from a model and `team.environment`."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ..model.render import Rendered
from ..model.sampling import Sampling, row_key
from ..records import Dialogue, Question, Turn
from ..settings.agents import Agent
from ..settings.market import MarketSettings
from ..tasks.answers import extract
from ..team import parsing
from ..team.dialogue import Cue
from ..team.environment import Environment, Talk
from ..team.episodes import Win
from ..team.ledger import Economy
from ..team.population import population
from ..team.prompts import NO, YES, view, wake_question
from .rollout import Advance, Agents, Speakers


@dataclass(frozen=True)
class Bidders(Agents):
    """A population that can be asked: `workflow` is made of it. Its wealth and bids stay as they are, but in `play`."""

    living: tuple[Agent, ...] = ()
    rules: MarketSettings = field(default_factory=MarketSettings)

    @property
    def speakers(self) -> Speakers:
        """Who they are, for another process."""
        return Speakers(self.workflow, self.layout, self.living)

    def of(self, living: Sequence[Agent]) -> Bidders:
        """The same market with another population."""
        workflow = population(living, self.rules, metric=self.workflow.metric)
        return replace(self, living=tuple(living), workflow=workflow)

    def _longest(self, bare: Question, longest: Turn) -> Iterator[tuple[int, int]]:
        """As for any team, with room for the strategies that children may get."""
        for used, shares in super()._longest(bare, longest):
            yield used + self.rules.strategy_tokens, shares

    def _openings(self, question: Question, format: str | None) -> list[tuple[int, ...]]:
        """What the views of a talk begin with, one for each role: most of many agents never act in it, and to keep
        room for all of them would leave room for few talks."""
        speaking = {agent.role: agent.name for agent in reversed(self.living)}.values()
        speakers = sorted(map(self.workflow.names.index, speaking))
        return [self._talk_prompt(question, (), speaker, format) for speaker in speakers]

    def play(self, question: Question, economy: Economy, *, sampling: Sampling, seed: Sequence[object]) -> Talk:
        """A training episode's talk: everyone pays and is paid as it goes on. The economy's agents are the living."""
        environment = self._environment(sampling, seed, paying=True)
        (talk,) = environment.play([Talk(question, Dialogue(question.id, 0), economy)])
        return talk

    def lesson(self, win: Win, name: str) -> Rendered | None:
        """What an agent saw and said in an episode that was won; None where one of its messages was cut, which is not
        to be learnt."""
        agents = self.of(win.agents)
        speaker = agents.workflow.names.index(name)
        if not all(turn.finished for turn in win.dialogue.turns if turn.speaker == speaker):
            return None
        messages = view(win.question, win.dialogue.turns, speaker, workflow=agents.workflow, layout=self.layout)
        return self.renderer.conversation(messages)

    def talk(
        self,
        questions: Sequence[Question],
        drafts: Sequence[Dialogue],
        *,
        sampling: Sampling,
        seed: Sequence[object],
        advance: Advance,
    ) -> list[Dialogue]:
        """Every draft, which nobody has said anything in yet, carried to its end; nothing is paid."""
        by_id = {question.id: question for question in questions}
        environment = self._environment(sampling, seed)
        talks = [Talk(by_id[draft.question], draft, Economy(self.living)) for draft in drafts]
        while any(talk.dialogue.ending is None for talk in talks):
            after = environment.step(talks)
            said = sum(talk.dialogue.tokens for talk in after) - sum(talk.dialogue.tokens for talk in talks)
            advance(_done(after, self.rules) - _done(talks, self.rules), said)
            talks = after
        return [talk.dialogue for talk in talks]

    def unfold(self, question: Question, *, sampling: Sampling, seed: Sequence[object]) -> Iterator[Dialogue]:
        """One dialogue as it grows: yielded after every action, the last time with its ending."""
        environment = self._environment(sampling, seed)
        talk = Talk(question, Dialogue(question.id, 0), Economy(self.living))
        while talk.dialogue.ending is None:
            (talk,) = environment.step([talk])
            yield talk.dialogue

    def _environment(self, sampling: Sampling, seed: Sequence[object], *, paying: bool = False) -> Environment:
        def speak(ready: Sequence[tuple[Question, Cue]]) -> list[tuple[Turn, ...]]:
            said = self.speak(ready, sampling=sampling, seed=seed)
            return [
                (turn, *self._tool(question, cue, turn, sampling.max_new_tokens))
                for (question, cue), turn in zip(ready, said, strict=True)
            ]

        def draw(talk: Talk) -> random.Random:
            about = (talk.dialogue.question, talk.dialogue.rollout, len(talk.moves))
            return random.Random(row_key(*seed, *about, "auction"))

        earning = paying and self.rules.step_rewards
        return Environment(
            self.rules, self.workflow, speak, self._awake, draw, paying, self._worth if earning else None
        )

    def _tool(self, question: Question, cue: Cue, turn: Turn, room: int) -> tuple[Turn, ...]:
        """What the tool of an agent says to its message; nothing where it has none."""
        agent = next(agent for agent in self.living if agent.name == cue.step.speaker)
        if agent.tool is None:
            return ()
        step = self.workflow.step(agent.tool)
        asked = parsing.code(turn.text) if agent.tool == "run_tests" else turn.text
        return (Turn(self.workflow.speaker(step), (), self.renderer.cut(self.use(question, step, asked), room)),)

    def _worth(self, question: Question, dialogue: Dialogue) -> float:
        stated = (extract(turn.text, metric=self.workflow.metric) for turn in reversed(dialogue.turns))
        return self.scoring.score(next((answer for answer in stated if answer is not None), None), question.answers)

    def _awake(self, asked: Sequence[tuple[Question, Dialogue, Agent]]) -> list[bool]:
        """Whether the base model finds yes likelier than no, for all agents and talks in one batch, a token each."""
        rows: list[Rendered] = []
        for question, dialogue, agent in asked:
            speaker = self.workflow.names.index(agent.name)
            messages = wake_question(question, dialogue.turns, speaker, agent.wake.ask, workflow=self.workflow)
            prompt = self.renderer.prompt(messages)
            for word in (YES, NO):
                ids = self.renderer.encode(word)
                rows.append(Rendered((*prompt, *ids), ((len(prompt), len(prompt) + len(ids)),)))
        losses = self.generator.losses(rows)
        nats = [mean * (row.spans[0][1] - row.spans[0][0]) for row, (mean,) in zip(rows, losses, strict=True)]
        return [yes < no for yes, no in zip(nats[::2], nats[1::2], strict=True)]


def _done(talks: Sequence[Talk], rules: MarketSettings) -> int:
    """Talks that are done, those under way by the share of their steps that are taken."""
    going = sum(len(talk.moves) for talk in talks if talk.dialogue.ending is None)
    return sum(talk.dialogue.ending is not None for talk in talks) + going // rules.steps
