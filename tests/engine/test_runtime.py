"""Device, precision, signals of one process; several are in test_torchrun.py."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta

import pytest
import torch
from torch import distributed

from fasterrcnn.engine import runtime
from fasterrcnn.errors import Hang, Stopped, UsageError
from tests.conftest import command


@pytest.fixture
def rt() -> runtime.Runtime:
    return runtime.start("cpu")


def test_cpu_is_deterministic_and_describes_itself(rt: runtime.Runtime):
    assert torch.are_deterministic_algorithms_enabled()
    assert rt.is_main
    assert "CPU" in rt.describe()
    assert rt.environment()["threads"] == torch.get_num_threads()
    assert rt.loader_workers(None) >= 1
    assert rt.peak_memory_gb() > 0.01


def test_no_gpu_is_a_usage_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="no GPU found; use --device cpu"):
        runtime.start("cuda")


def test_auto_precision(rt: runtime.Runtime):
    if hasattr(torch.cpu, "get_capabilities"):  # from torch 2.11 on; ours must not need it
        has_bf16 = any("bf16" in k and v for k, v in torch.cpu.get_capabilities().items())
        assert rt.resolve_amp("auto") == ("bf16" if has_bf16 else "off")
        assert rt.is_fast_in("bf16") == has_bf16
    assert rt.is_fast_in("off") and not rt.is_fast_in("fp16")
    assert rt.resolve_amp("auto") in ("bf16", "off")
    assert runtime.Runtime(torch.device("cuda")).resolve_amp("auto") == "fp16"
    assert rt.resolve_amp("fp16") == "fp16"


@pytest.mark.parametrize(
    ("amp", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("off", torch.float32)]
)
def test_autocast_and_scaler(rt: runtime.Runtime, amp: str, dtype: torch.dtype):
    with rt.autocast(amp):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert rt.scaler(amp).is_enabled() == (amp == "fp16")


def test_signals_are_flags_inside_only(rt: runtime.Runtime, capsys):
    before = signal.getsignal(signal.SIGTERM)
    with rt.catch_signals():
        assert rt.agree() == (0, [])
        rt.raise_if_signaled()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # at once: the same event
        assert rt.agree() == (signal.SIGTERM, [])
        with pytest.raises(Stopped) as stopped:
            rt.raise_if_signaled()
        assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr().out.count("saving after this step") == 1


def test_hours_are_counted_from_the_start_of_the_command(rt: runtime.Runtime, monkeypatch, capsys):
    monkeypatch.setenv("FASTERRCNN_STARTED", str(time.time() - 3600))
    with rt.catch_signals(hours=2):
        assert signal.getitimer(signal.ITIMER_REAL)[0] == pytest.approx(3600, abs=600)
    own = signal.getsignal(signal.SIGALRM)
    with rt.catch_signals():
        assert signal.getsignal(signal.SIGALRM) == own, "another's timer is left alone"
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    with rt.catch_signals(hours=1):
        while rt.agree() != (signal.SIGALRM, []):
            time.sleep(0.001)
        with pytest.raises(Stopped, match=r"^--max-hours: stopped") as stopped:
            rt.raise_if_signaled()
        assert stopped.value.code == 143
    assert "--max-hours: saving after this step" in capsys.readouterr().out


TWO = ("--standalone", "--nproc-per-node", 2, "-m", "tests.engine.slow_rank_0")


def test_ranks_wait_for_slow_work_longer_than_for_a_collective(shell):
    done = shell(command("torchrun", *TWO, "slow"))
    said = ["0 after 3 s", "0 after 8 s", "1 after 3 s", "1 after 8 s"]
    assert sorted(done.out.split("\n")) == ["", *said]
    assert done.code == 3
    assert done.err.count("error: a fault of the data") == 1
    assert "Traceback" not in done.err


def test_other_work_is_not_waited_for_forever(shell):
    done = shell(command("torchrun", *TWO, "plain"))
    assert done.code == Hang.code
    assert "error: a process did not arrive within" in done.err
    assert "1 after" not in done.out


def test_no_rank_leaves_before_the_others(monkeypatch: pytest.MonkeyPatch):
    store, ended = distributed.HashStore(), threading.Event()
    monkeypatch.setattr(distributed, "destroy_process_group", ended.set)
    rt = runtime.Runtime(torch.device("cpu"), rank=0, ranks=2, _store=store)
    leaving = threading.Thread(target=rt.leave)
    leaving.start()
    assert not ended.wait(0.5)
    store.add("left", 1)
    leaving.join()
    assert ended.is_set()


def test_ranks_wait_for_one_another_where_signals_are_answered_but_not_for_ever(monkeypatch):
    store = distributed.HashStore()
    store.add("started", 1)
    runtime._meet(store, "started", 2)  # the other is here
    monkeypatch.setattr(runtime, "COLLECTIVE_TIMEOUT", timedelta(seconds=0.3))
    with pytest.raises(Hang, match=r"^1 of 4 processes did not arrive within 0:00:00.3"):
        runtime._meet(store, "started", 4)


def test_what_one_process_knows_is_what_all_know(rt: runtime.Runtime):
    assert rt.agree() == (0, [])
    assert rt.agree("news") == (0, ["news"])
    assert rt.agree({}) == (0, [{}])


def test_detecting_tries_no_algorithms_out_and_makes_no_graph():
    rt, before = runtime.start("cpu"), torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # as `start` does on a GPU
    try:
        with pytest.raises(ZeroDivisionError), rt.inference("bf16"):
            assert not torch.backends.cudnn.benchmark
            assert not torch.is_grad_enabled()
            assert torch.is_autocast_enabled("cpu")
            raise ZeroDivisionError
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = before


def test_seeding_is_torchs():
    runtime.seed(5)
    drawn = torch.rand(3)
    assert torch.initial_seed() == 5
    torch.manual_seed(5)
    assert torch.rand(3).equal(drawn)


@pytest.mark.parametrize("before", [True, False])
def test_settings_of_torch_hold_inside_only(before: bool):
    torch.use_deterministic_algorithms(before, warn_only=before)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    alone = runtime.alone("cpu")
    assert (alone.device.type, alone.ranks, alone.is_main) == ("cpu", 1, True)
    assert torch.are_deterministic_algorithms_enabled() == before
    with pytest.raises(ZeroDivisionError), alone.configured():
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
        _ = 1 / 0
    assert torch.are_deterministic_algorithms_enabled() == before
    assert torch.is_deterministic_algorithms_warn_only_enabled() == before
    assert torch.utils.deterministic.fill_uninitialized_memory == filled


def test_ranks_of_torchrun_are_none_of_a_runtime_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert runtime.alone("cpu").ranks == 1
    with pytest.raises(UsageError, match="--device: tpu: must be auto, cpu or cuda"):
        runtime.alone("tpu")
