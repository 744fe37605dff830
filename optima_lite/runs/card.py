"""The card of an adapter: the README.md beside its weights that says what it is and how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CARD = """---
library_name: peft
tags: [optima-lite, lora]
---

# Adapter of iteration {iteration}

A LoRA adapter for `{base}`, trained by optima-lite to solve more and say less: task `{task}`, team `{team}`, seed
{seed}. {who} The run's manifest.json holds the whole recipe and the
versions it ran with.

{facts}

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("path/to/the/base")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```

Where the base is named by its id on the hub, `AutoPeftModelForCausalLM.from_pretrained` finds it by itself.
"""


def write_adapter_card(
    folder: Path,
    recipe: Mapping[str, Any],
    *,
    team: str,
    speakers: Sequence[str] = (),
    iteration: int,
    facts: Mapping[str, Any],
) -> None:
    """Write README.md into an adapter folder: what it is, what it was trained with, and the lines that load it.

    recipe: the plain recipe. team: the name of those who were trained. speakers: the roles whose adapter it is, where
    the others have their own. facts: what the training step tells of itself, by name; None is left out.
    """
    lines = [f"- {name.replace('_', ' ')}: {value}" for name, value in facts.items() if value is not None]
    (folder / "README.md").write_text(
        CARD.format(
            iteration=iteration,
            base=recipe["model"]["name"],
            seed=recipe["seed"],
            task=recipe["task"]["name"],
            team=team,
            who=f"It speaks for {', '.join(speakers)} alone."
            if speakers
            else "Every agent of the team speaks with this adapter.",
            facts="\n".join(lines),
        ),
        encoding="utf-8",
    )
