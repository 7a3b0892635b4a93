"""Verifiable constraints on the Python code of an answer, which is read and never run.

The code is the last fenced block labelled python, py, python3 or nothing at all. Without one, or where it does not parse, is
longer than 50,000 characters or is nested too deeply to be read, no constraint of this module holds, whatever it asks for.
Left out on purpose: other languages than Python; what the code does, which only tests can tell; names that are made at run time.
"""

import ast
import io
import tokenize
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, wraps

from posttrain.rewards.constraints_base import Check, Count
from posttrain.rewards.texts import fenced_blocks

MAX_CODE_CHARACTERS = 50_000
_LABELS = frozenset({"", "python", "py", "python3"})
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_RECEIVERS = frozenset({"self", "cls"})
_IMPORTERS = frozenset({"__import__", "import_module"})


@dataclass(frozen=True, slots=True)
class PythonCode:
    """Code that parses: its source, its syntax tree and its tokens."""

    source: str
    tree: ast.Module
    tokens: list[tokenize.TokenInfo]

    @property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Functions and methods, nested ones included."""
        return [node for node in ast.walk(self.tree) if isinstance(node, _FUNCTIONS)]


@lru_cache(maxsize=1)  # the constraints of a prompt read the same answer, one after another
def parse_answer(text: str) -> PythonCode | None:
    """The Python code of an answer; None where the module's docstring says that there is none."""
    blocks = [block.code for block in fenced_blocks(text) if (block.label.split() or [""])[0] in _LABELS]
    if not blocks or len(blocks[-1]) > MAX_CODE_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in the policy's strings
            tree = ast.parse(blocks[-1])
        tokens = [*tokenize.generate_tokens(io.StringIO(blocks[-1]).readline)]
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    return PythonCode(blocks[-1], tree, tokens)


# Counts: each becomes a constraint with the bounds min and max.


def code_lines(code: PythonCode) -> int:
    """Lines that are not blank."""
    return sum(1 for line in code.source.splitlines() if line.strip())


def code_longest_line(code: PythonCode) -> int:
    """Characters of the longest line."""
    return max(map(len, code.source.splitlines()), default=0)


def code_functions(code: PythonCode) -> int:
    """Functions and methods, nested ones included."""
    return len(code.functions)


def code_longest_function(code: PythonCode) -> int:
    """Lines of the longest function, decorators left out; 0 without one."""
    return max(((function.end_lineno or function.lineno) - function.lineno + 1 for function in code.functions), default=0)


def code_loops(code: PythonCode) -> int:
    """for and while statements; a comprehension is none."""
    return sum(isinstance(node, _LOOPS) for node in ast.walk(code.tree))


def code_comprehensions(code: PythonCode) -> int:
    """Comprehensions and generator expressions."""
    return sum(isinstance(node, _COMPREHENSIONS) for node in ast.walk(code.tree))


def code_recursive_functions(code: PythonCode) -> int:
    """Functions that call themselves by name, or as a method of self or cls; through another function is not seen."""
    return sum(any(_callee(node) == function.name for node in ast.walk(function)) for function in code.functions)


def code_comments(code: PythonCode) -> int:
    """Comments, those behind code included; docstrings are none."""
    return sum(token.type == tokenize.COMMENT for token in code.tokens)


# Yes or no


def code_parses(code: PythonCode) -> bool:
    """There is Python code, of at least one statement, and it parses."""
    return bool(code.tree.body)


def code_defines_function(code: PythonCode, *, name: str) -> bool:
    """Defines a function or method of this name."""
    return any(function.name == name for function in code.functions)


def code_defines_class(code: PythonCode, *, name: str) -> bool:
    """Defines a class of this name."""
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in ast.walk(code.tree))


def code_uses_name(code: PythonCode, *, name: str) -> bool:
    """The name occurs: read, assigned, as an attribute, an argument, a definition or a part of an import."""
    return any(name in _names(node) for node in ast.walk(code.tree))


def code_without_name(code: PythonCode, *, name: str) -> bool:
    """The name occurs nowhere, not even as an attribute."""
    return not code_uses_name(code, name=name)


def code_imports(code: PythonCode, *, module: str) -> bool:
    """Imports the module or something in it, by a statement or by a call with the name as a plain text."""
    return any(name == module or name.startswith(f"{module}.") for node in ast.walk(code.tree) for name in _imported(node))


