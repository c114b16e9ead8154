"""D4A's filter: which real images the next segment is matched to.

Networks trained on the segments so far classify the whole real training set. What
they get right is easy and discarded; what they get wrong is hard and kept. The
classification is a jitted pass over batches; the selection on its result is plain
array logic with the options of `FilterConfig`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax.config import FilterConfig


class Verdict(NamedTuple):
    """What an ensemble says of each real image.

    Attributes:
      margin: float32, mean softmax of the label minus the largest other one; in
        [-1, 1], positive where the mean softmax is right.
      votes: float32, share of the networks that classify the image correctly.
    """

    margin: jax.Array
    votes: jax.Array


class Selection(NamedTuple):
    """The filter's decision, bool `[C, m]` each; padding is False.

    Attributes:
      easy: classified correctly by the ensemble.
      kept: what the next segment is matched to.
      topped_up: kept to reach the floor although the rules above discard it.
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


def select(
    result: Verdict,
    valid: np.ndarray,
    config: FilterConfig,
    floor: int,
    previously_kept: np.ndarray | None = None,
    learnable: np.ndarray | None = None,
    difficulty: np.ndarray | None = None,
) -> Selection:
    """Applies the filter's rules, in this order.

    Hard is what the ensemble gets wrong (`vote`). With `scope` "cumulative", only of
    what was kept before. With `guard`, only what networks trained on real data get
    right. With `keep_easiest`, only that share of it, the easiest (as CCFS adds
    images). Every class is then topped up to `floor` images and to the share
    `1 - max_discard`, by images of the smallest margin, those that the guard calls
    unlearnable last.

    Args:
      result: verdict on `[C, m]` images, as NumPy arrays.
      valid: bool `[C, m]`, False for padding.
      config: the options.
      floor: least number of images per class, where the class has as many.
      previously_kept: bool `[C, m]`, needed for the cumulative scope.
      learnable: bool `[C, m]`, needed for the guard.
      difficulty: float `[C, m]`, needed for `keep_easiest` below 1; larger is harder.

    Returns:
      The selection.
    """
    majority = config.vote == "majority"
    easy = valid & (result.votes > 0.5 if majority else result.margin > 0)
    kept = valid & ~easy
    if config.scope == "cumulative":
        kept &= previously_kept
    if config.guard:
        kept &= learnable
    if config.keep_easiest < 1.0:
        kept = _easiest_share(kept, difficulty, config.keep_easiest)
    counts = valid.sum(1)
    share = np.ceil((1.0 - config.max_discard) * counts - 1e-9).astype(int)
    needed = np.minimum(np.maximum(floor, share), counts)
    noise = config.guard & ~learnable if config.guard else np.zeros_like(valid)
    topped_up = _top_up(kept, valid, needed, np.asarray(result.margin), noise)
    return Selection(easy, kept | topped_up, topped_up)


def _easiest_share(kept, difficulty, share):
    """The given share of each class's kept images, the easiest, rounded up."""
    ranked = np.argsort(np.where(kept, difficulty, np.inf), axis=1, kind="stable")
    quota = np.ceil(share * kept.sum(1) - 1e-9).astype(int)
    out = np.zeros_like(kept)
    for label, (order, count) in enumerate(zip(ranked, quota)):
        out[label, order[:count]] = True
    return out & kept


def _top_up(kept, valid, needed, margin, noise):
    """What must be added to each class to reach its floor: smallest margin first."""
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
