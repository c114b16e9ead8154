"""Which real images of a class to keep: the field's selection rules, as pure functions.

Each takes what is known of the images of one class and returns the positions of the
chosen ones, in the order of their choice.
"""

import numpy as np


def herding(features: np.ndarray, count: int) -> np.ndarray:
    """Chooses images whose mean embedding follows that of the class (Welling 2009).

    Greedy, without repetition: each choice brings the mean of all chosen as close to
    the mean of the class as one more image can (iCaRL, Rebuffi et al. 2017, alg. 4).

    Args:
      features: float `[m, d]`, embeddings.
      count: how many to choose, at most m.

    Returns:
      int `[count]` positions.
    """
    features = np.asarray(features, np.float64)
    mean, total = features.mean(0), np.zeros(features.shape[1])
    squares = np.einsum("md,md->m", features, features)
    free = np.ones(len(features), bool)
    chosen = np.empty(count, int)
    for k in range(count):
        # ||(k + 1) mean - (total + f)||^2 without what no choice changes.
        wanted = (k + 1) * mean - total
        distance = squares - 2.0 * features @ wanted
        chosen[k] = np.argmin(np.where(free, distance, np.inf))
        free[chosen[k]] = False
        total += features[chosen[k]]
    return chosen


def k_center(features: np.ndarray, count: int) -> np.ndarray:
    """Chooses images that leave none far from all chosen (Sener & Savarese 2018).

    Greedy: first the image nearest to the mean of the class, then again and again the
    one that is farthest from all chosen so far.

    Args:
      features: float `[m, d]`, embeddings.
      count: how many to choose, at most m.

    Returns:
      int `[count]` positions.
    """
    features = np.asarray(features, np.float64)
    distance_to = lambda point: np.linalg.norm(features - point, axis=1)
    chosen = [int(np.argmin(distance_to(features.mean(0))))]
    nearest = np.full(len(features), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, distance_to(features[chosen[-1]]))
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
    return np.array(chosen[:count])


def difficulty_window(
    difficulty: np.ndarray, count: int, skip_hardest: float
) -> np.ndarray:
    """Chooses the hardest images but for a share of still harder ones.

    A share of 0 gives the hardest images, of 1 the easiest ones; SelMatch (Lee & Chung
    2024) starts from a window between them.

    Args:
      difficulty: float `[m]`, larger is harder.
      count: how many to choose, at most m.
      skip_hardest: share of the class that is left out at its hard end, in [0, 1];
        less where fewer than `count` images would be left.

    Returns:
      int `[count]` positions, the hardest first.

    Raises:
      ValueError: if the share is out of range.
    """
    if not 0.0 <= skip_hardest <= 1.0:
        raise ValueError(f"skip_hardest is {skip_hardest!r}; it must be in [0, 1].")
    hardest_first = np.argsort(-np.asarray(difficulty), kind="stable")
    first = min(round(skip_hardest * len(hardest_first)), len(hardest_first) - count)
    return hardest_first[first : first + count]
