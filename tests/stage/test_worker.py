"""A worker, and a driver without weights, in this process and without a cluster: the records of one process."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from optima_lite.errors import ConfigError, ModelError  # noqa: E402
from optima_lite.learn.sft import fine_tune  # noqa: E402
from optima_lite.methods.prompts.choices import Embedding, Writing  # noqa: E402
from optima_lite.model.embedding import embeddings  # noqa: E402
from optima_lite.model.render import Rendered  # noqa: E402
from optima_lite.runs.folder import IMITATED  # noqa: E402
from optima_lite.settings.config import load_recipe  # noqa: E402
from optima_lite.settings.machine import Cluster, Machine  # noqa: E402
from optima_lite.stage.cast import LIMITS, Cast, outline  # noqa: E402
from optima_lite.stage.crew import Alone, done  # noqa: E402
from optima_lite.stage.dialogues import Ranking, Talk  # noqa: E402
from optima_lite.stage.engine import require_engine  # noqa: E402
from optima_lite.stage.lesson import Lesson  # noqa: E402
from optima_lite.stage.worker import Adapters, Done, Given, Standing, Worker, content, digest, written  # noqa: E402
from optima_lite.tasks.questions import questions  # noqa: E402

MACHINE = Machine(threads=1, max_batch_tokens=8192)
BEGUN = Adapters("the beginning", {})


def silent(*what: Any, **how: Any) -> None:
    pass


def sent(value: Any) -> Any:
    """As it comes out at the other end of a line."""
    return pickle.loads(pickle.dumps(value))


def ready(cast: Cast, **changes: Any) -> tuple[Worker, Standing]:
    worker = Worker()
    given = Given(cast.recipe.to_dict(), MACHINE, None, {}, None)
    standing = worker.ready(sent(replace(given, **changes)))
    assert isinstance(standing, Standing)
    return worker, standing


def test_a_worker_does_what_one_process_does_with_the_adapter_that_comes_along(cast: Cast, tmp_path: Path) -> None:
    """And a driver without weights fits, renders and describes the work as one that has them."""
    worker, standing = ready(cast)
    assert standing.settled == cast.settled and not standing.notes
    assert {*cast.settled} <= {*LIMITS}, "what a run has settled on is told to its first worker by these names"
    driver = outline(cast.recipe, machine=MACHINE, settled=standing.settled)
    assert driver.policy.device.type == "meta"
    asked = questions(cast.recipe.task, "train", 3, seed=0)
    fitted, _ = driver.fit(driver.team, asked)
    assert (fitted, 0) == cast.fit(cast.team, asked)
    talk = Talk(driver.team.speakers, 2, driver.sampling(driver.team), (0, 0), ())
    rank = Ranking(driver.team.speakers, cast.recipe.reward)
    alone = Alone(cast)

    def both(adapters: Adapters, folder: Path | None) -> list[Any]:
        alone.speak_with(folder)
        (talked,) = alone.map(talk, [fitted], silent)
        (ranked,) = alone.map(rank, [talked], silent)
        there = sent(worker.do(sent(adapters), sent(talk), sent(fitted)))
        assert isinstance(there, Done) and there.made == talked
        assert sum(how["tokens"] for _, how in there.told) == there.counts["sampled"] > 0
        found = sent(worker.do(adapters, sent(rank), there.made))
        assert found.made == ranked
        for group in ranked:
            for dialogue in group.dialogues:
                assert driver.team.lessons(group.question, dialogue) == cast.team.lessons(group.question, dialogue)
        return ranked

    before = both(BEGUN, None)
    row = Rendered((*range(20, 30), cast.policy.end_ids[0]), ((4, 11),))
    settings = cast.recipe.training.model_copy(update={"learning_rate": 0.5})
    lesson = Lesson(fine_tune, {"shared": [row] * 4}, settings, 0, IMITATED)
    (tmp_path / "here").mkdir()
    alone.train(lesson, tmp_path / "here", silent, silent)
    trained = worker.train(BEGUN, sent(lesson), cast.micro_batch)
    assert isinstance(trained, Done) and trained.made == content(tmp_path / "here")
    assert both(Adapters("trained", trained.made), written(trained.made, tmp_path / "there")) != before
    assert both(BEGUN, None) == before, "back at the beginning, as after a step that was undone"


def test_what_the_user_can_mend_comes_back_as_a_value(cast: Cast) -> None:
    worker, _ = ready(cast)
    talk = Talk(cast.team.speakers, 1, cast.sampling(cast.team), (0, 0), ())
    found = worker.do(Adapters("damaged", {"adapter_model.safetensors": b"x"}), talk, [])
    assert isinstance(sent(found), ModelError) and "damaged or not whole" in sent(found).what
    assert isinstance(worker.do(BEGUN, talk, []), Done), "and it goes on"
    named = cast.recipe.to_dict() | {"model": {"name": "./nowhere"}}
    assert isinstance(sent(Worker().ready(Given(named, MACHINE, None, {}, None))).wrong, ModelError)


def test_limits_that_were_settled_are_not_settled_again(cast: Cast) -> None:
    settled = {**cast.settled, "max_batch_tokens": 4096, "chunk": 3}
    _, standing = ready(cast, settled=settled)
    assert standing.settled == settled


def test_models_are_told_apart_by_what_they_are(tmp_path: Path) -> None:
    from optima_lite.model.checkpoint import bundled

    one, two = bundled("tiny"), bundled("tiny-teams")
    copied = written({name: (one / name).read_bytes() for name in ("config.json", "model.safetensors")}, tmp_path)
    assert digest(one) == digest(copied) != digest(two)


def test_what_cannot_be_given_to_a_cluster_says_so() -> None:
    pytest.importorskip("ray")
    two, three = (Machine(cluster=Cluster(engine="ray", trainers=number)) for number in (2, 3))
    refused = {
        ("market_quickstart", ()): "method market plays its episodes in one economy.*works in one process",
        ("reinforce_quickstart", ("reinforce.advantage=value",)): "value learns a head.*works in one process",
    }
    for (recipe, changes), told in refused.items():
        loaded = load_recipe(recipe, overrides=changes).recipe
        require_engine(loaded, Machine())
        with pytest.raises(ConfigError, match=told):
            require_engine(loaded, two)
    uneven = {
        ("quickstart", ()): "3 trainers cannot share training.batch_size 16 and dpo.batch_size 8 evenly",
        ("quickstart", ("schedule=isft",)): "3 trainers cannot share training.batch_size 16 evenly",
        ("reinforce_quickstart", ()): "3 trainers cannot share reinforce.batch_size 64 evenly",
    }
    for (recipe, changes), told in uneven.items():
        loaded = load_recipe(recipe, overrides=changes).recipe
        require_engine(loaded, two)
        with pytest.raises(ConfigError, match=told):
            require_engine(loaded, three)
    require_engine(load_recipe("prompts_quickstart").recipe, three)


def test_what_a_search_for_prompts_asks_the_model_is_a_job(cast: Cast) -> None:
    """Written prompts and embeddings, of a worker as of this process; in the requests that one process makes."""
    worker, _ = ready(cast)
    asked = [tuple(range(20, 30 + number)) for number in range(3)]
    writing = Writing("Bob", replace(cast.sampling(cast.team), max_new_tokens=5))
    (written_here,) = Alone(cast).map(writing, [asked], silent)
    there = sent(worker.do(BEGUN, sent(writing), asked))
    assert there.made == written_here and len({*written_here}) == 3
    assert done(Alone(cast), writing, asked) == written_here
    vectors = sent(worker.do(BEGUN, Embedding(), asked)).made
    assert torch.equal(torch.stack(vectors), embeddings(cast.policy, asked))
