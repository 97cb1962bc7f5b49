"""Errors of torch and of the disk with a known cause are explained, others pass."""

from __future__ import annotations

import errno
import os

import pytest
import torch

from fasterrcnn.engine.torch_errors import expected_failures
from fasterrcnn.errors import Hang, ProcessDied, StorageError, UsageError


def test_what_torch_raises_is_explained():
    for text, kind in (
        ("DataLoader worker (pid 3) is killed by signal: Killed.", ProcessDied),
        ("[gloo/pair.cc:5] Connection closed by peer [127.0.0.1]:3", ProcessDied),
        ("Timed out waiting 1800000ms for recv operation to complete", Hang),
    ):
        with pytest.raises(kind) as error, expected_failures():
            raise RuntimeError(text)
        assert "\n" not in str(error.value)
    for text, line in (
        (
            "InvalidCxxCompiler: No working C++ compiler found in config: (None, 'g++')\n\nSet",
            "--compile: InvalidCxxCompiler: No working C++ compiler found in config: "
            "(None, 'g++'); install it, or leave --compile out",
        ),
        (
            "roi_pool_backward_kernel does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'. You can turn off determinism",
            "--deterministic: roi_pool_backward_kernel does not have a deterministic "
            "implementation; leave --deterministic out",
        ),
    ):
        with pytest.raises(UsageError) as error, expected_failures():
            raise RuntimeError(text)
        assert str(error.value) == line
    with pytest.raises(ProcessDied, match="--images-per-gpu"), expected_failures():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(ProcessDied, match=r"memory: 74,505\.8 GiB"), expected_failures():
        torch.empty(20_000_000_000_000)
    with pytest.raises(ProcessDied, match="memory: a tensor"), expected_failures():
        torch.empty(9_000_000_000_000_000_000)
    with pytest.raises(RuntimeError, match="something else"), expected_failures():
        raise RuntimeError("something else")


def test_a_full_disk_is_explained_and_other_errors_of_files_pass():
    for names, said in ((("/run/x.json",), "/run/x.json: No space"), ((), "a file: No space")):
        with pytest.raises(StorageError, match=said) as error, expected_failures():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *names)
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError), expected_failures():
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")
