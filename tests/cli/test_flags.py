"""Flags: names that users rely on, precedence, one-line errors."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from fasterrcnn import recipes
from fasterrcnn.cli import flags
from fasterrcnn.commands import train
from fasterrcnn.errors import UsageError
from fasterrcnn.settings import setting

EVERYDAY = (
    "--recipe --data-path --dataset --classes --output-dir --weights --epochs --steps --lr "
    "--images-per-step --images-per-gpu --amp --workers --seed --log-every --eval-every "
    "--save-every --device --resume --bad-data --val-split --train-split --voc-sets "
    "--optimizer --lr-scheduler --freeze --patience --track"
).split()


def parse(*given: str) -> tuple[recipes.Recipe, train.Options]:
    return flags.parse_with_recipe(train.Options, [*given], "test")


def test_help_groups_the_everyday_flags_with_defaults(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stop:
        parse("--help", "--recipe", "fasterrcnn_r50_fpn_torchvision")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    everyday, *groups = text.split("\nrecipe, ")
    for flag in EVERYDAY:
        assert f" {flag}" in everyday, flag
    assert [g.split(":")[0] for g in groups] == [
        "input", "augment", "backbone", "rpn", "roi_heads", "data", "schedule",
    ]  # fmt: skip
    assert "(default: 26.0)" in " ".join(text.split())  # of the recipe that was named
    for name in recipes.flat(recipes.get("fasterrcnn_r50_fpn_1x")):
        if name not in ("name", "weights", "amp", "seed"):
            assert "--" + name.replace("_", "-") in text, name


def test_values_reach_their_fields_and_the_last_flag_wins():
    recipe, options = parse(
        "--seed", "1", "--seed", "2", "--classes", "person, car", "--input.min-size", "600",
        "--rpn.anchor-sizes", "16,32,64,128,256", "--data.keep-empty", "--data-path", "some where",
        "--amp", "bf16", "--roi-heads.nms-thresh", "0.3",
    )  # fmt: skip
    assert recipe.seed == 2
    assert recipe.data.classes == ("person", "car")
    assert recipe.data.keep_empty
    assert recipe.input.min_size == 600
    assert recipe.rpn.anchor_sizes == (16, 32, 64, 128, 256)
    assert recipe.roi_heads.nms_thresh == 0.3
    assert options.data_path == Path("some where")


@pytest.mark.parametrize("flag", ["--train-split", "--voc-sets", "--data.train-split"])
def test_every_name_of_a_flag_reaches_its_field(flag: str):
    assert parse(flag, "07+12")[0].data.train_split == "07+12"


def test_what_follows_follows_unless_given():
    recipe, _ = parse("--images-per-step", "8", "--epochs", "6")
    assert (recipe.schedule.lr, recipe.schedule.warmup_steps) == (0.01, 1000)
    assert recipe.schedule.milestones == (4.0, 5.5)
    recipe, _ = parse("--lr", "0.3", "--images-per-step", "8", "--schedule.milestones", "5")
    assert (recipe.schedule.lr, recipe.schedule.milestones) == (0.3, (5.0,))
    assert parse("--weights", "coco")[0].backbone.norm_eps == 0.0
    assert parse("--weights", "coco", "--backbone.norm-eps", "1e-5")[0].backbone.norm_eps == 1e-5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--leraning-rate", "1"], "--leraning-rate: unknown flag"),
        (["--outpt-dir", "x"], "did you mean --output-dir?"),
        (["--epochs", "many"], "--epochs.*invalid float value: 'many'"),
        (["--amp", "fp8"], "--amp: invalid choice"),
        (["--recipe", "nope"], "--recipe: nope: unknown"),
        (["--lr"], "expected one argument"),
        (["--recipe=--"], "--recipe: --: not a value"),
        (["--input.nodata=--"], "--input.nodata: --: not a value"),
        (["--rpn.anchor-sizes", "32,x"], "comma-separated float"),
    ],
)
def test_wrong_flags_are_one_line(flags: list[str], message: str):
    with pytest.raises(UsageError, match=message) as error:
        parse(*flags)
    assert "\n" not in str(error.value)


@dataclass(frozen=True)
class _Options:
    images: tuple[Path, ...] = setting(help="files", positional=True)
    checkpoint: Path = setting(help="a run")


def test_positional_and_required():
    options = flags.parse(_Options, ["--checkpoint", "c", "a", "b"], "test")
    assert options == _Options((Path("a"), Path("b")), Path("c"))
    with pytest.raises(UsageError, match="--chekpoint: unknown flag; did you mean --checkpoint"):
        flags.parse(_Options, ["--chekpoint", "c", "a"], "test")
    with pytest.raises(UsageError, match="--checkpoint"):
        flags.parse(_Options, ["a"], "test")


def test_a_word_in_place_of_a_number():
    assert parse("--images-per-gpu", "auto")[0].schedule.images_per_gpu == recipes.AUTO
    assert parse("--schedule.images-per-gpu=auto")[0].schedule.images_per_gpu == recipes.AUTO
    with pytest.raises(UsageError, match="--images-per-gpu: 0: must be 1 or more"):
        parse("--images-per-gpu", "0")
    with pytest.raises(UsageError, match="--images-per-gpu: many: must be a number or auto"):
        parse("--images-per-gpu", "many")
    with pytest.raises(UsageError, match="auto: only when a run begins"):
        recipes.check(parse("--images-per-gpu", "auto")[0])  # what nothing has replaced
    with pytest.raises(UsageError, match="--images-per-step"):
        parse("--images-per-step", "auto")
