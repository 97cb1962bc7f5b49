"""Runs one function in a process of its own, which cannot take the machine down with it."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fasterrcnn.cli import exit_codes

MIB = 1 << 20
_FILE = 256 * MIB  # of any file that the process writes
_POLL = 0.01  # s between two looks at its memory
_HANG = 300  # s after which a process counts as hanging, on however busy a machine


class Ended(NamedTuple):
    """How a process ended."""

    status: int  # exit code, or minus the signal's number
    out: str
    err: str
    seen: list[str]  # what it did that a command has no reason to do
    rss: int  # largest resident memory, that of its children too (bytes)
    seconds: float  # of its own time on a core
    killed: str  # why it was killed: "memory" or "time"; else ""


def run(
    main: Callable[[], None], logs: Path, *, rss: int, seconds: float, private: Path | None = None
) -> Ended:
    """Call `main` in a forked process, as a command is called.

    It is killed when it holds more than `rss` bytes, and after `seconds` on a core. What it prints
    goes to files in `logs`. Reads of files below `private`, writes beside the folder of `logs`,
    and programs that it starts are kept.
    """
    logs.mkdir(parents=True, exist_ok=True)
    files = [logs / name for name in ("out", "err", "seen")]
    for file in files:
        file.write_text("")
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
        _call_and_exit(main, files, private)
    killed, until = "", time.monotonic() + _HANG
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if not killed:
            killed = "memory" if _resident(pid) > rss else ""
            killed = killed or ("time" if time.monotonic() > until else "")
            if killed:
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL)
    out, err, seen = (file.read_text(errors="replace") for file in files)
    code = os.waitstatus_to_exitcode(status)
    killed = "time" if code == -signal.SIGXCPU else killed
    own = used.ru_utime + used.ru_stime
    return Ended(code, out, err, seen.splitlines(), used.ru_maxrss << 10, own, killed)


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds now."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):  # it has just ended
        return 0
    return pages * resource.getpagesize()


def _call_and_exit(main: Callable[[], None], files: list[Path], private: Path | None) -> None:
    code = 1
    try:
        out, err, seen = (os.open(file, os.O_WRONLY | os.O_APPEND) for file in files)
        os.dup2(out, 1)
        os.dup2(err, 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE, _FILE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _watch(seen, files[0].parent.parent, private)
        exit_codes.run(main)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _watch(seen: int, world: Path, private: Path | None) -> None:
    """Keep in the file `seen` what Python reports of programs started, and of files opened where
    the process has no business."""

    def hook(event: str, arguments: tuple) -> None:
        if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn"):
            os.write(seen, f"starts {arguments[0]!r}\n".encode())
        if event != "open" or not isinstance(arguments[0], (str, bytes)):
            return
        path = os.path.realpath(os.fsdecode(arguments[0]))
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if writes and not path.startswith((f"{world}{os.sep}", "/dev/")):
            os.write(seen, f"writes {path}\n".encode())
        if private is not None and path.startswith(f"{private}{os.sep}"):
            os.write(seen, f"reads {path}\n".encode())

    sys.addaudithook(hook)
