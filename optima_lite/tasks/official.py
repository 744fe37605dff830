"""The official code's functions, re-implemented with their bugs (github.com/thunlp/Optima at 4017740).

For comparison with that code; the loop depends on none of them, but for the scores of `task.scoring: official`. Names
of parameters are this project's; what looks odd here is odd there. Nothing is copied: this follows a description of the
behaviour, and tests compare it with recorded inputs and outputs of the original.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import exp, log
from string import Template

# --- Preference data and selection -----------------------------------------------------------------


@dataclass(eq=False)
class TreeNode:
    """A message of the official tree. Unlike `records.Node` it stores its extreme children, and these go stale."""

    text: str
    parent: TreeNode | None = None
    children: list[TreeNode] = field(default_factory=list)
    value: float = 0.0
    visits: int = 0
    min_child: TreeNode | None = None
    max_child: TreeNode | None = None


@dataclass(frozen=True, slots=True)
class OfficialPair:
    """What one node teaches. speaker: 0 or 1, by the depth. gap: chosen value less rejected value."""

    speaker: int
    history: tuple[str, ...]
    chosen: str
    rejected: str
    chosen_value: float
    gap: float


def grow(rollouts: Sequence[tuple[Sequence[str], float]]) -> TreeNode:
    """The root of the tree after rollouts (texts from the root on, reward), backed up in the order given."""
    root = TreeNode("")
    for texts, reward in rollouts:
        node = root
        for text in texts:
            node = _child(node, text)
        _back_up(node, reward)
    return root


def _child(node: TreeNode, text: str) -> TreeNode:
    found = next((child for child in node.children if child.text == text), None)
    if found is None:
        found = TreeNode(text, node)
        node.children.append(found)
    return found


def _back_up(reached: TreeNode, reward: float) -> None:
    """Bug: only the child that was just updated is compared with the stored extremes. When the stored maximum falls
    below a sibling it stays the maximum until that sibling is visited again; the minimum likewise."""
    node: TreeNode | None = reached
    while node is not None:
        node.visits += 1
        node.value += (reward - node.value) / node.visits
        parent = node.parent
        if parent is not None:
            if parent.min_child is None or node.value < parent.min_child.value:
                parent.min_child = node
            if parent.max_child is None or node.value > parent.max_child.value:
                parent.max_child = node
        node = parent


def walk(root: TreeNode, history: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], TreeNode]]:
    """Every node with the texts that lead to it, its own included; parents before children."""
    yield history, root
    for child in root.children:
        yield from walk(child, (*history, child.text))


def dpo_pairs(root: TreeNode, *, min_best: float, min_gap: float) -> list[OfficialPair]:
    """The pairs of one tree that are kept: at most one a node, stored best against stored worst child, the best half.

    min_best and min_gap: `initial_dpo_episilon` and `initial_dpo_min_value` of its configs. Oddity: the half is rounded
    down, but a single pair is kept.
    """
    found = []
    for history, node in walk(root):
        best, worst = node.max_child, node.min_child
        if len(node.children) < 2 or best is None or worst is None:
            continue
        gap = best.value - worst.value
        if best.value > min_best and gap > min_gap:
            found.append(OfficialPair(len(history) % 2, history, best.text, worst.text, best.value, gap))
    found.sort(key=lambda pair: -pair.chosen_value)
    return found[: int(0.5 * len(found))] if int(0.7 * len(found)) >= 1 else found


@dataclass(frozen=True, slots=True)
class TreeReward:
    """Reward of a rollout of the official search. messages_scored: those whose loss counted."""

    total: float
    task: float
    readability: float
    messages_scored: int


def reward_mcts(
    messages: Sequence[str],
    *,
    task: float,
    losses: Sequence[float],
    tokens: int,
    normaliser: int,
    token_weight: float,
    readability_weight: float,
) -> TreeReward:
    """The reward of one rollout. task: its score by the answer alone. losses: nats per token of each message.

    Weights are positive here. Oddities: a dialogue of at most 40 tokens pays a whole point; one message with both
    speakers' tags, or one of them twice, makes the answer wrong and hides the messages after it.
    """
    token_term = -1.0 if tokens <= 40 or "large" in messages else -token_weight * tokens / normaliser
    if tokens > 2000 or not messages:
        return TreeReward(task + token_term - 1, task, -1.0, 0)
    scored: list[float] = []
    seen: set[str] = set()
    for message, loss in zip(messages, losses, strict=True):
        tags = [message.count("Alice:"), message.count("Bob:")]
        if min(tags) > 0 or max(tags) > 1:
            task = 0.0
            break
        said = message.strip().strip("Alice:").strip("Bob:").lower()  # oddity: sets of letters, not prefixes
        if said in seen:
            scored = []
            break
        seen.add(said)
        scored.append(loss)
    readability = readability_weight / max(scored) if scored else 0.0
    return TreeReward(task + token_term + readability, task, readability, len(scored))


def sft_select(tasks: Sequence[Sequence[float]], *, min_reward: float, drop_easiest: bool) -> list[tuple[int, int]]:
    """(task, sample) of the dialogues that iSFT trains on, best first, from the rewards of each task's samples.

    drop_easiest: the rule for MATH, which leaves out the best tenth. Oddity: the share is taken of all tasks before the
    threshold.
    """
    best = [(i, max(range(len(rewards)), key=rewards.__getitem__)) for i, rewards in enumerate(tasks)]
    best.sort(key=lambda place: -tasks[place[0]][place[1]])
    n = len(best)
    kept = best[int(0.1 * n) : int(0.8 * n)] if drop_easiest else best[: int(0.7 * n)]
    return [(i, k) for i, k in kept if tasks[i][k] >= min_reward]


def split_rows(rows: int) -> tuple[int, int]:
    """How many of the training rows are trained on and how many tested on."""
    return int(0.98 * rows), rows - int(0.98 * rows)


# --- Texts: answers, scores, rewards, training rows ------------------------------------------------

_TAGS = ("Alice:", "Bob:")
_REPLACED = [
    ("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text"),
    (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}"),
]  # fmt: skip
_REMOVED = [
    "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", "\\ldots", "sue", "points",
    "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students",
    "childrentickets", "multiples", "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}",
    "\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots",
]  # fmt: skip
_UNWRAPPED = [
    (r".*?\$(.*?)\$.*", r"$\1"),  # only what stands between dollar signs
    (r"\\text\{(.*?)\}", r"\1"),
    (r"\\textbf\{(.*?)\}", r"\1"),
    (r"\\overline\{(.*?)\}", r"\1"),
    (r"\\boxed\{(.*)\}", r"\1"),
    (r"frac([^{])(.)", r"frac{\1}{\2}"),
    (r"sqrt([^{])", r"sqrt{\1}"),
]


def extract_qa(text: str) -> str | None:
    """The last `<A>...</A` on one line, unstripped. Oddity: the closing `>` is not needed."""
    found = re.findall("<A>(.*?)</A", text)
    return found[-1] if found else None


def extract_math(text: str) -> str | None:
    r"""What the last `\boxed{` holds, normalised; None when it is not closed. Gold answers are read in the same way."""
    begin = text.rfind("\\boxed{")
    if begin < 0:
        return None
    begin += len("\\boxed{")
    depth = 1
    for end in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return math_normalize(text[begin:end])
    return None


def math_normalize(text: str) -> str:
    r"""An answer by the recipe of Minerva's appendix D. Oddity: units are removed wherever their letters stand, so that
    \left loses its "ft"."""
    text = text.split("=")[-1]
    for old, new in [*_REPLACED, *((unit, "") for unit in _REMOVED)]:
        text = text.replace(old, new)
    for pattern, new in _UNWRAPPED:
        text = re.sub(pattern, new, text)
    text = text.replace("$", "")
    bare = text.replace(",", "")
    return bare if bare.isdigit() else text


def math_equiv(one: str, other: str) -> bool:
    """Whether sympy reads both and simplifies their difference to zero; needs ANTLR 4.11 and knows no time limit.

    Oddities: what cannot be read equals nothing, not even itself; what follows the part that can be read is ignored.
    """
    from sympy import SympifyError, simplify
    from sympy.parsing.latex import parse_latex
    from sympy.parsing.latex.errors import LaTeXParsingError

    try:
        return bool(simplify(parse_latex(one) - parse_latex(other)) == 0)
    except (LaTeXParsingError, SympifyError, TypeError, ValueError):
        return False


def math_equal(one: str, other: str) -> bool:
    """`math_equiv` as training scores it: without case, and whatever else makes the parser fail is unequal."""
    try:
        return math_equiv(one.lower().strip(), other.lower().strip())
    except (AttributeError, IndexError, KeyError, NotImplementedError, RecursionError, ZeroDivisionError):
        return False


def f1(prediction: str, answers: Sequence[str], *, tokenize: Callable[[str], Sequence[str]]) -> float:
    """Overlap of the tokens of the lower-cased texts, the best over the answers; tokenize is the model's tokenizer.

    Oddity: the letter m and the sign = are stripped from both ends, so that Tom is the same as to.
    """
    return max(_overlap(tokenize(_trimmed(prediction)), tokenize(_trimmed(answer))) for answer in answers)


def _trimmed(text: str) -> str:
    return text.lower().strip().strip("m=").strip("m= ")


def _overlap(one: Sequence[str], other: Sequence[str]) -> float:
    common = (Counter(one) & Counter(other)).total()
    if not common:
        return 0.0
    precision, recall = common / len(one), common / len(other)
    return 2 * precision * recall / (precision + recall)


def exact_match(prediction: str, answer: str) -> float:
    """1 for the same text but for case and the space around it; the prediction may also have backslashes around it."""
    return float(prediction.strip().strip("\\").lower().strip() == answer.lower().strip())


@dataclass(frozen=True, slots=True)
class SampledDialogue:
    """One dialogue of a task. task: the score of its answer. losses: nats per token of each message."""

    messages: tuple[str, ...]
    losses: tuple[float, ...]
    tokens: int
    task: float


@dataclass(frozen=True, slots=True)
class SampledReward:
    """The official reward with its parts; token_term and readability_term come with their weights and signs."""

    total: float
    task: float
    token_term: float
    readability_term: float


def reward_task(
    dialogues: Sequence[SampledDialogue], *, token_weight: float, readability_weight: float
) -> list[SampledReward]:
    """The rewards of all dialogues of one task; weights are positive. Raises ValueError when each holds a message that
    was cut (the text `large`): there the official code loses the task without a word.

    A dialogue of at most 40 tokens, and one that was cut, pays a whole point for its tokens; one of more than 2,000
    pays another for readability; a message said twice makes that term 0.
    """
    longest = max(dialogue.tokens for dialogue in dialogues if "large" not in dialogue.messages)
    rewards = []
    for dialogue in dialogues:
        cut_or_short = "large" in dialogue.messages or dialogue.tokens <= 40
        token_term = -1.0 if cut_or_short else -token_weight * dialogue.tokens / longest
        if dialogue.tokens > 2000 or not dialogue.messages:
            readability = -1.0
        elif _repeats(dialogue.messages):
            readability = 0.0
        else:
            readability = readability_weight / max(dialogue.losses)
        rewards.append(SampledReward(dialogue.task + token_term + readability, dialogue.task, token_term, readability))
    return rewards


def _repeats(messages: Sequence[str]) -> bool:
    """Oddity: names are stripped as sets of letters, so that different messages can count as the same."""
    said = [message.strip().strip(_TAGS[0]).strip(_TAGS[1]).lower() for message in messages]
    return len(set(said)) < len(said)


def message_loss(logits: Sequence[Sequence[Sequence[float]]], ids: Sequence[Sequence[int]], *, pad: int) -> list[float]:
    """Mean nats per token of each message, from the position after the five of the chat header to the turn end.

    logits: message x position x vocabulary; position p predicts the id at p + 1. ids: message x position, padded on
    the right. Oddity: a loss of exactly zero counts as padding.
    """
    means = []
    for rows, row_ids in zip(logits, ids, strict=True):
        losses = [_nats(rows[p - 1], row_ids[p]) for p in range(5, len(row_ids)) if row_ids[p] != pad]
        counted = [loss for loss in losses if loss != 0]
        means.append(sum(counted) / len(counted))
    return means


def _nats(logits: Sequence[float], label: int) -> float:
    top = max(logits)
    return top + log(sum(exp(logit - top) for logit in logits)) - logits[label]


def clean_penalty(messages: Sequence[str]) -> float:
    """What is added to the reward before selection: -10 for each message that repeats a speaker's tag, and for the
    first with both speakers' tags, after which no more are looked at."""
    penalty = 0.0
    for message in messages:
        counts = [message.count(tag) for tag in _TAGS]
        if min(counts) > 0:
            return penalty - 10
        if max(counts) > 1:
            penalty -= 10
    return penalty


def sft_rows(
    messages: Sequence[str], *, contexts: tuple[Sequence[str], Sequence[str]], question: str, template: str
) -> list[list[tuple[str, str]]]:
    """The two training rows of a dialogue, one for each agent, as (role, text): its system prompt, then all messages,
    its partner's too, as assistant turns.

    template: with $name, $partner, $question and $information. Oddity: the information is the repr of a Python list,
    while the dialogue was sampled with plain lines.
    """
    names = [tag.removesuffix(":") for tag in _TAGS]
    rows = []
    for speaker, name in enumerate(names):
        filled = Template(template).safe_substitute(
            name=name, partner=names[1 - speaker], question=question, information=repr(list(contexts[speaker]))
        )
        rows.append([("system", filled), *(("assistant", message) for message in messages)])
    return rows
