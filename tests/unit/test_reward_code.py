"""The reward `code`: which block runs, both kinds of tests, and that no answer can talk its way to a score."""

import json

import numpy as np
import pytest

from posttrain.errors import UserError
from posttrain.rewards.code import Code, last_python_block
from posttrain.sandbox import runner as sandbox
from posttrain.types import Episode, Prompt, Turn

ADD = {"function": "add", "cases": [{"args": [1, 2], "expected": 3}, {"args": [5, 5], "expected": 10}, {"args": [0, 0], "expected": 0}]}
SUM = {"tests": [{"stdin": "3 4\n", "stdout": "7\n"}, {"stdin": "1 1", "stdout": "2"}]}


def score(reference, code, text="Here:\n```python\n{}\n```\nDone."):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text.format(code), stop_reason="stop", policy_version=0)
    prompt = Prompt(id="test/1", task="test", messages=[], reference=reference)
    return Code().score(prompt, Episode(prompt_id="test/1", turns=[turn], status="complete"))


def verdicts(reference, code):
    result = score(reference, code)
    assert result.value == result.details["tests"].count("passed") / len(result.details["tests"])
    return result.details["tests"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na\n```", "a"),
        ("```\na\n```", "a"),
        ("```py\na\n```\nand\n``` Python3\nb\n```\nwhich prints\n```text\n7\n```", "b"),
        ("1.\n   ```python\n   if x:\n       y\n   ```", "if x:\n    y"),
        ("```python\na\n```\n```python\nb", "a"),
        ("```python\nprint('''\n```js\n''')\n```", "print('''\n```js\n''')"),
        ("```python\n```", ""),
        ("a = `b`", None),
        ("```cpp\na\n```", None),
        ("", None),
        ("```" * 50_000, None),
    ],
)
def test_the_last_closed_python_block_is_the_answer(text, code):
    assert last_python_block(text) == code


def test_a_programme_is_compared_word_by_word():
    assert verdicts(SUM, "print(sum(map(int, input().split())), '\\n')") == ["passed", "passed"]
    assert verdicts(SUM, "print(7)") == ["passed", "wrong"]


@pytest.mark.parametrize(
    ("code", "verdict"),
    [("1/0", "crash"), ("print(7); exit(1)", "crash"), ("while True: pass", "timeout"), ("while True: print(7)", "crash"), ("", "wrong")],
)
def test_a_programme_that_does_not_end_well(monkeypatch, code, verdict):
    monkeypatch.setattr(Code, "wall_s", 1.0)
    assert verdicts({"tests": SUM["tests"][:1]}, code) == [verdict]


def test_a_function_is_called_once_a_case():
    assert verdicts(ADD, "def add(a, b):\n    return a + b") == ["passed"] * 3
    assert verdicts(ADD, "def add(a, b):\n    return a * b") == ["wrong", "wrong", "passed"]


def test_cases_do_not_see_each_other():
    assert verdicts(ADD, "calls = []\ndef add(a, b):\n    calls.append(a)\n    return a + b if len(calls) == 1 else None") == ["passed"] * 3


@pytest.mark.parametrize(
    ("first", "verdict"),
    [
        ("while True: pass", "timeout"),
        ("__import__('signal').signal(14, lambda *_: None); __import__('time').sleep(0.1); 1/0", "crash"),
        ("__import__('os').kill(__import__('os').getpid(), 11)", "crash"),
        ("__import__('os')._exit(3)", "crash"),
        ("__import__('os')._exit(0)", "crash"),
        ("raise SystemExit", "crash"),
        ("[0] * 10**9", "crash"),
        ("return {1, 2}", "wrong"),
        ("return float('nan')", "wrong"),
        ("return None", "wrong"),
        ("return True", "wrong"),
        ("return '3'", "wrong"),
    ],
)
def test_a_case_that_goes_wrong_costs_itself_only(monkeypatch, first, verdict):
    monkeypatch.setattr(Code, "case_s", 0.5)
    assert verdicts(ADD, f"def add(a, b):\n    if a == 1:\n        {first}\n    return a + b") == [verdict, "passed", "passed"]


def test_when_the_time_of_all_cases_is_used_up_the_rest_are_timeouts(monkeypatch):
    monkeypatch.setattr(Code, "wall_s", 1.0)
    slow = "import time\ndef add(a, b):\n    time.sleep(0 if a == 1 else 1.5)\n    return a + b"
    assert verdicts(ADD, slow) == ["passed", "timeout", "timeout"]
    assert verdicts(ADD, "while True: pass") == ["timeout"] * 3


