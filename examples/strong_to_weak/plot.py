"""Prints the study's table and draws its curves: `python examples/strong_to_weak/plot.py [FOLDER]`, from the seeds that are finished.

Writes results.csv (pass@k of every seed, model and task with its 95 % interval over prompts), curves.csv and curves.png beside it.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot
from study import LEARNING, SEEDS, budget_s, stage_s

from posttrain.metrics import read_rows
from posttrain.seeds import interval, plot, write_csv
from posttrain.stats import Row

TASKS = ("arithmetic", "differences")
MODELS = {
    "teacher": "../teacher/02-teacher",
    "student, distilled": "distilled/05-distilled",
    "student, SAPO after imitation": "after_measured",
    "student, SAPO alone": "alone_measured",
}
METRICS = ("pass@1", "pass@16")
Curve = list[tuple[float, float]]
"""(minutes since the student began to learn, mean held-out reward of the tasks)."""


def main(root: Path) -> None:
    """Reads the runs that there are."""
    here = Path(__file__).parent
    places = [place for seed in SEEDS if read_rows((place := root / f"seed_{seed}") / "after_measured/metrics.jsonl")]
    if not places:
        sys.exit(f"{root}: no seed is finished; study.py runs them")
    results = [
        (place.name, model, task, metric, row[name], row[f"{name}_ci95"])
        for place in places
        for model, folder in MODELS.items()
        for row in read_rows(place / folder / "metrics.jsonl")
        for task in TASKS
        for metric in METRICS
        if (name := f"eval/{task}/{metric}") in row
    ]
    write_csv(here / "results.csv", ("seed", "model", "task", "metric", "value", "ci95"), results)
    print_table(results)
    curves = {(place.name, name): curve for place in places for name, curve in curves_of(place).items()}
    points = [(*key, minutes, reward) for key, curve in curves.items() for minutes, reward in curve]
    write_csv(here / "curves.csv", ("seed", "run", "minutes", "heldout"), points)
    draw(here / "curves.png", curves)
    for place in places:
        print(f"{place.name}: {reaching(place, curves[place.name, 'distilled'], curves[place.name, 'SAPO alone'])}")


def print_table(results: list[tuple]) -> None:
    """Means over seeds, as Markdown."""
    columns = [(task, metric) for task in TASKS for metric in METRICS]
    print(f"| model | {' | '.join(f'{task} {metric}' for task, metric in columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    for model in MODELS:
        cells = [interval([row[4] for row in results if row[1:4] == (model, *column)]) for column in columns]
        print(f"| {model} | {' | '.join(cells)} |")


def curves_of(place: Path) -> dict[str, Curve]:
    """A seed's curves. Those that follow imitation begin there: held-out rewards are measured from there on."""
    before_s = sum(stage_s(place, name) for name in LEARNING[:-1])
    [follow] = (place / "distilled").glob("[0-9][0-9]-follow")
    return {
        "distilled": curve(read_rows(follow / "metrics.jsonl"), before_s, stage_s(place, "follow")),
        "SAPO after imitation": curve(read_rows(place / "after/metrics.jsonl"), before_s, stage_s(place, "follow")),
        "SAPO alone": curve(read_rows(place / "alone/metrics.jsonl"), 0.0, budget_s(place)),
    }


def curve(rows: list[Row], start_s: float, run_s: float) -> Curve:
    """The evaluations of a run that started at start_s and took run_s in all; what its rows do not account for was its start."""
    taken = np.cumsum([row["time/step_s"] + row.get("time/eval_s", 0.0) for row in rows])
    begin_s = start_s + max(0.0, run_s - taken[-1])
    found: Curve = []
    for number, row in enumerate(rows):
        before_s = begin_s + (taken[number - 1] if number else 0.0)
        for suffix, seconds in (("_before", before_s), ("", before_s if row.get("eval/policy_version") == 0 else begin_s + taken[number])):
            names = [f"eval/{task}/reward_mean{suffix}" for task in TASKS]
            if all(name in row for name in names):
                found.append((seconds / 60, float(np.mean([row[name] for name in names]))))
    return found


def reaching(place: Path, distilled: Curve, alone: Curve) -> str:
    """When distillation reached what SAPO alone came to, as a share of the budget."""
    budget, goal = budget_s(place) / 60, alone[-1][1]
    minutes = next((minutes for minutes, reward in distilled if reward >= goal), None)
    if minutes is None:
        when = "distillation does not reach it"
    else:
        when = f"distillation has it after {minutes:.1f} min, {minutes / budget:.0%} of that"
    return f"SAPO alone comes to {goal:.3f} in {budget:.1f} min; {when}"


def draw(path: Path, curves: dict[tuple[str, str], Curve]) -> None:
    """Held-out reward against time."""
    colours = {"distilled": "tab:blue", "SAPO after imitation": "tab:green", "SAPO alone": "tab:orange"}
    plot(pyplot.gca(), curves, colours, style="o-")
    pyplot.xlabel("minutes since the student began to learn")
    pyplot.ylabel("held-out reward, mean of the tasks")
    pyplot.ylim(0, 1)
    pyplot.legend()
    pyplot.savefig(path, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/strong_to_weak"))
