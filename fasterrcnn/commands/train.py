"""Train a detector.

A run that was stopped or killed continues with the same command; on a CPU it ends with the same
bits as an undisturbed one.
"""

from __future__ import annotations

import dataclasses
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fasterrcnn import recipes, schedule
from fasterrcnn.cli import flags, shared
from fasterrcnn.data import images, proposals, windows
from fasterrcnn.data.problems import Problems
from fasterrcnn.data.sampler import Plan, check_ranks
from fasterrcnn.engine import (
    bad_images,
    checkpoint,
    evaluation,
    history,
    restarts,
    resume,
    run_data,
    runtime,
    tracking,
    training,
    trials,
)
from fasterrcnn.engine.history import History
from fasterrcnn.engine.resume import Start
from fasterrcnn.engine.run_data import DataSource, RunData
from fasterrcnn.engine.run_folder import RunFolder
from fasterrcnn.engine.runtime import Runtime
from fasterrcnn.engine.torch_errors import expected_failures
from fasterrcnn.errors import UsageError
from fasterrcnn.metrics import coco
from fasterrcnn.models import any_backbone, kernels
from fasterrcnn.models.checkpointing import checkpoint_activations
from fasterrcnn.recipes import Recipe, Schedule
from fasterrcnn.settings import setting


@dataclass(frozen=True)
class Options:
    """Where and how fast a run happens.

    Of these only `compile` changes the weights: compiled sampling draws other random numbers.
    """

    data_path: Path = shared.data_path(shared.PROJECT / "datasets" / "coco", "")
    dataset: str = shared.dataset()
    val_split: str = setting("val", "split to evaluate on; none: no evaluation")
    val_fraction: float = setting(
        0.0,
        "part of the training split to hold out and evaluate on, in place of --val-split",
        least=0,
        below=1,
    )
    proposals: Path | None = setting(None, "stored proposals of the training split, for Fast R-CNN")
    val_proposals: Path | None = setting(None, "stored proposals of --val-split, for Fast R-CNN")
    bad_data: str = shared.bad_data()
    check_images: str | None = shared.check_images()
    max_image_pixels: int = shared.max_image_pixels()
    tile_cache: str | None = setting(
        None,
        "folder of raw copies that tiles are read from, of images of other formats than tiled TIFF "
        "and .npy; none: they are decoded for each tile (default: in the user's cache folder)",
        flag="--data.tile-cache",
    )
    output_dir: Path | None = setting(None, "run folder (default: output/<recipe>)")
    resume: bool = setting(False, "continue the run in the folder, also past its former end")
    skip_finished: bool = setting(False, "exit with code 0 if this run is already finished")
    steps: int | None = setting(
        None, "optimizer steps of the run (default: those of --epochs)", least=1
    )
    workers: int | None = shared.workers()
    log_every: int = setting(20, "steps between log lines", least=1)
    eval_every: int | None = setting(
        None, "steps between evaluations (default: an epoch; 0: only at the end)", least=0
    )
    max_dets: int = shared.max_dets(coco.MAX_DETS)
    patience: int = setting(
        0,
        "evaluations without a better AP (of an RPN: AR_1000) after which to stop; 0: never",
        least=0,
    )
    save_every: int | None = setting(
        None, "steps between checkpoints (default: an epoch; 0: only at the end)", least=0
    )
    max_restarts: int = setting(  # `restarts` has read it before this command is imported
        0,
        "restarts after a process died or hung, from the newest checkpoint; one after which "
        "another checkpoint was saved does not count",
        least=0,
    )
    max_hours: float = setting(
        0.0, "hours after which the run is saved and ends, with exit code 143; 0: none", least=0
    )
    track: tuple[str, ...] = setting(
        (), f"also send metrics to trackers: {', '.join(tracking.TRACKERS)}"
    )
    keep: int = setting(3, "newest checkpoints kept, in addition to the best one", least=1)
    device: str = shared.device()
    deterministic: bool = shared.deterministic()
    compile: bool = shared.compile()
    checkpoint_activations: bool = setting(
        False,
        "compute the backbone's blocks again in the backward pass: less memory, slower, same bits",
    )


def main(argv: list[str] | None = None) -> Path:
    """Run the command; the run folder. Raises Failure."""
    recipe, options = flags.parse_with_recipe(Options, argv, __doc__)
    rt = runtime.start(options.device, deterministic=options.deterministic)
    images.limit_pixels(options.max_image_pixels)
    recipe = recipes.change(recipe, amp=rt.resolve_amp(recipe.amp))
    folder = RunFolder(run_folder(recipe, options))
    restarts.tell(folder.path)
    with folder.outcome() as status, expected_failures():
        run(recipe, options, folder, rt, status)
    rt.leave()
    return folder.path


