"""Objectives with what they need around them, each through a run of its own: a reference, refill, masks, several mini-batches."""

import numpy as np
import pytest

from posttrain.metrics import read_rows

RUNS = {
    "grpo": (["algo=grpo"], {"loss/ref_k3"}),
    "dapo": (["algo=dapo", "algo.refill=2"], {"rollout/rounds", "rollout/replaced_groups", "reward/overlong"}),
    "gspo": (["algo=gspo", "train.minibatches=2", "algo.opsm_delta=0.1"], {"loss/log_ratio_0_0.01"}),
    **{
        name: ([f"algo={name}"], {"loss/without_gradient_fraction"})
        for name in ("sapo", "gspo_token", "dr_grpo", "cispo", "reinforce_pp", "rloo")
    },
}


def rows_of(start, name: str, *overrides: str) -> list[dict]:
    running = start(name, *overrides, "train.prompts_per_step=4", "run.checkpoint_every=100")
    assert running.finish().code == 0, running.err.read_text()
    return read_rows(running.folder / "metrics.jsonl")


@pytest.mark.parametrize(
    "name", ["grpo", "gspo", *(pytest.param(name, marks=pytest.mark.slow) for name in RUNS if name not in ("grpo", "gspo"))]
)
def test_it_learns_and_reports(start, name):
    overrides, metrics = RUNS[name]
    rows = rows_of(start, name, *overrides, "train.steps=20")
    assert len(rows) == 20 and not metrics - rows[-1].keys()
    vowels = [row["reward/vowels"] for row in rows]
    assert np.mean(vowels[-5:]) > np.mean(vowels[:5]) + 0.03
    if name == "grpo":
        assert rows[0]["loss/ref_k3"] < 1e-9 < rows[-1]["loss/ref_k3"]


def test_masks_and_minibatches(start):
    """The range lies within a few roundings of 1, so that on any processor some tokens leave the loss and some stay."""
    masks = ("algo.correction=icepop", "algo.correction_range=[0.9999997,1.0000004]", "algo.opsm_delta=0.1")
    rows = rows_of(start, "masks", "algo=gspo", "train.minibatches=2", "train.steps=4", *masks)
    assert 0 < rows[-1]["mismatch/left_out_fraction"] < 1
    # The second mini-batch of a rollout batch is off-policy, the first is not.
    assert rows[-1]["loss/ratio_max"] > 1.0005 > rows[-2]["loss/ratio_max"]
