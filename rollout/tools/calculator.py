"""The tool `calculator`: arithmetic, read by a grammar of its own and never run as Python.

Numbers, + - * / // % ** ( ), and a few functions and constants. Whole numbers and fractions stay exact as long as nothing irrational
meets them. Everything is bounded before it is computed: the length of the expression, how deep it nests, and how large a result gets.
"""

import ast
import math
import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, ClassVar

from posttrain.rollout.tools.base import Tool, ToolError, ToolResult
from posttrain.types import EncodedImage

MAX_CHARACTERS = 500
MAX_BITS = 1000
"""Of a numerator or a denominator: any such number has a value as a float."""
MAX_DIGITS = 60
"""Whole numbers up to here are written out."""

Number = Fraction | float

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{"abs": abs, "round": round, "floor": math.floor, "ceil": math.ceil, "min": min, "max": max},
    **{"sin": math.sin, "cos": math.cos, "tan": math.tan, "exp": math.exp, "log10": math.log10, "log2": math.log2},
}
_CONSTANTS = {"pi": math.pi, "e": math.e}


class Calculator(Tool):
    """Evaluates one expression."""

    schema: ClassVar[dict[str, Any]] = {
        "type": "function",
        "function": {
            "name": "calculator",
            "description": "Evaluates an arithmetic expression, such as (3 + 4) * 2 ** 5 / 7.",
            "parameters": {
                "type": "object",
                "properties": {
                    "expression": {
                        "type": "string",
                        "description": "Numbers, + - * / // % **, parentheses, sqrt, log, abs, round, floor, ceil, min, max, sin, cos, "
                        "tan, exp, pi, e",
                    }
                },
                "required": ["expression"],
            },
        },
    }

    def call(self, arguments: dict[str, Any], images: Sequence[EncodedImage]) -> ToolResult:
        """The value as text. Raises ToolError: the expression is missing, is none, or has no value of reasonable size."""
        expression = arguments.get("expression")
        if not isinstance(expression, str):
            raise ToolError("expression is missing or not a text")
        return ToolResult(text=written(value_of(expression)))


def value_of(expression: str) -> Number:
    """The value of an arithmetic expression.

    Raises ToolError: it is none, or it has no value of reasonable size.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ToolError(f"the expression has {len(expression)} characters, expected at most {MAX_CHARACTERS}")
    text = expression.replace("^", "**").replace("\N{MULTIPLICATION SIGN}", "*").replace("\N{DIVISION SIGN}", "/")
    try:
        tree = ast.parse(text.replace("\N{MINUS SIGN}", "-").strip(), mode="eval")
        return _value(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # The parser's: RecursionError and MemoryError for too many brackets, ValueError for a null byte. Functions': ValueError.
        raise ToolError(f"{expression[:60]!r} cannot be evaluated: {_said(error)}") from error
    except ZeroDivisionError as error:
        raise ToolError("division by zero") from error
    except OverflowError as error:
        raise ToolError("the result is too large") from error


def written(value: Number) -> str:
    """A number as text: whole numbers and short decimals exactly, others with twelve digits."""
    if isinstance(value, Fraction):
        if value.denominator == 1 and abs(value) < 10**MAX_DIGITS:
            return str(value.numerator)
        value = float(value)
    return f"{value:.12g}"


def _said(error: BaseException) -> str:
    return str(error.msg if isinstance(error, SyntaxError) else error) or "it is too long"


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _checked(value)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _checked(_UNARY[type(op)](_value(operand)))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _checked(_BINARY[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _applied(name, [_value(argument) for argument in args])
    raise ToolError(f"the expression may hold numbers, operators and {', '.join(sorted([*_FUNCTIONS, 'sqrt', 'log', *_CONSTANTS]))} only")


def _applied(name: str, values: Sequence[Number]) -> Number:
    try:
        if name == "sqrt" and len(values) == 1:
            return _root(values[0])
        if name == "log" and 1 <= len(values) <= 2:
            return _checked(math.log(*values))
        if name == "round" and len(values) == 2:
            return _checked(round(values[0], _digits(values[1])))
        return _checked(_FUNCTIONS[name](*values))
    except KeyError as error:
        raise ToolError(f"there is no function {name!r} of {len(values)} numbers") from error
    except TypeError as error:
        raise ToolError(f"{name} does not take {len(values)} numbers") from error


def _root(value: Number) -> Number:
    """Exact where it is rational."""
    if isinstance(value, Fraction) and value >= 0:
        numerator, denominator = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if numerator**2 == value.numerator and denominator**2 == value.denominator:
            return Fraction(numerator, denominator)
    return math.sqrt(value)


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        power, bits = int(exponent), max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(power) * (bits - 1) > MAX_BITS:  # a lower bound of the result's
            raise ToolError("the result is too large")
        return _checked(base**power)
    return _checked(float(base) ** float(exponent))


def _digits(value: Number) -> int:
    digits = int(value)
    if digits != value or abs(digits) > MAX_DIGITS:
        raise ToolError(f"round: the number of digits is {written(value)}, expected a whole number of at most {MAX_DIGITS}")
    return digits


def _checked(value: Any) -> Number:
    """A real number of reasonable size, exact where it can be."""
    if isinstance(value, int):
        value = Fraction(value)
    if isinstance(value, complex):
        raise ToolError("the result is not a real number")
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise ToolError("the result is too large")
        return value
    if not math.isfinite(value):
        raise ToolError("the result is too large or no number")
    return float(value)
