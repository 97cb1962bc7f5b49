"""AdamW and SGD: what they compute, what is saved of them, and what is read from older files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fasterrcnn import recipes
from fasterrcnn.cli import flags
from fasterrcnn.commands import train
from fasterrcnn.engine import checkpoint
from fasterrcnn.engine.step import make_optimizer
from fasterrcnn.errors import CheckpointError, UsageError
from fasterrcnn.recipes import Schedule

RECIPE = recipes.fasterrcnn_r10_fpn_shapes()
ADAMW = Schedule(optimizer="adamw", lr=0.01, weight_decay=0.05, betas=(0.8, 0.95))
X = torch.linspace(-1, 1, 8 * 3 * 6 * 6).view(8, 3, 6, 6)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)).to(  # no gradient is only rounding
        memory_format=torch.channels_last
    )


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(X).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_adamw_is_torchs_with_the_recipes_decay_of_norms():
    ours, plain = network(), network()
    optimizer = make_optimizer(ours, ADAMW)
    reference = torch.optim.AdamW(plain.parameters(), lr=0.01, betas=(0.8, 0.95), weight_decay=0.05)
    for _ in range(5):
        step(ours, optimizer)
        step(plain, reference)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    bare = make_optimizer(ours, Schedule(optimizer="adamw", weight_decay=0.05, decay_norms=False))
    assert [group["weight_decay"] for group in bare.param_groups] == [0.05, 0.0]
    assert all(group["fused"] for group in bare.param_groups)


def test_an_overflow_of_the_first_fp16_step_leaves_adamw_as_it_was():
    model = network()
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer, scaler = make_optimizer(model, ADAMW), torch.amp.GradScaler("cpu")
    scaler.scale(model(X).square().mean() * float("inf")).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert all(a.equal(b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(
        (state == 0).all() for state in checkpoint.optimizer_tensors(model, optimizer).values()
    )


@pytest.mark.parametrize("config", [ADAMW, Schedule()], ids=["adamw", "sgd"])
def test_every_state_is_saved_and_read_back(tmp_path: Path, config: Schedule):
    model, other = network(), network()
    optimizer, restored = make_optimizer(model, config), make_optimizer(other, config)
    for _ in range(3):
        step(model, optimizer)
    saved = checkpoint.optimizer_tensors(model, optimizer)
    states = [state for state in optimizer.state.values() for _ in state]
    assert len(saved) == len(states) == (12 if config is ADAMW else 4)
    save(tmp_path, saved)
    checkpoint.load_optimizer(other, restored, tmp_path / "optimizer.safetensors")
    for mine, theirs in zip(optimizer.state.values(), restored.state.values(), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(theirs[key].equal(mine[key]) for key in mine)
        assert all(theirs[key].stride() == mine[key].stride() for key in mine)
    other.load_state_dict(model.state_dict())
    step(model, optimizer)
    step(other, restored)
    assert all(a.equal(b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def save(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "optimizer.safetensors")


def test_momentum_is_saved_under_parameter_names_as_ever(tmp_path: Path):
    """The names that checkpoints of earlier versions have, and no others."""
    model = network()
    optimizer = make_optimizer(model, Schedule())
    names = [name for name, _ in model.named_parameters()]
    assert [*checkpoint.optimizer_tensors(model, optimizer)] == names
    save(tmp_path, {name: torch.ones_like(p) for name, p in model.named_parameters()})
    checkpoint.load_optimizer(model, optimizer, tmp_path / "optimizer.safetensors")
    assert all((state["momentum_buffer"] == 1).all() for state in optimizer.state.values())
    adamw = make_optimizer(model, ADAMW)
    with pytest.raises(CheckpointError, match=r"0.weight/step: missing"):
        checkpoint.load_optimizer(model, adamw, tmp_path / "optimizer.safetensors")


# From the command line


def parse(*given: str) -> recipes.Recipe:
    return flags.parse_with_recipe(train.Options, ["--recipe", RECIPE.name, *given], "test")[0]


def test_adamw_brings_a_learning_rate_and_decay_unless_they_are_given():
    schedule = parse("--optimizer", "adamw", "--images-per-step", "8").schedule
    assert (schedule.lr, schedule.weight_decay) == (pytest.approx(5e-5), 0.05)
    given = parse("--optimizer", "adamw", "--lr", "0.001", "--schedule.weight-decay", "0").schedule
    assert (given.lr, given.weight_decay) == (0.001, 0)
    assert parse("--optimizer", "sgd") == parse()


@pytest.mark.parametrize("betas", ["0.9", "0.9,1", "0.9,0.99,0.999", "-0.1,0.9"])
def test_betas_are_two_fractions(betas: str):
    with pytest.raises(
        UsageError, match=r"--schedule.betas: .*: must be 2 values, each 0 to below 1"
    ):
        recipes.check(parse(f"--schedule.betas={betas}"))


def test_a_recipe_saved_before_there_was_adamw_is_sgd():
    saved = asdict(RECIPE)
    for name in ("optimizer", "betas", "lr_scheduler"):
        del saved["schedule"][name]
    del saved["freeze"]
    assert recipes.from_dict(saved) == RECIPE
    assert RECIPE.schedule.optimizer == "sgd"
