"""The rules by which real images are selected, by name.

A new rule is one function here: it takes a `Request` and returns a `Chosen`, and says
in `@_rule` what it needs, by which the cost of choosing is counted (see `work`).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from d4a_jax import rng
from d4a_jax.config import Config
from d4a_jax.data import Dataset, data_directory
from d4a_jax.devices.parallel import make_layout
from d4a_jax.difficulty import load_or_cross_fit
from d4a_jax.real_data import ClassIndex
from d4a_jax.selection import coresets, teachers, windows


class Request(NamedTuple):
    """What a rule is asked for.

    Attributes:
      dataset: the real data.
      index: its training images by class.
      images_per_class: stored images of each class.
      factor: of multi-formation; `factor ** 2` real images in a stored one.
      config: see `baselines.select_images`.
      seed: of everything that is drawn.
      share: that stands behind the name of the rule; None where there is none.
    """

    dataset: Dataset
    index: ClassIndex
    images_per_class: int
    factor: int
    config: Config
    seed: int
    share: float | None = None

    @property
    def needed(self) -> int:
        """Real images of each class; a class may have fewer."""
        return self.images_per_class * self.factor**2

    def hardness(self, measure: str) -> np.ndarray:
        """A measure of `difficulty.Difficulty`, `[n]`, larger is harder."""
        runtime = self.config.runtime
        layout = make_layout(runtime.devices, runtime.class_chunk)
        folder = data_directory(self.config.data.data_dir) / "difficulty"
        found = load_or_cross_fit(self.dataset, self.config, layout, folder)
        return found.train.hardness(measure)


class Chosen(NamedTuple):
    """What a rule chose.

    Attributes:
      positions: of every class, int `[min(needed, images of the class)]` positions
        within the class, in the order of their choice.
      facts: what the set's metadata say of the choice.
    """

    positions: list[np.ndarray]
    facts: dict[str, Any]


class Rule(NamedTuple):
    """A rule.

    Attributes:
      choose: the rule.
      needs: names in `work.WORK`.
      takes_share: whether a share in [0, 1] stands behind the name, as `window=0.3`.
    """

    choose: Callable[[Request], Chosen]
    needs: tuple[str, ...]
    takes_share: bool


RULES: dict[str, Rule] = {}


def parse(selection: str) -> tuple[Rule, float | None]:
    """The rule of a selection and the share that stands behind its name.

    Raises:
      ValueError: the name is unknown or the share is out of range.
    """
    name, equals, text = selection.partition("=")
    rule = RULES.get(name)
    share = _number(text) if equals else None
    is_share = share is None or 0.0 <= share <= 1.0
    if rule is None or rule.takes_share != bool(equals) or not is_share:
        raise ValueError(
            f"selection is {selection!r}; it must be one of {', '.join(RULES)}, "
            "a window with its share of hardest images left out, as in window=0.3."
        )
    return rule, share


def _number(text):
    try:
        return float(text)
    except ValueError:
        return math.nan


def _rule(*needs: str, takes_share: bool = False):
    def register(choose):
        RULES[choose.__name__] = Rule(choose, needs, takes_share)
        return choose

    return register


@_rule()
def random(request: Request) -> Chosen:
    """Draws images uniformly without repetition."""
    key = rng.stream(jax.random.key(request.seed), "random_images")

    def draw(label, available, count):
        order = jax.random.permutation(jax.random.fold_in(key, label), available)
        return np.asarray(order[:count])

    return _by_class(request, draw)


@_rule("embeddings")
def herding(request: Request) -> Chosen:
    """Follows the mean embedding of each class; see `coresets.herding`."""
    return _by_embedding(request, coresets.herding)


@_rule("embeddings")
def k_center(request: Request) -> Chosen:
    """Leaves no embedding far from all chosen; see `coresets.k_center`."""
    return _by_embedding(request, coresets.k_center)


@_rule("embeddings")
def k_means(request: Request) -> Chosen:
    """Takes a prototype of each cluster of embeddings; see `coresets.k_means`."""
    choose = lambda features, count: coresets.k_means(features, count, request.seed)
    return _by_embedding(request, choose)


@_rule("difficulty")
def easiest(request: Request) -> Chosen:
    """Takes the images of the smallest loss."""
    return _window(request, request.hardness("loss"), 1.0)


@_rule("difficulty")
def hardest(request: Request) -> Chosen:
    """Takes the images of the largest loss."""
    return _window(request, request.hardness("loss"), 0.0)


@_rule("difficulty", takes_share=True)
def window(request: Request) -> Chosen:
    """Takes the images of the largest loss but for a given share of larger ones."""
    return _window(request, request.hardness("loss"), request.share)


@_rule("difficulty", "windows")
def loss_window(request: Request) -> Chosen:
    """A window of the loss that a held-out part of the training set chooses."""
    return _chosen_window(request, "loss")


@_rule("difficulty", "windows")
def el2n_window(request: Request) -> Chosen:
    """A window of the EL2N score (Paul et al. 2021), chosen in the same way."""
    return _chosen_window(request, "el2n")


@_rule("difficulty", "windows")
def aum_window(request: Request) -> Chosen:
    """A window of the area under the margin (Pleiss et al. 2020), chosen likewise."""
    return _chosen_window(request, "aum")


def _by_class(request, choose) -> Chosen:
    """Applies a function of (label, images of the class, number to choose)."""
    counts = enumerate(map(int, request.index.counts))
    found = [choose(label, n, min(request.needed, n)) for label, n in counts]
    return Chosen(found, {})


def _by_embedding(request, choose):
    found = teachers.embeddings(request.dataset, request.config, request.seed)
    found = request.index.to_classes(found)
    return _by_class(request, lambda label, n, count: choose(found[label, :n], count))


def _window(request, hardness, skip_hardest):
    found = request.index.to_classes(hardness)
    return _by_class(
        request,
        lambda label, n, count: coresets.difficulty_window(
            found[label, :n], count, skip_hardest
        ),
    )


def _chosen_window(request, measure):
    hardness = request.hardness(measure)
    found = windows.choose_window(
        request.dataset,
        hardness,
        request.images_per_class,
        request.factor,
        request.config,
        request.seed,
    )
    chosen = _window(request, hardness, found.skip_hardest)
    return chosen._replace(facts={"window": {"measure": measure, **found._asdict()}})
