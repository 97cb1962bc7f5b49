"""Damaged files and odd command lines are taken or refused in a line, never anything else.

    python -m tests.faults.fuzz {checkpoint,proposals,flags} [--seconds S] [--seed N] [--only K]

checkpoint: the files of a checkpoint as the project writes it, each with the manifest renewed, and
files of torch and of Detectron2 as `import` reads them. proposals: stored ones, and Detectron2's.
flags: command lines, and recipes as checkpoints keep them. Input number K of a seed is always the
same: bytes flipped, cut, repeated or exchanged for telling ones, or, of json, a value replaced.
Each input must be taken or raise a Failure (`fasterrcnn.errors`), in 200 s and 1 GiB more memory
than before. Inputs are tried in forked processes, 200 in each; one that dies is a crash of the
input it was at. Prints what became of them, each crash with its number, and ends with 1 after a
crash.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from fasterrcnn import recipes
from fasterrcnn.cli import flags
from fasterrcnn.commands import check_data, train
from fasterrcnn.data import proposals
from fasterrcnn.data.annotations import Classes
from fasterrcnn.engine import checkpoint
from fasterrcnn.engine.torch_errors import expected_failures
from fasterrcnn.errors import Failure
from fasterrcnn.safe_load import reading
from tests.data.fuzz import NUMBERS, mutate

_BATCH = 200  # inputs of a process
_SECONDS, _MEMORY = 200, 1 << 30  # of an input; a busy machine is no failure
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 7, 1 << 31, 1 << 63, 1 << 200, 1.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "7", "nan", "none", "auto", "\0", "\ud800", "../x", [], [[]], [1, 2], ["a"],
    {}, {"a": 1}, [None], [float("nan")],
)  # fmt: skip
_WORDS = ("", "-1", "0", "1", "1,2,3", "nan", "inf", "1e999", "auto", "none", "--", "-", "=", "ü",
          "\0", "\ud800", "9" * 5000, "9" * 25, "1_0", " 7", ",,", "../x", "%s", "{}")  # fmt: skip
_TELLING = (b"\xff" * 4, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"\xff" * 8, b"2\x86", b"]" * 99, b"(t.")


def _bytes(data: bytes, chance: Random) -> bytes:
    """`data` with binary damage, half of it near its beginning, where sizes are."""
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        end = min(len(damaged), chance.choice((64, 1024, len(damaged))))
        at, kind = chance.randrange(end + 1), chance.randrange(6)
        if kind == 0 and at < len(damaged):
            damaged[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            new = chance.choice((*_TELLING, struct.pack("<Q", chance.getrandbits(63))))
            damaged[at : at + len(new)] = new
        elif kind == 2:
            del damaged[at:]
        elif kind == 3:
            del damaged[at : at + chance.randint(1, 40)]
        elif kind == 4:
            damaged[at:at] = damaged[at : at + chance.randint(1, 200)] * chance.randint(1, 9)
        else:
            other = chance.randrange(len(damaged) + 1)
            damaged[at : at + 16] = damaged[other : other + 16]
    return bytes(damaged)


def _json(data: bytes, chance: Random) -> bytes:
    """Json text with values replaced, left out or repeated."""
    content = json.loads(data)
    for _ in range(chance.randint(1, 3)):
        item, places = content, []
        while isinstance(item, (dict, list)) and item and chance.random() < 0.85:
            key = chance.choice([*item] if isinstance(item, dict) else range(len(item)))
            places.append((item, key))
            item = item[key]
        if not places:
            continue
        parent, key = places[-1]
        change = chance.randrange(4)
        if change == 0:
            del parent[key]
        elif change == 1 and isinstance(parent, list):
            parent.insert(0, copy.deepcopy(parent[key]))
        else:
            parent[key] = copy.deepcopy(chance.choice(_VALUES))
    return json.dumps(content).encode("utf-8", "surrogatepass")


def _safetensors(data: bytes, chance: Random) -> bytes:
    """A .safetensors file with another header."""
    (length,) = struct.unpack("<Q", data[:8])
    kind = chance.choice((_json, mutate))
    header = kind(data[8 : 8 + length], chance)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def _any(name: str, data: bytes, chance: Random) -> bytes:
    """The content of a file of this name, damaged."""
    kinds: list[Callable[[bytes, Random], bytes]] = [_bytes, mutate]
    if name.endswith(".json"):
        kinds = [_json, _json, mutate]
    elif name.endswith((".safetensors", ".proposals")):
        kinds = [_bytes, _safetensors]
    return chance.choice(kinds)(data, chance)


class Checkpoints:
    """Checkpoints of a tiny network, and the same weights as other programs save them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        recipe = recipes.change(
            recipes.fasterrcnn_r10_fpn_shapes(),
            backbone={"fpn_channels": 8},
            roi_heads={"representation_size": 8},
        )
        classes = Classes(("cat", "dog"), (3, 7))
        data = {"digest": "", "path": "", "dataset": "auto", "val_split": "val"}
        state = checkpoint.State(1, 2, recipe, classes, {}, data, {})
        tensors = {"model": {"a.weight": torch.ones(4, 3), "a.bias": torch.zeros(4)}}
        self.saved = checkpoint.save(folder / "whole", tensors, state, keep=2)
        weights = tensors["model"]
        torch.save({"state_dict": weights, "meta": {"CLASSES": ("a", "b")}}, folder / "zip.pth")
        torch.save(weights, folder / "old.pth", _use_new_zipfile_serialization=False)
        arrays = {name: tensor.numpy() for name, tensor in weights.items()}
        for protocol in (2, 4, 5):
            content = {"model": arrays, "__author__": "x", "y": np.float32(2)}
            (folder / f"p{protocol}.pkl").write_bytes(pickle.dumps(content, protocol))

    def try_one(self, chance: Random) -> None:
        """Damage a file and read it."""
        name = chance.choice(("state.json", "model.safetensors", "MANIFEST.json", "zip.pth",
                              "old.pth", "p2.pkl", "p4.pkl", "p5.pkl"))  # fmt: skip
        if not (self.saved / name).exists():
            path = self.folder / f"damaged{Path(name).suffix}"
            path.write_bytes(_any(name, (self.folder / name).read_bytes(), chance))
            reading.read(path)
            return
        path = self.folder / "run" / self.saved.name
        shutil.rmtree(path.parent, ignore_errors=True)
        shutil.copytree(self.saved, path)
        (path / name).write_bytes(_any(name, (self.saved / name).read_bytes(), chance))
        if name != "MANIFEST.json":
            manifest = {p.name: checkpoint._fingerprint(p) for p in path.iterdir()}
            manifest.pop("MANIFEST.json")
            (path / "MANIFEST.json").write_text(json.dumps(manifest))
        found = checkpoint.find(path.parent)
        state = checkpoint.load_state(found)
        checkpoint.load_tensors(found / "model.safetensors")
        checkpoint.build_for(state.recipe, state.classes, found / "model.safetensors")


