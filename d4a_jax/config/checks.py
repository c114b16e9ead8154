"""What must hold between several values of a configuration."""

from collections.abc import Iterator

from d4a_jax.config.sections import MOST, Config


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
    if matching.surrogate == "inversion":
        yield from _inversion_checks(config)
    yield from _trajectory_checks(config)
    if matching.surrogate in ("distribution", "cafe"):
        yield from _feature_checks(config)
    if matching.distance == "cosine" and matching.match_norm_and_bias:
        yield (
            "matching.match_norm_and_bias is True with matching.distance 'cosine'; "
            "one-dimensional parameters have no direction per output unit, so it "
            "must be False."
        )


def _trajectory_checks(config: Config) -> Iterator[str]:
    """Problems of the experts' window, and of what trajectory matching cannot use."""
    settings, synthetic = config.trajectory, config.synthetic
    last = settings.max_start_epoch - 1 + settings.expert_epochs
    if last > settings.epochs:
        yield (
            f"trajectory.epochs is {settings.epochs}; it must be at least {last}, the "
            "last epoch that trajectory.max_start_epoch and trajectory.expert_epochs "
            "reach."
        )
    first = settings.first_max_start_epoch or settings.max_start_epoch
    if first > settings.max_start_epoch:
        yield (
            f"trajectory.first_max_start_epoch is {first}; it must be at most "
            f"trajectory.max_start_epoch = {settings.max_start_epoch}."
        )
    if settings.min_start_epoch >= first:
        yield (
            f"trajectory.min_start_epoch is {settings.min_start_epoch}; it must be "
            f"below {first}, where the window ends."
        )
    if config.matching.surrogate == "trajectory" and config.regularizer.name != "none":
        yield (
            f"regularizer.name is {config.regularizer.name!r} with matching.surrogate "
            "'trajectory'; it must be 'none', as the student trains on the earlier "
            "segments as well."
        )
    if settings.label_learning_rate and config.matching.surrogate != "trajectory":
        yield (
            f"trajectory.label_learning_rate is {settings.label_learning_rate} with "
            f"matching.surrogate {config.matching.surrogate!r}; labels are learned by "
            "trajectory matching alone, so it must be 0."
        )
    if synthetic.frozen_share and synthetic.init == "noise":
        yield (
            f"synthetic.frozen_share is {synthetic.frozen_share} with synthetic.init "
            "'noise'; noise must not be frozen, so it must be 0."
        )


def _feature_checks(config: Config) -> Iterator[str]:
    """Options of gradient matching that mean features do not have."""
    surrogate = config.matching.surrogate
    if config.matching.distance == "cosine":
        yield (
            f"matching.distance is 'cosine' with matching.surrogate {surrogate!r}; "
            "mean features have no output units, so it must be mse or l1."
        )
    if config.regularizer.name == "replay":
        yield (
            f"regularizer.name is 'replay' with matching.surrogate {surrogate!r}; it "
            "steps along a gradient, so it needs the surrogate 'gradient'."
        )
    for name in ("match_norm_and_bias", "match_classifier"):
        if getattr(config.matching, name):
            yield (
                f"matching.{name} is True with matching.surrogate {surrogate!r}; it "
                "chooses among gradients, so it must be False."
            )


def _inversion_checks(config: Config) -> Iterator[str]:
    """Options that the inversion of a teacher does not have."""
    if config.regularizer.name != "none" or config.matching.union:
        yield (
            f"regularizer.name is {config.regularizer.name!r} and matching.union is "
            f"{config.matching.union} with matching.surrogate 'inversion'; it takes no "
            "account of earlier segments, so they must be 'none' and False."
        )
    if not config.network_training.pretrain_epochs:
        yield (
            "network_training.pretrain_epochs is 0 with matching.surrogate "
            "'inversion'; the teacher has to be trained, so it must be at least 1."
        )
    if config.matching.outer_iterations > 1:
        yield (
            f"matching.outer_iterations is {config.matching.outer_iterations} with "
            "matching.surrogate 'inversion'; a segment has one teacher, so it must "
            "be 1."
        )
