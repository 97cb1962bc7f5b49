"""Expected failures of a command, each with the exit code that the launchers pass on.

Code below the command layer raises them with one line that names the file, the field and the fix;
`cli.exit_codes.run` prints that line and exits with the code.
"""

GO_ON = "a run with a checkpoint goes on with --resume"  # with other values of some fields


class Failure(Exception):
    """Base class of all expected failures; ``str(failure)`` is the whole message."""

    code = 1


class UsageError(Failure):
    """A flag is wrong, a folder is missing, or a run folder is in use or holds another run."""

    code = 2


class DataError(Failure):
    """Annotations or images cannot be used as they are."""

    code = 3


class CheckpointError(Failure):
    """A checkpoint is unreadable or unsafe, or does not fit the model."""

    code = 4


class StorageError(Failure):
    """A file cannot be written: the disk is full, or permission is missing."""

    code = 5


class Diverged(Failure):
    """A loss or gradient is NaN or infinite."""

    code = 6


class ProcessDied(Failure):
    """A rank or a loader worker was killed."""

    code = 7


class Hang(Failure):
    """A rank did not reach a collective in time."""

    code = 8


class DownloadError(Failure):
    """A file could not be downloaded, or its length or checksum is wrong."""

    code = 9


class Stopped(Failure):
    """SIGINT (code 130) or SIGTERM (143) ended the run after its state was saved."""

    def __init__(self, message: str, code: int = 143) -> None:
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return self.args[0]
