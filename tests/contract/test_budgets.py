"""The size and shape budgets, over every Python file outside tests/. A message names the places that are over."""

import ast
from collections import defaultdict
from collections.abc import Iterator

import pytest

FILE_LINES_P90, FILE_LINES_MAX = 350, 500
FUNCTION_LINES_P90, FUNCTION_LINES_MAX = 40, 80
NESTING_MAX = 3
PARAMETERS_MAX = 6
DOCSTRINGS_MIN = 0.95
LOOKUPS_PER_1000_LINES = 1
SAME_LINES = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@pytest.fixture(scope="module")
def functions(sources) -> list[tuple[str, Function]]:
    return [
        (f"{source.path}:{node.lineno} {node.name}", node)
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def p90(numbers: list[int]) -> int:
    return sorted(numbers)[max(0, -(-len(numbers) * 9 // 10) - 1)]


def check_sizes(sizes: dict[str, int], at_p90: int, at_most: int) -> None:
    assert {place: size for place, size in sizes.items() if size > at_most} == {}
    largest = sorted(sizes.items(), key=lambda item: -item[1])[: max(1, len(sizes) // 10)]
    assert p90([*sizes.values()]) <= at_p90, f"the largest: {largest}"


def test_file_lengths(sources) -> None:
    check_sizes({str(source.path): len(source.text.splitlines()) for source in sources}, FILE_LINES_P90, FILE_LINES_MAX)


def test_function_lengths(functions) -> None:
    lengths = {place: (node.end_lineno or node.lineno) - node.lineno + 1 for place, node in functions}
    check_sizes(lengths, FUNCTION_LINES_P90, FUNCTION_LINES_MAX)


def nesting(body: list[ast.stmt]) -> int:
    """Deepest block inside `body`; an elif is as deep as its if, and a function inside a function counts for itself."""
    deepest = 0
    for statement in body:
        if not isinstance(statement, BLOCKS):
            continue
        for name, inner in ast.iter_fields(statement):
            if not isinstance(inner, list) or not inner:
                continue
            chained = name == "orelse" and isinstance(statement, ast.If) and len(inner) == 1 and isinstance(inner[0], ast.If)
            bodies = [part.body for part in inner] if name in ("handlers", "cases") else [inner]
            deepest = max(deepest, *((0 if chained else 1) + nesting(part) for part in bodies))
    return deepest


def test_nesting(functions) -> None:
    assert {place: depth for place, node in functions if (depth := nesting(node.body)) > NESTING_MAX} == {}


def test_parameters(functions) -> None:
    def count(arguments: ast.arguments) -> int:
        named = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        return len([name for name in named if name not in ("self", "cls", "ctx")]) + bool(arguments.vararg) + bool(arguments.kwarg)

    assert {place: number for place, node in functions if (number := count(node.args)) > PARAMETERS_MAX} == {}


def public(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, bool]]:
    for node in body:
        if isinstance(node, DEFINITIONS) and not node.name.startswith("_"):
            yield f"{prefix} {node.name}", bool(ast.get_docstring(node))
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix} {node.name}")


def test_docstrings(sources) -> None:
    has = {str(source.path): bool(ast.get_docstring(source.tree)) for source in sources}
    has |= dict(entry for source in sources for entry in public(source.tree.body, str(source.path)))
    missing = [place for place, documented in has.items() if not documented]
    assert len(missing) <= (1 - DOCSTRINGS_MIN) * len(has), missing


def test_no_global_and_few_attribute_lookups_by_name(sources) -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Global):
                places["global"].append(f"{source.path}:{node.lineno}")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
                places["lookup"].append(f"{source.path}:{node.lineno}")
    lines = sum(len(source.text.splitlines()) for source in sources)
    assert places["global"] == []
    assert len(places["lookup"]) <= max(1, LOOKUPS_PER_1000_LINES * lines // 1000), places["lookup"]


def telling_lines(text: str) -> list[tuple[int, str]]:
    """Lines that say something: no blanks, comments, imports, or lone brackets."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [(n, s) for n, s in lines if len(s.strip("()[]{},:")) > 2 and not s.startswith(("#", "import ", "from ", '"""'))]


def test_nothing_stands_twice(sources) -> None:
    seen: dict[tuple[str, ...], str] = {}
    twice = []
    for source in sources:
        lines = telling_lines(source.text)
        for start in range(len(lines) - SAME_LINES + 1):
            window = lines[start : start + SAME_LINES]
            place = f"{source.path}:{window[0][0]}"
            first = seen.setdefault(tuple(line for _, line in window), place)
            twice += [f"{first} and {place}"] if first != place else []
    assert twice == []
