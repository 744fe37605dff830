"""What others have said, told over again as a dialogue of the team: every message at its step, in our own tokens."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import DataError
from ..records import Dialogue, Ending, Origin, Question, Turn
from ..tasks.trajectories import Unfit
from ..team.dialogue import Cue, extend, taken
from .rollout import Agents

Message = tuple[str, str | tuple[int, ...]]
"""Who says it, and the text, or the ids that it has been read as before."""

_OF_ANOTHER_MODEL = "was imported for a model with other tokens"


def retold(
    agents: Agents, question: Question, said: Sequence[Message], *, most_tokens: int, origin: Origin
) -> Dialogue:
    """The messages as a dialogue that the team might have held about a question.

    most_tokens: of a message whose role has no limit of its own. Raises Unfit where the team would have had another
    speaker, gone on, or ended before; for a message that is too long, or spells a special token; and for a dialogue
    that the model cannot read whole.
    """
    _require_room(agents, question, most_tokens)
    dialogue = Dialogue(question.id, 0, origin=origin)
    for number, (speaker, message) in enumerate(said, start=1):
        if dialogue.ending is not None:
            raise Unfit("wrong order", f"goes on with message {number} after the end of the team's talk")
        cue = agents.next_cue(dialogue)
        if speaker != cue.step.speaker:
            what = f"message {number} is {speaker}'s, and the team's step `{cue.step.name}` is {cue.step.speaker}'s"
            raise Unfit("wrong order", what)
        turn = _turn(agents, cue, message, number, most_tokens)
        dialogue = extend(dialogue, turn, workflow=agents.workflow)
    if dialogue.ending is None:
        step = agents.next_cue(dialogue).step
        raise Unfit("wrong order", f"ends where the team goes on: with {step.speaker} at the step `{step.name}`")
    return dialogue


def way(agents: Agents, dialogue: Dialogue) -> tuple[str, ...]:
    """The steps that a finished dialogue took through the workflow, and how it ended."""
    assert dialogue.ending is not None
    return (*(step.name for step, _, _ in taken(dialogue.turns, agents.workflow)), dialogue.ending.value)


def _require_room(agents: Agents, question: Question, most_tokens: int) -> None:
    try:
        agents.fit([question], max_turn_tokens=most_tokens)
    except DataError as error:
        raise Unfit("too long", error.what) from error


def _turn(agents: Agents, cue: Cue, message: str | tuple[int, ...], number: int, most_tokens: int) -> Turn:
    speaker = agents.workflow.speaker(cue.step)
    if isinstance(message, str):
        if (found := agents.renderer.special(message)) is not None:
            raise Unfit("special token", f"message {number} spells {found}")
        if cue.step.tool:
            return Turn(speaker, (), message.strip())
        message = agents.renderer.as_sampled(message.rstrip())
    most = min(agents.workflow.roles[speaker].max_tokens or most_tokens, most_tokens)
    if len(message) > most:
        raise Unfit("too long", f"message {number} has {len(message):,} tokens, and a message has {most:,} at most")
    return agents.turn(cue, message)


def require_alike(agents: Agents, question: Question, dialogue: Dialogue, *, most_tokens: int) -> None:
    """Raises Unfit for a stored dialogue that is none of this team's, or not in the tokens of this model."""
    names, origin = agents.workflow.names, dialogue.taught
    assert origin is not None
    words = len(agents.renderer.tokenizer)
    if any(not 0 <= i < words for turn in dialogue.turns for i in turn.ids):
        raise Unfit("other model", _OF_ANOTHER_MODEL)
    if any(turn.speaker >= len(names) for turn in dialogue.turns) or dialogue.ending is Ending.TRUNCATED:
        raise Unfit("other team", "was imported for another team")
    said = [(names[turn.speaker], turn.ids or turn.text) for turn in dialogue.turns]
    again = retold(agents, question, said, most_tokens=most_tokens, origin=origin)
    if [turn.text for turn in again.turns] != [turn.text for turn in dialogue.turns]:
        raise Unfit("other model", _OF_ANOTHER_MODEL)
    if (again.turns, again.ending) != (dialogue.turns, dialogue.ending):
        raise Unfit("other team", "was imported for another team or another way to mark answers")
