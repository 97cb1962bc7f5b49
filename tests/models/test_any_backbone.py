"""Torchvision's classification networks as backbones: the library's features, from its weights."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torchvision import models
from torchvision.models import RegNet_Y_400MF_Weights, get_model, list_models
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.maxvit import PartitionAttentionLayer
from torchvision.ops import StochasticDepth

from fasterrcnn import recipes
from fasterrcnn.cli.flags import parse_with_recipe
from fasterrcnn.commands import train
from fasterrcnn.data.annotations import Classes
from fasterrcnn.engine import download, initial_weights, runtime
from fasterrcnn.engine.step import make_training, train_step
from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.export.program import Network, export
from fasterrcnn.image_sizes import buckets
from fasterrcnn.importers.translate import check_expressible
from fasterrcnn.models import cost, timm_networks
from fasterrcnn.models.any_backbone import (
    build_backbone,
    densenet_names,
    describe_backbone,
    describe_network,
    stated,
)
from fasterrcnn.models.build import Detector, build
from fasterrcnn.models.stages import OnMeta, use_any_size
from tests.test_no_synchronization import batch

# A network of every family: the nodes of torchvision's feature extraction that are its levels.
FAMILIES = {
    "resnext50_32x4d": ["layer1", "layer2", "layer3", "layer4"],
    "regnet_y_400mf": [f"trunk_output.block{i}" for i in (1, 2, 3, 4)],
    "efficientnet_b0": ["features.2", "features.3", "features.5", "features.8"],
    "efficientnet_v2_s": ["features.2", "features.3", "features.5", "features.7"],
    "mobilenet_v2": ["features.3", "features.6", "features.13", "features.18"],
    "mobilenet_v3_small": ["features.1", "features.3", "features.8", "features.12"],
    "densenet121": [f"features.{n}" for n in (
        "denseblock1", "denseblock2", "denseblock3", "norm5")],
    "convnext_tiny": ["features.1", "features.3", "features.5", "features.7"],
    "swin_t": ["features.1", "features.3", "features.5", "permute"],
    "swin_v2_t": ["features.1", "features.3", "features.5", "permute"],
    "vgg11_bn": ["features.13", "features.20", "features.27", "features.28"],
    "maxvit_t": ["blocks.0", "blocks.1", "blocks.2", "blocks.3"],
}  # fmt: skip
FAST = ("regnet_y_400mf", "efficientnet_b0", "mobilenet_v3_small", "swin_t")
CLASSES = Classes(("a", "b", "c", "d", "e", "f"), (1, 2, 3, 4, 5, 6))


def recipe_of(name: str, **changes) -> recipes.Recipe:
    """The demo's, narrow, with that network as its pixels and sizes are stated."""
    base = recipes.change(
        recipes.fasterrcnn_r10_fpn_shapes(),
        backbone=dict(name=name, fpn_channels=8, fpn_norm="none", norm="frozen"),
        roi_heads=dict(representation_size=8),
        rpn=dict(batch_size_per_image=4096),  # all anchors: every level gets a gradient
        input=dict(min_size=64, max_size=96, train_min_sizes=()),
        schedule=dict(weight_decay=0.0, ema_decay=0.0),
    )
    return recipes.change(recipes.change(base, **stated(name)), **changes)


def randomize(model: Detector) -> Detector:
    """The detector, with statistics and biases that its body could have."""
    for name, tensor in model.backbone.body.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.uniform_(-0.1, 0.1)
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return model


def classifier(name: str, body: torch.nn.Module) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """torchvision's own network with a copy of the weights of `body`, and what a file of it holds,
    but for the values of its classifier."""
    with OnMeta():
        network = get_model(name)
    own = {k: v.clone() for k, v in body.state_dict().items() if not k.startswith("level_norms.")}
    network.load_state_dict(own, strict=False, assign=True)
    file = {k: own.get(k, torch.zeros(1)) for k in network.state_dict()}
    return network.eval(), file