class Proposals:
    """Stored proposals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        boxes = np.array([[0, 0, 9, 9], [1, 2, 3, 4]], np.float32)
        one = proposals.ImageProposals(boxes, np.array([0.9, 0.1], np.float32), (20, 30))
        about = {"source": {"weights": "x"}, "made_by": "y", "seconds_per_image": 0.1}
        proposals.write(folder / "p.proposals", ["1", "b"], [one, one], about)
        content = {"ids": [1, "b"], "boxes": [boxes, boxes], "objectness_logits": [one.scores] * 2,
                   "bbox_mode": 0}  # fmt: skip
        for protocol in (2, 4):
            (folder / f"p{protocol}.pkl").write_bytes(pickle.dumps(content, protocol))

    def try_one(self, chance: Random) -> None:
        """Damage a file, in half of them with the SHA-256 renewed, and read all of it."""
        name = chance.choice(("p.proposals", "p2.pkl", "p4.pkl"))
        path = self.folder / f"damaged{Path(name).suffix}"
        path.write_bytes(_any(name, (self.folder / name).read_bytes(), chance))
        if name == "p.proposals" and chance.random() < 0.5:
            self._write_whole(path, chance)
        found = proposals.read(path)
        found.sizes = np.full((len(found.ids), 2), 9) if found.sizes is None else found.sizes
        for i in range(len(found.ids)):
            found.of(i)

    def _write_whole(self, path: Path, chance: Random) -> None:
        """Other tensors, with their right SHA-256."""
        from safetensors.numpy import load_file, save_file

        tensors = load_file(self.folder / "p.proposals")
        for _ in range(chance.randint(1, 2)):
            key = chance.choice([*tensors])
            kind = chance.choice(("f4", "f8", "i8", "i4", "u1", "i1"))
            shape = chance.choice(((0,), (1,), (3,), (2, 2), (4, 4), (2, 4), (3, 1)))
            values = [chance.choice((-1, 0, 1, 2, 4, 99, 127)) for _ in range(int(np.prod(shape)))]
            tensors[key] = np.array(values).reshape(shape).astype(kind)
        if chance.random() < 0.3:
            tensors["ids"] = np.frombuffer(_json(b'["1", "b"]', chance), np.uint8)
        about = json.loads(_json(b'{"a": {"made_by": "y", "seconds_per_image": 0.1}}', chance))
        said = {"sha256": proposals._digest(tensors), "about": about.get("a")}
        save_file(tensors, path, {proposals._FORMAT: json.dumps(said)})


class Flags:
    """Command lines of train and check-data, and recipes as json."""

    def __init__(self, _: Path) -> None:
        first = recipes.fasterrcnn_r50_fpn_1x()
        more = ("--recipe", "--lr", "--steps", "--epochs", "--classes", "--data-path", "--weights",
                "--output-dir", "--seed", "--amp", "--save-every", "--images-per-gpu")  # fmt: skip
        fields = [f"--{name.replace('_', '-')}" for name in recipes.flat(first)]
        self.names = [*more, *fields]
        self.recipe = json.dumps(asdict(first)).encode()

    def try_one(self, chance: Random) -> None:
        """Parse a command line and check its recipe, or read a recipe."""
        if chance.random() < 0.3:
            try:
                recipes.check(recipes.from_dict(json.loads(_json(self.recipe, chance))))
            except (ValueError, KeyError, TypeError, AttributeError):  # as `from_json` expects
                pass
            return
        argv = []
        for _ in range(chance.randint(1, 6)):
            name = chance.choice(self.names)
            word = chance.choice((*_WORDS, *(n.decode("utf-8", "replace") for n in NUMBERS),
                                  *recipes.RECIPES))  # fmt: skip
            argv += [f"{name}={word}"] if chance.random() < 0.3 else [name, word]
        if chance.random() < 0.2:
            argv.insert(chance.randrange(len(argv) + 1), chance.choice(_WORDS))
        command = chance.choice((train, check_data))
        recipe, _ = flags.parse_with_recipe(command.Options, argv, command.__doc__)
        recipes.check(recipe)


TARGETS = {"checkpoint": Checkpoints, "proposals": Proposals, "flags": Flags}


def outcome(target: Any, seed: int, number: int) -> str:
    """What became of an input: taken, refused, or a crash."""
    try:
        with expected_failures():
            target.try_one(Random(f"{seed} {number}"))
        return "taken"
    except Failure as failure:
        assert str(failure).strip(), "refused without a word"
        return "refused"
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        return f"crash: {type(error).__name__}: {str(error)[:120]!r} at {place}"


def _batch(target: Any, seed: int, numbers: range, log: Path) -> None:
    """Try inputs in a process of its own, one line in `log` before and after each."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    with log.open("w", buffering=1) as file:
        for number in numbers:
            file.write(f"{number} ")
            signal.alarm(_SECONDS)
            file.write(outcome(target, seed, number).replace("\n", " ") + "\n")
    os._exit(0)


def main() -> None:
    """Try inputs until the time is over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of an input; its error is shown")
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
    counts: Counter[str] = Counter()
    until, number = time.monotonic() + options.seconds, 0
    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[options.target](Path(folder))
        if options.only is not None:
            target.try_one(Random(f"{options.seed} {options.only}"))
            return
        log = Path(folder) / "log"
        while time.monotonic() < until:
            _batch(target, options.seed, range(number, number + _BATCH), log)
            for line in log.read_text().splitlines():
                tried, _, what = line.partition(" ")
                number = int(tried) + 1
                what = what or "crash: its process died or took too long"
                counts[what.partition(":")[0]] += 1
                if what.startswith("crash"):
                    print(f"input {tried}: {what}", flush=True)
    print(f"{options.target}, seed {options.seed}, {options.seconds:g} s: {number} inputs, "
          f"{counts['refused']} refused, {counts['taken']} taken, "
          f"{counts['crash']} crashes")  # fmt: skip
    sys.exit(counts["crash"] > 0)


if __name__ == "__main__":
    main()
