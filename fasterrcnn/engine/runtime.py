"""Device, precision and ranks: the only file that says "cuda" or torch.distributed.

One `Runtime` per process, made by `start` and handed down. With one process every collective is a
plain function call, so no caller asks how many there are.
"""

from __future__ import annotations

import os
import platform
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torchvision
from torch import distributed, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel
from torch.utils import deterministic as torch_deterministic

from fasterrcnn.engine import signals
from fasterrcnn.engine.torch_errors import COLLECTIVE_TIMEOUT
from fasterrcnn.errors import GO_ON, Failure, Hang, UsageError
from fasterrcnn.models.cpu import fast_layers

T = TypeVar("T")
Module = TypeVar("Module", bound=nn.Module)
_POLL = 0.1  # s between questions whether rank 0 is done
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Runtime:
    """The device of this process, its rank, and the collectives over all ranks."""

    device: torch.device
    rank: int = 0
    ranks: int = 1
    _control: Any = None  # CPU process group: small messages that never wait for a GPU
    _store: Any = None  # where rank 0 says that slow work is done
    _slow: int = 0  # how often it was
    _signals: list[int] = field(default_factory=list)

    @property
    def is_main(self) -> bool:
        """Rank 0: the one that prints and writes."""
        return self.rank == 0

    def say(self, line: str) -> None:
        """Print on rank 0."""
        if self.is_main:
            print(line, flush=True)

    # Collectives. Every rank calls them in the same order.

    def on_main(self, work: Callable[[], T], *, slow: bool = False) -> T:
        """Call `work` on rank 0; return its result, or raise its Failure, on every rank.

        `slow`: it may take longer than a collective is waited for, such as reading a data set.
        """
        if self.ranks == 1:
            return work()
        outcome: list[Any] = [None]
        if self.is_main:
            try:
                outcome[0] = work()
            except Failure as failure:
                outcome[0] = failure
        if slow:
            self._wait_for_main()
        distributed.broadcast_object_list(outcome, src=0, group=self._control)
        if isinstance(outcome[0], Failure):
            raise outcome[0]
        return outcome[0]

    def _wait_for_main(self) -> None:
        """Return when rank 0 calls this too. Until then signals are answered, and only its death
        ends the waiting."""
        self._slow += 1
        key = f"slow/{self._slow}"
        if self.is_main:
            self._store.set(key, "done")
        while not self._store.check([key]):
            time.sleep(_POLL)

    def leave(self) -> None:
        """End the collectives, once every rank is here: a rank that left earlier would close
        connections from which others may still have to read."""
        if self.ranks == 1:
            return
        _meet(self._store, "left", self.ranks)
        distributed.destroy_process_group()

    def gather(self, item: T) -> list[T] | None:
        """The items of all ranks in rank order, on rank 0; None elsewhere."""
        if self.ranks == 1:
            return [item]
        items: list[Any] | None = [None] * self.ranks if self.is_main else None
        distributed.gather_object(item, items, dst=0, group=self._control)
        return items

    def broadcast(self, tensors: list[torch.Tensor]) -> None:
        """Overwrite the tensors with rank 0's, in place."""
        if self.ranks > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over ranks of a CPU tensor; NaN on any rank is NaN on all."""
        if self.ranks > 1:
            distributed.all_reduce(values, group=self._control)
            values /= self.ranks
        return values

    def agree(self, news: T | None = None) -> tuple[int, list[T]]:
        """What any rank knows between two steps, the same on all: the signal if one has received
        any, else 0; and the `news` of those that have some, in rank order."""
        number = max(self._signals, default=0)
        if self.ranks == 1:
            return number, [] if news is None else [news]
        flags = torch.tensor([number, int(news is not None)])
        distributed.all_reduce(flags, distributed.ReduceOp.MAX, group=self._control)
        number, is_news = flags.tolist()
        told: list[T | None] = [None] * self.ranks
        if is_news:
            distributed.all_gather_object(told, news, group=self._control)
        return number, [item for item in told if item is not None]

    # The model on the device.

    def place(self, model: Module) -> Module:
        """Move the model to the device, channels last, in place; the model."""
        channels_last: Any = {"memory_format": torch.channels_last}  # torch's stubs omit it
        return model.to(self.device, **channels_last)

    def replicate(self, model: nn.Module, *, sync_buffers: bool) -> nn.Module:
        """The model wrapped so that gradients are averaged over ranks once per step.

        `sync_buffers`: buffers change in training (batch norm statistics) and follow rank 0's.
        """
        if self.ranks == 1:
            return model
        return DistributedDataParallel(
            model, broadcast_buffers=sync_buffers, gradient_as_bucket_view=True
        )

    def no_sync(self, model: nn.Module) -> AbstractContextManager:
        """Inside, gradients are accumulated without communication."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def autocast(self, amp: str) -> torch.autocast:
        """torch's autocast in fp16 or bf16; disabled for "off"."""
        dtype = _DTYPES.get(amp, torch.bfloat16)
        return torch.autocast(self.device.type, dtype=dtype, enabled=amp != "off")

    @contextmanager
    def precision(self, amp: str) -> Iterator[None]:
        """What a network runs in: `autocast`, and on a CPU the faster layers of `models.cpu`."""
        with self.autocast(amp), fast_layers(self.device, _DTYPES.get(amp)):
            yield

    @contextmanager
    def inference(self, amp: str) -> Iterator[None]:
        """What a network detects in: `precision` without gradients. cudnn does not try out
        algorithms, because images that are padded to their own size have many shapes."""
        tries_out = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = False
        try:
            with torch.no_grad(), self.precision(amp):
                yield
        finally:
            torch.backends.cudnn.benchmark = tries_out

    @contextmanager
    def configured(self) -> Iterator[None]:
        """Inside, torch's global settings are those that `start` makes for this device."""
        with settings_kept():
            _configure(self.device, deterministic=False)
            yield

    def scaler(self, amp: str) -> GradScaler:
        """A GradScaler that scales the loss in fp16 and does nothing otherwise."""
        return GradScaler(self.device.type, enabled=amp == "fp16")

    def resolve_amp(self, amp: str) -> str:
        """`amp`, or for "auto": fp16 on a GPU, bf16 on a CPU with bf16 instructions, else off."""
        if amp != "auto":
            return amp
        if self.device.type == "cuda":
            return "fp16"
        return "bf16" if self.is_fast_in("bf16") else "off"

    def is_fast_in(self, amp: str) -> bool:
        """Does the device have instructions for this precision? Without them "off" is faster."""
        if amp == "off" or self.device.type == "cuda":
            return True
        return amp == "bf16" and bool(_cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})

    def synchronize(self) -> None:
        """Block until the device is idle, so that timings are valid."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def pin_memory(self) -> bool:
        """Whether batches are copied to another device."""
        return self.device.type == "cuda"

    def loader_workers(self, wanted: int | None) -> int:
        """Loader processes of this rank: `wanted`, else its share of the cores, at most 8."""
        if wanted is not None:
            return wanted
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return max(1, min(8, (cores or 1) // _of_torchrun("LOCAL_WORLD_SIZE", 1)))

    def peak_memory_gb(self) -> float:
        """Peak memory so far in GiB: of the GPU's allocator, or of the process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    def reset_peak_memory(self) -> None:
        """Reset the GPU's peak memory. That of a process cannot be reset."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def environment(self) -> dict[str, Any]:
        """Versions and hardware, for the run folder; `threads` decides bits on a CPU."""
        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "host": socket.gethostname(),
            "device": self.device.type,
            "gpu": gpu_name(self.device),
            "ranks": self.ranks,
            "threads": torch.get_num_threads(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }

    def describe(self) -> str:
        """One line: versions, device, processes."""
        env = self.environment()
        where = env["gpu"] or f"CPU ({env['threads']} threads)"
        return (
            f"torch {env['torch']}, torchvision {env['torchvision']}, {where}, "
            f"{self.ranks} process{'es' if self.ranks > 1 else ''}"
        )

    # Signals.

    def catch_signals(self, hours: float = 0.0) -> AbstractContextManager[None]:
        """Inside, a signal, or the end of that many hours, only sets what `agree` returns.

        With one rank, a second signal exits at once; else other ranks would wait.
        """
        return signals.caught(
            self._signals,
            self.say,
            alone=self.ranks == 1,
            hours=hours if self.is_main else 0.0,
        )

    def raise_if_signaled(self) -> None:
        """Raise Stopped if this process was signaled; for work that can be abandoned."""
        if self._signals:
            raise signals.stopped(
                self._signals[0],
                "stopped during evaluation; the step before it is saved and the same command "
                "continues the run",
            )


def start(device: str, *, deterministic: bool = False) -> Runtime:
    """The runtime of this process on `device` "auto", "cpu" or "cuda", with torchrun's ranks.

    `deterministic`: bit-reproducible on a GPU too. A CPU always is: its scatter-adds would differ
    from run to run with two threads. Raises UsageError for a GPU that is not there.
    """
    ranks, local_rank = _of_torchrun("WORLD_SIZE", 1), _of_torchrun("LOCAL_RANK", 0)
    runtime = Runtime(_chosen(device, ranks, local_rank))
    device = runtime.device.type
    _configure(runtime.device, deterministic=deterministic)
    if device == "cuda":
        torch.cuda.set_device(local_rank)
    if ranks > 1:
        # As torch does by default.
        store, rank, _ = next(rendezvous("env://", timeout=COLLECTIVE_TIMEOUT))
        _meet(store, "started", ranks)  # torch would wait where no signal is answered
        distributed.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            timeout=COLLECTIVE_TIMEOUT, store=store, rank=rank, world_size=ranks,
            device_id=runtime.device if device == "cuda" else None,
        )  # fmt: skip
        runtime.rank, runtime.ranks, runtime._store = rank, ranks, store
        runtime._control = distributed.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
    return runtime


def _meet(store: Any, where: str, ranks: int) -> None:
    """Return when all ranks are here. Until then signals are answered. Raises Hang."""
    until = time.monotonic() + COLLECTIVE_TIMEOUT.total_seconds()
    store.add(where, 1)
    while (here := store.add(where, 0)) < ranks:
        if time.monotonic() > until:
            missing = f"{ranks - here} of {ranks} processes"
            raise Hang(f"{missing} did not arrive within {COLLECTIVE_TIMEOUT}; {GO_ON}")
        time.sleep(_POLL)


def seed(key: int) -> None:
    """Seed the generators of the CPU and of this process's GPU; `torch.manual_seed` would queue
    calls for every other kind of device too, each with a formatted stack trace."""
    torch.default_generator.manual_seed(key)
    if torch.cuda.is_initialized():
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(key)


def alone(device: str) -> Runtime:
    """A runtime on `device` for work inside another program, to be done in `Runtime.configured`.

    It has no ranks and changes nothing outside. Raises UsageError for a GPU that is not there.
    """
    return Runtime(_chosen(device, 1, _of_torchrun("LOCAL_RANK", 0)))


def _of_torchrun(name: str, otherwise: int) -> int:
    """A number that torchrun gives each rank; outside torchrun, such variables are leftovers."""
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else otherwise


def _chosen(device: str, ranks: int, local_rank: int) -> torch.device:
    """The device that "auto", "cpu" or "cuda" stands for. Raises UsageError."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device: {device}: must be auto, cpu or cuda")
    gpus = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not gpus):
        return torch.device("cpu")
    if local_rank >= gpus:
        raise UsageError(
            f"--device: cuda: {gpus} GPU visible for {ranks} processes; use NGPU={gpus}"
            if gpus
            else "--device: cuda: no GPU found; use --device cpu"
        )
    return torch.device("cuda", local_rank)


def _configure(device: torch.device, *, deterministic: bool) -> None:
    """Torch's global settings for work on `device`."""
    if device.type == "cpu" or deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch asks for on GPUs
        torch.use_deterministic_algorithms(True)
        # A debugging aid of torch, 5 % slower.
        torch_deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # no stub
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not deterministic


@contextmanager
def settings_kept() -> Iterator[None]:
    """Afterwards, torch's global settings are what they were."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled: bool = torch_deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    benchmark = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch_deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = benchmark


def devices() -> list[torch.device]:
    """The CPU and every visible GPU."""
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return [torch.device("cpu"), *gpus]


def gpu_name(device: torch.device) -> str | None:
    """The GPU's product name, None for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def _cpu_flags() -> set[str]:
    """The CPU's feature flags as Linux reports them, on x86 and ARM; none elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    return set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