def detector(name: str, **changes) -> tuple[recipes.Recipe, Detector]:
    recipe = recipe_of(name, **changes)
    torch.manual_seed(0)
    return recipe, build(recipe, 7)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in FAMILIES]
)
def test_a_family(name: str, tmp_path: Path, shapes_folder: Path):
    """A classifier's file gives the features of torchvision's network; a step trains what it says
    and nothing else."""
    recipe, model = detector(name)
    theirs, file = classifier(name, randomize(model).backbone.body)
    torch.save(file, tmp_path / "classifier.pth")
    for key in file.keys() & model.backbone.body.state_dict().keys():
        model.backbone.body.state_dict()[key].zero_()
    recipe = recipes.change(recipe, weights=str(tmp_path / "classifier.pth"))
    first, *more = initial_weights.initialize(model, recipe, CLASSES)
    assert first.startswith("weights: body from")
    left = [word.split(".")[0] for line in more if "not used" in line for word in line.split()[3:4]]
    assert {*left} <= {"head", "classifier", "fc", "heads"}

    body = model.backbone.body.eval()
    side = recipe.input.size_divisible
    image = torch.randn(1, 3, max(64, side), max(96, side))
    with torch.no_grad():
        expected = create_feature_extractor(theirs, FAMILIES[name])(image)
        found = body.maps(image)
    for i, node in enumerate(FAMILIES[name]):
        want = expected[node]
        if found[i].shape[1] != want.shape[1]:  # channels last
            want = want.permute(0, 3, 1, 2)
        torch.testing.assert_close(found[i], want, rtol=1e-5, atol=1e-5)

    before = {k: v.clone() for k, v in model.state_dict().items()}
    rt = runtime.start("cpu")
    training = make_training(model, recipe, rt)
    train_step(training, [batch(shapes_folder)], recipe, 1e6, rt, micro_batches=1)
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == trained


@pytest.mark.parametrize("partition", ["window", "grid"])
def test_attention_of_maxvit_in_maps_of_any_size(partition: str):
    """As torchvision's in a square map; in another, what a window or a tile holds is the same."""
    torch.manual_seed(0)
    make = partial(
        PartitionAttentionLayer, 8, 4, 7, partition, mlp_ratio=2, activation_layer=torch.nn.GELU,
        norm_layer=torch.nn.LayerNorm, attention_dropout=0.0, mlp_dropout=0.0,
        p_stochastic_dropout=0.0,
    )  # fmt: skip
    theirs = make(grid_size=(14, 14)).eval()
    ours = use_any_size(torch.nn.Sequential(make(grid_size=(7, 7)))).eval()[0]
    ours.load_state_dict(theirs.state_dict())
    square = torch.randn(1, 8, 14, 14)
    with torch.no_grad():
        torch.testing.assert_close(ours(square), theirs(square), rtol=1e-5, atol=1e-5)
        wide = ours(torch.cat([square, square], dim=3))
        if partition == "window":  # every window sees itself only
            torch.testing.assert_close(wide[..., 14:], theirs(square), rtol=1e-5, atol=1e-5)
        else:  # a grid takes every other row, and every fourth column of a map twice as wide
            grid = torch.cat([square, square], dim=3)[:, :, ::2, ::4]
            one = make(grid_size=(7, 7)).eval()
            one.load_state_dict(theirs.state_dict())
            torch.testing.assert_close(wide[:, :, ::2, ::4], one(grid), rtol=1e-5, atol=1e-5)


STAGES = {  # where stem and stages begin
    "regnet_y_400mf": ["stem", *(f"trunk_output.block{i}" for i in (1, 2, 3, 4))],
    "swin_t": ["features.0", "features.1", "features.2", "features.4", "features.6"],
    "vgg11": ["features.0", "features.3", "features.6", "features.11", "features.16"],
}


@pytest.mark.parametrize("name", STAGES)
def test_trainable_layers_count_stages(name: str):
    body = build_backbone(recipe_of(name).backbone)[0].body
    begins = [f"{stage}." for stage in STAGES[name]]
    for layers in (5, 2, 0):
        body.requires_grad_(True)
        body.freeze(layers, "batch")
        body.train()
        stage = -1
        for key, parameter in body.named_parameters():
            stage += stage < 4 and key.startswith(begins[stage + 1])
            fresh = key.startswith("level_norms.")
            assert parameter.requires_grad == (fresh or stage >= 5 - layers), key
            part = body.get_submodule(key.rpartition(".")[0])
            assert part.training == parameter.requires_grad, key
        assert stage == 4


@pytest.mark.parametrize(("norm", "moves", "learns"), [
    ("frozen", False, False), ("affine", False, True), ("batch", True, True),
])  # fmt: skip
def test_norms(norm: str, moves: bool, learns: bool):
    """Statistics move, weights and biases are trained, in the last stages and only there."""
    config = recipe_of("regnet_y_400mf", backbone=dict(norm=norm, trainable_layers=2)).backbone
    body = build_backbone(config)[0].body.train()
    before = {k: v.clone() for k, v in body.state_dict().items()}
    body(torch.randn(2, 3, 64, 64))
    moved = {k for k, v in body.state_dict().items() if not v.equal(before[k])}
    late = {k for k in before if k.startswith(("trunk_output.block3", "trunk_output.block4"))}
    statistics = {k for k in late if k.endswith(("running_mean", "running_var", "tracked"))}
    assert moved == (statistics if moves else set())
    norms = [k.rpartition(".")[0] for k in before if k.endswith("running_mean")]
    trained = {k for k, p in body.named_parameters() if p.requires_grad}
    assert {k for k in trained if k.rpartition(".")[0] in norms} == (
        late & {f"{n}.{leaf}" for n in norms for leaf in ("weight", "bias")} if learns else set()
    )  # fmt: skip