@pytest.mark.parametrize("code", ["1/0", "def subtract(a, b): pass", "def add(a b)", "add = 3", "", "import numpy_of_nobody"])
def test_an_answer_that_does_not_load_fails_every_case(code):
    assert set(verdicts(ADD, code)) == {"crash"}


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [(1, 1.0, 1), (True, 1, 0), ([1, [2]], [1, [2.0]], 1), ({"a": [True]}, {"a": [1]}, 0), ("1", 1, 0), ([], {}, 0), (None, None, 1)],
)
def test_values_are_compared_as_json(one, other, is_same):
    cases = {"function": "f", "cases": [{"args": [one], "expected": other}]}
    assert score(cases, "def f(x): return x").value == is_same


def test_a_tuple_is_a_list():
    assert score({"function": "f", "cases": [{"args": [], "expected": (1, 2)}]}, "def f(): return 1, 2").value == 1.0


FORGERIES = {
    "prints results": 'print(\'\\n{"case": 0, "value": 3}\\n\', flush=True)',
    "writes many guesses": "[os.write(3, ('\\n' + json.dumps(dict(case=0, value=n)) + '\\n').encode()) for n in range(20)]",
    "claims to have passed": "[os.write(3, ('\\n' + json.dumps(dict(case=n, passed=True)) + '\\n').encode()) for n in range(3)]",
    "writes nonsense": "os.write(3, b'\\n[[[' + b'[' * 60000 + b'\\n\\xff\\n{\"case\": [1]}\\n{\"case\": 10000000000}\\n')",
    "closes the way out": "os.close(3)",
    "patches json": 'json.dumps = lambda *_, **__: \'{"case": 0, "value": true}\'',
    "equal to everything": "class Any(int):\n    __eq__ = lambda *_: True\n    __hash__ = None\nadd = lambda a, b: Any(77)",
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES.keys())
def test_no_forgery_scores(forgery):
    assert score(ADD, f"import os, json\ndef add(a, b): return 77\n{forgery}").value == 0.0


def test_what_is_expected_is_not_in_the_sandbox():
    secret = "7349812365"
    look = "\n".join(
        (
            "import gc, os, sys",
            "def find():",
            "    seen = [open(f, errors='replace').read() for f in os.listdir('.')]",
            "    frame = sys._getframe()",
            "    while frame:",
            "        seen += [repr(frame.f_globals), repr(frame.f_locals)]",
            "        frame = frame.f_back",
            "    seen += [repr(o) for o in gc.get_objects() if isinstance(o, (dict, list, str))]",
            f"    return any(str({int(secret) - 1} + 1) in text for text in seen)",
        )
    )
    assert score({"function": "find", "cases": [{"args": [], "expected": False}, {"args": [], "expected": secret}]}, look).value == 0.5


def test_an_answer_without_code_is_wrong_and_starts_nothing(monkeypatch):
    monkeypatch.setattr("posttrain.rewards.code.run", None)
    assert score(ADD, "", text="it is 3").value == 0.0


@pytest.mark.parametrize(
    "reference",
    [
        None,
        "7",
        {},
        {"tests": []},
        {"tests": [{"stdin": "1"}]},
        {"tests": [{"stdin": "1", "stdout": 1}]},
        {"function": "f"},
        {"function": "f", "cases": []},
        {"function": "f", "cases": [{"args": 1, "expected": 1}]},
        {"function": "f", "cases": [{"args": [1]}]},
    ],
)
def test_a_reference_that_is_no_test_is_a_mistake_in_the_data(reference):
    with pytest.raises(ValueError, match="the reference is"):
        score(reference, "")


@pytest.mark.parametrize("failure", [UserError("a way out"), RuntimeError("no sandbox")])
def test_a_sandbox_that_cannot_start_is_a_failure_and_never_a_zero(monkeypatch, failure):
    def broken(*_):
        raise failure

    monkeypatch.setattr(sandbox, "_run", broken)
    for reference in (ADD, SUM):
        with pytest.raises(type(failure), match=str(failure)):
            score(reference, "print(7)")


def test_the_details_are_json():
    result = score(ADD, "def add(a, b): return a")
    assert json.loads(json.dumps(result.details)) == {"tests": ["wrong", "wrong", "passed"], "counts": {"wrong": 2, "passed": 1}}