def run_folder(recipe: Recipe, options: Options) -> Path:
    """That asked for; else ``output/<recipe>``, or the folder of a run started under a former name
    of the recipe."""
    if options.output_dir:
        return options.output_dir.absolute()
    root = shared.output_root().absolute()
    names = [recipe.name, *recipes.former_names(recipe.name)]
    return next((root / name for name in names if (root / name).exists()), root / recipe.name)


def run(
    recipe: Recipe, options: Options, folder: RunFolder, rt: Runtime, status: dict[str, Any]
) -> None:
    """The whole run. Raises Stopped, with the state saved, when signaled."""
    if auto := recipe.schedule.images_per_gpu == recipes.AUTO:  # until the data is there
        recipe = recipes.change(recipe, schedule=dict(images_per_gpu=1))
    check(recipe, options)
    check_shares(recipe.schedule, rt)
    rt.on_main(folder.open)
    folder.is_ours = True
    describe(recipe, rt)
    start = rt.on_main(lambda: resume.find_start(folder, resume=options.resume))
    data = read_data(recipe, options, folder, start, rt)
    recipe = recipes.change(recipe, input=data.input)
    recipes.check(recipe)
    if auto:
        recipe = choose_images_per_gpu(recipe, options, data, start, rt)
    recipe, changes = follow(recipe, start, data, options, rt)
    check_shares(recipe.schedule, rt)
    plan = make_plan(recipe, data, changes)
    state = first_state(recipe, options, data, plan, rt, changes)
    rt.say(schedule.describe(recipe.schedule, plan.steps_per_epoch, state.last_step, plan.origin))
    due = intervals(options, plan)
    stalled = training.find_stall(dataclasses.replace(state, step=start.step), due, folder, rt)
    finished = rt.on_main(
        lambda: resume.check_start(
            folder,
            start,
            state,
            resume=options.resume,
            skip_finished=options.skip_finished,
            stalled=stalled,
        )
    )
    if finished:
        rt.say(f"{folder.path}: already finished, {start.step} steps")
        return
    if options.compile:
        rt.say("every padded shape is compiled the first time it occurs, which takes minutes")
    started = resume.start_training(state, start, rt, compiled=options.compile)
    if options.checkpoint_activations:
        blocks = checkpoint_activations(started.detector.backbone)
        rt.say(f"activations of {blocks} blocks are computed again in the backward pass")
    if rt.is_main:
        checkpoint.check_space(folder.path, resume.tensors(started))
        folder.write_json("recipe.json", dataclasses.asdict(recipe))
        folder.write_json("environment.json", state.environment)
    try:
        with (
            rt.catch_signals(options.max_hours),
            closing(track(options, folder, state, rt)) as trackers,
        ):
            workers = rt.loader_workers(options.workers)
            stalled = training.train(started, state, data, plan, due, workers, folder, trackers, rt)
    finally:
        status["step"] = state.step
    if stalled:
        rt.say(f"stopped early: {stalled}; a larger --patience, or 0, continues the run")
    rt.say(f"done: {state.step} steps, everything in {folder.path}")


def track(
    options: Options, folder: RunFolder, state: checkpoint.State, rt: Runtime
) -> tracking.Trackers:
    """The trackers asked for, on rank 0."""
    names = options.track if rt.is_main else ()
    return tracking.Trackers(names, folder, state.step, recipes.flat(state.recipe))


def check(recipe: Recipe, options: Options) -> None:
    """Raise UsageError for values that cannot be trained with, before anything is touched."""
    recipes.check(recipe)
    tracking.check(options.track)
    proposals.check_given("--proposals", options.proposals, recipe.detector)
    evaluates = options.val_split != "none" or options.val_fraction > 0
    if options.compile and options.checkpoint_activations:
        raise UsageError("--checkpoint-activations: not with --compile, which keeps what it needs")
    if options.patience and (not evaluates or options.eval_every == 0):
        raise UsageError(
            "--patience: needs evaluations during the run: a --val-split, and --eval-every N"
        )


def follow(
    recipe: Recipe, start: Start, data: RunData, options: Options, rt: Runtime
) -> tuple[Recipe, History]:
    """The recipe with which the run goes on, and what changed in it until then."""
    if start.state is None:
        return recipe, []

    def epoch_at(saved: checkpoint.State) -> float:
        return make_plan(saved.recipe, data, saved.history).epoch_at(saved.step)

    recipe, changes, line = history.go_on(start.state, recipe, epoch_at, resume=options.resume)
    if line:
        rt.say(line)
    return recipe, changes