def test_what_weights_state_goes_into_the_recipe():
    argv = ["--recipe", "fasterrcnn_r50_fpn_1x_detectron2", "--backbone.name", "maxvit_t"]
    recipe, _ = parse_with_recipe(train.Options, argv, "")
    assert recipe.input.channel_order == "rgb"
    assert recipe.input.pixel_scale == 255
    assert recipe.input.image_mean == (0.485, 0.456, 0.406)
    assert recipe.input.size_divisible == 224
    assert recipe.backbone.norm_eps == 1e-3
    own, _ = parse_with_recipe(train.Options, [*argv, "--input.pixel-scale", "1"], "")
    assert own.input.pixel_scale == 1
    line = describe_backbone(recipe.backbone)
    assert "64, 128, 256, 512 channels at strides 4, 8, 16, 32; batch norms, frozen, layer" in line
    assert line.endswith(
        "mean 0.485,0.456,0.406 and std 0.229,0.224,0.225, sides in multiples of 224 px"
    )
    plain, _ = parse_with_recipe(train.Options, [*argv[:2], "--backbone.name", "resnet101"], "")
    assert plain.input == recipes.get(argv[1]).input


def test_training_pads_to_what_the_network_takes():
    recipe = recipe_of("maxvit_t", input=dict(min_size=200, max_size=700, size_divisible=224))
    assert buckets(recipe.input) == [
        (224, 448), (224, 672), (224, 896), (448, 224), (672, 224), (896, 224)
    ]  # fmt: skip
    assert [bucket[0] for bucket in buckets(recipes.Input(size_divisible=64))][:1] == [800]


@pytest.mark.parametrize(("name", "norms"), [("swin_t", 3), ("convnext_tiny", 4)])
def test_levels_of_networks_with_layer_norms_are_normalized(name: str, norms: int):
    """Swin's last level by its own norm."""
    body = build_backbone(recipe_of(name).backbone)[0].body.eval()
    assert len(body.level_norms) == norms
    with torch.no_grad():
        for level in body(torch.randn(1, 3, 64, 96)).values():
            torch.testing.assert_close(level.mean(1), torch.zeros(()).expand(level.mean(1).shape))
            torch.testing.assert_close(
                level.var(1, correction=0).mean(), torch.ones(()), rtol=0.05, atol=0
            )


def test_blocks_are_left_out_at_random():
    """More of the later ones, as in the network, and by torch's seed; none unless asked."""
    config = recipe_of("swin_t", backbone=dict(drop_path=0.5, trainable_layers=2)).backbone
    body = build_backbone(config)[0].body.train()
    depths = [m.p for m in body.modules() if isinstance(m, StochasticDepth)]
    assert depths == pytest.approx([0.5 * i / 11 for i in range(12)])
    x, found = torch.randn(1, 3, 64, 64), []
    for seed in (1, 2, 3, 1):
        torch.manual_seed(seed)
        found.append(body.maps(x))
    assert found[0][3].equal(found[3][3])
    assert len({maps[3].sum().item() for maps in found}) == 3
    assert len({maps[1].sum().item() for maps in found}) == 1  # of a stage that is not trained
    plain = build_backbone(recipe_of("swin_t").backbone)[0].body
    assert {m.p for m in plain.modules() if isinstance(m, StochasticDepth)} == {0.0}


@pytest.mark.parametrize(("changes", "message"), [
    (dict(name="resnet50", drop_path=0.1), "--backbone.drop-path: resnet50: has no stochastic"),
    (dict(name="vgg11", drop_path=0.1), "--backbone.drop-path: vgg11: has no stochastic depth; sw"),
    (dict(name="swin_x"), "swin_x: unknown; choose .* such as swin_t"),
    (dict(name="vit_b_16"), "vit_b_16: has features .* swin_t, convnext_tiny and regnet_y_1_6gf"),
    (dict(name="alexnet"), "alexnet: has features .* swin_t, convnext_tiny and regnet_y_1_6gf"),
    (dict(name="squeezenet1_1"), "squeezenet1_1: has features .* have them"),
    (dict(name="googlenet"), "googlenet: its weights shift .* resnet50, swin_t"),
    (dict(name="swin_t", neck="none"), "--backbone.neck: swin_t: only"),
    (dict(name="swin_t", stride_in_1x1=True), "--backbone.stride-in-1x1: swin_t: only"),
    (dict(name="swin_t", trainable_layers=6), "trainable-layers: 6: must be 0 to 5"),
])  # fmt: skip
def test_networks_that_cannot_be(changes: dict, message: str):
    with pytest.raises(UsageError, match=message) as error:
        build_backbone(recipes.Backbone(**changes))
    assert "\n" not in str(error.value)


