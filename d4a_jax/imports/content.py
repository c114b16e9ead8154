"""The parts of a set as a file holds them, before anything is made of them."""

from typing import Any, NamedTuple

import numpy as np


class Found(NamedTuple):
    """What a reader found.

    Attributes:
      form: the form in words, such as "a list of DC or DM".
      images: any numbers, channels first or last.
      labels: integers, one-hot rows, probabilities or logits; None where the files hold
        none.
      factor: tiles per side of an image; None where the form has tiles and the files do
        not say how many.
      learning_rate: that was learned with the images, or None.
      channels_first: whether that is known from the form; None where it is not.
      notes: what was understood on the way, in sentences.
    """

    form: str
    images: np.ndarray
    labels: np.ndarray | None = None
    factor: int | None = 1
    learning_rate: float | None = None
    channels_first: bool | None = None
    notes: tuple[str, ...] = ()


class OwnExport(NamedTuple):
    """An export by `d4a_jax.export`.

    Attributes:
      images: uint8 `[n, h, w, c]`.
      labels: integers `[n]`.
      segments: integers `[n]`.
      metadata: as the export holds them.
      label_logits: float16 `[n, classes]` or `[n, factor ** 2, classes]`, or None.
    """

    images: np.ndarray
    labels: np.ndarray
    segments: np.ndarray
    metadata: dict[str, Any]
    label_logits: np.ndarray | None = None
