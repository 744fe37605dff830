"""The recipe's section `teacher`: demonstrations that the team has not given itself, for iteration 0."""

from __future__ import annotations

from pydantic import Field

from .keys import Count, PathText, Section


class TeacherSettings(Section):
    """Who shows the team how it is done, in iteration 0 (docs/teacher.md)."""

    demonstrations: PathText | None = Field(
        None,
        description="A file that `optima-lite import` has made, relative to the working folder, whose dialogues are "
        "ranked and selected with the team's own in iteration 0; null: none",
    )
    at_most: Count | None = Field(
        None,
        description="Demonstrations used; of more those that went different ways through the workflow, at different "
        "lengths; null: training.questions",
    )
    own: bool = Field(
        True,
        description="Whether the team talks about the questions of iteration 0 itself, too; false: it learns from the "
        "demonstrations alone",
    )

    @property
    def teaches(self) -> bool:
        """Whether there is anybody to learn from."""
        return self.demonstrations is not None
