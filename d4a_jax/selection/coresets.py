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


def k_means(features: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Chooses a prototype of each cluster: the member that is nearest to its center.

    The clusters are those of k-means with as many centers as images are chosen, the
    best of ten runs from k-means++.

    Args:
      features: float `[m, d]`, embeddings.
      count: how many to choose, at most m.
      seed: of the first centers.

    Returns:
      int `[count]` positions, those of the largest clusters first. Where fewer
      embeddings than that are distinct, images that equal chosen ones come last.
    """
    # Slow to import, and no other rule needs it.
    from sklearn.cluster import KMeans

    features = np.asarray(features, np.float64)
    clusters = min(count, len(np.unique(features, axis=0)))
    found = KMeans(clusters, n_init=10, random_state=seed).fit(features)
    distance = np.linalg.norm(features - found.cluster_centers_[found.labels_], axis=1)
    sizes = np.bincount(found.labels_, minlength=clusters)
    chosen = []
    for cluster in np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]:
        members = np.flatnonzero(found.labels_ == cluster)
        chosen.append(members[np.argmin(distance[members])])
    others = np.setdiff1d(np.arange(len(features)), chosen)
    return np.concatenate([chosen, others[: count - len(chosen)]]).astype(int)


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
