"""The reward `code`: the last fenced Python block of the answer is run against tests, in a sandbox; the score is the fraction passed.

Two kinds of reference:

    {"tests": [{"stdin": "3 4", "stdout": "7"}, ...]}                      a whole programme, started once a test
    {"function": "add", "cases": [{"args": [3, 4], "expected": 7}, ...]}   one function, called once a case

What is expected never enters the sandbox: the program hands out what it printed or returned, and it is compared here. Results
of a function leave by a descriptor of their own, so printing cannot pass for returning. Each case runs in a fork of the process
that has loaded the answer: no case sees what another left behind, and a hang or a crash costs its case alone until the
wall time of all cases together (8 s) is used up; those that are left over then count as timeouts.

Left out on purpose: other languages, packages that pip installed, comparing floats with a tolerance, and partial credit
inside a test.
"""

import json
import re
import textwrap
from collections import Counter
from typing import Any, Literal

from posttrain.rewards.base import Reward, Score, answer_text
from posttrain.sandbox.runner import Limits, Outcome, run
from posttrain.types import Episode, Prompt

Verdict = Literal["passed", "wrong", "timeout", "crash"]

_FENCE = re.compile(r"[ \t]*```[ \t]*([^\s`]*)[ \t]*")
_LANGUAGES = ("", "python", "python3", "py")
_SIGALRM = 14

# Runs inside; its names start with an underscore, and the answer's live in a dictionary of their own.
_HARNESS = """
import json, os, signal, sys
_order = json.load(sys.stdin)
_quiet = os.open("/dev/null", os.O_RDWR)
for _fd in (0, 1, 2):
    os.dup2(_quiet, _fd)
def _tell(**fields):
    line = json.dumps(fields)
    os.write(3, f"\\n{line}\\n".encode())
def _call(number, function, args):
    try:
        value = function(*args)
    except BaseException as error:
        return _tell(case=number, died=type(error).__name__)
    try:
        _tell(case=number, value=value)
    except (TypeError, ValueError, RecursionError):
        _tell(case=number, value={"no JSON": type(value).__name__})
_names = {"__name__": "answer"}
exec(compile(_order["code"], "answer.py", "exec"), _names)
_function = _names[_order["function"]]
for _number, _args in enumerate(_order["args"]):
    _child = os.fork()
    if _child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, _order["case_s"])
        _call(_number, _function, _args)
        os._exit(0)
    _, _status = os.waitpid(_child, 0)
    if _status:
        _tell(case=_number, killed=os.WTERMSIG(_status))
"""


class Code(Reward):
    """The fraction of tests that the answer's last Python block passes; 0.0 for an answer without one.

    cpu_s, wall_s (seconds), memory_mb, num_processes, file_mb and output_kb are those of the sandbox's Limits, for a test of a
    programme and for all cases of a function; case_s is the wall time of one case.
    """

    cpu_s = 5
    wall_s = 8.0
    memory_mb = 512
    num_processes = 32
    file_mb = 16
    output_kb = 64
    case_s = 2.0

    def score(self, prompt: Prompt, episode: Episode) -> Score:
        """Details: `tests`, a list of "passed", "wrong", "timeout" or "crash" in the reference's order, and `counts`.

        Raises ValueError: the reference is neither kind, or has no tests; UserError and RuntimeError: no sandbox (see there).
        """
        tests, function = _checked(prompt.reference)
        code = last_python_block(answer_text(episode))
        if code is None:
            return Score(0.0, {"tests": ["wrong"] * len(tests), "counts": {"wrong": len(tests)}, "reason": "no fenced Python block"})
        verdicts = self._function(code, function, tests) if function else [self._programme(code, test) for test in tests]
        return Score(verdicts.count("passed") / len(tests), {"tests": verdicts, "counts": dict(Counter(verdicts))})

    def _limits(self) -> Limits:
        return Limits(
            cpu_s=self.cpu_s,
            wall_s=self.wall_s,
            memory_mb=self.memory_mb,
            num_processes=self.num_processes,
            file_mb=self.file_mb,
            output_kb=self.output_kb,
        )

    def _programme(self, code: str, test: dict[str, Any]) -> Verdict:
        outcome = run(code, stdin=test["stdin"], limits=self._limits())
        if outcome.reason == "ok":
            return "passed" if outcome.stdout.split() == test["stdout"].split() else "wrong"
        return _failed(outcome)

    def _function(self, code: str, function: str, cases: list[dict[str, Any]]) -> list[Verdict]:
        order = {"code": code, "function": function, "args": [case["args"] for case in cases], "case_s": self.case_s}
        outcome = run(_HARNESS, stdin=json.dumps(order), limits=self._limits(), has_results=True)
        told = _results(outcome.results)
        return [_case(told.get(number, []), case["expected"], outcome) for number, case in enumerate(cases)]


def last_python_block(text: str) -> str | None:
    """The code of the last closed ``` block that is marked python, py or python3, or not marked; None when there is none.

    An indented block, as in a list, is dedented; a block that was never closed (a truncated answer) is none.
    """
    last, language, lines = None, None, list[str]()
    for line in text.splitlines():
        fence = _FENCE.fullmatch(line)
        if fence and language is None:
            language, lines = fence[1].lower(), []
        elif fence and not fence[1]:
            last = textwrap.dedent("\n".join(lines)) if language in _LANGUAGES else last
            language = None
        else:
            lines.append(line)
    return last


def _checked(reference: Any) -> tuple[list[dict[str, Any]], str | None]:
    """The tests, and the name of the function, None for a whole programme. Raises ValueError."""
    expected = 'expected {"tests": [{"stdin", "stdout"}, ...]} or {"function", "cases": [{"args", "expected"}, ...]}'
    match reference:
        case {"tests": [_, *_] as tests} if all(isinstance(t, dict) and _is_text(t.get("stdin"), t.get("stdout")) for t in tests):
            return list(tests), None
        case {"function": str(function), "cases": [_, *_] as cases} if all(
            isinstance(case, dict) and isinstance(case.get("args"), list) and "expected" in case for case in cases
        ):
            return [{"args": case["args"], "expected": json.loads(json.dumps(case["expected"]))} for case in cases], function
    raise ValueError(f"the reference is {str(reference)[:200]!r}, {expected}")


def _is_text(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _results(written: bytes) -> dict[int, list[dict[str, Any]]]:
    """What was told of each case. The answer can write here too, so anything may stand in it: what makes no sense is no result."""
    told: dict[int, list[dict[str, Any]]] = {}
    for line in written.splitlines():
        try:
            result = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(result, dict) and type(result.get("case")) is int:
            told.setdefault(result["case"], []).append(result)
    return told


def _case(told: list[dict[str, Any]], expected: Any, outcome: Outcome) -> Verdict:
    """A case that was told of twice is wrong: nobody guesses here more than once."""
    if not told:
        return _failed(outcome)
    if any("killed" in result for result in told):
        return "timeout" if any(result.get("killed") == _SIGALRM for result in told) else "crash"
    if len(told) > 1 or "died" not in told[0]:
        return "passed" if len(told) == 1 and "value" in told[0] and _is_same(told[0]["value"], expected) else "wrong"
    return "crash"


def _failed(outcome: Outcome) -> Verdict:
    return "timeout" if outcome.reason == "timeout" else "crash"


def _is_same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 is 1.0 and not true; a tuple was a list when it was written."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
