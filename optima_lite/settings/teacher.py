"""The recipe's section `teacher`: demonstrations that the team has not given itself, for iteration 0."""

from __future__ import annotations

from pydantic import Field

from ..records import UNKNOWN
from .keys import Count, PathText, Section, Text


class TeacherSettings(Section):
    """Who shows the team how it is done, in iteration 0 (docs/teacher.md)."""

    demonstrations: PathText | None = Field(
        None,
        description="A file that `optima-lite import` has made, relative to the working folder, whose dialogues are "
        "ranked and selected with the team's own in iteration 0; null: none",
    )
    speaker: Text | None = Field(
        None,
        description="A speaker of the machine file that plays the whole team on training questions of iteration 0, a "
        "dialogue each (docs/speakers.md); null: none",
    )
    licence: Text = Field(UNKNOWN, description="Under which what the speaker says may be used; stored with every row")
    at_most: Count | None = Field(
        None,
        description="Demonstrations used of the file, and asked of the speaker; of more in the file those that went "
        "different ways through the workflow, at different lengths; null: training.questions",
    )
    own: bool = Field(
        True,
        description="Whether the team talks about the questions of iteration 0 itself, too; false: it learns from the "
        "demonstrations alone",
    )

    @property
    def teaches(self) -> bool:
        """Whether there is anybody to learn from."""
        return self.demonstrations is not None or self.speaker is not None
