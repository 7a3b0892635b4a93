"""Every task of configs/task/: its prompts are drawn, its rewards give a right answer all there is, and a wrong one less."""

import functools
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import yaml

from posttrain.config import TaskConfig
from posttrain.data.sources import load_task
from posttrain.rewards.base import Score
from posttrain.rewards.process import construct
from posttrain.types import Episode, ToolCall, Turn

ROOT = Path(__file__).resolve().parents[2]
TASKS = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((ROOT / "configs" / "task").glob("*.yaml"))}
# A task without rewards is none to sample answers for, one without a path is the user's own, and one against an environment has
# no answer that is a text.
REWARDED = [name for name, settings in TASKS.items() if settings.get("rewards") and not settings.get("environment")]
REWARDED = [name for name in REWARDED if TASKS[name].get("source") != "file"]
PICTURES = ("attribute_at_place", "clock_reading", "compare_two", "counting_in_crowd", "find_and_read", "grounding_in_crowd")
FULL = {"repetition": 0.0}  # every other reward's best is 1
PERFECT = {
    "en": "This is a perfect answer to what was asked, as helpful, true and short as it can be.",
    "zh": "这是完美的回答它没有任何缺点读起来也很清楚。",
}
NUM_TRIED = 8

says = runpy.run_path(str(Path(__file__).with_name("judge_server.py")))["says"]
reward_of = functools.cache(construct)


@pytest.fixture
def judge(server, monkeypatch, tmp_path):
    """A judge that knows perfection when it sees it."""

    def respond(body):
        sent = body["messages"][-1]["content"]
        aspects = re.findall(r"^(\w+): ", sent, re.MULTILINE)
        return says({"reason": "", **dict.fromkeys(aspects, 10 if any(text in sent for text in PERFECT.values()) else 3)})

    server.respond = respond
    for name, value in {"URL": server.url, "MODEL": "m", "CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(f"POSTTRAIN_JUDGE_{name}", value)


def turn_of(text, **fields):
    return Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0, **fields)


def looks(prompt):
    """A turn that calls the tool on each place of the scene, or on the quarters of the picture, which overlap."""
    places = [place["bbox_2d"] for place in prompt.metadata["scene"]]
    if prompt.metadata["num_calls"] != len(places):
        places = [[x, y, x + 550, y + 550] for x in (0, 450) for y in (0, 450)]
    arguments = [{"bbox_2d": box, "label": "it", "img_idx": 0} for box in places]
    calls = [ToolCall(name="image_zoom_in_tool", arguments=one, status="answered") for one in arguments]
    return turn_of("", tool_calls=calls, observation_images=[prompt.images[0]] * len(calls))


def outcome(task, prompt, text):
    turns = [*([looks(prompt)] if "scene" in prompt.metadata else []), turn_of(text)]
    total = 0.0
    for name, weight in task.rewards.items():
        judgement = reward_of(name).score(prompt, Episode(prompt_id=prompt.id, turns=turns, status="complete"))
        total += weight * (judgement.value if isinstance(judgement, Score) else judgement)
    return total


def question_of(prompt):
    content = prompt.messages[-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def right_answer(task, prompt):
    if "solution" in prompt.metadata:
        is_chinese = re.search("[\u4e00-\u9fff]", question_of(prompt))
        return prompt.metadata["solution"] or PERFECT["zh" if is_chinese else "en"]
    return f"So it is \\boxed{{{prompt.reference}}}." if "\\boxed" in (task.system_prompt or "") else str(prompt.reference)


@pytest.mark.parametrize("name", REWARDED)
def test_right_answers_get_the_full_outcome_and_wrong_ones_less(name, judge):
    task = TaskConfig(**{**TASKS[name], "num_examples": 40})
    data = load_task(task)
    assert task.name == name
    prompts = [*data.train, *data.heldout][:NUM_TRIED]
    full = sum(weight * FULL.get(reward, 1.0) for reward, weight in task.rewards.items())
    num_wrong = 0
    for prompt in prompts:
        assert outcome(task, prompt, right_answer(task, prompt)) == pytest.approx(full), (prompt.messages, prompt.reference)
        others = [right_answer(task, other) for other in prompts if other.reference != prompt.reference]
        wrong = "Nobody knows." if prompt.reference is None else others[0]
        num_wrong += outcome(task, prompt, wrong) < full - 0.01
        assert outcome(task, prompt, "") < full
    # An answer may happen to keep the one or two rules of another prompt.
    assert num_wrong >= (NUM_TRIED * 3 // 4 if "instructions" in task.rewards else NUM_TRIED)


@pytest.mark.parametrize("name", [name for name in REWARDED if TASKS[name].get("source") == "generated"])
def test_a_task_has_enough_prompts_that_fit_into_the_default_context(name):
    """Bytes are more than tokens; the default is 1024 tokens, of which a completion takes some."""
    data = load_task(
        TaskConfig(**{**TASKS[name], "num_examples": 600, "params": {"max_size": 256, "min_size": 256} if name in PICTURES else {}})
    )
    prompts = [*data.train, *data.heldout]
    assert len(prompts) >= 400
    assert max(len(((TASKS[name].get("system_prompt") or "") + question_of(prompt)).encode()) for prompt in prompts) <= 950
    assert len(data.heldout) == pytest.approx(len(prompts) * 0.25, rel=0.3)
