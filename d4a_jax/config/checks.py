"""What must hold between several values of a configuration."""

from collections.abc import Iterator

from d4a_jax.config.sections import Config
from d4a_jax.options import MOST


def cross_checks(config: Config) -> Iterator[str]:
    """Problems that concern several values at once."""
    synthetic, matching = config.synthetic, config.matching
    total = synthetic.images_per_class
    if isinstance(synthetic.segments, tuple):
        if sum(synthetic.segments) != total:
            yield (
                f"synthetic.segments is {synthetic.segments!r}, which sums to "
                f"{sum(synthetic.segments)}; it must sum to "
                f"synthetic.images_per_class = {total}."
            )
    elif synthetic.segments > total:
        yield (
            f"synthetic.segments is {synthetic.segments}; it must be at most "
            f"synthetic.images_per_class = {total}."
        )
    if config.steps_per_segment * len(config.segment_sizes) > MOST:
        yield (
            f"matching.outer_iterations * inner_iterations is "
            f"{config.steps_per_segment} for each segment; all segments together may "
            f"take at most {MOST} steps."
        )
    calls = config.runtime.steps_per_call
    if calls and config.steps_per_segment % calls:
        yield (
            f"runtime.steps_per_call is {calls}; it must divide the "
            f"{config.steps_per_segment} matching steps of a segment."
        )
    if (
        synthetic.decode == "bound"
        and max(config.segment_sizes) > matching.batch_syn_max
    ):
        yield (
            f"matching.batch_syn_max is {matching.batch_syn_max} with synthetic.decode "
            f"'bound'; it must be at least the {max(config.segment_sizes)} images per "
            "class of the largest segment."
        )
    if synthetic.frozen_share and synthetic.init == "noise":
        yield (
            f"synthetic.frozen_share is {synthetic.frozen_share} with synthetic.init "
            "'noise'; noise must not be frozen, so it must be 0."
        )
    yield from config.method.problems(config)
