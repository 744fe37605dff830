"""Who was spoken by models elsewhere, what they took, and what that does to the run, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

from ..settings.machine import Speaker
from ..settings.teams import workflow
from .dialogue_view import printable
from .folder import RunFolder
from .replies import Replies, replies_in

_OF_OTHERS = (
    "The tables count its messages by our tokenizer, and what it read nowhere; what is asked of it anew may be "
    "answered otherwise"
)


def spoken_lines(run: RunFolder, speakers: Mapping[str, Speaker] | None = None) -> list[Text]:
    """A line for each speaker that has said something in a run, in any command. speakers: of the machine file, for
    their prices."""
    team = workflow(run.manifest["recipe"]["team"]) if run.manifest["recipe"].get("team") else None
    lines = []
    for name, replies in replies_in(run.folder).items():
        roles = [role.name for role in team.roles if role.spoken_by == name] if team else []
        whose = f" for {' and '.join(roles)}" if roles else ""
        models = f" ({', '.join(map(printable, replies.models))})" if replies.models else ""
        took = _took(replies, (speakers or {}).get(name))
        lines.append(Text(f"{name}{models} has spoken{whose}: {took}. {_OF_OTHERS}", style="dim"))
    return lines


def _took(replies: Replies, speaker: Speaker | None) -> str:
    """By its server's count, where that has told one."""
    read, said, refusals = replies.prompt_tokens, replies.completion_tokens, replies.refusals
    cost = speaker.cost(read, said) if speaker else 0.0
    took = f"{len(replies) - len(refusals):,} messages, {read:,} tokens read and {said:,} said by its own count"
    took += f", which cost {cost:.4g}" if cost else ""
    return f"{took}; {len(refusals):,} requests refused, the last: {printable(refusals[-1])}" if refusals else took
