"""The search for prompts without a model: uncertainty, ascent, surrogates, budget, and what guiding is worth."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from optima_lite.methods.prompts import attention, kernel  # noqa: E402
from optima_lite.methods.prompts.acquisition import DAMPING, ascend, bound, uncertainty  # noqa: E402
from optima_lite.methods.prompts.search import best, budget, scaled, search  # noqa: E402
from optima_lite.methods.prompts.space import Combination, Space, space  # noqa: E402
from optima_lite.settings.prompt_search import PromptSearchSettings  # noqa: E402

EDGES = ((0, 1), (1, 2))


@dataclass(frozen=True)
class Trial:
    """An evaluation without noise."""

    combination: Combination
    value: float


class Box:
    """Three roles of a few prompts; what a prompt is worth depends on the prompt of who reads it. Counts its calls."""

    def __init__(self, seed: int, *, prompts: int = 8) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.space = space([torch.randn(prompts, 5, generator=generator) for _ in range(3)], EDGES)
        width = self.space.features[0].shape[1]
        alone = torch.randn(3, width, generator=generator, dtype=torch.float64)
        pairs = torch.randn(2, width, width, generator=generator, dtype=torch.float64)
        self.all = list(itertools.product(range(prompts), repeat=3))
        chosen = self.space.stacked(self.all)
        worth = torch.einsum("crw,rw->c", chosen, alone)
        for (one, other), pair in zip(EDGES, pairs, strict=True):
            worth += torch.einsum("cw,wv,cv->c", chosen[:, one], pair, chosen[:, other])
        self.worth = dict(zip(self.all, scaled(worth.tolist()), strict=True))
        self.asked: list[Combination] = []

    def evaluate(self, combination: Combination) -> Trial:
        """Looks one up."""
        self.asked.append(combination)
        return Trial(combination, self.worth[combination])

    def run(self, history: Sequence[Trial] = (), *, within: Space | None = None, **changed: object) -> list[Trial]:
        """A whole search, or the rest of one."""
        settings = PromptSearchSettings.model_validate({"evaluations": 20, **changed})
        found = search(within or self.space, evaluate=self.evaluate, history=history, settings=settings, seed=0)
        return [*history, *found]


def test_uncertainty_is_that_of_the_dense_information_matrix() -> None:
    box = Box(0)
    seen, asked, information = box.all[3:300:7], box.all[::31], 10.0
    x = box.space.stacked(seen).flatten(1)
    dense = DAMPING * torch.eye(x.shape[1], dtype=x.dtype) + information * x.T @ x
    wanted = box.space.stacked(asked).flatten(1)
    expected = (wanted * torch.linalg.solve(dense, wanted.T).T).sum(1).sqrt()
    found = uncertainty(box.space, asked, seen, information=information)
    assert torch.allclose(found, expected, atol=1e-10)
    assert torch.allclose(
        uncertainty(box.space, asked, [], information=1.0), torch.full((len(asked),), 3**0.5).double()
    )


def test_uncertainty_falls_where_something_was_evaluated_and_rises_nowhere() -> None:
    box = Box(1)
    before = uncertainty(box.space, box.all, [(0, 0, 0)], information=1.0)
    after = uncertainty(box.space, box.all, [(0, 0, 0), (1, 2, 3)], information=1.0)
    assert (after <= before + 1e-12).all()
    place = box.all.index((1, 2, 3))
    assert after[place] < 0.6 * before[place]


def test_rotated_embeddings_keep_their_inner_products_and_lose_what_all_share() -> None:
    wide = [torch.randn(4, 60, generator=torch.Generator().manual_seed(k)) + 100 for k in range(2)]
    found = space(wide, ())
    apart = torch.cat([torch.nn.functional.normalize((own - own.mean(0)).double(), dim=1) for own in wide])
    kept = torch.cat(found.features)
    assert kept.shape == (8, 8)
    assert torch.allclose(kept @ kept.T, apart @ apart.T, atol=1e-10)


def test_prompts_that_nothing_tells_apart_are_no_trouble() -> None:
    same = space([torch.ones(3, 6), torch.randn(3, 6)], ((0, 1),))
    trials = [((0, 0), 0.1), ((1, 1), 0.9), ((2, 2), 0.4)]
    expected = kernel.fit(same, [c for c, _ in trials], [v for _, v in trials])
    assert torch.isfinite(expected([(0, 1), (2, 0)])).all()


def test_an_ascent_looks_along_the_roles_and_never_at_the_whole() -> None:
    asked: list[Combination] = []

    def score(combinations: Sequence[Combination]) -> Tensor:
        asked.extend(combinations)
        return torch.tensor([float(sum(one)) - (one[0] == 3) * 9 for one in combinations])

    assert ascend((0, 0, 0), (4, 5, 6), score, sweeps=2) == (2, 4, 5)
    assert len(asked) == 2 * (4 + 5 + 6)


@pytest.mark.parametrize("surrogate", ["kernel", "attention"])
def test_the_budget_is_exact_and_nothing_is_evaluated_twice(surrogate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_EPOCHS", 5)
    box = Box(2)
    trials = box.run(evaluations=9, surrogate=surrogate)
    assert len(trials) == len(box.asked) == len(set(box.asked)) == 9
    assert trials[0].combination == (0, 0, 0), "everybody's own prompts come first"
    again = Box(2)
    again.run(trials[:6], evaluations=9, surrogate=surrogate)
    assert again.asked == box.asked[6:], "an interrupted search goes on as if it had not been"


def test_a_box_smaller_than_the_budget_is_evaluated_whole() -> None:
    box = Box(3, prompts=2)
    settings = PromptSearchSettings(evaluations=50)
    assert budget(box.space, settings) == 8
    assert sorted(one.combination for one in box.run(evaluations=50)) == box.all
    assert best(box.run(evaluations=50)).value == 1.0


def test_as_the_authors_do_it_a_repeated_proposal_takes_one_of_the_budget() -> None:
    box = Box(4)
    trials = box.run(exploration=0.0, repeated="count")
    assert len(trials) == 20 > len(box.asked) == len({one.combination for one in trials})


def test_guided_beats_random_and_greedy_fails() -> None:
    """scripts/prompt_box.py has a larger box, more seeds and the numbers that are told."""
    reached: dict[str, list[float]] = {"random": [], "greedy": [], "guided": []}
    for seed in range(5):
        box = Box(seed)
        ways = {
            "random": box.run(warm_up=20),
            "greedy": box.run(exploration=0.0, repeated="count"),
            "guided": box.run(),
        }
        for name, trials in ways.items():
            reached[name].append(best(trials).value)
    means = {name: fmean(values) for name, values in reached.items()}
    assert means["guided"] >= means["random"] + 0.05, means
    assert means["greedy"] <= means["guided"] - 0.1, means


def test_with_edges_the_kernel_foretells_what_depends_on_two_prompts_at_once() -> None:
    box = Box(7)
    first, second = box.space.features[0][:, 0], box.space.features[1][:, 0]
    together = {one: float(first[one[0]] * second[one[1]]) for one in box.all}  # a sum over roles is blind to it
    seen = box.all[::5]
    errors = {}
    for name, within in (("edges", box.space), ("none", Space(box.space.features, ()))):
        expected = kernel.fit(within, seen, [together[one] for one in seen])(box.all)
        truth = torch.tensor(list(together.values()), dtype=torch.float64)
        errors[name] = float(((expected - truth) ** 2).mean() / truth.var())
    assert errors["edges"] < 0.3 * errors["none"], errors


def test_attention_learns_what_it_was_shown_and_looks_only_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_EPOCHS", 150)
    box = Box(5)
    seen = box.all[::23]
    values = [box.worth[one] for one in seen]
    network = attention.train(box.space, seen, values, both_ways=False, seed=0)
    with torch.no_grad():
        error = (network(box.space.stacked(seen).float()) - torch.tensor(values)).abs().mean()
        looks = network.attention(box.space.stacked(seen).float())
    assert error < 0.1 < torch.tensor(values).std()
    assert torch.allclose(looks.sum(1), torch.ones(3), atol=1e-5)
    allowed = attention.looks(EDGES, 3, both_ways=False)
    assert (looks[~allowed] == 0).all() and (looks[allowed] > 0).all()
    assert attention.looks(EDGES, 3, both_ways=True).sum() == 7


def test_training_attention_draws_from_its_own_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_EPOCHS", 5)
    box, state = Box(6, prompts=3), torch.random.get_rng_state()
    fitted = [attention.fit(box.space, box.all[:4], [0.0, 1.0, 0.2, 0.4], both_ways=True, seed=1) for _ in range(2)]
    assert torch.equal(fitted[0](box.all), fitted[1](box.all))
    assert torch.equal(state, torch.random.get_rng_state())


def test_at_the_shape_of_the_real_job_nothing_as_wide_as_the_embeddings_is_kept() -> None:
    """Five roles of twenty prompts, embeddings of an 8B, fifty evaluations: 3.2 million combinations."""
    wide = [torch.randn(20, 4096, generator=torch.Generator().manual_seed(k)) for k in range(5)]
    found = space(wide, ((0, 3), (1, 3), (2, 3), (3, 4)))
    assert found.combinations == 3_200_000 and {own.shape for own in found.features} == {(20, 100)}
    asked: list[Combination] = []

    def expected(combinations: Sequence[Combination]) -> Tensor:
        asked.extend(combinations)
        return torch.zeros(len(combinations), dtype=torch.float64)

    seen = [(k % 20, k % 7, k % 11, k % 13, k % 3) for k in range(50)]
    score = bound(found, expected, seen, exploration=0.2, information=1.0)
    assert ascend(seen[0], found.sizes, score, sweeps=1) not in seen
    assert len(asked) == 5 * 20, "one look at each prompt of each role"
