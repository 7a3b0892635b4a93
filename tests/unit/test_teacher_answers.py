"""Which of a teacher's answers become rows, and why the others do not."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from posttrain.algorithms.distill_offpolicy import DistillOffpolicyConfig
from posttrain.algorithms.rollouts import Sampler
from posttrain.algorithms.teacher_answers import join, keep, sample
from posttrain.config import Config
from posttrain.errors import RunError, UserError
from posttrain.stats import Timer
from posttrain.types import Episode, Group, Prompt, Turn


def episode(text, outcome, status="complete"):
    turn = Turn(token_ids=np.ones(2, np.int64), logprobs=np.zeros(2, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="t/0", turns=[turn], status=status, outcome=outcome)


def test_the_best_different_finished_answers_are_kept_and_the_rest_is_counted():
    prompt = Prompt(id="t/0", task="t", messages=[{"role": "user", "content": "2 + 3 ="}], reference="5")
    episodes = [
        episode("five", 0.9),
        episode(" 5\n", 1.0),
        episode("5", 1.0),
        episode("so 5", 1.0),
        episode("6", 0.2),
        episode("5 5 5", 1.0, "truncated"),
        episode("", 1.0),
        episode("5!", 0.0, "failed"),
    ]
    rows, left_out = keep([Group(prompt=prompt, prompt_token_ids=np.ones(1, np.int64), episodes=episodes)], 0.5, 2)
    assert [row["messages"] for row in rows] == [[*prompt.messages, {"role": "assistant", "content": text}] for text in ("5", "so 5")]
    assert [(row["id"], row["answer"], row["reward"]) for row in rows] == [("t/0#1", "5", 1.0), ("t/0#3", "5", 1.0)]
    assert left_out == {"failed": 1, "unfinished": 2, "low_reward": 1, "same_answer": 1, "enough": 1}
    assert len(prompt.messages) == 1


@pytest.mark.parametrize(("key", "value"), [("group_size", 0), ("min_reward", float("nan")), ("keep_per_prompt", 0)])
def test_mistakes_name_the_key(key, value):
    with pytest.raises(UserError, match=rf"algo\.{key}={value}: expected"):
        DistillOffpolicyConfig(**{key: value}).validate()


class Engines:
    """Answers with the seed and the index, twice a prompt; remembers the seeds."""

    def __init__(self):
        self.seeds = []

    def sample(self, prompts, group_size, seed):
        self.seeds.append(seed)
        for index, (prompt, token_ids) in enumerate(prompts):
            episodes = [episode(f"{seed} {prompt.id} {k}", 1.0) for k in range(group_size)]
            yield index, Group(prompt=prompt, prompt_token_ids=token_ids, episodes=episodes)


def sampler_of(engines):
    rewards = SimpleNamespace(submit=lambda group: None, finish=lambda: None, take_counts=dict)
    inputs = SimpleNamespace(tasks={"t": SimpleNamespace(rewards=rewards)})
    console = SimpleNamespace(phase=lambda text: None, say=lambda text: None)
    return Sampler(config=Config(), inputs=inputs, engines=engines, console=console, timer=Timer())


def test_a_run_that_was_killed_goes_on_with_the_batch_that_is_missing(tmp_path):
    prompts = [(Prompt(id=f"t/{i}", task="t", messages=[{"role": "user", "content": str(i)}], reference=i), np.ones(1)) for i in range(5)]
    batches = [prompts[:2], prompts[2:4], prompts[4:]]
    algo = DistillOffpolicyConfig(group_size=2)
    first, second = Engines(), Engines()
    sample(sampler_of(first), algo, tmp_path, batches)
    path, num_rows = join(tmp_path, 3)
    whole, metrics = path.read_text(), (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert num_rows == 10 == len(whole.splitlines()) and len(first.seeds) == len(set(first.seeds)) == 3
    assert [json.loads(row)["distill/rows"] for row in metrics] == [4, 4, 2]
    (tmp_path / "rows" / "batch_000001.jsonl").unlink()
    sample(sampler_of(second), algo, tmp_path, batches)
    assert second.seeds == first.seeds[1:] and join(tmp_path, 3)[0].read_text() == whole
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_nothing_kept_is_an_error_that_says_where_to_look(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "batch_000000.jsonl").touch()
    with pytest.raises(RunError, match=r"no answer was kept; the counts are in .*metrics\.jsonl"):
        join(tmp_path, 1)
