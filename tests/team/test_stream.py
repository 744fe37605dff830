"""Scripted agents on the virtual clock: who speaks in which tick, what has arrived by then, and that it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optima_lite.team.stream import Member, Stream

Merge = Literal["drain", "per_step"]
SHAPES = {
    "chain": {"a": "", "b": "a", "c": "b", "d": "c"},
    "tree": {"a": "", "b": "a", "c": "a", "d": "bc"},
    "graph": {"a": "", "b": "a", "c": "ab", "d": "abc"},
}


def members(shape: dict[str, str], *, serial: bool = False) -> list[Member]:
    return [Member(name, awaits=(*by,)) if serial else Member(name, hears=(*by,)) for name, by in shape.items()]


def run(
    cast: Sequence[Member],
    steps: int,
    merge: Merge = "drain",
    at_most: int = 99,
    text: Callable[[str, int, Stream], str] = lambda name, number, stream: f"{name}{number}",
) -> Stream:
    """Who hears nobody says so many steps; who hears others answers until they have ended."""
    stream = Stream(merge=merge, at_most=at_most)
    for one in cast:
        stream.join(one)
    said = {one.name: 0 for one in cast}
    while stream.ready:
        assert len(stream.beats) < 1000, "it does not end"
        name = stream.ready[0]
        said[name] += 1
        source = not stream.member(name).hears
        stream.say(text(name, said[name], stream), finished=not source or said[name] == steps)
    return stream


def serially(shape: dict[str, str], steps: int) -> Stream:
    return run(members(shape, serial=True), steps)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("agents", [1, 2, 4, 9])
def test_a_chain_takes_steps_plus_agents_less_one_ticks(agents: int, steps: int) -> None:
    chain = {str(k): str(k - 1) if k else "" for k in range(agents)}
    assert run(members(chain), steps).ticks == steps + agents - 1
    assert serially(chain, steps).ticks == agents * steps


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_tree_and_graph_take_the_ticks_counted_by_hand(steps: int) -> None:
    """Serial: three levels, and four. A join that takes all that waits adds one tick a level; one that takes a step at
    a time is the bottleneck: two for each step in the tree, and in the graph the third says twice as many as it should,
    the fourth four times."""
    tree, graph = members(SHAPES["tree"]), members(SHAPES["graph"])
    assert (run(tree, steps).ticks, run(tree, steps, "per_step").ticks) == (steps + 2, 2 + 2 * steps)
    assert (run(graph, steps).ticks, run(graph, steps, "per_step").ticks) == (steps + 3, 1 + 4 * steps)
    assert (serially(SHAPES["tree"], steps).ticks, serially(SHAPES["graph"], steps).ticks) == (3 * steps, 4 * steps)


def test_a_join_by_step_is_slower_than_serial_for_messages_of_one_step() -> None:
    assert run(members(SHAPES["tree"]), 1, "per_step").ticks == 4 > serially(SHAPES["tree"], 1).ticks == 3


def test_a_join_drains_what_waits_or_takes_one_step_at_a_time() -> None:
    drained, single = (run(members(SHAPES["tree"]), 2, merge) for merge in ("drain", "per_step"))
    assert [[one.text for one in message.heard] for message in drained.messages("d")] == [["b1", "c1"], ["b2", "c2"]]
    assert [[one.text for one in message.heard] for message in single.messages("d")] == [["b1"], ["c1"], ["b2"], ["c2"]]


def test_nobody_waits_for_the_other_side_of_a_join() -> None:
    stream = run(members(SHAPES["graph"]), 2)
    assert [(beat.tick, beat.text) for beat in stream.beats] == [
        (1, "a1"),
        *((2, text) for text in ("a2", "b1", "c1", "d1")),
        *((3, text) for text in ("b2", "c2", "d2")),
        *((4, text) for text in ("c3", "d3")),
        (5, "d4"),
    ]


def relayed(name: str, number: int, stream: Stream) -> str:
    """Passes on what was heard, so that the last one shows all that has come through."""
    heard = " ".join(one.text for one in stream.takes(name)) if stream.member(name).hears else ""
    whole = " ".join(stream.whole(one) for one in stream.member(name).awaits if number == 1).replace("\n", " ")
    return heard or whole or (f"step{number}" if name == "a" else "")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("merge", ["drain", "per_step"])
def test_serial_and_stream_deliver_the_same_steps(shape: str, merge: Merge) -> None:
    def delivered(stream: Stream) -> set[str]:
        return {*stream.whole("d").split()}

    streamed = run(members(SHAPES[shape]), 4, merge, text=relayed)
    assert delivered(streamed) == delivered(run(members(SHAPES[shape], serial=True), 4, text=relayed))
    assert delivered(streamed) == {"step1", "step2", "step3", "step4"}
    if shape == "chain":
        assert streamed.whole("d").split() == ["step1", "step2", "step3", "step4"], "and in their order"


def test_an_empty_step_is_not_handed_on() -> None:
    chain = members({"a": "", "b": "a"})
    stream = run(chain, 3, text=lambda name, number, _: "" if (name, number) == ("a", 2) else f"{name}{number}")
    assert [one.text for message in stream.messages("b") for one in message.heard] == ["a1", "a3"]
    silent = run(chain, 1, text=lambda name, number, _: "" if name == "a" else "alone")
    assert [(beat.tick, beat.text) for beat in silent.beats] == [(1, ""), (2, "alone")], "it speaks once all the same"


def test_an_end_after_the_last_step_costs_nobody_a_tick() -> None:
    """A message that ends with nothing after its last marker."""
    stream = run(members(SHAPES["chain"]), 5, text=lambda name, k, _: "" if (name, k) == ("a", 5) else f"{name}{k}")
    assert stream.ticks == 4 + 4 - 1


@pytest.mark.parametrize("at_most", [1, 2, 5])
def test_an_agent_says_at_most_so_many_steps_and_leaves_nothing_unheard(at_most: int) -> None:
    stream = run(members(SHAPES["graph"]), 4, "per_step", at_most)
    for name in "bcd":
        messages = stream.messages(name)
        assert len(messages) <= at_most
        heard = [one.text for message in messages for one in message.heard]
        assert sorted(heard) == sorted(beat.text for beat in stream.beats if beat.name in stream.member(name).hears)


def test_what_exists_only_whole_is_waited_for() -> None:
    cast = [Member("plan"), Member("look", awaits=("plan",)), Member("solve", hears=("look",), awaits=("plan",))]
    stream = run(cast, 2)
    assert [(beat.tick, beat.text) for beat in stream.beats] == [
        (1, "plan1"), (2, "plan2"), (3, "look1"), (4, "look2"), (4, "solve1"), (5, "solve2"),
    ]  # fmt: skip


def test_a_late_comer_finds_in_its_queue_what_was_said_before() -> None:
    stream = Stream()
    stream.join(Member("a"))
    stream.say("a1", finished=False)
    stream.join(Member("b", hears=("a",)))
    assert [one.text for one in stream.takes("b")] == ["a1"]
    assert stream.ready == ("a", "b")


@pytest.mark.parametrize("cut", ["source", "answer"])
def test_a_message_that_is_cut_is_told(cut: str) -> None:
    stream = Stream()
    for one in members({"a": "", "b": "a"}):
        stream.join(one)
    stream.say("a1", finished=False)
    assert not stream.cut, "it goes on"
    stream.say("", finished=False, silent=True) if cut == "source" else stream.say("a2", finished=False)
    if cut == "answer":
        stream.say("b1", finished=False)
    assert stream.cut


def test_who_hears_somebody_that_never_joined_is_refused() -> None:
    stream = Stream()
    with pytest.raises(ValueError, match="a loop"):
        stream.join(Member("a", hears=("b",)))


graphs = st.lists(st.integers(0, 2**7 - 1), min_size=1, max_size=7).map(
    lambda masks: {str(k): "".join(str(j) for j in range(k) if mask >> j & 1) for k, mask in enumerate(masks)}
)


@given(graphs, st.integers(1, 4), st.sampled_from(["drain", "per_step"]), st.integers(1, 9))
def test_any_graph_without_a_loop_ends_and_hears_everything(
    shape: dict[str, str], steps: int, merge: Merge, at_most: int
) -> None:
    stream = run(members(shape), steps, merge, at_most)
    again = run(members(shape), steps, merge, at_most)
    assert stream.beats == again.beats, "nothing is left to chance"
    for name, by in shape.items():
        heard = [one.text for message in stream.messages(name) for one in message.heard]
        assert sorted(heard) == sorted(beat.text for beat in stream.beats if beat.name in by)
        for beat in stream.beats:
            first = next(one.tick for one in stream.beats if one.name == beat.name)
            if shape[beat.name]:
                assert first > min(one.tick for one in stream.beats if one.name in shape[beat.name])
