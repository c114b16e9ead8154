"""Exports a distilled dataset to the format of another tool.

    python experiments/export.py --artifact=DIR --format=imagefolder --output=PATH

`--segments=k` takes the first k segments only; `--formed` writes the decoded images
that networks train on instead of the stored ones.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from d4a_jax import artifact, export  # noqa: E402

_ARTIFACT = flags.DEFINE_string("artifact", None, "Directory of a distilled dataset.")
_FORMAT = flags.DEFINE_enum(
    "format", "imagefolder", list(export.EXPORTERS), "What to write."
)
_OUTPUT = flags.DEFINE_string("output", None, "File or directory to write; new.")
_SEGMENTS = flags.DEFINE_integer("segments", None, "First segments to take; all.")
_FORMED = flags.DEFINE_bool("formed", False, "Write decoded images, not stored ones.")


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected argument {argv[1]!r}.")
    try:
        distilled = artifact.load_distilled(_ARTIFACT.value, _SEGMENTS.value)
        export.export_distilled(
            distilled, _OUTPUT.value, _FORMAT.value, formed=_FORMED.value
        )
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    logging.info("Wrote %d stored images to %s", len(distilled.labels), _OUTPUT.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["artifact", "output"])
    app.run(main)
