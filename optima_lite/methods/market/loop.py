"""The method, in the order in which it runs: play the training questions one by one, keep the population, evaluate it.

EoM (arXiv 2606.02859): agents bid for the right to act, winners pay who acted before, rewards come at the end, the
bankrupt go, the rich have children. Episodes share one economy, so each begins where the one before has ended; only
what a batch may share (wake checks, newborn strategies, a whole evaluation) is computed together.

Every episode is a row of the run folder with all accounts after it; so the same command resumes to the last digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random

from ...learn.bidders import Bidders
from ...learn.ranking import score
from ...model.sampling import row_key
from ...records import Question
from ...runs.folder import EPISODES, POPULATION, stage_name
from ...settings.agents import Agent
from ...stage.cast import dress
from ...stage.stage import Stage
from ...tasks.questions import training_questions
from ...team.episodes import Episode, Market, Trial
from ...team.ledger import Economy, founded
from .births import Writer
from .episode import Attempt, settle
from .nurture import Nursery


def improve(stage: Stage, held_out: Sequence[Question]) -> None:
    """Every iteration of the recipe: its episodes, and how the population that comes out of them does."""
    bidders = stage.cast.team
    assert isinstance(bidders, Bidders), "the agents of a recipe with method market"
    market = Market(founded(bidders.living))
    iterations = stage.cast.recipe.training.iterations
    for iteration in range(iterations):
        market = trade(stage, iteration, market)
        now = bidders.of(market.economy.agents)
        for greedy in (False, True) if iteration == iterations - 1 else (False,):
            stage.evaluate(now, held_out, f"iteration_{iteration}", greedy=greedy, iteration=iteration)


def trade(stage: Stage, iteration: int, market: Market) -> Market:
    """The market after an iteration's episodes, a question each; what is stored of them is taken from there."""
    recipe = stage.cast.recipe
    drawn = training_questions(recipe, iteration, preference=False)
    fitted = stage.fit(stage.cast.team, drawn, stage_name(iteration, "0_questions"))
    name = stage_name(iteration, EPISODES)
    for episode in stage.run.read(name, Episode):
        market = market.after(episode, recipe.market)
    dress(stage.cast, stage.run, market.economy.agents)
    with stage.phase("trade", iteration=iteration, total=len(fitted), unit="episodes", parts=("trade",)) as advance:

        def work(chunk: Sequence[Question]) -> list[Episode]:
            nonlocal market
            (question,) = chunk
            episode = play(stage, iteration, market, question)
            market = market.after(episode, recipe.market)
            advance(1, tokens=episode.tokens)
            return [episode]

        stage.run.chunks(
            name, Episode, fitted, size=1, work=partial(map, work), stored=lambda found: advance(found, stored=True)
        )
    stage.run.whole(stage_name(iteration, POPULATION), Agent, lambda: list(market.economy.agents))
    return market


def play(stage: Stage, iteration: int, market: Market, question: Question) -> Episode:
    """One episode of the market, about a question."""
    cast = stage.cast
    bidders = cast.team
    assert isinstance(bidders, Bidders)
    bidders.generator.forget()  # an episode's batches must not depend on the episodes before it
    seed = (cast.recipe.seed, "market", iteration, market.episodes)
    sampling = cast.sampling(bidders)
    writing = replace(sampling, max_new_tokens=cast.recipe.market.strategy_tokens)
    writer = Writer(bidders, writing, seed)

    def attempt(economy: Economy, number: int) -> Attempt:
        agents = bidders.of(economy.agents)
        talk = agents.play(question, economy, sampling=sampling, seed=(*seed, number))
        worth = score(question, talk.dialogue, scoring=agents.scoring)
        return Attempt(talk.economy, Trial(talk.moves, talk.author, worth, talk.dialogue, talk.checks))

    nursery = Nursery(stage, iteration, market)
    rng = Random(row_key(*seed, "births"))
    episode = settle(market, question, play=attempt, write=writer, rules=cast.recipe.market, rng=rng, nurture=nursery)
    return replace(episode, written=writer.spent, trained=nursery.trained)
