"""D4A's filter: which real images the next segment is matched to.

Networks trained on the segments so far classify the whole real training set. They get
easy images right, which are discarded, and hard ones wrong, which are kept. The
classification is a jitted pass over batches (`verdict`); the selection on its result is
array logic, made of rules:

    rule = wrong() & learnable()          # D4A with the noise guard
    rule = easiest(0.5, wrong())          # the easier half of the wrong ones
    rule = ~kept_before() | harder_than("loss", 2.0)

A rule of your own is a function of the evidence, `Rule("mine", decide)`; pass it to
`distill`, or enter a function that makes it: `RULES.register("mine", mine)`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax.registry import Registry

VOTES = ("mean_softmax", "majority")


class Verdict(NamedTuple):
    """An ensemble's opinion of each real image.

    Attributes:
      margin: float32, mean softmax of the label minus the largest other one; in
        [-1, 1], positive where the mean softmax is right.
      votes: float32, share of the networks that classify the image correctly.
    """

    margin: jax.Array
    votes: jax.Array


class Evidence(NamedTuple):
    """The scores that a rule decides on, NumPy arrays `[C, m]`.

    Attributes:
      valid: bool, False for padding.
      verdict: of the networks that were trained on the segments so far.
      kept_before: bool, the images that the present segment was matched to.
      difficulty: float or bool, measures of cross-fitted networks by their name, such
        as "loss" or "learnable" (see `difficulty.Difficulty`); those that the rule
        needs.
    """

    valid: np.ndarray
    verdict: Verdict
    kept_before: np.ndarray | None = None
    difficulty: dict[str, np.ndarray] = {}


class Rule(NamedTuple):
    """A decision on every real image; rules are combined with `&`, `|` and `~`.

    Attributes:
      name: with all values, as in "easiest(0.5, wrong('mean_softmax'))": a run is
        identified by it.
      decide: from the evidence to bool `[C, m]`.
      needs: measures of difficulty that it reads.

    Example:
      >>> (wrong() & learnable()).name
      "(wrong('mean_softmax') & learnable())"
    """

    name: str
    decide: Callable[[Evidence], np.ndarray]
    needs: frozenset[str] = frozenset()

    def __and__(self, other: "Rule") -> "Rule":
        return Rule(
            f"({self.name} & {other.name})",
            lambda evidence: self.decide(evidence) & other.decide(evidence),
            self.needs | other.needs,
        )

    def __or__(self, other: "Rule") -> "Rule":
        return Rule(
            f"({self.name} | {other.name})",
            lambda evidence: self.decide(evidence) | other.decide(evidence),
            self.needs | other.needs,
        )

    def __invert__(self) -> "Rule":
        return Rule(f"~{self.name}", lambda x: ~self.decide(x), self.needs)


class Selection(NamedTuple):
    """The filter's decision, bool `[C, m]` each; padding is False.

    Attributes:
      easy: classified correctly by the ensemble.
      kept: the images that the next segment is matched to.
      topped_up: kept to reach the floor although the rules discard them.
    """

    easy: np.ndarray
    kept: np.ndarray
    topped_up: np.ndarray


def verdict(logits: jax.Array, labels: jax.Array) -> Verdict:
    """Margin and votes of a batch, for `Ensemble.predict`.

    Args:
      logits: `[E, b, classes]`.
      labels: `[b]`.

    Returns:
      A verdict of `[b]` arrays.
    """
    mean = jnp.mean(jax.nn.softmax(logits), axis=0)
    own = jnp.take_along_axis(mean, labels[:, None], axis=1)[:, 0]
    others = jnp.where(jax.nn.one_hot(labels, mean.shape[1], dtype=bool), -1.0, mean)
    votes = jnp.mean(jnp.argmax(logits, axis=-1) == labels, axis=0)
    return Verdict(own - jnp.max(others, axis=1), votes)


def is_right(found: Verdict, vote: str = "mean_softmax") -> np.ndarray:
    """bool: whether an ensemble classifies each image correctly.

    Args:
      found: its verdict.
      vote: by the mean softmax, or by the "majority" of the networks.
    """
    return np.asarray(found.votes > 0.5 if vote == "majority" else found.margin > 0)


def wrong(vote: str = "mean_softmax") -> Rule:
    """The images that the networks get wrong: the paper's hard images."""
    name = f"wrong({vote!r})"
    return Rule(name, lambda evidence: ~is_right(evidence.verdict, vote))


def kept_before() -> Rule:
    """The images that the present segment was matched to: a filter that accumulates."""
    return Rule("kept_before()", lambda evidence: evidence.kept_before)


def learnable() -> Rule:
    """The images that networks trained on other real images get right: no noise."""
    return Rule(
        "learnable()",
        lambda evidence: evidence.difficulty["learnable"],
        frozenset({"learnable"}),
    )


