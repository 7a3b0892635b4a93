"""Runs the study: `python examples/strong_to_weak/study.py [FOLDER [SEEDS [OVERRIDE ...]]]` from the root of the tree. See README.md.

The teacher once; a student cut out of it; then each seed: distillation, SAPO alone on the same student for as long as distillation
took, SAPO after imitation for as long as the on-policy stage took, and the evaluation of each. What is finished is not done again, and
what was killed goes on. Overrides are for every run, or after a stage's name for one.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from make_student import make

from posttrain.checkpoint import CheckpointStore
from posttrain.metrics import read_rows
from posttrain.sandbox.kernel import die_with_parent

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)
LEARNING = ("answers", "clean", "imitate", "follow")
"""The stages of student.yaml whose time is SAPO's too."""
# As in the stage `follow` of student.yaml; it is ended by its budget, not by its steps.
SAPO = [
    *("algo=sapo", "model=smollm2", "task=[arithmetic,differences]", "train.steps=100000", "train.lr=1e-4", "run.checkpoint_every=5"),
    *("eval.every=5", "eval.num_prompts=24", "eval.samples_per_prompt=4"),
]
MEASURED = ["algo=evaluate", "model=smollm2", "task=[arithmetic,differences]", "eval.num_prompts=50", "eval.samples_per_prompt=16"]


def main(root: Path, seeds: Sequence[int], more: Sequence[str]) -> None:
    """Runs what is missing."""
    root.mkdir(parents=True, exist_ok=True)
    pipeline(root / "teacher", "teacher.yaml", ["run.seed=0", *more])
    make(str(checkpoint(root / "teacher/01-taught")), root / "student", every=3)
    for seed in seeds:
        place = root / f"seed_{seed}"
        place.mkdir(exist_ok=True)
        run_seed(place, [f"run.seed={seed}", *more])
        print(f"seed {seed} is done: {place}", flush=True)


def run_seed(place: Path, more: Sequence[str]) -> None:
    """One seed of the study."""
    teacher, student = checkpoint(place.parent / "teacher/01-taught"), place.parent / "student"
    given = [f"answers.algo.teacher={teacher}", f"follow.algo.teacher={teacher}", f"imitate.model.path={student}"]
    pipeline(place / "distilled", "student.yaml", [*more, *given])
    [imitate] = (place / "distilled").glob("[0-9][0-9]-imitate")
    # Rounding goes through a model with a part cut out as through no other: engine and learner, both in bf16, can differ by more than 2.
    general = [*for_stages((), more), "weights.canary_tolerance=8"]
    sapo(place, "alone", [*general, f"model.path={student}"], budget_s(place))
    sapo(place, "after", [*general, f"model.path={checkpoint(imitate)}"], stage_s(place, "follow"))


def pipeline(place: Path, file: str, more: Sequence[str]) -> None:
    """Runs a pipeline or what is left of it."""
    names = [stage["name"] for stage in yaml.safe_load((HERE / file).read_text())["stages"]]
    run([f"pipeline={HERE / file}", *for_stages(names, more), *folder(place, "pipeline.yaml")])


def for_stages(names: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The overrides for these stages and for all, without those for stages of other pipelines."""
    stages = {stage["name"] for file in HERE.glob("*.yaml") for stage in yaml.safe_load(file.read_text()).get("stages", [])}
    others = stages - set(names)
    return [override for override in overrides if override.lstrip("+~").partition(".")[0] not in others]


def folder(place: Path, mark: str) -> list[str]:
    """Tells a command where it runs, and to go on with what is there."""
    return [f"run.dir={place}", *(["run.resume=true"] if (place / mark).exists() else [])]


def run(overrides: Sequence[str]) -> None:
    """Ends the study where a command ends badly; its own lines have said why."""
    code = start(overrides).wait()
    if code:
        sys.exit(f"exit code {code}; the same command goes on after it is mended")


def start(overrides: Sequence[str]) -> subprocess.Popen[bytes]:
    """A posttrain.run that ends when this process does; of two overrides of one key the later one counts."""
    last = {override.lstrip("+~").partition("=")[0]: override for override in overrides}
    return subprocess.Popen([sys.executable, "-m", "posttrain.run", *last.values()], preexec_fn=interruptible)


def interruptible() -> None:
    """In the child: it ends with this process, and heeds an interrupt although this one was perhaps started in the background."""
    die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def checkpoint(place: Path) -> Path:
    """The newest model of a run."""
    steps = CheckpointStore(place, keep=1).steps()
    if not steps:
        sys.exit(f"{place}: the budget was over before the first checkpoint; let the student's stages have more steps")
    return place / f"checkpoints/step_{steps[-1]}/hf"


def stage_s(place: Path, name: str) -> float:
    """Wall-clock seconds of a stage of student.yaml."""
    [record] = (place / "distilled").glob(f"[0-9][0-9]-{name}/stage.json")
    return float(json.loads(record.read_text())["seconds"])


def budget_s(place: Path) -> float:
    """What distillation took, from the teacher's first answer to the last step, starts of processes included."""
    return sum(stage_s(place, name) for name in LEARNING)


def sapo(place: Path, name: str, overrides: Sequence[str], budget: float) -> None:
    """Trains until the seconds of all its starts come to the budget, and measures the newest checkpoint, which is the result."""
    clock = place / f"{name}_s"
    before = float(clock.read_text()) if clock.exists() else 0.0
    if before < budget:
        process = start([*SAPO, *overrides, *folder(place / name, "config.yaml")])
        started = time.monotonic()
        while process.poll() is None and before + time.monotonic() - started < budget:
            time.sleep(0.5)
            write(clock, before + time.monotonic() - started)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        code = process.wait()
        if code not in (0, 130):
            sys.exit(f"exit code {code}; the same command goes on after it is mended")
        write(clock, max(budget, before + time.monotonic() - started))
    measured = place / f"{name}_measured"
    if not read_rows(measured / "metrics.jsonl"):
        own = [override for override in overrides if not override.startswith("weights.")]
        run([*MEASURED, *own, f"model.path={checkpoint(place / name)}", *folder(measured, "config.yaml")])


def write(path: Path, seconds: float) -> None:
    """Whole or not at all."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(str(seconds))
    draft.replace(path)


if __name__ == "__main__":
    given = sys.argv[1:]
    chosen = [int(seed) for seed in given[1].split(",")] if len(given) > 1 else SEEDS
    main(Path(given[0] if given else "runs/strong_to_weak"), chosen, given[2:])
