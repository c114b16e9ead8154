"""The working directory of a run: one process at a time, one configuration for ever.

    with Workdir("runs/tin50", config) as workdir:
        dataset = load_dataset(...)
        workdir.record(dataset, overrides)
        distill(dataset, config, workdir.path)

`config.json` in it says what was run with what, see `identity`. It is written when the
data have been found to fit, so that a run refused before that can be corrected in the
same place.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d4a_jax.config import Config, ConfigError
from d4a_jax.devices.processes import is_main
from d4a_jax.storage import fileio, identity

if TYPE_CHECKING:
    from d4a_jax.data import Dataset


class Workdir:
    """A working directory, locked and compared with the configuration on entering.

    Attributes:
      path: the directory.
    """

    def __init__(self, path: fileio.PathLike, config: Config):
        """Names the directory; entering makes it.

        Args:
          path: the directory, new or of an earlier run of the same configuration.
          config: the run.
        """
        self.path = Path(path)
        self._config = config
        # Of several processes that make one run, one holds the directory for all.
        self._lock = fileio.WorkdirLock(self.path) if is_main() else nullcontext()

    def __enter__(self) -> "Workdir":
        """Takes the directory.

        Raises:
          ConfigError: the directory cannot be used, its `config.json` is damaged, or
            it holds a run of another configuration; names every key that differs.
          WorkdirBusyError: another process is using it.
        """
        # Before the lock, which leaves a file, and again when nobody else can write.
        identity.check(self.path, self._config)
        try:
            self._lock.__enter__()
        except OSError as error:
            raise ConfigError([identity.unusable(self.path, error)]) from None
        try:
            identity.check(self.path, self._config)
            if is_main():
                fileio.remove_leftovers(self.path)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *exception) -> None:
        """Gives the directory back."""
        self._lock.__exit__(*exception)

    def record(self, dataset: "Dataset", overrides: Mapping[str, Any] = {}) -> None:
        """Writes `config.json`, unless an earlier run did, and compares the data.

        Args:
          dataset: what is distilled.
          overrides: what the command line changed, by dotted names.

        Raises:
          ConfigError: the data are not those of the earlier run.
        """
        identity.claim(self.path, self._config, dataset, overrides)
