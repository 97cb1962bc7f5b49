"""Names of published detectors: the table, the cache, and what is verified."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from fasterrcnn import recipes
from fasterrcnn.errors import DownloadError, StorageError, UsageError
from fasterrcnn.importers import published
from tests.server import BODY, Server

MMDET = "https://download.openmmlab.com/mmdetection/v2.0"
D2 = "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection"
SOURCES = {"mmdet": "MMDetection", "detectron2": "Detectron2", "torchvision": "pytorch/vision"}
# Copied from MMDetection's metafile.yml and README.md and from Detectron2's MODEL_ZOO.md.
KNOWN = {
    "mmdet:rpn_r50_fpn_1x":
        f"{MMDET}/rpn/rpn_r50_fpn_1x_coco/rpn_r50_fpn_1x_coco_20200218-5525fa2e.pth",
    "mmdet:rpn_r101_fpn_2x":
        f"{MMDET}/rpn/rpn_r101_fpn_2x_coco/rpn_r101_fpn_2x_coco_20200131-24e3db1a.pth",
    "mmdet:faster-rcnn_r50-caffe_fpn_1x_coco":
        f"{MMDET}/faster_rcnn/faster_rcnn_r50_caffe_fpn_1x_coco/"
        "faster_rcnn_r50_caffe_fpn_1x_coco_bbox_mAP-0.378_20200504_180032-c5925ee5.pth",
    "mmdet:faster_rcnn_x101_64x4d_fpn_mstrain_3x":
        f"{MMDET}/faster_rcnn/faster_rcnn_x101_64x4d_fpn_mstrain_3x_coco/"
        "faster_rcnn_x101_64x4d_fpn_mstrain_3x_coco_20210524_124528-26c63de6.pth",
    "mmdet:fasterrcnn_r50_fpn_1x":
        f"{MMDET}/faster_rcnn/faster_rcnn_r50_fpn_1x_coco/"
        "faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth",
    "mmdet:faster-rcnn_r50-caffe_fpn_ms-1x_coco-person":
        f"{MMDET}/faster_rcnn/faster_rcnn_r50_fpn_1x_coco-person/"
        "faster_rcnn_r50_fpn_1x_coco-person_20201216_175929-d022e227.pth",
    "detectron2:faster_rcnn_R_50_FPN_3x":
        f"{D2}/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl",
    "detectron2:faster_rcnn_X_101_32x8d_FPN_3x":
        f"{D2}/faster_rcnn_X_101_32x8d_FPN_3x/139173657/model_final_68b088.pkl",
    "detectron2:rpn_r50_c4_1x": f"{D2}/rpn_R_50_C4_1x/137258005/model_final_450694.pkl",
    "torchvision:COCO_V1":
        "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "torchvision:fasterrcnn_resnet50_fpn_v2":
        "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_names(name: str):
    assert published.is_name(name)
    assert published.url_of(name) == KNOWN[name]


@pytest.mark.parametrize("prefix", published.URLS)
def test_every_name_is_a_recipe_of_its_framework(prefix: str):
    for recipe, url in published.URLS[prefix].items():
        assert recipes.RECIPES[recipe].source.startswith(SOURCES[prefix])
        assert published.url_of(f"{prefix}:{recipe}") == url
        short = recipe.removesuffix(f"_{published.PREFIXES[prefix]}")
        assert published.url_of(f"{prefix}:{short}") == url
        digits = r"model_final_[0-9a-f]{6}\.pkl" if prefix == "detectron2" else r"-[0-9a-f]{8}\.pth"
        assert re.search(f"{digits}$", url)
    urls = [url for table in published.URLS.values() for url in table.values()]
    assert len(set(urls)) == len(urls)


@pytest.mark.parametrize(("name", "close"), [
    ("mmdet:rpn_r50_fpn_9x", "mmdet:rpn_r50_fpn_1x"),
    ("detectron2:faster_rcnn_R_50_FPN", "detectron2:fasterrcnn_r50_fpn_3x"),
    ("torchvision:COCO_V2", "torchvision:fasterrcnn"),
    ("mmdet:fasterrcnn_r101_caffe_fpn_ms_3x", "mmdet:fasterrcnn_r101_caffe_fpn_1x"),
])  # fmt: skip
def test_unknown_names(name: str, close: str):
    with pytest.raises(UsageError, match=f"^{name}: no published file known; .*{close}"):
        published.url_of(name)


def test_paths_are_no_names():
    assert not any(map(published.is_name, ("x.pth", "a/mmdet/x.pth", "mmdet", "c:/x.pth")))


@pytest.mark.parametrize(("kind", "file"), [
    ("sha256", "model_20200130-{:.8}.pth"), ("md5", "model_final_{:.6}.pkl"),
])  # fmt: skip
def test_what_the_file_name_says_is_verified(server: Server, tmp_path, monkeypatch, kind, file):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = f"http://127.0.0.1:{server.server_port}/" + file
    good = url.format(hashlib.new(kind, BODY).hexdigest())
    server.cut = [1000]
    path = published.cached(good)
    assert path == tmp_path / "hub" / "checkpoints" / good.rsplit("/", 1)[1]
    assert path.read_bytes() == BODY
    assert server.requests[1][1] == "bytes=1000-"
    with pytest.raises(DownloadError, match=r"expected 0{6,8}; removed"):
        published.cached(url.format("0" * 32))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="TORCH_HOME"):
        published.cached("http://127.0.0.1:1/model-12345678.pth")
