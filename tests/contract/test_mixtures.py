"""The mixtures that are run by one word: their tasks exist, differ, and fill batches of eight exactly."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MIXTURES = sorted(file.stem for file in (ROOT / "configs" / "mixture").glob("*.yaml"))


def composed(python, *overrides: str) -> dict:
    result = python("-m", "posttrain.run", "algo=sapo", "--cfg", "job", *overrides)
    assert (result.returncode, result.stderr) == (0, "")
    return yaml.safe_load(result.stdout)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_named_mixture_is_several_tasks_with_shares_of_eight(python, name: str) -> None:
    config = composed(python, f"mixture={name}")
    tasks = [config["task"], *config["mixture"].values()]
    assert len({task["name"] for task in tasks}) == len(tasks) >= 5
    assert sum(task["share"] for task in tasks) == 8
    for task in tasks:
        own = yaml.safe_load((ROOT / "configs" / "task" / f"{task['name']}.yaml").read_text())
        assert task == task | own and task["rewards"] and task["system_prompt"]


def test_keys_of_a_mixtures_tasks_are_set_like_any_other(python) -> None:
    config = composed(python, "mixture=reasoning", "mixture.code_problems.share=5", "task.share=2", "+mixture.letters.rewards.language=0.1")
    assert (config["mixture"]["code_problems"]["share"], config["task"]["name"], config["task"]["share"]) == (5, "equations", 2)
    assert config["mixture"]["letters"]["rewards"] == {"counting": 1.0, "language": 0.1}


def test_the_two_mixtures_are_of_the_kinds_that_they_are_named_for(python) -> None:
    kinds = {}
    for name in MIXTURES:
        config = composed(python, f"mixture={name}")
        kinds[name] = {reward for task in (config["task"], *config["mixture"].values()) for reward in task["rewards"]}
    assert kinds["reasoning"] == {"math", "code", "reasoning_gym", "counting"}
    assert kinds["general"] >= {"instructions", "code", "json_schema", "language", "repetition", "counting", "judge_rubric"}
