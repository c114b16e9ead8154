"""Labels in any usual form: integers, one-hot rows, probabilities, logits."""

import numpy as np

from d4a_jax.artifact import ArtifactError

_SUM_TOLERANCE = 1e-3
# What stands for a probability of zero; float16 holds its logarithm.
_LEAST_PROBABILITY = 1e-7


def read_labels(
    labels: np.ndarray, count: int, num_classes: int
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Reads the labels of images.

    Args:
      labels: `[count]` or `[count, 1]` integers (floats without a fraction as well)
        from 0 or from 1 to the number of classes, or `[count, num_classes]` one-hot
        rows, probabilities or logits.
      count: images, or the training images that they form.
      num_classes: of the set.

    Returns:
      int32 `[count]`, for soft labels the most likely class; float16 logits
      `[count, num_classes]` or None where labels are hard; the meaning in words.

    Raises:
      ArtifactError: the shape, a value or a class does not fit.
    """
    labels = np.asarray(labels)
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape == (count,):
        return _hard(labels, num_classes)
    if labels.shape != (count, num_classes):
        raise ArtifactError(
            f"The labels have the shape {list(labels.shape)}; [{count}] integers or "
            f"[{count}, {num_classes}] one-hot rows, probabilities or logits are "
            "needed."
        )
    if labels.dtype.kind not in "biuf" or not np.isfinite(labels).all():
        raise ArtifactError("The labels are not all finite numbers.")
    return _rows(labels.astype(np.float32))


def _hard(labels, num_classes):
    if labels.dtype.kind not in "iuf" or not np.isfinite(labels).all():
        raise ArtifactError(f"The labels are {labels.dtype}; integers are needed.")
    if not np.array_equal(labels, np.rint(labels)):
        raise ArtifactError("The labels have fractions; integers are needed.")
    low, high = int(labels.min()), int(labels.max())
    # With zero absent and all classes there, counting from 1 is the only reading.
    if low == 1 and high == num_classes:
        labels, meaning = labels - 1, "Labels are integers that count from 1."
    elif 0 <= low and high < num_classes:
        meaning = "Labels are integers."
    else:
        raise ArtifactError(
            f"The labels run from {low} to {high}, but there are {num_classes} classes "
            f"(0 to {num_classes - 1})."
        )
    return labels.astype(np.int32), None, meaning


def _rows(rows):
    best = rows.argmax(axis=1).astype(np.int32)
    sums = rows.sum(axis=1)
    if (rows >= 0).all() and np.abs(sums - 1).max() <= _SUM_TOLERANCE:
        if np.array_equal(rows.max(axis=1), np.ones(len(rows))):
            return best, None, "Labels are one-hot rows."
        logits = np.log(np.maximum(rows, _LEAST_PROBABILITY))
        return best, logits.astype(np.float16), "Labels are probabilities."
    logits = rows - rows.max(axis=1, keepdims=True)
    lowest = float(np.finfo(np.float16).min)
    logits = np.maximum(logits, lowest).astype(np.float16)
    return best, logits, "Labels are logits."
