"""The errors that several parts of the library raise."""


class ConfigError(ValueError):
    """All problems of a configuration, one per line.

    Attributes:
      problems: one sentence each.
    """

    def __init__(self, problems: list[str]):
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))
