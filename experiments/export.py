"""Exports a distilled dataset to the format of another tool.

    python experiments/export.py --artifact=DIR --format=imagefolder --output=PATH

`--segments=k` takes the first k segments only; `--formed` writes the decoded images
that networks train on instead of the stored ones. `--format=huggingface` makes a folder
for the Hub, with a card that `--license` and `--results` add to.
"""

import json
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
_LICENSE = flags.DEFINE_string(
    "license", "unknown", "Licence on the Hub's card, such as mit or cc-by-4.0."
)
_RESULTS = flags.DEFINE_string(
    "results", None, "Output of evaluate.py for the Hub's card; the run's own tests."
)


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected argument {argv[1]!r}.")
    try:
        distilled = artifact.load_distilled(_ARTIFACT.value, _SEGMENTS.value)
        export.export_distilled(
            distilled,
            _OUTPUT.value,
            _FORMAT.value,
            formed=_FORMED.value,
            license=_LICENSE.value,
            results=_results(len(distilled.labels)),
        )
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    logging.info("Wrote %d stored images to %s", len(distilled.labels), _OUTPUT.value)


def _results(images: int):
    """The accuracies that evaluate.py wrote, each with the images it was trained on."""
    if _RESULTS.value is None:
        return None
    try:
        report = json.loads(Path(_RESULTS.value).read_bytes())
        rows = [{"images": report["images"]} | row for row in report["results"]]
        wanted = {"network", "top1", "top1_std", "repeats", "steps"}
        if report["images"] != images or not all(r.keys() >= wanted for r in rows):
            raise ValueError(f"it is not of this set of {images} images")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"--results: {_RESULTS.value} is no output of evaluate.py for this set: "
            f"{error}."
        ) from None
    return report | {"results": rows}


if __name__ == "__main__":
    flags.mark_flags_as_required(["artifact", "output"])
    app.run(main)
