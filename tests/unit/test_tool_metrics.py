"""Metrics of tools and turns, the alarm about tool use that dies, and the end of a run whose tools are broken."""

from types import SimpleNamespace

import numpy as np
import pytest

from posttrain.algorithms.rollouts import Rollouts
from posttrain.algorithms.sapo import SapoConfig
from posttrain.algorithms.tool_metrics import check_failures, tools_row, turns_row
from posttrain.config import Config, RolloutConfig, TaskConfig, validate
from posttrain.errors import RunError, UserError
from posttrain.types import Episode, Group, Prompt, ToolCall, Turn


def turn(*statuses, observed=True):
    calls = [ToolCall(name="f", arguments={}, status=status, seconds=0.5) for status in statuses]
    messages = [{"role": "tool", "content": "x"} for _ in calls] if observed else []
    return Turn(
        token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text="", stop_reason="stop", policy_version=0,
        tool_calls=calls, observed=messages,
    )  # fmt: skip


def group(*episodes, tools=("f",), environment=None, statuses=None):
    prompt = Prompt(id="p", task="t", messages=[], reference=None, tools=[{"function": {"name": name}} for name in tools])
    prompt.environment = environment
    kinds = statuses or ["complete"] * len(episodes)
    made = [Episode(prompt_id="p", turns=turns, status=kind) for turns, kind in zip(episodes, kinds, strict=True)]
    return Group(prompt=prompt, prompt_token_ids=np.array([1]), episodes=made)


def test_calls_are_counted_by_what_became_of_them():
    with_calls = group([turn("answered", "invalid"), turn("refused"), turn()], [turn("failed"), turn()], [turn()], [turn()])
    assert tools_row([with_calls, group([turn()], tools=())], 0.6) == {
        "tools/rate": 0.5,
        "tools/calls_mean": 1.0,
        "tools/below_floor": 1,
        "tools/errors_fraction": 0.5,
        "tools/invalid_fraction": 0.25,
        "tools/failed_fraction": 0.25,
        "tools/seconds": 0.5,
    }
    assert tools_row([with_calls], 0.5)["tools/below_floor"] == 0
    assert "tools/below_floor" not in tools_row([with_calls], 0.0)
    assert tools_row([group([turn()], tools=())], 0.5) == {}
    assert tools_row([group([turn()])], 0.5)["tools/rate"] == 0.0


def test_turns_are_counted_where_there_can_be_several():
    played = group([turn()], [turn(), turn()], tools=(), environment="maze", statuses=["token_limit", "turn_limit"])
    assert turns_row([played, group([turn()], tools=())]) == {
        "rollout/turns_mean": 1.5,
        "rollout/turn_limit_fraction": 0.5,
        "rollout/token_limit_fraction": 0.5,
        "rollout/image_limit_fraction": 0.0,
    }
    assert turns_row([group([turn()], tools=())]) == {}


def test_tool_use_under_the_floor_is_warned_of():
    said = []
    config = Config(algo=SapoConfig(), rollout=RolloutConfig(tool_rate_floor=0.6))
    rollouts = SimpleNamespace(config=config, console=SimpleNamespace(say=said.append))
    row = Rollouts._tools_row(rollouts, 4, [group([turn("answered"), turn()], [turn()])])
    assert row["tools/below_floor"] == 1
    assert said == ["warning: step 5: 50.0% of the episodes call a tool, less than rollout.tool_rate_floor=0.6"]


def test_broken_tools_and_environments_end_the_run():
    def episodes(num_failed, num_answered):
        return group([turn(*["failed"] * num_failed, *["answered"] * num_answered)]).episodes

    check_failures(episodes(19, 0), 0.1)  # too few to mean anything
    check_failures(episodes(2, 18), 0.1)
    with pytest.raises(RunError, match=r"failed on 3 of 20 answers .* the last: a call of f, after 0\.5 s"):
        check_failures(episodes(3, 17), 0.1)
    lost = [Episode(prompt_id="p", turns=[turn()], status="failed", failure="environment maze: gone") for _ in range(20)]
    with pytest.raises(RunError, match=r"failed on 20 of 20 answers .* environment maze: gone"):
        check_failures(lost, 0.1)
    elsewhere = [Episode(prompt_id="p", turns=[turn()], status="failed", failure="reward math: gone") for _ in range(20)]
    check_failures(elsewhere, 0.1)


@pytest.mark.parametrize(
    ("task", "rollout", "message"),
    [
        ({"tools": ["calculator"]}, {}, r"rollout.max_turns=1: expected 2 or more with task.tools=\['calculator'\]"),
        ({"environment": "maze"}, {}, "rollout.max_turns=1: expected 2 or more with task.environment=maze"),
        ({}, {"tool_rate_floor": 2.0}, "rollout.tool_rate_floor=2.0: expected a share"),
        (
            {"environment": "maze"},
            {"max_turns": 2, "tool_timeout_s": 600.0},
            "rollout.tool_timeout_s=600: expected less than cluster.deadline_s=300",
        ),
        ({}, {"max_images": -1}, "rollout.max_images=-1: expected 0 or more"),
    ],
)
def test_mistakes_are_told_before_anything_starts(task, rollout, message):
    settings = TaskConfig(name="t", family="chain_sum", rewards={"numeric": 1.0}, **task)
    config = Config(algo=SapoConfig(), task=settings, rollout=RolloutConfig(**rollout))
    config.model.path = "builtin:tiny"
    with pytest.raises(UserError, match=message):
        validate(config)
