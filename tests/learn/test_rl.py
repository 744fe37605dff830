"""Reinforcement: the loss is what its formula says, on the sampled ids, and a step that goes astray is undone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from test_sft import PAIR, adapter, fresh, traces  # noqa: E402

from optima_lite.errors import ModelError, TrainingError  # noqa: E402
from optima_lite.learn import grpo, rl  # noqa: E402
from optima_lite.learn.episodes import Episode  # noqa: E402
from optima_lite.learn.rl import ReinforceFacts, reinforce  # noqa: E402
from optima_lite.learn.value import ValueHead  # noqa: E402
from optima_lite.model.policy import Policy  # noqa: E402
from optima_lite.model.render import Rendered, Renderer  # noqa: E402
from optima_lite.records import Turn  # noqa: E402
from optima_lite.settings.reinforce import ReinforceSettings  # noqa: E402
from optima_lite.tasks import world  # noqa: E402
from optima_lite.team.prompts import view  # noqa: E402

SETTINGS = ReinforceSettings(batch_size=4, learning_rate=3e-4, max_kl=5)
SAID = (" over to you my friend", " yes", " the answer is here", " so", " no", " hm")
WORTH = ((1.0, -0.5), (-1.0, 0.25), (0.5, 1.0), (-0.75, -1.0))
TEMPERATURE = 0.8


@pytest.fixture
def episodes(renderer: Renderer) -> list[Episode]:
    """Four of two messages each, of different lengths, in talks of different lengths."""
    end = renderer.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    found = []
    for k, (question, worth) in enumerate(zip(world.questions("train", 4, seed=0), WORTH, strict=True)):
        said = [renderer.encode(SAID[(k + n) % len(SAID)]) for n in range(3)]
        turns = [Turn(n % 2, (*ids, end), "") for n, ids in enumerate(said)]
        row = renderer.conversation(view(question, turns, 0, workflow=PAIR))
        found.append(Episode(row, worth, worth))
    return found


def reinforced(policy: Policy, episodes: list[Episode], **changes: Any) -> ReinforceFacts:
    update = {key: changes.pop(key) for key in [*changes] if key in ReinforceSettings.model_fields}
    wanted: dict[str, Any] = {"micro_batch": 4, "seed": 3, "on_step": lambda steps: None, "temperature": TEMPERATURE}
    settings = SETTINGS.model_copy(update=update)
    return reinforce(policy, episodes, settings=settings, **wanted | changes)


def token_logps(policy: Policy, episode: Episode) -> list[Any]:
    """Of each message's tokens, at the temperature, by the model as it stands."""
    ids = torch.tensor([episode.row.ids])
    logps = torch.log_softmax(policy.model(input_ids=ids).logits[0, :-1] / TEMPERATURE, dim=-1)
    taken = logps.gather(1, ids[0, 1:, None])[:, 0]
    return [taken[start - 1 : end - 1] for start, end in episode.row.spans]


