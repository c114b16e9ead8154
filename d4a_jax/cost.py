"""The cost of a distillation, in passes of one image through the network.

A forward pass counts 1, a backward pass 1 for the activations and 1 for the weights.
Counted are the matching steps and the training of the networks that they need; not the
networks that test a prefix and filter, nor those that measure difficulty. The unit does
not depend on the machine, so methods can be given the same budget.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from d4a_jax.config import Config

_TRAINING = 3


def total_passes(config: "Config", num_classes: int, num_images: int) -> int:
    """Passes of all matching steps for all classes, and of the networks' training.

    Without the experts of trajectories, which are trained once for all runs. Where a
    network is pretrained on what the filter kept, all `num_images` real images count.
    """
    return config.method.total_passes(config, num_classes, num_images)


def class_matching_passes(config: "Config", num_classes: int, num_images: int) -> int:
    """`total_passes` of methods that match class by class and train networks."""
    training, matching = config.network_training, config.matching
    stages = range(len(config.segment_sizes))
    per_outer = (matching.inner_iterations - 1) * training.images_per_step
    per_outer += training.pretrain_epochs * num_images
    images = matching.outer_iterations * sum(
        per_outer + _stage_images(config, stage, num_classes) for stage in stages
    )
    return num_classes * matching_passes(config) + _TRAINING * images


def matching_passes(config: "Config") -> int:
    """Passes of all matching steps of a run, for one class."""
    return sum(
        config.steps_per_segment * _step(config, stage)
        for stage in range(len(config.segment_sizes))
    )


def _step(config, stage):
    """Passes of one class's images in one matching step of a segment."""
    matching, factor = config.matching, config.synthetic.factor**2
    sizes, passes = config.segment_sizes, config.method.passes
    formed = min(sizes[stage] * factor, matching.batch_syn_max)
    total = passes.real * matching.batch_real + passes.synthetic * formed
    if not stage:
        return total
    needs, constant = config.make_regularizer().needs, 0
    if "whole_class" in needs:
        constant += matching.batch_real
    if needs & {"previous", "previous_loss"} or config.method.uses_previous:
        constant += min(sum(sizes[:stage]) * factor, matching.batch_syn_max)
    return total + passes.constant * constant


def _stage_images(config, stage, num_classes):
    """Images on which a fresh network is trained on earlier stages (PDD)."""
    ends = [sum(config.segment_sizes[:k]) for k in range(1, stage + 1)]
    formed = sum(ends) * config.synthetic.factor**2 * num_classes
    return config.network_training.stage_epochs * formed
