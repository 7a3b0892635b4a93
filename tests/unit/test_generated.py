"""Generated problems: the same everywhere, each with an answer that its rewards find right, and mistakes in one line."""

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from posttrain.config import TaskConfig
from posttrain.data import generated
from posttrain.data.generated.code_problems import KINDS
from posttrain.data.sources import load_task
from posttrain.errors import UserError
from posttrain.rewards.base import Score
from posttrain.rewards.code import Code
from posttrain.rewards.counting import Counting
from posttrain.rewards.instructions import Instructions
from posttrain.rewards.json_schema import JsonSchema
from posttrain.rewards.language import LanguageConsistency
from posttrain.rewards.repetition import Repetition
from posttrain.types import Episode, Prompt, Turn


def value(reward, example, text):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    messages = [{"role": "user", "content": example.question}]
    prompt = Prompt(id="test/1", task="test", messages=messages, reference=example.reference, metadata=example.metadata)
    score = reward.score(prompt, Episode(prompt_id="test/1", turns=[turn], status="complete"))
    return score.value if isinstance(score, Score) else score


def digest(family):
    examples = generated.draw(family, {}, 50)
    return hashlib.sha256(repr(examples).encode()).hexdigest()


@pytest.mark.parametrize(
    ("family", "rewards"),
    [
        ("instructions", {Instructions: 1.0}),
        ("json_objects", {JsonSchema: 1.0}),
        ("language_mixing", {Instructions: 1.0, LanguageConsistency: 1.0}),
        ("long_lists", {Instructions: 1.0, Repetition: 0.0}),
        ("tricky_counts", {Counting: 1.0}),
    ],
)
def test_the_solution_of_every_problem_is_right(family, rewards):
    for reward, full in rewards.items():
        for example in generated.draw(family, {}, 300):
            assert value(reward(), example, example.solution) == full, (example.question, example.solution)


def test_the_hardest_instructions_can_be_followed():
    examples = generated.draw("instructions", {"min_rules": 5, "max_rules": 6, "cross_percent": 30}, 300)
    assert {value(Instructions(), example, example.solution) for example in examples} == {1.0}
    assert {len(example.reference["constraints"]) for example in examples} >= {5, 6}


def test_instructions_cover_what_the_reward_knows_in_both_languages():
    examples = generated.draw("instructions", {}, 1000)
    types = Counter(constraint["type"] for example in examples for constraint in example.reference["constraints"])
    assert len(types) >= 30 and min(types.values()) >= 5
    chinese = sum("请" in example.question for example in examples)
    assert 400 <= chinese <= 600
    sizes = Counter(len(example.reference["constraints"]) for example in examples)
    assert set(sizes) == {1, 2, 3, 4}


def test_another_prompts_text_rarely_follows_the_instructions():
    examples = generated.draw("instructions", {"min_rules": 2}, 200)
    kept = sum(value(Instructions(), one, other.solution) == 1.0 for one, other in itertools.pairwise(examples))
    assert kept <= 20


def test_an_answer_in_the_quoted_or_another_language_is_found_out():
    examples = generated.draw("language_mixing", {}, 100)
    by_language = {"en": [], "zh": []}
    for example in examples:
        by_language[example.reference["constraints"][2]["language"]].append(example)
    for example in by_language["en"]:
        assert value(LanguageConsistency(), example, by_language["zh"][0].solution) == 0.0
    for example in by_language["zh"]:
        assert value(LanguageConsistency(), example, by_language["en"][0].solution) == 0.0
    assert min(map(len, by_language.values())) >= 30


def test_a_list_that_says_one_thing_again_and_again_is_punished():
    for example in generated.draw("long_lists", {}, 50):
        number = example.reference["constraints"][0]["min"]
        first = re.sub(r"^1\. ", "", example.solution.splitlines()[0])
        lazy = "\n".join(f"{i}. {first}" for i in range(1, number + 1))
        assert value(Repetition(), example, lazy) < -0.2
        assert value(Instructions(), example, example.solution.splitlines()[0]) < 1.0


def test_claims_about_letters_are_sometimes_right_and_the_counts_true():
    right = 0
    examples = generated.draw("tricky_counts", {"kinds": ["letters"], "languages": ["en"]}, 300)
    for example in examples:
        word, letter, claim = re.search(r'"(\w+)".* the letter (\w) (\d+) time', example.question).groups()
        assert example.reference == word.count(letter)
        right += int(claim) == example.reference
    assert 45 <= right <= 110


def test_json_without_a_field_or_with_another_value_is_wrong():
    for example in generated.draw("json_objects", {}, 50):
        told = json.loads(example.solution)
        name = next(iter(told))
        assert value(JsonSchema(), example, json.dumps({key: told[key] for key in told if key != name})) == 0.0
        assert value(JsonSchema(), example, json.dumps({**told, "more": 1})) == 0.0
        assert value(JsonSchema(), example, f"```json\n{json.dumps(told, indent=2)}\n```") == 1.0


