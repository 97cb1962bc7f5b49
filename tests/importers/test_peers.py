"""Imported detectors compute what they computed there, stage by stage.

Tolerances are those that the outputs' own README measured of a framework against itself.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from fasterrcnn import recipes
from fasterrcnn.data import images
from fasterrcnn.importers import recognize, translate
from fasterrcnn.importers.names import entries
from fasterrcnn.importers.recognize import Hints
from fasterrcnn.models import backbones, boxes, resize
from fasterrcnn.models.build import split
from fasterrcnn.models.deformable import deformable_conv
from fasterrcnn.models.roi_heads import SampledRois
from fasterrcnn.models.sparse import Pyramid
from fasterrcnn.safe_load import reading
from tests.importers import peers


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


QUICK = "detectron2"


@pytest.fixture(
    scope="module",
    params=[n if n == QUICK else pytest.param(n, marks=pytest.mark.slow) for n in peers.NAMES],
)
def imported(request, target: Path):
    """A peer's outputs and the model made from its file."""
    peer = peers.peer(request.param, target, ".pkl" if request.param == "detectron2" else ".pth")
    file = reading.read(peer.file)
    found = recognize.recognize(file, Hints())
    model, _ = translate.load(file, found)
    return peer, model, found


def sampled(tensor: torch.Tensor) -> np.ndarray:
    """The values that were recorded of a big tensor."""
    flat = tensor.detach().contiguous().view(-1).numpy()
    return flat[peers.script("common").sample_index(flat.size)]


