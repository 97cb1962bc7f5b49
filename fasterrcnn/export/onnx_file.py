"""ONNX files of detectors: written by torch's dynamo exporter, run by ONNX Runtime.

NMS and RoI operators become those of the ONNX standard. Needs onnx, onnxscript and onnxruntime: the
extra onnx of this package.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.export.program import INPUTS, OUTPUTS, File, decoded_of, entries

_KEY = "fasterrcnn"  # of the metadata
_OPSET = 18
_INSIDE = "network_"  # before the names of what follows the preparation
_LAYERS = {"Conv", "BatchNormalization", "Relu", "Gemm", "MatMul"}  # what fp16 is for
_DECODED = {  # types of decoded images, by ONNX Runtime's names
    "tensor(uint8)": torch.uint8,
    "tensor(uint16)": torch.uint16,
    "tensor(float)": torch.float32,
}
_PREPARED = tuple(f"prepared_{name}" for name in INPUTS)


def need() -> None:
    """Raise UsageError if a package is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"ONNX files need {error.name}; pip install onnx onnxscript onnxruntime (the extra "
            "onnx of this package)"
        ) from None


def check(program: ExportedProgram) -> None:
    """Raise UsageError for what the standard has no operator of."""
    if any("deform_conv2d" in str(node.target) for node in program.graph.nodes):
        raise UsageError(
            "--format: onnx: has deformable convolutions, which onnx's operators of this version "
            "lack; give --format pt2"
        )


def write(
    program: ExportedProgram,
    path: Path,
    metadata: str,
    preparation: ExportedProgram | None = None,
    *,
    half: bool = False,
) -> None:
    """Write the network `program`, with its `preparation` before it if there is one, and the json
    text `metadata` and its `entries` to `path`.

    half: layers and their weights in fp16, all else in float32. Raises UsageError, OSError.
    """
    import onnx

    check(program)
    model = _translated(program, INPUTS[: 2 if preparation is None else 3], OUTPUTS)
    if preparation is not None:
        model = _joined(_translated(preparation, INPUTS[:1], _PREPARED), model)
    if half:
        model = _halved(model)
    said = entries(metadata, decoded_of(preparation or program))
    onnx.helper.set_model_props(model, {_KEY: metadata, **said})
    onnx.save(model, path)


def _translated(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """The ModelProto of `program`, whose inputs and outputs have these names."""
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=_OPSET,
        input_names=inputs,
        output_names=outputs,
        custom_translation_table=_translations(),
        verbose=False,
    )
    assert exported is not None
    return exported.model_proto


def _halved(model: Any) -> Any:
    """The ModelProto with `_LAYERS` in fp16, by ONNX Runtime's converter; inputs and outputs stay
    as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    others = sorted({node.op_type for node in model.graph.node} - _LAYERS)
    return convert_float_to_float16(model, keep_io_types=True, op_block_list=others)


def _joined(preparation: Any, network: Any) -> Any:
    """One ModelProto that does both."""
    from onnx import compose

    network = compose.add_prefix(network, _INSIDE, rename_outputs=False)
    joints = [(made, _INSIDE + name) for made, name in zip(_PREPARED, INPUTS, strict=True)]
    return compose.merge_models(preparation, network, io_map=joints)


def read(path: Path) -> File:
    """The file at `path`, in ONNX Runtime. Raises CheckpointError."""
    need()
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map[_KEY]
    except KeyError:
        raise CheckpointError(
            f"{path}: not written by fasterrcnn export; export it again"
        ) from None
    except Exception as error:  # onnxruntime's have no common base but this
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: cannot be read: {reason}; export it again") from None

    inputs = session.get_inputs()
    names = [entry.name for entry in inputs]
    decoded = _DECODED[inputs[0].type] if len(inputs) == 1 else None

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = {name: x.contiguous().numpy() for name, x in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(out) for out in session.run(list(OUTPUTS), given))

    return File(call, metadata, decoded)


def _translations() -> dict[Callable, Callable]:
    """ONNX operators for those of torch that its exporter does not know or translates inexactly."""
    from onnxscript import opset18

    op: Any = opset18  # its types do not know values of unknown type

    def nms_lists(boxes: Any, group: Any, valid: Any, iou_threshold: float) -> Any:
        """`models.nms.nms_lists`: each group is a class; a box of another group scores 0."""
        zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
        shape = op.Shape(group)
        count = op.Gather(shape, one)
        rank = op.Cast(op.Sub(count, op.Range(zero, count, one)), to=1)  # the first is the best
        groups = op.Range(zero, op.Add(op.ReduceMax(group, keepdims=0), one), one)
        axes = op.Constant(value_ints=[1])
        own = op.Equal(op.Unsqueeze(group, axes), op.Unsqueeze(groups, axes))  # (M, groups, K)
        scores = op.Where(
            op.And(own, op.Unsqueeze(valid, axes)), rank, op.Constant(value_float=0.0)
        )
        kept = op.NonMaxSuppression(
            boxes,
            scores,
            count,
            op.Constant(value_float=float(iou_threshold)),
            op.Constant(value_float=0.5),
        )
        place = op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)
        none = op.Expand(zero, shape)
        ones = op.Expand(one, op.Shape(op.Gather(place, zero, axis=1)))
        return op.Cast(op.ScatterND(none, place, ones), to=9)

    def roi_pool(x: Any, rois: Any, spatial_scale: float, height: int, width: int) -> Any:
        """torchvision's roi_pool: the cells of the maxima are not used."""
        pooled = op.MaxRoiPool(x, rois, pooled_shape=[height, width], spatial_scale=spatial_scale)
        return pooled, op.Cast(pooled, to=6)

    def true_division(a: Any, b: Any) -> Any:
        """Of sizes, in float64 as in Python: float32 would round some to another pixel."""
        return op.Div(op.Cast(a, to=11), op.Cast(b, to=11))

    def addition(a: Any, b: Any) -> Any:
        """Of sizes: a Python number is of the type of the other, not float32."""
        return op.Add(a, op.CastLike(b, a))

    return {
        operator.add: addition,
        operator.truediv: true_division,
        torch.sym_float: lambda size: op.Cast(size, to=11),
        torch.ops.fasterrcnn.nms.default: nms_lists,
        torch.ops.torchvision.roi_pool.default: roi_pool,
    }
