"""Rollout batches: refill, what is left out, the length penalty. The engines here answer from a list of outcomes."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from posttrain.algorithms.dapo import DapoConfig
from posttrain.algorithms.rollouts import Rollouts, overlong_penalty
from posttrain.algorithms.sapo import SapoConfig
from posttrain.config import Config, RolloutConfig, RunConfig, TaskConfig, TrainConfig
from posttrain.errors import RunError
from posttrain.stats import LearnerStats, Timer
from posttrain.types import Episode, Group, Prompt, Turn


class Answers:
    """Engines whose nth group has the nth outcomes; remembers the seeds and numbers of prompts it was asked for."""

    def __init__(self, *outcomes, num_tokens=1, status="complete"):
        self.outcomes, self.num_tokens, self.status, self.calls = list(outcomes), num_tokens, status, []
        self.canary_gap = None

    def sample(self, prompts, group_size, seed):
        self.calls.append((len(prompts), seed))
        for index, (prompt, token_ids) in enumerate(prompts):
            episodes = [self.episode(outcome) for outcome in self.outcomes.pop(0)]
            yield index, Group(prompt=prompt, prompt_token_ids=token_ids, episodes=episodes)

    def episode(self, outcome):
        ids = np.ones(self.num_tokens, np.int64)
        turn = Turn(token_ids=ids, logprobs=np.zeros(len(ids), np.float32), text="", stop_reason="stop", policy_version=0)
        return Episode(prompt_id="p", turns=[turn], status=self.status, outcome=outcome, reward=outcome, scores={"a": outcome})


def rollouts(algo, engines, prompts_per_step=2, num_prompts=10):
    prompts = [(Prompt(id=str(i), task="t", messages=[], reference=None), np.zeros(1, np.int64)) for i in range(num_prompts)]
    judged = SimpleNamespace(submit=lambda group: None, finish=lambda: None, take_counts=lambda: Counter(scored=1))
    settings = TaskConfig(name="t", rewards={"a": 1.0})
    inputs = SimpleNamespace(tasks={"t": SimpleNamespace(config=settings, train=prompts, heldout=prompts[:1], rewards=judged)})
    config = Config(
        algo=algo,
        run=RunConfig(seed=3),
        train=TrainConfig(prompts_per_step=prompts_per_step),
        rollout=RolloutConfig(max_completion_tokens=10),
        task=settings,
    )
    console = SimpleNamespace(phase=lambda text: None, evaluation=lambda when, values: None)
    return Rollouts(config=config, algo=algo, inputs=inputs, engines=engines, console=console, timer=Timer())


SAME, MIXED = [1.0, 1.0], [1.0, 0.0]


def advantages(batch):
    return [[episode.advantage for episode in group.episodes] for group in batch.groups]


def test_without_refill_groups_without_signal_stay():
    batch = rollouts(SapoConfig(), Answers(SAME, MIXED)).collect(0)
    assert advantages(batch)[0] == [0.0, 0.0] and advantages(batch)[1][0] > 0
    assert batch.row["rollout/groups_without_signal_fraction"] == 0.5 and "rollout/rounds" not in batch.row


def test_refill_replaces_groups_without_signal():
    engines = Answers(SAME, MIXED, SAME, MIXED)
    batch = rollouts(SapoConfig(refill=5), engines).collect(0)
    assert [calls for calls, _ in engines.calls] == [2, 1, 1] and len({seed for _, seed in engines.calls}) == 3
    assert len(batch.groups) == 2 and all(group.has_signal for group in batch.groups)
    assert len(batch.sampled) == 4 and sum(group.num_counted for group in batch.sampled) == 4
    assert batch.row["rollout/rounds"] == 3 and batch.row["rollout/replaced_groups"] == 2
    assert batch.row["rollout/groups_without_signal_fraction"] == 0.5


def test_what_the_canary_showed_is_told_where_there_was_one():
    engines = Answers(SAME, MIXED, SAME, MIXED)
    sampler = rollouts(SapoConfig(), engines)
    assert "sync/canary_abs_max" not in sampler.collect(0).row
    engines.canary_gap = 0.25
    assert sampler.collect(1).row["sync/canary_abs_max"] == 0.25


def test_refill_stops_at_its_bound_with_a_whole_batch():
    engines = Answers(*[SAME] * 6)
    batch = rollouts(SapoConfig(refill=2), engines).collect(0)
    assert [calls for calls, _ in engines.calls] == [2, 2, 2]
    assert len(batch.groups) == 2 and advantages(batch) == [[0.0, 0.0]] * 2 and batch.row["rollout/replaced_groups"] == 4
    assert sum(group.num_counted > 0 for group in batch.sampled) == 2


def test_signal_is_judged_by_the_raw_outcome():
    """The length penalty differs inside the group; what it is a penalty on does not."""
    engines = Answers(SAME, MIXED, MIXED)
    lengths = iter([10, 2, 2, 2, 2, 2])
    plain = engines.episode

    def episode(outcome):
        engines.num_tokens = next(lengths)
        return plain(outcome)

    engines.episode = episode
    batch = rollouts(DapoConfig(), engines, prompts_per_step=2).collect(0)
    assert all(group.has_signal for group in batch.groups) and batch.row["rollout/replaced_groups"] == 1
    assert batch.sampled[0].episodes[0].reward == 0.0 and batch.row["reward/overlong"] == pytest.approx(-1 / 6)
    assert batch.row["reward/mean"] == pytest.approx(4 / 6)


def test_truncated_answers_are_masked_by_choice():
    assert all(g.num_counted == 2 for g in rollouts(SapoConfig(), Answers(MIXED, MIXED, status="truncated")).collect(0).groups)
    with pytest.raises(RunError, match="met a limit"):
        rollouts(SapoConfig(), Answers(MIXED, MIXED, status="turn_limit")).collect(0)
    masked = rollouts(SapoConfig(mask_truncated=True), Answers(MIXED, MIXED, status="truncated")).collect(0)
    assert all(group.num_counted == 0 for group in masked.groups) and masked.row["rollout/truncated_fraction"] == 1


def test_entropy_control_leaves_out_negatives_until_entropy_is_low_again():
    sampler = rollouts(SapoConfig(entropy_band=[0.1, 0.3]), Answers(*[MIXED] * 6))
    for entropy, is_active in ((0.2, False), (0.4, True), (0.05, False)):
        sampler.learned(LearnerStats(sums={"episode_entropy": entropy, "episodes": 1}))
        batch = sampler.collect(0)
        assert (advantages(batch)[0][1] == 0) == is_active and advantages(batch)[0][0] > 0
        assert batch.row["rollout/negatives_left_out_fraction"] == (0.5 if is_active else 0)
        assert sampler.state()["leaves_out_negatives"] == is_active


def test_state_continues_the_cursor_and_the_control():
    first = rollouts(SapoConfig(entropy_band=[0.1, 0.3]), Answers(*[MIXED] * 4))
    first.collect(0)
    first.learned(LearnerStats(sums={"episode_entropy": 1.0, "episodes": 1}))
    second = rollouts(SapoConfig(entropy_band=[0.1, 0.3]), Answers(*[MIXED] * 4))
    second.restore(first.state())
    one, other = first.collect(1), second.collect(1)
    assert [group.prompt.id for group in one.groups] == [group.prompt.id for group in other.groups]
    assert advantages(one) == advantages(other) and advantages(other)[0][1] == 0


@pytest.mark.parametrize(("num_tokens", "penalty"), [(0, 0), (16384, 0), (18432, -0.5), (20480, -1)])
def test_overlong_penalty(num_tokens, penalty):
    assert overlong_penalty(num_tokens, 20480, 0.2) == pytest.approx(penalty)
