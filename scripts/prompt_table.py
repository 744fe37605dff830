"""Every combination of a recipe's prompts evaluated once, many in a batch: a table on which searches can be replayed.

    python scripts/prompt_table.py prompts_quickstart --questions 30 --out table.json
    python scripts/prompt_replay.py table.json --seeds 5
    python scripts/prompt_table.py prompts_quickstart --questions 200 --split held_out --only 0-0,3-7 --out chosen.json

The same command goes on where it stopped. A run evaluates one combination after the other, because each is chosen by
those before; here all are wanted, so many share a batch. Of the reward nothing is read by the base model: its value is
the task score less token_weight times the tokens, over the 85th percentile of what everybody's own prompts take.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from optima_lite.learn.ranking import score
from optima_lite.learn.reward import normaliser
from optima_lite.learn.rollout import Agents
from optima_lite.methods.prompts.choices import space_of
from optima_lite.model.sampling import row_key
from optima_lite.records import Dialogue, Domain, Question, Turn
from optima_lite.settings.config import load_machine, load_recipe
from optima_lite.stage.cast import Cast, assemble
from optima_lite.stage.crew import Alone
from optima_lite.tasks import answers
from optima_lite.tasks.questions import questions
from optima_lite.team.dialogue import Cue, converse
from optima_lite.team.domains import combined, given, with_prompts

AT_ONCE = 25  # combinations in a batch

Row = dict[str, list[float]]
"""Of a combination the score and the tokens of every question."""


def main() -> None:
    """Evaluate what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--only", help="combinations such as 0-0,3-7; default: all")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    recipe = load_recipe(asked.recipe, overrides=asked.overrides).recipe
    cast = assemble(recipe, machine=load_machine(None), settle=lambda key, decide: decide())
    how = recipe.prompt_search
    domains = given(cast.team.workflow, listed=how.domains, formats=recipe.prompts.formats if how.formats else ())
    table = json.loads(asked.out.read_text()) if asked.out.exists() else {"rows": {}}
    space = space_of(Alone(cast), domains)
    table |= {"edges": space.edges, "features": [own.tolist() for own in space.features]}
    table |= {"roles": [own.role for own in domains], "token_weight": recipe.reward.token_weight}
    table["origins"] = [[prompt.origin for prompt in own.prompts] for own in domains]
    names = ["-".join(map(str, one)) for one in itertools.product(*map(range, space.sizes))]
    left = [name for name in (asked.only.split(",") if asked.only else names) if name not in table["rows"]]
    drawn = questions(recipe.task, asked.split, asked.questions, seed=0)
    for some in (left[k : k + AT_ONCE] for k in range(0, len(left), AT_ONCE)):
        table["rows"] |= evaluated(cast, domains, some, drawn)
        own = [round(tokens) for tokens in table["rows"].get("0-0", {"tokens": [1]})["tokens"]]
        table["normaliser"] = normaliser(own, recipe.search.normaliser_percentile)
        asked.out.write_text(json.dumps(table))
        print(f"{len(table['rows'])} of {len(names)} combinations", flush=True)
    for name in asked.only.split(",") if asked.only else ():
        row = table["rows"][name]
        print(f"{name}: score {fmean(row['score']):.3f}, {fmean(row['tokens']):.1f} tokens")


def evaluated(cast: Cast, domains: Sequence[Domain], names: Sequence[str], drawn: Sequence[Question]) -> dict[str, Row]:
    """A dialogue about each question for every combination, with the random numbers that a run would give it."""
    team, recipe = cast.team, cast.recipe
    combinations = [tuple(map(int, name.split("-"))) for name in names]
    teams = [replace(team, workflow=with_prompts(team.workflow, combined(domains, one))) for one in combinations]
    by_id = {question.id: question for question in drawn}

    def speak(ready: Sequence[Cue]) -> list[Turn]:  # a dialogue's rollout is the number of its team
        prompts = [teams[cue.dialogue.rollout].prompt(by_id[cue.dialogue.question], cue.dialogue) for cue in ready]
        keys = [row_key(recipe.seed, "evaluation", cue.dialogue.question, 0, cue.number) for cue in ready]
        said = team.generator.generate(prompts, sampling=cast.sampling(team), keys=keys)
        return [_turn(team, cue, ids) for cue, ids in zip(ready, said, strict=True)]

    team.generator.forget()
    drafts = [Dialogue(question.id, number) for number in range(len(teams)) for question in drawn]
    found: dict[str, Row] = {name: {"score": [], "tokens": []} for name in names}
    for dialogue in converse(drafts, workflow=team.workflow, speak=speak):
        row = found[names[dialogue.rollout]]
        row["score"].append(score(by_id[dialogue.question], dialogue, scoring=team.scoring))
        row["tokens"].append(dialogue.tokens)
    return found


def _turn(agents: Agents, cue: Cue, ids: tuple[int, ...]) -> Turn:
    text, workflow = agents.renderer.text(ids), agents.workflow
    answer = answers.extract(text, metric=workflow.metric) if cue.step.name in workflow.answer else None
    finished = bool(ids) and ids[-1] in agents.renderer.end_ids
    return Turn(workflow.speaker(cue.step), ids, text, answer, finished)


if __name__ == "__main__":
    main()
