"""Small programming problems with tests, for the reward `code`: functions to write, or whole programmes, and rules of style.

A problem's constants and shape are random (`code_lists`, `code_texts`, `code_numbers`), its calls too; what is expected is
what its own solution returns here. The calls that the question shows are none of the tests, so that writing them down again passes none.
Left out on purpose: other languages, classes, files, floats, and problems whose difficulty is in reading them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from posttrain.data.generated import code_lists, code_numbers, code_texts
from posttrain.data.generated.base import Example, Family, distinct, some_of, whole
from posttrain.data.generated.code_base import Problem

KINDS: Mapping[str, Callable[[Random], Problem]] = {
    kind.__name__: kind for kind in (*code_lists.KINDS, *code_texts.KINDS, *code_numbers.KINDS)
}
FORMS = ("function", "programme")
_NUM_SHOWN = 2
_BANNED = ("sum", "sorted", "max", "min", "enumerate", "zip", "len", "map", "filter", "set")
_MODULES = ("re", "math", "itertools", "collections", "functools", "string")


@dataclass(frozen=True, kw_only=True)
class CodeProblems(Family):
    """Functions to write, tested by calling them; as a programme, each call's arguments are a line of JSON to read."""

    kinds: list[str] = field(default_factory=lambda: [*KINDS], metadata=some_of([*KINDS]))
    forms: list[str] = field(default_factory=lambda: ["function"], metadata=some_of(FORMS))
    num_tests: int = field(default=8, metadata=whole(5, 40))
    min_rules: int = field(default=0, metadata=whole(0, 4))  # of style, for the reward `instructions`
    max_rules: int = field(default=0, metadata=whole(0, 4))

    def example(self, rng: Random) -> Example:
        """The reference is the reward's, with `constraints` beside the tests where there are rules of style."""
        problem = KINDS[rng.choice(self.kinds)](rng)
        calls = _calls(problem, rng, self.num_tests + _NUM_SHOWN)
        shown, tests = calls[:_NUM_SHOWN], calls[_NUM_SHOWN:]
        ask, solve = {"function": (_ask_function, _function), "programme": (_ask_programme, _programme)}[rng.choice(self.forms)]
        rules = _rules(problem, solve(problem), rng)
        chosen = rng.sample(rules, rng.randint(self.min_rules, self.max_rules))
        question, reference = ask(problem, shown, tests)
        if chosen:
            question += "\nRules for the code:\n" + "\n".join(f"- {wish}" for wish, _ in chosen)
            reference["constraints"] = [constraint for _, constraint in chosen]
        has_docstring = any(constraint["type"] == "code_has_docstrings" for _, constraint in chosen)
        code = solve(problem, "Solve the problem." if has_docstring else "")
        if any(constraint.get("width") == 2 for _, constraint in chosen):
            code = code.replace("    ", "  ")
        return Example(question=question, reference=reference, solution=f"```python\n{code}\n```")


Call = tuple[list[Any], Any]


def _calls(problem: Problem, rng: Random, count: int) -> list[Call]:
    """Different arguments and what comes back; where a problem has not so many, the last one stands several times."""
    names: dict[str, Any] = {}
    exec(compile(problem.source(), problem.function, "exec"), names)  # our own text, from this package's templates
    arguments = distinct(lambda: problem.draw(rng), count)
    arguments += arguments[-1:] * (count - len(arguments))
    # A call gets its own copy of the arguments, and all of it as JSON has it, since that is how it is tested.
    return [(args, json.loads(json.dumps(names[problem.function](*json.loads(json.dumps(args)))))) for args in arguments]


def _ask_function(problem: Problem, shown: list[Call], tests: list[Call]) -> tuple[str, dict[str, Any]]:
    examples = "\n".join(f"{problem.function}({', '.join(map(repr, args))}) returns {result!r}" for args, result in shown)
    question = f"Write the Python function `{problem.signature}`.\n{problem.task}\nExamples:\n{examples}"
    return question, {"function": problem.function, "cases": [{"args": args, "expected": result} for args, result in tests]}


def _ask_programme(problem: Problem, shown: list[Call], tests: list[Call]) -> tuple[str, dict[str, Any]]:
    parameters = problem.signature.partition("(")[2].rpartition(")")[0]
    examples = "\n".join(f"Input: {json.dumps(args)}\nOutput: {json.dumps(result)}" for args, result in shown)
    question = (
        f"Write a Python programme. It reads one line of input, a JSON list of arguments ({parameters}), computes what is described "
        f"here for `{problem.function}`, and prints the result with json.dumps.\n{problem.task}\nExamples:\n{examples}"
    )
    return question, {"tests": [{"stdin": json.dumps(args), "stdout": json.dumps(result)} for args, result in tests]}


def _function(problem: Problem, docstring: str = "") -> str:
    return problem.source(docstring)


def _programme(problem: Problem, docstring: str = "") -> str:
    return f"import json\n\n\n{problem.source(docstring)}\n\n\nprint(json.dumps({problem.function}(*json.loads(input()))))"


def _rules(problem: Problem, code: str, rng: Random) -> list[tuple[str, dict[str, Any]]]:
    """Rules of style that the solution keeps (a docstring and indentation are put in), each with its constraint."""
    num_lines = sum(1 for line in code.split("\n") if line.strip()) + 1 + rng.randint(1, 5)
    longest = max(79, *map(len, code.split("\n")))
    name = rng.choice([name for name in _BANNED if name not in code])
    module = rng.choice(_MODULES)
    width = rng.choice((2, 4))
    return [
        (f"at most {num_lines} lines, blank ones not counted", {"type": "code_lines", "max": num_lines}),
        (f"no line longer than {longest} characters", {"type": "code_longest_line", "max": longest}),
        (f"do not use the name `{name}`", {"type": "code_without_name", "name": name}),
        (f"do not import the module `{module}`", {"type": "code_without_import", "module": module}),
        ("type hints for every parameter and for what is returned", {"type": "code_has_type_hints"}),
        ("a docstring in every function", {"type": "code_has_docstrings"}),
        (f"indent by {width} blanks a level", {"type": "code_indentation", "width": width}),
        ("names of functions, parameters and variables in snake_case", {"type": "code_has_snake_case"}),
        (f"define the function `{problem.function}`", {"type": "code_defines_function", "name": problem.function}),
    ]