def message_logps(policy: Policy, episodes: list[Episode]) -> list[float]:
    with torch.no_grad():
        return [float(logps.sum()) for episode in episodes for logps in token_logps(policy, episode)]


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Of the adapter, at every optimiser step, before they are clipped."""
    found: list[Any] = []
    step = grpo.EpisodeTrainer.training_step

    def spy(self: Any, model: Any, inputs: Any, *args: Any) -> Any:
        loss = step(self, model, inputs, *args)
        weights = [p for n, p in self.model.named_parameters() if "lora_" in n]
        found.append(
            torch.cat([torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in weights])
        )
        return loss

    monkeypatch.setattr(grpo.EpisodeTrainer, "training_step", spy)
    return found


def shift(monkeypatch: pytest.MonkeyPatch, nats: float) -> None:
    """The adapter as the step began found every token less likely by so much; the guard looks away."""
    recall = grpo.EpisodeTrainer.recall

    def shifted(self: Any, **how: Any) -> Any:
        found = recall(self, **how)
        for row in self.rows:
            row.old = row.old - nats * (row.own == 1)
        return found

    monkeypatch.setattr(grpo.EpisodeTrainer, "recall", shifted)
    monkeypatch.setattr(rl._Guard, "_prove", lambda guard, off: None)


# --- The loss -------------------------------------------------------------------------------------


def test_the_first_gradient_is_the_policy_gradient(
    policy: Policy, episodes: list[Episode], gradients: list[Any]
) -> None:
    """By hand: the mean over all learnt tokens of ratio times advantage, the ratio being 1."""
    terms, count = [], 0
    for episode in episodes:
        for logps, advantage in zip(token_logps(policy, episode), episode.advantages, strict=True):
            terms.append(-(advantage * (logps - logps.detach()).exp()).sum())
            count += len(logps)
    loss = torch.stack(terms).sum() / count
    loss.backward()
    by_hand = torch.cat([p.grad.flatten() for n, p in policy.model.named_parameters() if "lora_" in n])
    facts = reinforced(policy, episodes)
    assert facts.loss == pytest.approx(float(loss.detach()), abs=1e-5)
    assert float((gradients[0] - by_hand).norm()) < 1e-3 * float(by_hand.norm())
    assert (facts.kl, facts.clipped) == (pytest.approx(0, abs=1e-6), 0.0)


@pytest.mark.slow
def test_the_ratio_of_a_sequence_weighs_each_episode_alike(
    policy: Policy, episodes: list[Episode], gradients: list[Any]
) -> None:
    terms = []
    for episode in episodes:
        logps = torch.cat(token_logps(policy, episode))
        lengths = [end - start for start, end in episode.row.spans]
        worth = sum(n * a for n, a in zip(lengths, episode.advantages, strict=True)) / sum(lengths)
        terms.append(-((logps - logps.detach()).mean().exp() * worth))
    torch.stack(terms).mean().backward()
    by_hand = torch.cat([p.grad.flatten() for n, p in policy.model.named_parameters() if "lora_" in n])
    reinforced(policy, episodes, ratio="sequence")
    assert float((gradients[0] - by_hand).norm()) < 1e-3 * float(by_hand.norm())


@pytest.mark.parametrize(("nats", "clipped"), [(0.5, 1.0), pytest.param(-0.5, -1.0, marks=pytest.mark.slow)])
def test_the_clip_acts_where_it_should(
    episodes: list[Episode], gradients: list[Any], monkeypatch: pytest.MonkeyPatch, nats: float, clipped: float
) -> None:
    """A ratio of 1.65 is too high for what was good, one of 0.61 too low for what was bad; neither for the other."""
    shift(monkeypatch, nats)
    for advantage in (clipped, -clipped):
        alike = [replace(episode, advantages=(advantage, advantage)) for episode in episodes]
        facts = reinforced(fresh(), alike, max_kl=9)
        assert facts.clipped == (1.0 if advantage == clipped else 0.0)
    assert float(gradients[0].norm()) == 0 < float(gradients[1].norm())


@pytest.mark.parametrize("ratio", ["token", pytest.param("sequence", marks=pytest.mark.slow)])
def test_the_loss_does_not_depend_on_how_a_batch_is_split(
    episodes: list[Episode], gradients: list[Any], ratio: str
) -> None:
    three = episodes[:3]
    whole = reinforced(fresh(), three, ratio=ratio)
    split = reinforced(fresh(), three, ratio=ratio, micro_batch=1)
    assert split.loss == pytest.approx(whole.loss, abs=1e-5)
    assert float((gradients[0] - gradients[-1]).norm()) < 1e-3 * float(gradients[0].norm()), "the last adds up to all"


def test_messages_become_as_likely_as_they_were_good(policy: Policy, episodes: list[Episode]) -> None:
    before, untouched = message_logps(policy, episodes), traces(policy)
    facts = reinforced(policy, episodes, epochs=4)
    assert traces(policy) == untouched
    moved = [after - then for after, then in zip(message_logps(policy, episodes), before, strict=True)]
    better = [change for change, worth in zip(moved, [a for pair in WORTH for a in pair], strict=True) if worth > 0]
    worse = [change for change, worth in zip(moved, [a for pair in WORTH for a in pair], strict=True) if worth < 0]
    assert sum(better) / len(better) > sum(worse) / len(worse) + 0.5
    assert (facts.steps, facts.epochs, facts.stopped) == (4, 4, False)
    assert facts.kl is not None and facts.kl > 0


@pytest.mark.slow
def test_a_held_adapter_goes_back_to_the_base(policy: Policy, episodes: list[Episode]) -> None:
    """With nothing to gain, only the KL term works: towards the base model, or not at all where the step began."""
    with policy.reading():
        base = message_logps(policy, episodes)
    reinforced(policy, episodes, epochs=4)
    even = [replace(episode, advantages=(0.0, 0.0)) for episode in episodes]
    start = {name: weight.clone() for name, weight in adapter(policy).items()}
    away = message_logps(policy, episodes)
    reinforced(policy, even, kl_weight=1.0)
    assert all(torch.equal(weight, start[name]) for name, weight in adapter(policy).items())
    reinforced(policy, even, kl_weight=1.0, kl_to="base", epochs=3)
    back = message_logps(policy, episodes)

    def distance(one: list[float]) -> float:
        return sum(abs(a - b) for a, b in zip(one, base, strict=True))

    assert distance(back) < 0.9 * distance(away)


# --- What is trained on ---------------------------------------------------------------------------


def test_exactly_the_sampled_ids_are_trained_and_only_own_messages_learnt(
    policy: Policy, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = episodes[0]  # ids that no tokenizer would give: a word in single letters, said twice
    start, end = first.row.spans[0]
    ids = (*first.row.ids[:start], *first.row.ids[start : end - 1], *first.row.ids[start:])
    moved = tuple((a + (a > start) * (end - 1 - start), b + end - 1 - start) for a, b in first.row.spans)
    episodes[0] = replace(first, row=replace(first.row, ids=ids, spans=moved))
    compute, seen = grpo.EpisodeTrainer.compute_loss, []

    def spy(self: Any, model: Any, inputs: Any, *args: Any, **named: Any) -> Any:
        for k in range(len(inputs["prompt_ids"])):
            prompt = inputs["prompt_ids"][k][inputs["prompt_mask"][k] == 1]
            there = inputs["completion_mask"][k] == 1
            own = inputs["tool_mask"][k] == 1
            assert not (own & ~there).any(), "padding is not learnt"
            said = inputs["completion_ids"][k]
            seen.append(([*prompt.tolist(), *said[there].tolist()], said[own].tolist()))
        return compute(self, model, inputs, *args, **named)

    monkeypatch.setattr(grpo.EpisodeTrainer, "compute_loss", spy)
    facts = reinforced(policy, episodes, epochs=2, micro_batch=2)
    rows = [episode.row for episode in episodes]
    expected = [([*row.ids], [i for start, end in row.spans for i in row.ids[start:end]]) for row in rows]
    assert sorted(seen) == sorted(expected * 2), "each episode once an epoch"
    assert (facts.rows, facts.trainer_tokens) == (4, sum(len(row.ids) for row in rows))


def test_a_ratio_that_is_not_one_on_the_first_batch_stops_the_run(
    policy: Policy, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another adapter, temperature or text had spoken."""
    prove, before = rl._Guard._prove, traces(policy)
    shift(monkeypatch, 0.01)
    monkeypatch.setattr(rl._Guard, "_prove", prove)
    with pytest.raises(TrainingError, match=r"the ratios are off by 0\.01"):
        reinforced(policy, episodes)
    assert traces(policy) == before