def test_open_questions_bring_their_own_rubric():
    for example in generated.draw("open_questions", {}, 50):
        assert example.reference is None and example.solution is None
        assert len(example.metadata["rubric"]) == 3 and "reason" not in example.metadata["rubric"]


# Code


def test_one_problem_of_each_kind_runs_in_the_sandbox():
    for kind in KINDS:
        [example] = generated.draw("code_problems", {"kinds": [kind], "num_tests": 5}, 1)
        assert len(example.reference["cases"]) == 5
        assert value(Code(), example, example.solution) == 1.0, example


def test_the_calls_that_are_shown_are_none_of_the_tests():
    for example in generated.draw("code_problems", {}, 300):
        name = example.reference["function"]
        for case in example.reference["cases"]:
            assert f"\n{name}({', '.join(map(repr, case['args']))}) returns" not in example.question


def test_a_wrong_function_and_a_missing_one_pass_less():
    examples = generated.draw("code_problems", {}, 6)
    for example in examples:
        name = example.reference["function"]
        assert value(Code(), example, f"```python\ndef {name}(*arguments):\n    return 'nothing'\n```") == 0.0
        assert value(Code(), example, "```python\nx = 1\n```") == 0.0


def test_programmes_and_rules_of_style():
    programmes = {"forms": ["programme"], "min_rules": 2, "max_rules": 4, "num_tests": 5}
    for example in generated.draw("code_problems", programmes, 3):
        assert {"tests", "constraints"} == example.reference.keys()
        assert value(Code(), example, example.solution) == 1.0
    for params in ({"min_rules": 1, "max_rules": 4}, programmes):
        for example in generated.draw("code_problems", params, 200):
            assert value(Instructions(), example, example.solution) == 1.0, example


@pytest.mark.slow
@pytest.mark.parametrize("form", ["function", "programme"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_code_problem_is_solved_by_its_solution(kind, form):
    params = {"kinds": [kind], "forms": [form], "max_rules": 4, "num_tests": 8 if form == "function" else 5}
    for example in generated.draw("code_problems", params, 20 if form == "function" else 4):
        assert value(Code(), example, example.solution) == 1.0, example


# The source


@pytest.mark.parametrize("family", generated.FAMILIES)
def test_problems_differ_and_are_the_same_in_every_process(family):
    program = (
        "import hashlib; from posttrain.data import generated; "
        f"print(hashlib.sha256(repr(generated.draw({family!r}, {{}}, 50)).encode()).hexdigest())"
    )
    if family in ("code_problems", "instructions"):  # the two whose code goes through sets
        run = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, check=True)
        assert run.stdout.decode().strip() == digest(family)
    assert generated.draw(family, {}, 80)[:50] == generated.draw(family, {}, 50)
    problems = {(example.question, *(image.data for image in example.images)) for example in generated.draw(family, {}, 400)}
    assert len(problems) > 300


def test_a_generated_task_is_split_like_any_other():
    task = TaskConfig(name="mine", source="generated", family="json_objects", num_examples=200, system_prompt="Be brief.")
    data = load_task(task)
    assert 30 <= len(data.heldout) <= 70 and len(data.train) + len(data.heldout) == 200
    fewer = load_task(TaskConfig(name="mine", source="generated", family="json_objects", num_examples=100))
    assert {prompt.id for prompt in fewer.heldout} <= {prompt.id for prompt in data.heldout}
    assert data.train[0].metadata["solution"] and data.train[0].messages[0]["content"] == "Be brief."


@pytest.mark.parametrize(
    ("family", "params", "message"),
    [
        ("code_problem", {}, "task.family=code_problem: no such family is generated; did you mean code_problems?"),
        ("zzz", {}, "no such family is generated; known: attribute_at_place, clock_reading, code_problems, "),
        ("code_problems", {"num_test": 5}, "task.params.num_test: code_problems has no such parameter; did you mean num_tests?"),
        ("code_problems", {"num_tests": 2}, "task.params.num_tests=2: expected a whole number from 5 to 40"),
        ("code_problems", {"num_tests": True}, "task.params.num_tests=True: expected a whole number"),
        ("code_problems", {"kinds": ["sums"]}, "task.params.kinds=['sums']: expected a list of some of list_pipeline, "),
        ("code_problems", {"kinds": []}, "task.params.kinds=[]: expected a list"),
        ("code_problems", {"min_rules": 2}, "task.params.min_rules=2: expected at most max_rules=0"),
        ("code_problems", {"min_rules": 2, "max_rules": "x"}, "task.params.max_rules=x: expected a whole number from 0 to 4"),
        ("json_objects", {"languages": "en"}, "task.params.languages=en: expected a list of some of en, zh"),
        ("language_mixing", {"quoted": ["zh"]}, "task.params.quoted=['zh']: expected a language that is not among languages="),
    ],
)
def test_a_wrong_family_or_parameter_is_one_line(family, params, message):
    with pytest.raises(UserError) as raised:
        load_task(TaskConfig(name="mine", source="generated", family=family, params=params))
    assert message in str(raised.value) and "\n" not in str(raised.value)
