"""The one exception that means: what the user gave is wrong, and this is how to mend it."""


class InputError(ValueError):
    """The user's input is wrong. The message is one sentence: the offending value and the remedy.

    The command line prints it and ends with status 2; Python callers may catch ValueError.

    Attributes:
        field: the setting that is wrong, by the name of its field in the configuration, such as
            `n_latents`; None where no single setting is. A message about one setting begins with
            its name, for which the command line writes the option, `--n-latents`.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFound(InputError):
    """There is nothing of the number or the name that is asked for."""
