"""What an experiment raises when it cannot go on for a reason that the person running it can mend."""


class ExperimentError(Exception):
    """An experiment cannot go on; the message says what is wrong, what was found and what to do."""


class DataError(ExperimentError):
    """A data set is missing, damaged, or not what it should be."""


class RunError(ExperimentError):
    """A run's folder does not allow what was asked for, or a run cannot go on."""


class UsageError(ExperimentError):
    """A command was given what it does not take, or needs an extra that is not installed; exit status 2."""


class Interrupted(Exception):
    """A run was stopped by a signal, after it saved its state.

    Args:
        signum: the signal.
        message: how to go on.
    """

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum
