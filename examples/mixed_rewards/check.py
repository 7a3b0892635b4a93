"""What a mixed run did, from its folder alone: `python check.py RUN [EARLIER_EPISODES]` prints a table and stops at what is wrong.

Shares of every batch, scores and reasons of every episode, failures by kind. EARLIER_EPISODES: a copy of `episodes/` made when
the run was killed; the prompts of the steps in it must be the run's.
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from posttrain.metrics import read_rows


def main(run: Path, earlier: Path | None) -> None:
    """Checks all steps and prints what each task's rewards came to."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    tasks = {task["name"]: task for task in (config["task"], *config["mixture"].values())}
    num_prompts, all_shares = config["train"]["prompts_per_step"], sum(task["share"] for task in tasks.values())
    files = sorted((run / "episodes").glob("*.parquet"))
    rewards: dict[str, list[float]] = defaultdict(list)
    fates: dict[str, Counter[str]] = defaultdict(Counter)
    for number, file in enumerate(files, start=1):
        episodes = pq.read_table(file).to_pylist()
        prompts = Counter(task for task, _ in {(episode["task"], episode["prompt_id"]) for episode in episodes})
        for name, task in tasks.items():
            exact = num_prompts * task["share"] / all_shares
            assert abs(prompts[name] - exact) < 1, f"step {number}: {prompts[name]} prompts of {name}, expected {exact:g}"
        for episode in episodes:
            task = tasks[episode["task"]]
            scores = json.loads(episode["scores"])
            fates[task["name"]]["scored" if scores else episode["failure"].partition(":")[0].removeprefix("reward ")] += 1
            assert scores.keys() == task["rewards"].keys() if scores else episode["failure"], f"step {number}: {episode}"
            if scores:
                assert abs(episode["outcome"] - sum(task["rewards"][name] * score for name, score in scores.items())) < 1e-6
                rewards[task["name"]].append(episode["outcome"])
    if earlier is not None:
        same = [prompt_ids(file) == prompt_ids(run / "episodes" / file.name) for file in sorted(earlier.glob("*.parquet"))]
        assert all(same), f"other prompts after the kill: {same}"
        print(f"the prompts of {len(same)} steps before the kill are the run's")
    rows = read_rows(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [*range(1, len(files) + 1)]
    print("| task | prompts a batch | held out before | held out after | what became of its episodes |\n|---|---|---|---|---|")
    for name, task in tasks.items():
        before, after = ((row[f"eval/{name}/reward_mean"], row[f"eval/{name}/reward_ci95"]) for row in (rows[0], rows[-1]))
        shown = (f"{mean:.3f} ± {interval:.3f}" for mean, interval in (before, after))
        share = num_prompts * task["share"] / all_shares
        fate = ", ".join(f"{count} {kind}" for kind, count in fates[name].most_common())
        print(f"| {name} | {share:g} | {' | '.join(shown)} | {fate} |")


def prompt_ids(file: Path) -> list[str]:
    """Of a step's episodes, in order."""
    return [str(name) for name in pq.read_table(file, columns=["prompt_id"])["prompt_id"].to_pylist()]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
