"""A whole tiny reward model run, and what it made used as a reward."""

import json
import os
import subprocess
import sys

from posttrain.metrics import read_rows

STEPS = 12


def test_it_learns_preferences_and_is_a_reward(launch, tmp_path):
    answers = [(f"The answer is {n}.", f"Think about {n} yourself") for n in range(80)]
    rows = [{"prompt": f"Think: {n} + 1 =", "chosen": good, "rejected": bad} for n, (good, bad) in enumerate(answers)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + json.dumps({"prompt": "?", "chosen": "a", "rejected": "a"}))
    base = [
        *("algo=reward_model", "model=tiny", "train.lr=1e-3", "task=preferences", f"task.path={path}", "task.heldout_fraction=0.3"),
        *("algo.bad_rows=skip", f"train.steps={STEPS}", "train.microbatch_tokens=400"),
    ]
    result = launch(tmp_path / "run", [], tmp_path / "log", base).finish()
    assert result.code == 0, result.err
    first, *_, last = read_rows(tmp_path / "run/metrics.jsonl")
    assert last["eval/preferences/accuracy"] > 0.9 and last["eval/preferences/loss"] < 0.5 * first["eval/preferences/loss"]
    assert (first["data/bad_rows"], first["loss/trained_tokens"]) == (1, 2 * 16)

    completions = [("The answer is 91.", "Think about 91 yourself"), ("The answer is 7.", "")]
    cases = [
        {"messages": [{"role": "user", "content": "Think: 90 + 1 ="}], "completion": text, "answer": ""}
        for pair in completions
        for text in pair
    ]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    command = [
        sys.executable,
        "-m",
        "posttrain.rewards",
        "score",
        "--reward",
        "reward_model",
        "--file",
        "cases.jsonl",
        "--out",
        "out.jsonl",
    ]
    environment = {**os.environ, "POSTTRAIN_REWARD_MODEL": str(tmp_path / "run/checkpoints/best/hf")}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=120)
    scores = [json.loads(line)["score"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert scores[0] > scores[1] + 1 and all(isinstance(score, float) for score in scores)