def harder_than(measure: str, value: float) -> Rule:
    """The images with a measure of difficulty above a value.

    Args:
      measure: a field of `difficulty.Difficulty`, such as "loss" or "el2n".
      value: in the measure's unit.
    """
    return Rule(
        f"harder_than({measure!r}, {value!r})",
        lambda evidence: evidence.difficulty[measure] > value,
        frozenset({measure}),
    )


def easiest(share: float, rule: Rule, measure: str = "loss") -> Rule:
    """A share of the images that a rule keeps of each class, the easiest (CCFS).

    Args:
      share: in (0, 1], rounded up to whole images.
      rule: whose images are ranked.
      measure: a field of `difficulty.Difficulty`; larger is harder.
    """

    def decide(evidence):
        kept = evidence.valid & rule.decide(evidence)
        ranked = np.where(kept, evidence.difficulty[measure], np.inf)
        order = np.argsort(ranked, axis=1, kind="stable")
        quota = np.ceil(share * kept.sum(1) - 1e-9).astype(int)
        out = np.zeros_like(kept)
        for label, (best, count) in enumerate(zip(order, quota)):
            out[label, best[:count]] = True
        return out & kept

    of_measure = "" if measure == "loss" else f", {measure!r}"
    name = f"easiest({share!r}, {rule.name}{of_measure})"
    return Rule(name, decide, rule.needs | {measure})


def everything() -> Rule:
    """All images: no filter."""
    return Rule("everything()", lambda evidence: evidence.valid)


# Functions without arguments that make a rule, for `filter.rule` of a configuration.
RULES: Registry[Callable[[], Rule]] = Registry(
    "filter rule",
    {
        "wrong": wrong,
        "wrong_and_learnable": lambda: wrong() & learnable(),
        "everything": everything,
    },
)


def select(
    evidence: Evidence,
    rule: Rule,
    floor: int,
    max_discard: float = 1.0,
    vote: str = "mean_softmax",
) -> Selection:
    """Applies a rule, and tops every class up to its floor.

    A class gets at least `floor` images and the share `1 - max_discard`; those of the
    smallest margin are added, and images that the rule knows to be unlearnable last.

    Args:
      evidence: of `[C, m]` images.
      rule: says which images are kept.
      floor: least number of images per class, where the class has as many.
      max_discard: largest share of a class that is discarded.
      vote: how the networks of the ensemble decide together.

    Returns:
      The selection.

    Example:
      >>> margin = np.array([[0.5, -0.2, 0.1]])
      >>> evidence = Evidence(margin < 2, Verdict(margin, (margin > 0) * 1.0))
      >>> select(evidence, wrong(), floor=2).kept
      array([[False,  True,  True]])
    """
    valid = evidence.valid
    easy = valid & is_right(evidence.verdict, vote)
    kept = valid & rule.decide(evidence)
    counts = valid.sum(1)
    share = np.ceil((1.0 - max_discard) * counts - 1e-9).astype(int)
    needed = np.minimum(np.maximum(floor, share), counts)
    noise = np.zeros_like(valid)
    if "learnable" in rule.needs:
        noise = ~evidence.difficulty["learnable"]
    margin = np.asarray(evidence.verdict.margin)
    topped_up = _top_up(kept, valid, needed, margin, noise)
    return Selection(easy, kept | topped_up, topped_up)


def _top_up(kept, valid, needed, margin, noise):
    """The images to be added to reach each class's floor: smallest margin first."""
    out = np.zeros_like(kept)
    for label in np.flatnonzero(kept.sum(1) < needed):
        candidates = np.flatnonzero(valid[label] & ~kept[label])
        order = np.lexsort((margin[label, candidates], noise[label, candidates]))
        missing = needed[label] - kept[label].sum()
        out[label, candidates[order[:missing]]] = True
    return out


def describe(
    selection: Selection, valid: np.ndarray, before: np.ndarray | None
) -> dict[str, float | list[float]]:
    """Figures of one filter pass.

    Args:
      selection: the decision.
      valid: bool `[C, m]`.
      before: `Selection.easy` of the pass before, None for the first.

    Returns:
      Shares in [0, 1] of the real set: classified correctly (`real_accuracy`), kept,
      and, against the pass before, `learned` (wrong to right) and `forgotten` (right
      to wrong); kept per class; classes and images topped up.
    """
    total = valid.sum()
    before = np.zeros_like(valid) if before is None else before
    return {
        "real_accuracy": float(selection.easy.sum() / total),
        "kept": float(selection.kept.sum() / total),
        "kept_per_class": (selection.kept.sum(1) / valid.sum(1)).tolist(),
        "learned": float((selection.easy & ~before).sum() / total),
        "forgotten": float((before & ~selection.easy).sum() / total),
        "topped_up_images": int(selection.topped_up.sum()),
        "topped_up_classes": int(selection.topped_up.any(1).sum()),
    }