def make_plan(recipe: Recipe, data: RunData, changes: History) -> Plan:
    """The order of the training images."""
    config = recipe.schedule
    return Plan(
        data.train.ids,
        run_data.buckets(data.train, recipe),
        seed=recipe.seed,
        images_per_gpu=config.images_per_gpu,
        micro_batches_per_step=config.images_per_step // config.images_per_gpu,
        repeats=data.repeats(recipe),
        origin=history.origin(changes),
    )


def check_shares(config: Schedule, rt: Runtime) -> None:
    """Raise UsageError if a step has fewer micro-batches than there are ranks."""
    micro_batches = config.images_per_step // config.images_per_gpu
    check_ranks(rt.ranks, micro_batches, config.images_per_gpu)


def choose_images_per_gpu(
    recipe: Recipe, options: Options, data: RunData, start: Start, rt: Runtime
) -> Recipe:
    """The recipe with the number of images that ``--images-per-gpu auto`` stands for."""
    saved = None if start.state is None else start.state.recipe
    classes, checkpointed = data.train.classes.num_classes, options.checkpoint_activations

    def choose() -> tuple[int, str]:
        return trials.choose(recipe, classes, saved, rt, checkpointed=checkpointed)

    number, line = rt.on_main(choose, slow=True)
    rt.say(line)
    return recipes.change(recipe, schedule=dict(images_per_gpu=number))


def describe(recipe: Recipe, rt: Runtime) -> None:
    """Print what will be trained and where."""
    rt.say(rt.describe())
    if rt.device.type != "cpu":
        rt.say(kernels.describe(rt.device))
    rt.say(recipes.describe(recipe))
    if line := any_backbone.describe_backbone(recipe.backbone):
        rt.say(line)
    if not rt.is_fast_in(recipe.amp):
        rt.say(f"note: this CPU has no {recipe.amp} instructions; --amp auto is faster")


def read_data(
    recipe: Recipe, options: Options, folder: RunFolder, start: Start, rt: Runtime
) -> RunData:
    """Both splits on every rank. Findings are counted on the terminal, listed in problems.jsonl."""
    source = DataSource(
        options.data_path,
        options.dataset,
        options.val_split,
        options.val_fraction,
        options.proposals,
        options.val_proposals,
        options.check_images,
    )
    skip, listed = options.bad_data == "skip", folder.problems
    problems = Problems(skip)
    saved = None if start.state is None else start.state.recipe.input
    bad = bad_images.load(options.data_path, start.state, skip=skip)

    def read() -> RunData:
        try:
            train, val, found, summary = run_data.read_splits(source, recipe, problems, bad, saved)
        finally:
            problems.write(listed)
        notes = evaluation.notes(val, recipe, options.max_dets)
        found_in = [f"{line} (listed in {listed})" for line in problems.summary()]
        for line in (*summary, *notes, *found_in):
            rt.say(line)
        if recipe.data.tile and (copies := windows.folder(tile_cache(options))):
            train, val = run_data.copy_for_tiles(train, val, recipe.data, copies, rt.say)
        stored, val_stored = run_data.read_proposals(source, recipe, train, val)
        return RunData(train, val, stored, val_stored, bad, found)

    return rt.on_main(read, slow=True)


def first_state(
    recipe: Recipe, options: Options, data: RunData, plan: Plan, rt: Runtime, changes: History
) -> checkpoint.State:
    """What a checkpoint of this run holds besides tensors, before its first step."""
    total = schedule.total_steps(recipe.schedule, plan.steps_per_epoch, plan.origin)
    return checkpoint.State(
        step=0,
        last_step=options.steps or total,
        recipe=recipe,
        classes=data.train.classes,
        scaler={},
        data={
            "digest": data.digest(),
            "path": str(options.data_path.absolute()),
            "dataset": options.dataset,
            "val_split": options.val_split,
            "val_fraction": options.val_fraction,
            "val_digest": data.val and data.val.digest(),
            "bad_images": data.bad.saved(),
            "tile_cache": tile_cache(options),
            "max_dets": options.max_dets,
        },
        environment={**rt.environment(), "compiled": options.compile},
        history=changes,
    )


def tile_cache(options: Options) -> str | None:
    """--data.tile-cache as a checkpoint keeps it, so that evaluation reads the same raw copies."""
    if options.tile_cache in (None, windows.NO_COPIES):
        return options.tile_cache
    return str(Path(options.tile_cache).absolute())


def intervals(options: Options, plan: Plan) -> training.Intervals:
    """The intervals asked for; an epoch by default."""
    per_epoch = plan.steps_per_epoch
    return training.Intervals(
        log=options.log_every,
        evaluate=per_epoch if options.eval_every is None else options.eval_every,
        save=per_epoch if options.save_every is None else options.save_every,
        keep=options.keep,
        patience=options.patience,
    )
