"""What a distillation costs, in passes of one image through the network.

A forward pass counts 1, a backward pass 1 for the activations and 1 for the weights.
Counted are the matching steps and the training of the networks that they need; not the
networks that test a prefix and filter, nor those that measure difficulty. The unit does
not depend on the machine, so methods can be given the same budget.
"""

from d4a_jax.config import Config

# Passes of an image whose gradient is matched: real and constant ones take a forward
# and a whole backward pass; synthetic ones that and the forward-mode pass along it.
# Features take a forward pass, synthetic ones a backward pass for the activations too;
# CAFE begins with another forward pass of both.
_REAL = {"gradient": 3, "distribution": 1, "cafe": 2, "inversion": 0}
_SYNTHETIC = {"gradient": 7, "distribution": 2, "cafe": 3, "inversion": 2}
_CONSTANT = {"gradient": 3, "distribution": 1, "cafe": 1, "inversion": 0}
_TRAINING = 3

# An image in a student's step: its gradient on the way forward; on the way back the
# gradient for weights and pixels again, and the derivative of all of it.
_STUDENT = 9


def matching_passes(config: Config) -> int:
    """Passes of all matching steps of a run, for one class."""
    return sum(
        config.steps_per_segment * _step(config, stage)
        for stage in range(len(config.segment_sizes))
    )


def total_passes(config: Config, num_classes: int, num_images: int) -> int:
    """Passes of all matching steps for all classes, and of the networks' training.

    Without the experts of trajectories, which are trained once for all runs. Where a
    network is pretrained on what the filter kept, all `num_images` real images count.
    """
    if config.matching.surrogate == "trajectory":
        return trajectory_passes(config, num_classes)
    training = config.network_training
    per_outer = (config.matching.inner_iterations - 1) * training.images_per_step
    per_outer += training.pretrain_epochs * num_images
    outers = config.matching.outer_iterations * len(config.segment_sizes)
    images = outers * per_outer
    for stage in range(len(config.segment_sizes)):
        images += config.matching.outer_iterations * _stage_images(
            config, stage, num_classes
        )
    return num_classes * matching_passes(config) + _TRAINING * images


def trajectory_passes(config: Config, num_classes: int) -> int:
    """Passes of all students of a run, on batches of all classes."""
    student, tiles = config.trajectory, config.synthetic.factor**2
    passes = 0
    for stage in range(len(config.segment_sizes)):
        union = sum(config.segment_sizes[: stage + 1]) * tiles * num_classes
        batch = min(student.batch_syn or union, union)
        passes += config.steps_per_segment * student.student_steps * batch
    return _STUDENT * passes


def _step(config, stage):
    """Passes of one class's images in one matching step of a segment."""
    matching, factor = config.matching, config.synthetic.factor**2
    sizes = config.segment_sizes
    constant = _CONSTANT[matching.surrogate]
    synthetic = _SYNTHETIC[matching.surrogate]
    formed = min(sizes[stage] * factor, matching.batch_syn_max)
    passes = _REAL[matching.surrogate] * matching.batch_real + synthetic * formed
    if not stage:
        return passes
    earlier = min(sum(sizes[:stage]) * factor, matching.batch_syn_max)
    needed = {"anchor": matching.batch_real, "previous": earlier}
    needed |= {"conflict": earlier, "replay": earlier}
    needed["union"] = matching.batch_real + earlier
    images = needed.get(config.regularizer.name, 0)
    if matching.union and config.regularizer.name not in ("previous", "union"):
        images += earlier
    return passes + constant * images


def _stage_images(config, stage, num_classes):
    """Images on which a fresh network is trained on earlier stages (PDD)."""
    ends = [sum(config.segment_sizes[:k]) for k in range(1, stage + 1)]
    formed = sum(ends) * config.synthetic.factor**2 * num_classes
    return config.network_training.stage_epochs * formed
