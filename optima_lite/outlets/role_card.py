"""What it takes to speak as a team does without this program: who is told what and when, and how it is sampled."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..settings.recipe import Recipe
from ..settings.workflow import Role, Workflow
from ..stage.cast import workflows
from ..team.prompts import instructed

# Llama 3's chat template in the language of Ollama's files; <|begin_of_text|> is put in front by whoever reads it.
_LLAMA3 = (
    "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>"
    "{{- end }}<|start_header_id|>assistant<|end_header_id|>\n\n"
)
_HOW = {
    "alternating": "system: the role's prompt. user: the facts that the role holds (`Facts:`, a line `- FACT` each) "
    "and `Question: QUESTION`. Then what the role said as assistant, and what the others said as user; with more than "
    "two in the team each of these begins with a line `NAME:`. What was said before the role's first message follows "
    "the question in the first user message, after a line `NAME:`.",
    "assistant": "system: the role's prompt, then the facts that the role holds (`Facts:`, a line `- FACT` each) and "
    "`Question: QUESTION`. Everything that is said is an assistant message that begins with `NAME:`, which is not "
    "sampled.",
}


def _voice(role: Role) -> dict[str, str]:
    """Whose weights say what a role says."""
    return {"spoken_by": role.spoken_by} if role.spoken_by else {"adapter": role.adapter}


def role_card(recipe: Recipe) -> dict[str, Any]:
    """Prompts, layout, order, end and sampling of a team, as plain values."""
    team, _ = workflows(recipe)
    steps = [asdict(step) for step in team.steps]
    return {
        "team": team.name,
        "roles": [
            {"name": role.name, "system": instructed(team, k), "facts": role.facts, **_voice(role)}
            for k, role in enumerate(team.roles)
        ],
        "layout": {"name": recipe.prompts.layout, "messages": _HOW[recipe.prompts.layout]} if team.talks else None,
        "start": team.start,
        "steps": steps,
        "answer": {"of": team.answer, "counts": "the last one that is stated", "metric": team.metric},
        "limits": {"messages": team.max_steps, "tokens_of_a_message": recipe.sampling.max_turn_tokens},
        "sampling": {"temperature": recipe.sampling.temperature, "top_p": recipe.sampling.top_p},
    }


def modelfiles(recipe: Recipe, source: str, *, context: int) -> dict[str, str]:
    """A Modelfile of Ollama's for each role, by its name in lower case.

    source: the GGUF file beside it. Sampling is the recipe's and nothing else: what Ollama does on its own, such as
    cutting off unlikely tokens, is switched off.
    """
    team, _ = workflows(recipe)
    return {role.name.lower(): _modelfile(recipe, team, k, source, context) for k, role in enumerate(team.roles)}


def _modelfile(recipe: Recipe, team: Workflow, speaker: int, source: str, context: int) -> str:
    sampling = recipe.sampling
    numbers = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        "min_p": 0,
        "repeat_penalty": 1,
        "num_predict": sampling.max_turn_tokens,
        "num_ctx": context,
    }
    stop = [f'PARAMETER stop "{token}"' for token in ("<|eot_id|>", "<|end_of_text|>")]
    lines = [f"PARAMETER {name} {value}" for name, value in numbers.items()] + stop
    system = instructed(team, speaker).replace('"""', "'''")
    return "\n".join([f"FROM ./{source}", f'TEMPLATE """{_LLAMA3}"""', f'SYSTEM """{system}"""', *lines]) + "\n"
