"""The learning rates of the shipped recipes: an adapter moves the weights that it is added to, in the steps it gets."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from optima_lite.learn.sft import fine_tune, planned_steps  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.model.render import Rendered, Renderer  # noqa: E402
from optima_lite.records import Question, Turn  # noqa: E402
from optima_lite.settings.config import load_recipe  # noqa: E402
from optima_lite.settings.sections import TrainingSettings  # noqa: E402
from optima_lite.settings.workflow import told  # noqa: E402
from optima_lite.tasks import world  # noqa: E402
from optima_lite.team.prompts import view  # noqa: E402
from optima_lite.team.talks import solo  # noqa: E402

DEBATES = ("arc_challenge", "gsm8k", "math", "mmlu")
LEAST = 0.0005
"""Length of what the adapter adds, over that of the weights it is added to, in the bundled model."""


def moved(policy: Policy) -> float:
    """The length of the adapter's product over that of the weights, over all layers together."""
    added, weights = 0.0, 0.0
    for module in policy.model.modules():
        if hasattr(module, "lora_A"):
            product = module.lora_B["default"].weight @ module.lora_A["default"].weight
            added += float((module.scaling["default"] * product).detach().pow(2).sum())
            weights += float(module.base_layer.weight.detach().pow(2).sum())
    return math.sqrt(added / weights)


def rows(renderer: Renderer, count: int) -> list[Rendered]:
    """Questions of the world with their answers."""
    end = renderer.tokenizer.convert_tokens_to_ids("<|eot_id|>")

    def answered(question: Question) -> Rendered:
        turn = Turn(0, (*renderer.encode(f" <A> {question.answers[0]} </A>"), end), "")
        return renderer.conversation(view(question, [turn], 0, workflow=told(solo(), "You work alone.")))

    return [answered(question) for question in world.questions("train", count, seed=0)]


def trained(policy: Policy, renderer: Renderer, settings: TrainingSettings, steps: int) -> float:
    """How far so many steps move the weights; a row makes one, which for Adam's steps is no less than many rows."""
    policy.restart(seed=0)
    single = settings.model_copy(update={"epochs": 1, "batch_size": 1})
    fine_tune(policy, rows(renderer, steps), settings=single, micro_batch=1, seed=0, on_step=lambda done: None)
    return moved(policy)


def planned(name: str) -> tuple[TrainingSettings, int]:
    """A recipe's training, and how many steps an iteration has in the size `small`, where both speakers' views of the
    kept share of the questions are all there is."""
    recipe = load_recipe(name, variants=["small"]).recipe
    kept = int(recipe.selection.keep_fraction * recipe.training.questions)
    return recipe.training, planned_steps(len(recipe.protocol.roles) * kept, recipe.training)


def test_a_new_adapter_moves_the_weights_in_the_few_steps_of_a_debate(policy: Policy, renderer: Renderer) -> None:
    """The recipe with the fewest steps; what full fine-tuning takes, times ten, would not do."""
    settings, steps = min((planned(name) for name in DEBATES), key=lambda found: found[1])
    assert settings.restart == "base" and steps < 30, "a new adapter each time, and tens of steps"
    assert trained(policy, renderer, settings, steps) > LEAST
    slow = settings.model_copy(update={"learning_rate": 1e-5})
    assert trained(policy, renderer, slow, steps) < LEAST / 5


@pytest.mark.parametrize("name", DEBATES)
@pytest.mark.parametrize("schedule", ["isft", "idpo", "isft-dpo"])
def test_every_debate_goes_as_far(name: str, schedule: str) -> None:
    """Adam's steps are of the learning rate's size, so that rate times steps bounds how far a weight can go."""
    recipe = load_recipe(name, variants=["small", schedule]).recipe
    assert 1e-4 <= recipe.training.learning_rate <= 2e-4, "what is usual for LoRA"
    assert recipe.training.learning_rate * planned(name)[1] > 2e-3
    assert recipe.dpo.learning_rate >= 5e-5 and recipe.dpo.batch_size <= 16