def code_without_import(code: PythonCode, *, module: str) -> bool:
    """Imports neither the module nor anything in it."""
    return not code_imports(code, module=module)


def code_has_type_hints(code: PythonCode) -> bool:
    """Each function, of at least one, has every parameter but self and cls annotated, and what it returns, but for __init__."""
    return bool(code.functions) and all(
        (function.returns is not None or function.name == "__init__")
        and all(argument.annotation is not None or argument.arg in _RECEIVERS for argument in _arguments(function))
        for function in code.functions
    )


def code_has_docstrings(code: PythonCode) -> bool:
    """Each function and class without a leading underscore, of at least one, has a docstring."""
    nodes = [node for node in ast.walk(code.tree) if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_")]
    return bool(nodes) and all(ast.get_docstring(node) for node in nodes)


def code_has_snake_case(code: PythonCode) -> bool:
    """No function, parameter or variable has a capital letter; CONSTANTS, all in capitals, are allowed, and classes do not matter."""
    assigned = {node.id for node in ast.walk(code.tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    named = {function.name for function in code.functions}
    named |= {node.arg for node in ast.walk(code.tree) if isinstance(node, ast.arg)}
    return all(name == name.lower() for name in named) and all(name in (name.lower(), name.upper()) for name in assigned)


def code_indentation(code: PythonCode, *, width: int) -> bool:
    """Each block is indented by so many blanks, without tabs; code without an indented block will do."""
    levels = [""]
    for token in code.tokens:
        if token.type == tokenize.DEDENT:
            levels.pop()
        elif token.type == tokenize.INDENT and token.string != levels[-1] + " " * width:
            return False
        elif token.type == tokenize.INDENT:
            levels.append(token.string)
    return True


def _callee(node: ast.AST) -> str | None:
    """The name that a call calls: f of f(), and of self.f() and cls.f()."""
    if not isinstance(node, ast.Call):
        return None
    called = node.func
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id in _RECEIVERS:
        return called.attr
    return called.id if isinstance(called, ast.Name) else None


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.alias(name=name, asname=alias):
            return [*name.split("."), alias or ""]
        case ast.ImportFrom(module=str(module)):
            return module.split(".")
    return []


def _imported(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=aliases):
            yield from (alias.name for alias in aliases)
        case ast.ImportFrom(module=module, names=aliases, level=0):
            yield from (f"{module}.{alias.name}" for alias in aliases)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(module)), *_]):
            yield from [module] if name in _IMPORTERS else []


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    taken = function.args
    starred = [argument for argument in (taken.vararg, taken.kwarg) if argument is not None]
    return [*taken.posonlyargs, *taken.args, *taken.kwonlyargs, *starred]


def _counting(count: Callable[..., int]) -> Count:
    """The count over an answer instead of over code: None where there is no code."""

    @wraps(count)
    def of_answer(text: str, **parameters: str | int) -> int | None:
        code = parse_answer(text)
        return None if code is None else count(code, **parameters)

    return of_answer


def _checking(check: Callable[..., bool]) -> Check:
    """The check of an answer instead of code: False where there is no code."""

    @wraps(check)
    def of_answer(text: str, **parameters: str | int) -> bool:
        code = parse_answer(text)
        return code is not None and check(code, **parameters)

    return of_answer


_COUNTS = (
    code_lines,
    code_longest_line,
    code_functions,
    code_longest_function,
    code_loops,
    code_comprehensions,
    code_recursive_functions,
    code_comments,
)
_CHECKS: tuple[Callable[..., bool], ...] = (
    code_parses,
    code_defines_function,
    code_defines_class,
    code_uses_name,
    code_without_name,
    code_imports,
    code_without_import,
    code_has_type_hints,
    code_has_docstrings,
    code_has_snake_case,
    code_indentation,
)
COUNTS: Mapping[str, Count] = {count.__name__: _counting(count) for count in _COUNTS}
"""Counting functions over an answer, by name; each becomes a constraint with the bounds min and max."""

CHECKS: tuple[Check, ...] = tuple(_checking(check) for check in _CHECKS)
"""Constraints over an answer that hold or do not."""
