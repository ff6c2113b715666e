"""The one exception that means: what the user gave is wrong, and this is how to mend it."""


class InputError(ValueError):
    """The user's input is wrong. The message is one sentence: the offending value and the remedy.

    The command line prints it and ends with status 2; Python callers may catch ValueError.
    """