def test_sizes_that_do_not_divide():
    recipe = recipe_of("maxvit_t", input=dict(size_divisible=32))
    with pytest.raises(UsageError, match=r"size-divisible: 32: maxvit_t takes .* multiples of 224"):
        build(recipe, 7)


def test_files_of_other_networks(tmp_path: Path):
    recipe, model = detector("mobilenet_v3_small")
    _, file = classifier("mobilenet_v2", detector("mobilenet_v2")[1].backbone.body)
    torch.save(file, tmp_path / "other.pth")
    recipe = recipes.change(recipe, weights=str(tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match=r"other\.pth: features\.0\.0\.weight: shape"):
        initial_weights.initialize(model, recipe, CLASSES)
    fresh = recipes.change(recipe, weights="none")
    with pytest.raises(UsageError, match="none: the batch norms of mobilenet_v3_small have no"):
        initial_weights.initialize(model, fresh, CLASSES)


def test_imagenet_is_the_default_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For RegNet the second, whose file is taken from the place of its download."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    recipe, model = detector("regnet_y_400mf")
    _, file = classifier("regnet_y_400mf", randomize(model).backbone.body)
    torch.save(file, tmp_path / "published.pth")
    wanted = []
    monkeypatch.setattr(
        download, "cached", lambda url: wanted.append(url) or tmp_path / "published.pth"
    )
    for key in file.keys() & model.backbone.body.state_dict().keys():
        model.backbone.body.state_dict()[key].zero_()
    recipe = recipes.change(recipe, weights="imagenet", input=dict(channel_order="bgr"))
    log = initial_weights.initialize(model, recipe, CLASSES)
    assert wanted == [RegNet_Y_400MF_Weights.IMAGENET1K_V2.url]
    assert model.backbone.body.stem[0].weight.equal(file["stem.0.weight"])
    assert (
        "note: differs from the training of these weights: input.channel_order: rgb -> bgr" in log
    )


def test_densenet_as_it_was_published():
    old = "features.denseblock1.denselayer1.norm.1.weight"
    assert [*densenet_names({old: torch.zeros(1)})] == [
        "features.denseblock1.denselayer1.norm1.weight"
    ]


@pytest.mark.slow
def test_every_name_is_a_backbone_or_refused_in_a_line():
    """On the meta device, so that all of them are quick."""
    refused = []
    for name in list_models(module=models):
        if name.startswith(("regnet", "resnet", "resnext101")) and name not in ("regnet_x_8gf",):
            continue  # of one kind
        try:
            describe_network(name)
        except UsageError as error:
            assert str(error).startswith(f"--backbone.name: {name}: ")
            refused.append(name)
    assert refused == [
        "alexnet", "googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1",
        "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32",
    ]  # fmt: skip


def test_costs_are_counted():
    recipe = recipe_of("regnet_y_400mf")
    parameters, multiply_adds = cost.cost(recipe, 7, (64, 96))
    assert parameters == sum(p.numel() for p in build(recipe, 7).parameters())
    assert multiply_adds > 1e6


def test_other_frameworks_and_programs_refuse_it_in_a_line():
    recipe, model = detector("swin_t")
    with pytest.raises(UsageError, match="swin_t cannot be exported to torchvision"):
        check_expressible(recipe, "torchvision")
    with pytest.raises(UsageError, match="--checkpoint: this backbone has layer norms"):
        export(model.eval())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["regnet_y_400mf", "efficientnet_b0", "densenet121", "vgg11"])
def test_networks_of_convolutions_are_exported(name: str):
    _, model = detector(name)
    randomize(model).eval()
    program = export(model).module()
    image, sizes = torch.randn(2, 3, 96, 160), torch.tensor([[96.0, 160.0]] * 2)
    with torch.no_grad():
        found, expected = program(image, sizes), Network(model)(image, sizes)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_without_timm_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    timm_networks.describe.cache_clear()
    with pytest.raises(UsageError, match=r"backbone.name: timm:resnet18: needs timm; pip install"):
        build_backbone(recipes.Backbone(name="timm:resnet18"))
