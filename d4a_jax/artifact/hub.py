"""Distilled sets on the Hugging Face Hub, by the address `hf://owner/name`."""

import os
from pathlib import Path
from typing import Any

from d4a_jax.artifact.checks import ArtifactError

_SCHEME = "hf://"


def is_address(path: Any) -> bool:
    """Whether a path is the address of a set on the Hub."""
    return isinstance(path, str) and path.startswith(_SCHEME)


def download(address: str) -> Path:
    """Brings a set from the Hub onto this machine, or finds it in the Hub's cache.

    Args:
      address: `hf://owner/name`, or `hf://owner/name@revision` with the name of a
        branch, a tag or a commit.

    Returns:
      The folder that holds it, an export in the format `huggingface`.

    Raises:
      ArtifactError: the address is none, `huggingface_hub` is not installed, or the set
        cannot be had.
    """
    name, _, revision = address.removeprefix(_SCHEME).partition("@")
    if len([part for part in name.split("/") if part]) != 2 or name.count("/") != 1:
        raise ArtifactError(
            f"{address!r} is no address of a set on the Hub; hf://owner/name is."
        )
    try:
        import huggingface_hub
    except ImportError:
        raise ArtifactError(
            f"{address} needs the package huggingface_hub: pip install huggingface_hub"
        ) from None
    try:
        folder = huggingface_hub.snapshot_download(
            name, repo_type="dataset", revision=revision or None
        )
    except (OSError, ValueError) as error:
        # Its errors are those of requests, which are OSErrors, or of a wrong name.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ArtifactError(f"{address} cannot be had: {reason[0]}") from None
    return Path(os.fspath(folder))
