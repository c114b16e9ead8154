"""Numbers that a run reports: a JSON-lines file, TensorBoard and a progress line."""

from d4a_jax.metrics.progress import Progress, progress_hook
from d4a_jax.metrics.records import MetricsError, MetricsWriter, read_metrics

__all__ = [
    "MetricsError",
    "MetricsWriter",
    "Progress",
    "progress_hook",
    "read_metrics",
]
