"""The ways a command can end, each with the exit code the launchers pass on.

Raised anywhere below the command layer with one line that names the file, the field and the fix;
`cli.run` prints that line and exits with the code.
"""


class Failure(Exception):
    """Base of every expected failure. ``str(failure)`` is the whole message, one line."""

    code = 1


class UsageError(Failure):
    """A wrong flag, a missing folder, a run folder that is in use or holds another run."""

    code = 2


class DataError(Failure):
    """Annotations or images that cannot be used as they are."""

    code = 3


class CheckpointError(Failure):
    """A checkpoint that is unreadable, unsafe or does not fit."""

    code = 4


class StorageError(Failure):
    """No space, no permission."""

    code = 5


class Diverged(Failure):
    """A loss or gradient that is not finite."""

    code = 6


class ProcessDied(Failure):
    """A rank or a loader worker that was killed."""

    code = 7


class Hang(Failure):
    """A rank that did not arrive at a collective in time."""

    code = 8


class DownloadError(Failure):
    """A file that could not be fetched, or whose length or checksum is wrong."""

    code = 9


class Stopped(Failure):
    """SIGINT (130) or SIGTERM (143), with the state saved."""

    def __init__(self, message: str, code: int = 143) -> None:
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return self.args[0]
