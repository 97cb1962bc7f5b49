"""MMDetection 3.3's Faster R-CNN and Cascade R-CNN with RegNet, Res2Net and ResNeSt, by timm's
networks of the same structure and ImageNet weights.

Box AP and GB of the pages' `metafile.yml`. timm's RegNets of pycls take RGB, into which their first
convolution was turned; MMDetection feeds the same weights BGR. Left out is HRNet, whose detectors
have a pyramid of their own (HRFPN).
"""

from __future__ import annotations

from fasterrcnn.recipes.conventions import CASCADE_MMDETECTION
from fasterrcnn.recipes.zoo.entry import Entry
from fasterrcnn.recipes.zoo.of_mmdetection import MS_RANGE, ONE, THREE, TWO, entry
from fasterrcnn.recipes.zoo.of_mmdetection_variants import TWENTY

_SCHEDULES: dict[str, tuple[str, tuple[dict, ...]]] = {
    "1x": ("12 epochs", (ONE,)),
    "2x": ("24 epochs", (TWO,)),
    "20e": ("20 epochs", (TWENTY,)),
    "ms-3x": ("36 epochs, short side 640 to 800", (MS_RANGE, THREE)),
    "ms-range-1x": ("12 epochs, short side 640 to 800", (MS_RANGE, ONE)),
}
_DETECTORS: dict[str, tuple[str, str, tuple[dict, ...]]] = {  # as in MMDetection's names of configs
    "faster-rcnn": ("fasterrcnn", "Faster R-CNN", ()),
    "cascade-rcnn": ("cascade_rcnn", "Cascade R-CNN", (CASCADE_MMDETECTION,)),
}
_REGNETS = {  # timm's names
    "400MF": "regnetx_004", "800MF": "regnetx_008", "1.6GF": "regnetx_016", "3.2GF": "regnetx_032",
    "4GF": "regnetx_040",
}  # fmt: skip
_RESNESTS = {"s50": "resnest50d", "s101": "resnest101e"}


def _regnet(size: str, schedule: str, box_ap: float, memory_gb: float) -> Entry:
    """A row of configs/regnet."""
    body = dict(name=f"timm:{_REGNETS[size]}.pycls_in1k")
    parts = (dict(backbone=body, schedule=dict(weight_decay=5e-5)),)
    config = f"regnet/faster-rcnn_regnetx-{size}_fpn_{schedule}_coco.py"
    return _entry(config, f"RegNetX-{size}-FPN", schedule, parts, box_ap, memory_gb)


def _res2net(detector: str, schedule: str, box_ap: float, memory_gb: float) -> Entry:
    """A row of configs/res2net."""
    parts = (dict(backbone=dict(name="timm:res2net101d.in1k")),)
    config = f"res2net/{detector}_res2net-101_fpn_{schedule}_coco.py"
    return _entry(config, "Res2Net-101-FPN", schedule, parts, box_ap, memory_gb)


def _resnest(detector: str, body: str, box_ap: float, memory_gb: float | None = None) -> Entry:
    """A row of configs/resnest. Batch norms have the statistics of all images of a step there."""
    parts = (
        dict(
            input=dict(image_mean=(123.68, 116.779, 103.939), image_std=(58.393, 57.12, 57.375)),
            backbone=dict(name=f"timm:{_RESNESTS[body]}.in1k", norm="batch"),
            roi_heads=dict(head="4conv1fc"),
        ),
    )
    config = f"resnest/{detector}_{body}_fpn_syncbn-backbone+head_ms-range-1x_coco.py"
    what = f"ResNeSt-{body[1:]}-FPN, batch norm, box head with convolutions"
    return _entry(config, what, "ms-range-1x", parts, box_ap, memory_gb)


def _entry(
    config: str,
    network: str,
    schedule: str,
    parts: tuple[dict, ...],
    box_ap: float,
    memory_gb: float | None,
) -> Entry:
    """A row of any of these pages, called as its config is."""
    detector, _, rest = config.partition("/")[2].removesuffix("_coco.py").partition("_")
    ours, kind, cascade = _DETECTORS[detector]
    length, epochs = _SCHEDULES[schedule]
    for character in "-.+":
        rest = rest.replace(character, "_")
    return entry(
        f"{ours}_{rest.lower()}_mmdetection",
        f"{kind}, {network}, COCO, {length}",
        (*cascade, *parts, *epochs),
        box_ap,
        schedule=schedule,
        config=config,
        memory_gb=memory_gb,
    )


ENTRIES = (
    _regnet("3.2GF", "1x", 39.9, 4.5),
    _regnet("3.2GF", "2x", 41.1, 4.5),
    _regnet("400MF", "ms-3x", 37.1, 2.3),
    _regnet("800MF", "ms-3x", 38.8, 2.8),
    _regnet("1.6GF", "ms-3x", 40.5, 3.4),
    _regnet("3.2GF", "ms-3x", 42.3, 4.4),
    _regnet("4GF", "ms-3x", 42.8, 4.9),
    _res2net("faster-rcnn", "2x", 43.0, 7.4),
    _res2net("cascade-rcnn", "20e", 45.7, 7.8),
    _resnest("faster-rcnn", "s50", 42.0, 4.8),
    _resnest("faster-rcnn", "s101", 44.5, 7.1),
    _resnest("cascade-rcnn", "s50", 44.5),
    _resnest("cascade-rcnn", "s101", 46.8, 8.4),
)
