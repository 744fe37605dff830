"""Who was spoken by models elsewhere, what they took, and what that does to the run, in sentences."""

from __future__ import annotations

from rich.text import Text

from ..settings.teams import workflow
from .dialogue_view import printable
from .folder import RunFolder
from .replies import replies_in


def spoken_lines(run: RunFolder) -> list[Text]:
    """A line for each speaker that has said something in a run."""
    team = workflow(run.manifest["recipe"]["team"]) if run.manifest["recipe"].get("team") else None
    lines = []
    for name, replies in replies_in(run.folder).items():
        roles = [role.name for role in team.roles if role.spoken_by == name] if team else []
        whose = f"for {' and '.join(roles)}, " if roles else ""
        models = f" ({', '.join(map(printable, replies.models))})" if replies.models else ""
        took = (
            f"{len(replies):,} messages, {replies.prompt_tokens:,} tokens read and {replies.completion_tokens:,} said"
        )
        lost = "our tokenizer counts its messages in the tables; what is asked of it anew may be answered otherwise"
        lines.append(Text(f"{name}{models} has spoken {whose}by its own count {took}; {lost}", style="dim"))
    return lines