def their_order(peer: peers.Peer, tensor: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """The anchors of each cell along `dim` as in Detectron2: size by size. Here, ratio by ratio."""
    if peer.name != "detectron2-dc5":
        return tensor
    return (
        tensor.unflatten(dim, (-1, 3, 5, *[4] * (dim and tensor.shape[dim] == 60)))
        .transpose(dim + 1, dim + 2)
        .flatten(dim, dim + 2 + (dim and tensor.shape[dim] == 60))
    )


def padded(peer: peers.Peer, model, i: int):
    """The framework's own resized image, in pixels of the original for what is detected."""
    found = model.transform.eval()([peer.image(i)])
    about = peer.about["image_info"][i]
    original = torch.tensor([[about["height"], about["width"]]], dtype=torch.float32)
    return found._replace(original_sizes=original)


def test_the_base_anchors_and_the_input(imported):
    peer, model, _ = imported
    for level, anchors in enumerate(model.rpn.anchor_generator.cell_anchors):
        anchors = their_order(peer, anchors)
        assert np.abs(anchors.numpy() - peer.arrays[f"cell_anchors{level}"]).max() < 1e-5
    for i in range(2):
        found = padded(peer, model, i)
        assert tuple(found.pixels.shape[2:]) == tuple(peer.about["image_info"][i]["padded"][-2:])
        crop = found.pixels[0, :, :16, :16].numpy()
        assert np.abs(crop - peer.arrays[f"img{i}_input_crop"]).max() == 0


@pytest.mark.parametrize("kind", ["test", "train"])
@pytest.mark.parametrize("name", ["mmdet", "detectron2"])
def test_resizing_from_the_file(name: str, kind: str, target: Path, coco_tiny: Path):
    """To the last bit."""
    peer = peers.peer(name, target, ".pkl" if name == "detectron2" else ".pth")
    for i, image in enumerate(peers.IMAGES):
        path = coco_tiny / "val2017" / f"{image}.jpg"
        theirs = peer.image(i, kind).int()
        compute = resize.pillow if name == "detectron2" else resize.opencv
        mine = compute(images.decode(str(path), apply_orientation=True), tuple(theirs.shape[1:]))
        assert mine.equal(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("i", [0, 1])
@torch.no_grad()
def test_every_stage_of_detection(imported, i: int, capsys):
    peer, model, found = imported
    arrays, match = peer.arrays, peers.script("compare").match
    key, recipe, report = f"img{i}_", found.recipe, {}
    given = padded(peer, model, i)
    features = model.features(given)
    for name, level in zip(
        [k for k in arrays if k.startswith(f"{key}feat_")], features, strict=True
    ):
        std = peer.about["tensors"][name]["std"]
        worst = np.abs(sampled(level) - arrays[name]).max() / std
        report["features"] = max(report.get("features", 0), worst)
    assert report["features"] < 2e-5
    for level, (logits, deltas) in enumerate(zip(*model.rpn.head(features), strict=True)):
        logits, deltas = their_order(peer, logits, 1), their_order(peer, deltas, 1)
        assert np.abs(sampled(logits) - arrays[f"{key}rpn_cls{level}"]).max() < 5e-5
        assert np.abs(sampled(deltas) - arrays[f"{key}rpn_reg{level}"]).max() < 1e-5
    proposals = model.rpn.proposals(given, features, training=False)
    scores = "prop_scores" if peer.framework == "mmdet" else "prop_logits"
    own = proposals.boxes[0][proposals.valid[0]].numpy(), proposals.scores[0][proposals.valid[0]]
    values = own[1] if peer.framework == "mmdet" else own[1].double().logit()
    result = match(
        arrays[f"{key}prop_boxes"], arrays[f"{key}{scores}"], None, own[0], values.numpy(), None
    )
    report["proposals"] = result
    assert result["unmatchedA"] <= 2
    assert result["box"] < 5e-3
    assert result["score"] < (5e-6 if peer.framework == "mmdet" else 5e-5)
    if recipe.detector == "rpn":
        (found_boxes,) = split(model.detect(given, features))
        result = match(
            arrays[f"{key}final_boxes"], arrays[f"{key}final_scores"], None,
            found_boxes["boxes"].numpy(), found_boxes["scores"].numpy(), None,
        )  # fmt: skip
        assert (result["unmatchedA"], result["unmatchedB"]) == (0, 0)
        assert result["box"] < 0.05
        return
    for stage in range(recipe.roi_heads.stages):
        check_box_head(model, features, arrays, key, stage)
    for what, count in (("final", 100), ("uncapped", 100_000)):
        more = recipes.change(recipe, roi_heads=dict(detections_per_img=count))
        model.roi_heads.config = more.roi_heads
        (found_boxes,) = split(model.detect(given, features))
        result = match(
            *(arrays[f"{key}{what}_{part}"] for part in ("boxes", "scores", "labels")),
            found_boxes["boxes"].numpy(), found_boxes["scores"].numpy(),
            found_boxes["labels"].numpy() - 1,
        )  # fmt: skip
        report[what] = result
        assert result["nA"] == result["nB"] or what == "uncapped"
        assert max(result["unmatchedA"], result["unmatchedB"]) <= (3 if what == "uncapped" else 0)
        assert result["box"] < 0.05
        assert result["score"] < 1e-4
    model.roi_heads.config = recipe.roi_heads
    with capsys.disabled():
        print(f"\n{peer.name} {i}: {report}")


def check_box_head(model, features, arrays, key: str, stage: int) -> None:
    """On the boxes that it, or this stage of a cascade, was given there."""
    heads, suffix = model.roi_heads, f"_s{stage}" if stage else ""
    cascade = heads.config.stages > 1
    name = f"roi_boxes200{suffix}" if cascade else "prop_boxes"
    recorded = torch.from_numpy(arrays[f"{key}{name}"])[None]
    pooled = heads.pool(features, recorded[:, :200])
    assert np.abs(sampled(pooled) - arrays[f"{key}roi_pooled200{suffix}"]).max() < 1e-4
    some = features, recorded[:, :100]
    logits, deltas = heads.head_of(stage, *some) if cascade else heads.head(*some)
    last = logits[0].roll(-1, dims=1).numpy()  # background is last there
    assert np.abs(last - arrays[f"{key}roi_cls100{suffix}"]).max() < 3e-4
    deltas = deltas[0, :50] if cascade else deltas[0, :50, 1:]
    assert np.abs(deltas.flatten(1).numpy() - arrays[f"{key}roi_reg50{suffix}"]).max() < 1e-4


def spread(
    label: torch.Tensor, size: int, fraction: float, first: int = 0, is_sorted: bool = False
) -> boxes.Sample:
    """The recorded runs' sampler: candidates in order, by a fixed permutation. `first`: boxes
    from this one on stand before all others there. `is_sorted`: so is what is sampled."""
    permutation = peers.script("fill").spread_perm
    most, rows = int(size * fraction), []
    for own in label:
        order = torch.cat([torch.arange(first, len(own)), torch.arange(first)])
        positive, negative = (order[own[order] == value] for value in (1, 0))
        if len(positive) > most:
            chosen = torch.from_numpy(permutation(len(positive)))[:most]
            positive = positive[chosen.sort().values if is_sorted else chosen]
        if len(negative) > size - len(positive):
            chosen = torch.from_numpy(permutation(len(negative)))[: size - len(positive)]
            negative = negative[chosen.sort().values if is_sorted else chosen]
        rows.append((positive, negative))
    index = torch.zeros(len(label), size, dtype=torch.int64)
    is_positive, valid = (torch.zeros(len(label), size, dtype=torch.bool) for _ in range(2))
    for i, (positive, negative) in enumerate(rows):
        both = torch.cat([positive, negative])
        index[i, : len(both)] = both
        is_positive[i, : len(positive)] = True
        valid[i, : len(both)] = True
    return boxes.Sample(index, is_positive, valid)


def training_input(peer: peers.Peer, model, recipe):
    """Both images at their training size in one batch, with the recorded ground truth."""
    model.transform.config = recipes.change(recipe, input=dict(min_size=400, max_size=667)).input
    targets = [
        {
            "boxes": torch.from_numpy(peer.arrays[f"train_img{i}_gt_boxes"]),
            "labels": torch.from_numpy(peer.arrays[f"train_img{i}_gt_labels"]) + 1,
        }
        for i in range(2)
    ]
    given = model.transform.eval()([peer.image(i, "train") for i in range(2)], targets)
    model.transform.config = recipe.input
    assert tuple(given.pixels.shape[2:]) == ((602, 600) if "dc5" in peer.name else (608, 608))
    return given


def recorded_rois(peer: peers.Peer, given, suffix: str = ""):
    """What `RoIHeads.sample` returned there; every slot is filled. `suffix`: of the stage."""
    rois, labels, best, positive = [], [], [], []
    for i in range(2):
        key = f"train_img{i}_roi_"
        own = torch.from_numpy(peer.arrays[f"{key}boxes{suffix}"])
        if peer.framework == "mmdet":
            label = torch.zeros(len(own), dtype=torch.int64)
            found = torch.from_numpy(peer.arrays[f"{key}pos_labels{suffix}"]) + 1
            label[: len(found)] = found
            gt = torch.zeros(len(own), 4)
            gt[: len(found)] = torch.from_numpy(peer.arrays[f"{key}pos_gt{suffix}"])
        else:
            label = (torch.from_numpy(peer.arrays[f"{key}labels"]) + 1) % 81
            gt = torch.from_numpy(peer.arrays[f"{key}gt"])
        nearest = (given.gt_boxes[i][None] - gt[:, None]).abs().sum(-1).argmin(dim=1)
        for part, value in ((rois, own), (labels, label), (best, nearest), (positive, label > 0)):
            part.append(value)
    stacked = [torch.stack(part) for part in (rois, labels, best, positive)]
    return SampledRois(*stacked, valid=torch.ones_like(stacked[-1]))


def relative(mine: float, theirs: float) -> float:
    return abs(mine - theirs) / max(abs(theirs), 1e-12)


def norm_after_convolution(x, conv, norm, offset=None):
    """As the frameworks compute it; folding it into the weights rounds differently."""
    x = conv(x) if offset is None else deformable_conv(x, conv, offset, conv.weight)
    statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias
    return functional.batch_norm(x, *statistics, training=False, eps=norm.eps)


@pytest.mark.slow
@pytest.mark.parametrize("folded", [False, True], ids=["norms apart", "norms folded"])
@pytest.mark.parametrize("rois", ["recorded", "own"])
def test_one_training_step(imported, rois: str, folded: bool, monkeypatch, capsys):
    """With the peer's ground truth, its samples, and its rois or ours."""
    peer, model, found = imported
    if not folded:
        monkeypatch.setattr(backbones, "conv_norm", norm_after_convolution)
    if found.recipe.detector == "rpn" and rois == "recorded":
        pytest.skip("an RPN alone has no rois")
    given = training_input(peer, model, found.recipe)
    about, mmdet = peer.about["train"], peer.framework == "mmdet"
    samples = []

    def sample(label, size, fraction):
        is_roi = bool(samples)
        # Ground truth stands before the proposals there.
        first = label.shape[1] - given.gt_boxes.shape[1] if is_roi and mmdet else 0
        places = torch.arange(label.shape[1])
        if not is_roi:
            label, places = their_order(peer, label, 1), their_order(peer, places)
        found = spread(label, size, fraction, first, is_sorted=mmdet)
        samples.append(found)
        return found._replace(index=places[found.index])

    monkeypatch.setattr(boxes, "sample", sample)
    model.train()
    for parameter in model.parameters():
        parameter.grad = None
    features = model.features(given)
    losses, _ = model.rpn.losses(given, Pyramid(features))
    for i in range(2):
        index, positive, valid = (part[i] for part in samples[0])
        for kind, chosen in (("pos", positive), ("neg", valid & ~positive)):
            expected = peer.arrays[f"train_img{i}_rpn_{kind}"]
            assert sorted(index[chosen].tolist()) == sorted(expected.tolist())
    if found.recipe.detector != "rpn":
        proposals = model.rpn.proposals(given, features, training=True)
        if rois == "recorded" and found.recipe.roi_heads.stages > 1:
            staged = [recorded_rois(peer, given, s) for s in ("", "_s1", "_s2")]
            monkeypatch.setattr(
                model.roi_heads, "rois_of", lambda stage, *_: (staged[stage], staged[stage].valid)
            )
        elif rois == "recorded":
            chosen = recorded_rois(peer, given)
            monkeypatch.setattr(model.roi_heads, "sample", lambda *_: chosen)
        losses |= model.roi_heads.losses(given, features, proposals)[0]
    sum(losses.values()).backward()
    model.eval()

    theirs = about.get("loss_sums") or about["losses"]
    names = {
        "mmdet": ("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox"),
        "detectron2": ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"),
    }
    ours = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
    known = dict(zip(ours, names[peer.framework], strict=True))
    worst = {}
    for mine, loss in losses.items():
        plain, _, stage = mine.partition("_stage")
        name = f"s{stage}.{known[plain]}" if stage else known[plain]
        worst[mine] = relative(float(loss.detach()), theirs[name])
        exact = rois == "recorded" or "rpn" in name
        assert worst[mine] < (1e-5 if exact else 2e-3), mine
    parameters = dict(model.named_parameters())
    framework = found.framework
    compared = 0
    for entry in entries(framework, found.recipe, list(parameters), found.rpn):
        gradient = parameters[entry.ours].grad
        if entry.theirs in about["grad_l2"]:
            norm = float(gradient.double().norm())
            worst["gradients"] = max(
                worst.get("gradients", 0), relative(norm, about["grad_l2"][entry.theirs])
            )
            compared += 1
        else:
            assert gradient is None, entry.ours
    assert compared == len(about["grad_l2"])
    exact = rois == "recorded" or len(losses) == 2
    recorded = 1e-3 if peer.name == "detectron2-dconv" else 1e-4  # as the peers' README measured
    assert worst["gradients"] < (recorded if exact else 1e-2)
    with capsys.disabled():
        print(f"\n{peer.name}, {rois} rois, folded {folded}: {worst}")
