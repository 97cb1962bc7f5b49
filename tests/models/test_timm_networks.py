"""timm's networks as backbones: its features from its weights, sizes, stages, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fasterrcnn import recipes
from fasterrcnn.engine import initial_weights, runtime
from fasterrcnn.engine.step import make_training, train_step
from fasterrcnn.errors import DownloadError, UsageError
from fasterrcnn.export.program import export
from fasterrcnn.models import timm_networks
from fasterrcnn.models.any_backbone import build_backbone, describe_backbone, stated
from fasterrcnn.models.build import build
from tests.models.test_any_backbone import CLASSES, detector, randomize, recipe_of
from tests.test_no_synchronization import HostValues, as_fake, batch

timm = pytest.importorskip("timm", reason="timm, an extra, is not installed", exc_type=ImportError)
NETWORKS = {  # what of a classifier's file is not used
    "convnextv2_atto": {"head"},
    "hrnet_w18_small": {"downsamp_modules", "final_layer", "classifier"},
    "res2net50_26w_4s": {"fc"},
    "resnest14d": {"fc"},
    "swin_tiny_patch4_window7_224": {"norm", "head"},
    "pvt_v2_b0": {"head"},
    "mobilenetv4_conv_small": {"conv_head", "norm_head", "classifier"},
    "regnetx_002": {"head"},
    "edgenext_xx_small": {"head"},
    "densenet121": {"classifier"},
    "vit_tiny_patch16_224": {"head"},
    "vit_small_patch14_dinov2": set(),
    "vit_small_patch16_dinov3": set(),
}


def reference(name: str, image: torch.Tensor, file: dict) -> list[torch.Tensor]:
    """The features of timm's own network with the weights of a classifier's file."""
    found = timm_networks.describe(name)
    arguments = dict(found.arguments)
    at = arguments.pop("out_indices", 1)
    network = timm.create_model(name, **arguments).eval()
    if not hasattr(network, "forward_intermediates") or name.startswith(("hrnet", "edgenext")):
        network = timm.create_model(name, features_only=True, out_indices=at).eval()
        renamed = {key.replace(".", "_"): value for key, value in file.items()}
        network.load_state_dict(
            {key: renamed[key.replace(".", "_")] for key in network.state_dict()}
        )
        with torch.no_grad():
            return network(image)
    network.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(file, network)
                            if found.plain else file)  # fmt: skip
    modules = [network.get_submodule(m) for m in found.modules[1:]]
    seen = []
    for module in modules:
        module.register_forward_hook(lambda _, inputs, out: seen.append(out))
    with torch.no_grad():
        if found.plain:
            return network.forward_intermediates(image, indices=1, norm=True)[1]
        network(image)
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network(name: str, tmp_path: Path, shapes_folder: Path):
    """A classifier's file gives the features of timm's network; a step trains what it says and
    nothing else, without values on the host."""
    recipe, model = detector(f"timm:{name}")
    torch.manual_seed(1)
    theirs = timm.create_model(name)
    for key, tensor in theirs.state_dict().items():
        if key.endswith(("running_mean", "bias")):
            tensor.uniform_(-0.1, 0.1)
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        if tensor.is_floating_point() and tensor.abs().max() < 1e-3:
            tensor.uniform_(0.1, 1.0)  # by which a block begins as nothing
    torch.save(theirs.state_dict(), tmp_path / "classifier.pth")
    recipe = recipes.change(recipe, weights=str(tmp_path / "classifier.pth"))
    log = initial_weights.initialize(model, recipe, CLASSES)
    body = model.backbone.body.eval()
    taken = initial_weights.any_backbone.named_as(body, theirs.state_dict())
    unused = {key.split(".")[0] for key in taken.keys() - body.state_dict().keys()}
    assert unused == NETWORKS[name], log

    image = torch.randn(1, 3, 96, 160)
    with torch.no_grad():
        found = body.maps(image)
    for ours, wanted in zip(found, reference(name, image, theirs.state_dict()), strict=True):
        if ours.shape[1] != wanted.shape[1]:
            wanted = wanted.permute(0, 3, 1, 2)
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)

    before = {k: v.clone() for k, v in model.state_dict().items()}
    rt = runtime.start("cpu")
    train_step(
        make_training(model, recipe, rt), [batch(shapes_folder)], recipe, 1e6, rt, micro_batches=1
    )
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == trained


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "timm:convnextv2_atto"])
def test_a_step_needs_no_value_on_the_host(shapes_folder: Path, name: str):
    recipe, model = detector(name)
    rt, real = runtime.start("cpu"), batch(shapes_folder)
    with torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=False) as mode:
        state = make_training(as_fake(model, mode), recipe, rt)
        fake = real._map(mode.from_tensor)
        train_step(state, [fake], recipe, 0.01, rt, micro_batches=1)
        with HostValues() as host:
            train_step(state, [fake], recipe, 0.01, rt, micro_batches=1)
    assert host.count <= 2


STAGES = {  # where stem and stages begin
    "resnet18": ["conv1", "layer1", "layer2", "layer3", "layer4"],
    "swin_tiny_patch4_window7_224": ["patch_embed", "layers_0", "layers_1", "layers_2", "layers_3"],
    "hrnet_w18_small": ["conv1", "layer1", "transition1", "transition2", "transition3"],
    "efficientnet_b0": ["conv_stem", "blocks.1", "blocks.2", "blocks.3", "blocks.5"],
    "vit_tiny_patch16_224": ["model", "model.blocks.0", "model.blocks.3", "model.blocks.6",
                             "model.blocks.9"],
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("layers", [0, 2, 5])
def test_trainable_layers_count_stages(name: str, layers: int):
    config = recipe_of(
        f"timm:{name}", backbone=dict(trainable_layers=layers, norm="batch")
    ).backbone
    body = build_backbone(config)[0].body.train()
    begins = [f"network.{stage}." for stage in STAGES[name]]
    stage = 0
    for key, parameter in body.named_parameters():
        stage += stage < 4 and key.startswith(begins[stage + 1])
        if not key.startswith("level_norms."):
            assert parameter.requires_grad == (stage >= 5 - layers), key
    assert stage == 4


def test_sizes_and_pixels_are_as_stated():
    assert stated("timm:vit_tiny_patch16_224")["input"]["image_mean"] == (0.5, 0.5, 0.5)
    assert stated("timm:maxvit_tiny_tf_224")["input"]["size_divisible"] == 224
    assert timm_networks.describe("dla34").channels == (64, 128, 256, 512)
    assert stated("timm:tf_efficientnet_b0")["backbone"]["norm_eps"] == 1e-3
    line = describe_backbone(recipes.Backbone(name="timm:vit_small_patch14_dinov2"))
    assert "384 channels at stride 16, a simple feature pyramid; layer norms, trained" in line
    with pytest.raises(UsageError, match="size-divisible: 32: timm:maxvit_tiny_tf_224 takes"):
        build(recipe_of("timm:maxvit_tiny_tf_224", input=dict(size_divisible=32)), 7)


@pytest.mark.parametrize(("changes", "message"), [
    (dict(name="timm:convnext_tin"), "unknown to timm .*; there are timm:convnext_tiny"),
    (dict(name="timm:levit_128"), "has features of strides 16, 32, 64, .*timm:convnextv2_tiny"),
    (dict(name="timm:mixer_b16_224"), "takes images of 224 x 224 px only; timm:convnextv2_tiny"),
    (dict(name="timm:resnet50.nosuch"), "gives no features of it .*; timm:convnextv2_tiny"),
    (dict(name="timm:vit_tiny_patch16_224", fpn_norm="batch"), "--backbone.fpn-norm: timm:vit"),
    (dict(name="timm:resnet18", neck="none"), "--backbone.neck: timm:resnet18: only"),
])  # fmt: skip
def test_networks_that_cannot_be(changes: dict, message: str):
    with pytest.raises(UsageError, match=message) as error:
        build_backbone(recipes.Backbone(**changes))
    assert "\n" not in str(error.value)


def test_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    recipe, model = detector("timm:convnextv2_atto", weights="imagenet")
    with pytest.raises(DownloadError, match="imagenet: timm could not fetch those of convnextv2"):
        initial_weights.initialize(model, recipe, CLASSES)


def test_blocks_are_left_out_at_random():
    config = recipes.Backbone(name="timm:convnextv2_atto", drop_path=0.5, trainable_layers=5)
    body = build_backbone(config)[0].body.train()
    depths = [m.drop_prob for m in body.modules() if type(m).__name__ == "DropPath"]
    assert depths[-1] == 0.5
    assert depths == sorted(depths)
    with pytest.raises(UsageError, match="drop-path: timm:hrnet_w18_small: has no stochastic"):
        build_backbone(recipes.Backbone(name="timm:hrnet_w18_small", drop_path=0.5))


def test_only_convolutions_are_exported():
    with pytest.raises(UsageError, match="--checkpoint: this backbone has layer norms"):
        export(detector("timm:vit_tiny_patch16_224")[1].eval())
    assert export(randomize(detector("timm:resnet18")[1]).eval())