def recalled(monkeypatch: pytest.MonkeyPatch, change: Callable[[list[Any]], None]) -> None:
    """The rows are changed after their log-probabilities were recalled."""
    recall = grpo.EpisodeTrainer.recall

    def changing(self: Any, **how: Any) -> Any:
        found = recall(self, **how)
        change(self.rows)
        return found

    monkeypatch.setattr(grpo.EpisodeTrainer, "recall", changing)


def test_one_odd_token_does_not_stop_a_run(
    policy: Policy, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of which the model is all but sure that nobody says it, and whose log-probability rounding has moved."""

    def change(rows: list[Any]) -> None:
        rows[0].old[int(rows[0].own.nonzero()[0])] += 0.004

    recalled(monkeypatch, change)
    assert reinforced(policy, episodes).steps > 0


def test_one_row_whose_log_probabilities_are_of_other_tokens_stops_it(
    policy: Policy, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(rows: list[Any]) -> None:
        rows[0].old = rows[0].old.roll(1)

    recalled(monkeypatch, change)
    with pytest.raises(TrainingError, match=r"the ratios are off by "):
        reinforced(policy, episodes)


def test_without_episodes_nothing_happens(policy: Policy) -> None:
    version = policy.version
    nothing = ReinforceFacts(0, 0, 0, 0, None, None, None, None, None, stopped=False)
    assert reinforced(policy, []) == nothing and policy.version == version


def test_an_episode_that_cannot_be_learnt_from_is_refused(policy: Policy, episodes: list[Episode]) -> None:
    row = episodes[1].row
    for spoilt, problem in (
        (replace(episodes[1], rewards=(1.0,)), "episode 1 has another number of messages than of rewards"),
        (replace(episodes[1], advantages=(math.nan, 1.0)), "episode 1 has a reward that is no number"),
        (replace(episodes[1], row=replace(row, spans=())), "episode 1 has no token to learn from"),
        (replace(episodes[1], row=replace(row, ids=(policy.pad_id, *row.ids))), "episode 1 has padding"),
    ):
        with pytest.raises(TrainingError, match=problem):
            reinforced(policy, [episodes[0], spoilt])


# --- The guard ------------------------------------------------------------------------------------


def test_a_step_that_goes_astray_ends_with_the_last_good_adapter(policy: Policy, episodes: list[Episode]) -> None:
    states: list[Any] = [adapter(policy)]
    told: list[str] = []
    how: dict[str, Any] = {"epochs": 30, "learning_rate": 2e-3, "max_kl": 0.02, "notify": told.append}
    facts = reinforced(policy, episodes, on_step=lambda steps: states.append(adapter(policy)), **how)
    assert facts.stopped and 1 < facts.steps < 30 and facts.epochs == facts.steps
    assert len(told) == 1 and told[0].startswith(
        "the step was stopped early: the adapter left the step's beginning by "
    )
    kept = adapter(policy)
    same = [all(torch.equal(kept[name], state[name]) for name in kept) for state in states]
    assert same.index(True) == len(states) - 3, "the last one that was measured and found good"


def test_a_collapse_of_the_entropy_ends_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured against the first batch's; the adapter of the last batch whose entropy was enough comes back."""
    restored: list[Any] = []
    monkeypatch.setattr(rl, "restore_adapter", lambda model, weights: restored.append(weights))
    monkeypatch.setattr(rl, "adapter_weights", lambda model: {"of step": len(seen)})
    seen: list[float] = []
    guard = rl._Guard(ReinforceSettings(min_entropy=0.25), {})
    guard.trainer = SimpleNamespace(model=SimpleNamespace(dtype=torch.float32), rows=[None] * 400)
    control = SimpleNamespace(should_training_stop=False)
    for entropy, rows in ((0.8, 64), (0.01, 3), (0.6, 64), (0.3, 64), (0.19, 40), (0.1, 64)):
        guard.on_step_begin(None, None, control)
        seen.append(entropy)
        logs = {"approximate_kl": 0.0, "token_entropy": entropy, "ratio_off": 0.0, "episodes": rows}
        guard.on_log(None, SimpleNamespace(global_step=len(seen)), control, logs)
        if control.should_training_stop:
            break
    assert guard.reason == "the entropy fell to 0.1900 nats a token, from 0.8000"
    assert restored == [{"of step": 3}], "the fourth step began with it; a batch of three rows tells nothing"


def test_a_loss_that_is_no_number_is_undone(
    policy: Policy, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, calls, told = grpo.GRPOTrainer._compute_loss, iter(range(9)), []

    def broken(self: Any, model: Any, inputs: Any) -> Any:
        loss = compute(self, model, inputs)
        return loss * math.nan if next(calls) == 1 else loss

    monkeypatch.setattr(grpo.GRPOTrainer, "_compute_loss", broken)
    before = adapter(policy)
    facts = reinforced(policy, episodes, epochs=4, notify=told.append)
    assert facts.stopped and "the loss was no number" in told[0]
    assert all(bool(weight.isfinite().all()) for weight in adapter(policy).values())
    assert all(torch.equal(weight, before[name]) for name, weight in adapter(policy).items()), "one step was good"


def test_the_last_update_is_looked_at_too(policy: Policy, episodes: list[Episode]) -> None:
    """With one step the divergence is 0 while it is taken, and too large behind it."""
    before, told = adapter(policy), []
    facts = reinforced(policy, episodes, learning_rate=0.05, notify=told.append)
    assert facts.stopped and facts.steps == 1 and facts.kl == pytest.approx(0, abs=1e-6) and len(told) == 1
    assert all(torch.equal(weight, before[name]) for name, weight in adapter(policy).items())


def test_a_batch_is_no_wider_than_its_longest_row(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though one of its rows is learnt from early on and another at its end; with the positions of its own row."""
    said = tuple(range(40, 46))
    early = Episode(Rendered((*said[:3], *said * 20), ((3, 9),)), (1.0,), (1.0,))
    late = Episode(Rendered((*said * 20, *said), ((120, 126),)), (-1.0,), (-1.0,))
    widths: list[int] = []
    model = policy.model.get_base_model().model
    handle = model.register_forward_pre_hook(
        lambda module, given, named: widths.append(named["input_ids"].size(1)), with_kwargs=True
    )
    facts = reinforced(policy, [early, late], epochs=2)
    handle.remove()
    assert facts.kl is not None and widths and set(widths) == {126}


# --- Memory ---------------------------------------------------------------------------------------


def test_memory_that_runs_out_changes_nothing(episodes: list[Episode]) -> None:
    found = []
    for most_rows in (4, 1):
        policy, told = fresh(), []
        layer = policy.model.get_base_model().model.layers[1]
        forward = layer.forward

        def limited(hidden: Any, *rest: Any, most: int = most_rows, forward: Any = forward, **named: Any) -> Any:
            if len(hidden) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return forward(hidden, *rest, **named)

        layer.forward = limited
        reinforced(policy, episodes, notify=told.append)
        found.append((adapter(policy), told))
    (ample, silence), (starved, told) = found
    assert silence == [] and told[-1] == "out of memory: training goes on with 1 examples at a time"
    assert max(float((ample[name] - starved[name]).abs().max()) for name in ample) < 1e-4


# --- The value head -------------------------------------------------------------------------------


def head(policy: Policy, *, rate: float = 0.05) -> ValueHead:
    return ValueHead(policy.shape.hidden, learning_rate=rate, device=policy.device)


def test_a_value_head_learns_what_to_expect(policy: Policy) -> None:
    """Of states that tell the reward among much else; each batch is foretold before it is learnt from."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randint(0, 2, (400,), generator=generator) * 2.0 - 1
    direction = torch.randn(policy.shape.hidden, generator=generator)
    states = rewards[:, None] * direction + torch.randn(400, policy.shape.hidden, generator=generator)
    learner = head(policy)
    errors = []
    for k in range(0, 400, 10):
        halves = [slice(k, k + 5), slice(k + 5, k + 10)]
        errors.append(sum(learner.learn(states[half], rewards[half], among=10) for half in halves) / 10)
        learner.step()
    assert errors[0] == pytest.approx(1.0), "a new head expects nothing"
    assert sum(errors[-5:]) / 5 < 0.2


def test_the_head_gives_the_advantages_and_the_group_s_are_not_read(policy: Policy, episodes: list[Episode]) -> None:
    unread = [replace(episode, advantages=(9.0, 9.0)) for episode in episodes]
    before = message_logps(policy, episodes)
    learner = head(policy)
    facts = reinforced(policy, unread, epochs=4, head=learner)
    assert facts.value_error == pytest.approx(sum(a * a * n for a, n in lengths(episodes)) / tokens(episodes), rel=1e-4)
    moved = [after - then for after, then in zip(message_logps(policy, episodes), before, strict=True)]
    worth = [a for pair in WORTH for a in pair]
    assert moved[worth.index(1.0)] > 0 > moved[worth.index(-1.0)], "by the rewards"
    assert learner.bias.item() != 0, "and it has learnt"


def lengths(episodes: list[Episode]) -> list[tuple[float, int]]:
    """The reward of each message with its number of tokens."""
    return [(a, end - start) for e in episodes for a, (start, end) in zip(e.rewards, e.row.spans, strict=True)]


def tokens(episodes: list[Episode]) -> int:
    return sum(n for _, n in lengths(episodes))


def test_a_head_is_kept_beside_its_adapter(policy: Policy, tmp_path: Path) -> None:
    learner = head(policy)
    learner.learn(torch.ones(3, policy.shape.hidden), torch.ones(3), among=3)
    learner.step()
    learner.save(tmp_path)
    other = head(policy)
    other.load(tmp_path)
    assert torch.equal(other.weight, learner.weight) and other.bias.item() == learner.bias.item() != 0
    untouched = head(policy)
    untouched.load(tmp_path / "nowhere")
    assert untouched.bias.item() == 0
    with pytest.raises(ModelError, match="this value head belongs to another model"):
        ValueHead(7, learning_rate=0.1, device=policy.device).load(tmp_path)
