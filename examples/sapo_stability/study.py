"""Runs the study: `python study.py [FOLDER]`; a run that was finished is not run again. See README.md."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from posttrain.metrics import read_rows

OBJECTIVES = {
    "sapo-0.95": ["algo=sapo", "algo.tau_neg=0.95"],
    "sapo-1.0": ["algo=sapo", "algo.tau_neg=1.0"],
    "sapo-1.05": ["algo=sapo", "algo.tau_neg=1.05"],
    "gspo": ["algo=gspo"],
    "grpo": ["algo=grpo"],
}
MINIBATCHES = (1, 8)
SEEDS = (0, 1, 2)
ROLLOUT_BATCHES = 60
COMMON = [
    *("model=tiny", "+task.rewards.vowel_pairs=1.0", "task.rewards.numeric=0", "rollout.max_completion_tokens=16"),
    *("train.lr=1e-3", "train.prompts_per_step=8", "algo.group_size=8", "run.checkpoint_every=10000", "eval.num_prompts=30"),
]


@dataclass(frozen=True)
class Cell:
    """One run of the study."""

    objective: str
    minibatches: int
    seed: int

    @property
    def steps(self) -> int:
        """Optimizer steps: the same number of rollout batches for all."""
        return ROLLOUT_BATCHES * self.minibatches

    def folder(self, root: Path) -> Path:
        """Where it runs."""
        return root / f"{self.objective}-{self.minibatches}-{self.seed}"

    def command(self, root: Path) -> list[str]:
        """As a user would type it."""
        own = [f"train.minibatches={self.minibatches}", f"train.steps={self.steps}", f"run.seed={self.seed}"]
        return [sys.executable, "-m", "posttrain.run", *COMMON, *OBJECTIVES[self.objective], *own, f"run.dir={self.folder(root)}"]


CELLS = [Cell(objective, minibatches, seed) for seed, minibatches, objective in product(SEEDS, MINIBATCHES, OBJECTIVES)]


def main(root: Path) -> None:
    """Runs what is missing; a run that fails is reported and counts as collapsed."""
    for number, cell in enumerate(CELLS, start=1):
        folder = cell.folder(root)
        metrics = folder / "metrics.jsonl"
        if (folder / "failed").exists() or (metrics.exists() and len(read_rows(metrics)) == cell.steps):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        result = subprocess.run(cell.command(root), capture_output=True, text=True, check=False)
        if result.returncode:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "failed").write_text(result.stderr)
        print(f"{number}/{len(CELLS)} {folder.name}: exit {result.returncode}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
