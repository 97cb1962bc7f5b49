"""Hostile checkpoint files: pickles, torch's zip files and safetensors.

Every function writes one file and returns its path. What a file tries to run would leave the folder
`place.canary` behind.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from tests.faults.places import Place

WEIGHTS = {"a.weight": torch.zeros(3, 2), "a.bias": torch.zeros(3)}
_CALL = b"\x80\x02}U\x05model"  # begins a dictionary with the entry "model"


class Call:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def _saved(place: Place, content: Any, *, zipped: bool = True) -> Path:
    path = place.given / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def _pkl(place: Place, content: bytes) -> Path:
    path = place.given / "x.pkl"
    path.write_bytes(content)
    return path


def _text(string: str) -> bytes:
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def plain(place: Place) -> Path:
    """A harmless file: what a command takes for it is the base."""
    return _saved(place, WEIGHTS)


def reduce_in_zip(place: Place) -> Path:
    return _saved(place, {"model": WEIGHTS, "x": Call(os.mkdir, str(place.canary))})


def reduce_before_zip(place: Place) -> Path:
    content = {"model": WEIGHTS, "x": Call(os.mkdir, str(place.canary))}
    return _saved(place, content, zipped=False)


def reduce_in_pkl(place: Place) -> Path:
    content = {"model": {}, "x": Call(os.system, f"mkdir {place.canary}")}
    return _pkl(place, pickle.dumps(content))


def evaluated_text(place: Place) -> Path:
    text = f"__import__('os').mkdir({str(place.canary)!r})"
    return _pkl(place, pickle.dumps({"model": Call(eval, text)}, 2))


def evaluated_text_in_zip(place: Place) -> Path:
    text = f"__import__('os').mkdir({str(place.canary)!r})"
    return _saved(place, {"model": WEIGHTS, "x": Call(exec, text)})


def inst_opcode(place: Place) -> Path:
    return _pkl(place, _CALL + b"(" + _text(str(place.canary)) + b"iposix\nmkdir\ns.")


def obj_opcode(place: Place) -> Path:
    return _pkl(place, _CALL + b"(cposix\nmkdir\n" + _text(str(place.canary)) + b"os.")


def stack_global_opcode(place: Place) -> Path:
    run = _text("posix") + _text("system") + b"\x93" + _text(f"mkdir {place.canary}") + b"\x85R"
    return _pkl(place, b"\x80\x04}" + _text("model") + run + b"s.")


def newobj_ex_opcode(place: Place) -> Path:
    run = b"csubprocess\nPopen\n" + _text(f"mkdir {place.canary}") + b"\x85}" + _text("shell")
    return _pkl(place, b"\x80\x04}" + _text("model") + run + b"\x88s\x92s.")


def build_of_a_class(place: Place) -> Path:
    """Sets attributes of the objects that are allowed."""
    state = b"}" + _text("__class__") + b"cposix\nsystem\ns"
    return _pkl(place, _CALL + b"ccollections\nOrderedDict\n)R" + state + b"bs.")


def getattr_chain(place: Place) -> Path:
    run = b"cbuiltins\ngetattr\n(cposix\n__dict__\n" + _text("system") + b"tR"
    return _pkl(place, _CALL + run + b"s.")


def attribute_of_an_allowed_name(place: Place) -> Path:
    """Protocol 4 looks names with dots up in objects."""
    name = _text("torch") + _text("serialization.os.mkdir") + b"\x93"
    return _pkl(place, b"\x80\x04}" + _text("model") + name + _text(str(place.canary)) + b"\x85Rs.")


def extension_opcode(place: Place) -> Path:
    return _pkl(place, _CALL + b"\x82\x01s.")


def persistent_opcode(place: Place) -> Path:
    return _pkl(place, _CALL + _text("x") + b"Qs.")


def lists_in_lists(place: Place) -> Path:
    return _pkl(place, _CALL + b"]" * 1_000_000 + b"a" * 999_999 + b"s.")


def lists_in_lists_in_zip(place: Place) -> Path:
    return _with_pickle(
        _saved(place, WEIGHTS), b"\x80\x02" + b"]" * 500_000 + b"a" * 499_999 + b"."
    )


def far_memo(place: Place) -> Path:
    return _pkl(place, b"\x80\x02}r" + struct.pack("<I", 1 << 31) + b".")


def long_string(place: Place) -> Path:
    return _pkl(place, b"\x80\x04\x8e" + struct.pack("<Q", 1 << 42) + b"abc.")


def keys_that_hash_forever(place: Place) -> Path:
    """A tuple of two that are one tuple of two ..., as the key of a dictionary."""
    return _pkl(place, b"\x80\x02}K\x01" + b"2\x86" * 60 + b"K\x01s.")


def keys_that_hash_forever_in_zip(place: Place) -> Path:
    return _with_pickle(_saved(place, WEIGHTS), b"\x80\x02}K\x01" + b"2\x86" * 60 + b"K\x01s.")


def author_of_lists(place: Place) -> Path:
    content = {"model": {"a": np.zeros(3, np.float32)}, "__author__": doubled(60)}
    return _pkl(place, pickle.dumps(content, 2))


def meta_of_lists(place: Place) -> Path:
    meta = {"CLASSES": doubled(60), "config": doubled(60), "dataset_meta": doubled(60)}
    return _saved(place, {"state_dict": WEIGHTS, "meta": meta})


def doubled(levels: int) -> list:
    """A list that would take 2 ** `levels` lists to write out."""
    made: list = []
    for _ in range(levels):
        made = [made, made]
    return made


def config_text(place: Place) -> Path:
    """The Python text of a config, as MMDetection keeps it."""
    text = f"import os\nmodel = dict(type=__import__('os').mkdir({str(place.canary)!r}))\n"
    return _saved(place, {"state_dict": WEIGHTS, "meta": {"config": text}})


def config_in_brackets(place: Place) -> Path:
    text = "model = " + "(" * 200_000 + ")" * 200_000
    return _saved(place, {"state_dict": WEIGHTS, "meta": {"config": text, "cfg": text}})


def config_of_minus_signs(place: Place) -> Path:
    text = "model = dict(a=" + "-" * 200_000 + "1)"
    return _saved(place, {"state_dict": WEIGHTS, "meta": {"config": text, "cfg": text}})


def negative_offset(place: Place) -> Path:
    return _changed(
        place, lambda p: p.replace(b"K\x00K\x03K\x02\x86", b"J\x00\xff\xff\xffK\x03K\x02\x86")
    )


def negative_size(place: Place) -> Path:
    return _changed(
        place, lambda p: p.replace(b"K\x03K\x02\x86", b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86")
    )


def negative_stride(place: Place) -> Path:
    return _changed(place, lambda p: p.replace(b"K\x02K\x01\x86", b"J\x00\x00\x00\x80K\x01\x86"))


def huge_shape(place: Place) -> Path:
    return _saved(place, {"model": {"a.weight": torch.zeros(1).expand(1 << 20, 1 << 20, 1 << 20)}})


def many_tensors_of_one_storage(place: Place) -> Path:
    one = torch.zeros(1 << 20)
    return _saved(place, {"model": {f"{i}.weight": one.view(1 << 20) for i in range(3000)}})


def _changed(place: Place, change: Any) -> Path:
    path = _saved(place, WEIGHTS)
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("data.pkl"))
        before = archive.read(name)
    assert change(before) != before, "nothing of this pickle was changed"
    return _with_pickle(path, change(before))


def _with_pickle(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    return path


def deflated_zip(place: Place) -> Path:
    path = place.given / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(768 << 20))
    return path


def zip64_lie(place: Place) -> Path:
    """The directory of the zip says 2 ** 40 bytes of an entry, in the field for large sizes."""
    path = _saved(place, WEIGHTS)
    content = bytearray(path.read_bytes())
    start = content.rindex(b"PK\x01\x02")
    content[start + 20 : start + 28] = b"\xff" * 8
    extra = struct.pack("<HHQQ", 1, 16, 1 << 40, 1 << 40)
    name, old = struct.unpack("<HH", content[start + 28 : start + 32])
    content[start + 30 : start + 32] = struct.pack("<H", len(extra))
    content[start + 46 + name : start + 46 + name + old] = extra
    path.write_bytes(bytes(content))
    return path


def zip_that_says_two_sizes(place: Place) -> Path:
    """Local headers say other sizes than the directory."""
    path = _saved(place, WEIGHTS)
    content = bytearray(path.read_bytes())
    content[18:26] = struct.pack("<II", 1 << 30, 1 << 30)
    path.write_bytes(bytes(content))
    return path


def zip_of_names_outside(place: Place) -> Path:
    path = place.given / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside/data.pkl", pickle.dumps({}, 2))
        archive.writestr(f"{place.outside}/data/0", bytes(12))
    return path


def zip_of_two_pickles(place: Place) -> Path:
    path = _saved(place, WEIGHTS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y/data.pkl", pickle.dumps(Call(os.mkdir, str(place.canary)), 2))
    return path


def zip_of_the_same_name_twice(place: Place) -> Path:
    path = _saved(place, WEIGHTS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(Call(os.mkdir, str(place.canary)), 2))
    return path


def torch_script(place: Place) -> Path:
    path = place.given / "x.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    return path


def pipe(place: Place) -> Path:
    """Reading it waits for a writer for ever."""
    path = place.given / "x.pth"
    os.mkfifo(path)
    return path


def endless_device(place: Place) -> Path:
    path = place.given / "x.pth"
    path.symlink_to("/dev/zero")
    return path


def _header(place: Place, header: bytes | dict, data: bytes = bytes(24), length: int = -1) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = struct.pack("<Q", len(text) if length < 0 else length)
    path = place.given / "x.safetensors"
    path.write_bytes(size + text + data)
    return path


def _entry(start: int, end: int, *shape: int, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


def header_of_exabytes(place: Place) -> Path:
    return _header(place, b"{}", length=1 << 62)


def header_of_negative_length(place: Place) -> Path:
    return _header(place, b"{}", length=(1 << 64) - 1)


def header_of_ninety_megabytes(place: Place) -> Path:
    return _header(place, b"{" + b" " * (90 << 20) + b"}")


def header_in_brackets(place: Place) -> Path:
    return _header(place, b'{"a":' * 100_000)


def offsets_that_overlap(place: Place) -> Path:
    return _header(place, {"a": _entry(0, 24, 6), "b": _entry(0, 24, 6)})


def offsets_behind_the_end(place: Place) -> Path:
    return _header(place, {"a": _entry(0, 1 << 40, 1 << 38)})


def offsets_backwards(place: Place) -> Path:
    return _header(place, {"a": _entry(24, 0, 6)})


def shape_that_overflows(place: Place) -> Path:
    return _header(place, {"a": _entry(0, 24, 1 << 32, 1 << 32, 6)})


def shape_of_nothing_and_much(place: Place) -> Path:
    return _header(place, {"a": _entry(0, 0, 0, 1 << 62)}, b"")


def unknown_kind(place: Place) -> Path:
    return _header(place, {"a": _entry(0, 24, 6, kind="__import__('os')")})


def names_of_a_million_letters(place: Place) -> Path:
    bad = torch.full((2,), float("nan"))
    path = place.given / "x.safetensors"
    save_file({"a\x1b[31m\n" + "w" * 1_000_000: bad}, path)
    return path


FILES = (
    reduce_in_zip, reduce_before_zip, reduce_in_pkl, evaluated_text, evaluated_text_in_zip,
    inst_opcode, obj_opcode, stack_global_opcode, newobj_ex_opcode, build_of_a_class, getattr_chain,
    attribute_of_an_allowed_name, extension_opcode, persistent_opcode, lists_in_lists,
    lists_in_lists_in_zip, far_memo, long_string, keys_that_hash_forever,
    keys_that_hash_forever_in_zip, author_of_lists, meta_of_lists, config_text, config_in_brackets,
    config_of_minus_signs, negative_offset, negative_size, negative_stride, huge_shape,
    many_tensors_of_one_storage, deflated_zip, zip64_lie, zip_that_says_two_sizes,
    zip_of_names_outside, zip_of_two_pickles, zip_of_the_same_name_twice, torch_script, pipe,
    endless_device, header_of_exabytes, header_of_negative_length, header_of_ninety_megabytes,
    header_in_brackets, offsets_that_overlap, offsets_behind_the_end, offsets_backwards,
    shape_that_overflows, shape_of_nothing_and_much, unknown_kind, names_of_a_million_letters,
)  # fmt: skip
