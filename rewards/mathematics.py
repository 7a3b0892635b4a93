r"""The reward `math`: the answer means the same as the reference, by the library math-verify.

It knows fractions, roots, sets, intervals, equations, matrices, units and percentages, written in LaTeX or plainly. What it
costs is bounded by looking first: SymPy would work out `9^{9^{9^9}}`, `9!!!!` or `(x+y+z)^{300}` without ever coming back.

Left out on purpose: deadlines (math-verify's own need signals, thus the main thread; they are switched off, and whoever calls
this ends a worker that hangs), and answers with unevaluated sums, products, integrals, limits or derivatives: nothing tells
beforehand how long those take.
"""

import logging
import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from posttrain.rewards.base import Reward, answer_text
from posttrain.rewards.boxed import boxed_contents
from posttrain.types import Episode, Prompt

MAX_TAIL = 4000  # characters from the end in which a box is looked for
MAX_PARSED = 1000  # characters that are parsed: a longer box is no answer, without a box they are the last ones
MAX_DEPTH = 8  # brackets inside brackets; the grammar's time grows exponentially with them
MAX_BARS = 12  # |, \vert and the like: each may open or close, so that they cost like brackets
MAX_DIGITS = 400  # of one number
MAX_LOG10 = 10_000.0  # digits of the largest number that may come up
MAX_ARGUMENT_LOG10 = 100.0  # the same inside functions: a sine of so much needs as many digits of pi
MAX_DEGREE = 6.0  # of an equation that would have to be solved
MAX_TERMS = 1000  # of the sum that the largest power or product multiplies out to
MAX_FACTORIAL = 1000.0
UNBOUNDED = ("Sum", "Product", "Integral", "Limit", "Derivative", "Subs", "ConditionSet")
RELATIONS = ("Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan")
ALGEBRAIC = ("Add", "Mul", "Pow", "UnevaluatedExpr", "FiniteSet", "Tuple")
FACTORIALS = ("factorial", "factorial2", "subfactorial", "gamma", "binomial")

_BRACKET = re.compile(r"[(\[{]|[)\]}]")
_BAR = re.compile(r"\||\\[lr]?vert|\\mid|\\Vert", re.IGNORECASE)
_TOWER = re.compile(r"(?:(?:\^|\*\*)\s?[^\s^*]\s?){6}")
_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1}}}|\d[eE][+-]?\d{{4}}")
# What the parser works out at once, before there is a tree to look at.
_EAGER = re.compile(r"binom|choose|gamma|gcd|lcm|\\det|\\begin|operatorname|norm|\|\|", re.IGNORECASE)
_EAGER_NUMBER = re.compile(r"\d{4}")
_REFUSED_OPERATOR = re.compile(r"operatorname\s{0,9}\*?\s{0,9}\{\s{0,9}(?:eig|svd|diagonal|rref|null|orth|eye|zeros|ones)", re.IGNORECASE)


class Math(Reward):
    """1.0 when the answer is mathematically equal to the reference, 0.0 otherwise."""

    def score(self, prompt: Prompt, episode: Episode) -> float:
        r"""Compares the content of the answer's last closed `\boxed{}` (its last 1,000 characters, if there is none) with the reference.

        The reference is a text such as "\frac{1}{2}", "12", "\{1,2\}", "[0,1)" or "x=3", or an int or float. The comparison is
        math-verify's, and not symmetric: "3" answers a reference "x=3", and of "x=3" against "3" the right side counts. An
        answer that is empty, is not mathematics or could take forever scores 0.0.
        Raises ValueError: the reference is none of these, is not mathematics, or could take forever itself.
        """
        gold = parse_reference(prompt.reference)
        answer = final_answer(answer_text(episode))
        if not answer or is_absurd(answer):
            return 0.0
        parse, verify = _library()
        target = parse(answer, parsing_timeout=None)
        if any(_is_costly(tree) for tree in target if not isinstance(tree, str)):
            return 0.0
        return float(verify(gold, target, timeout_seconds=None))


def final_answer(text: str) -> str:
    r"""The part of `text` that is compared: its last closed `\boxed{...}`, else its end; "" for a box of over 1,000 characters.

    Of boxes inside each other the inner one counts. A box that is never closed is none.
    """
    tail = text[-MAX_TAIL:]
    boxes = boxed_contents(tail)
    if not boxes:
        return tail[-MAX_PARSED:]
    return f"\\boxed{{{boxes[-1]}}}" if boxes[-1].strip() and len(boxes[-1]) <= MAX_PARSED else ""


def parse_reference(reference: Any) -> list[Any]:
    """What math-verify makes of a reference: its SymPy expression, then its text.

    Raises ValueError: it is neither a text nor a number, cannot be parsed, or is too costly to compare with.
    """
    if isinstance(reference, bool) or not isinstance(reference, (str, int, float)):
        raise ValueError(f"the reference is {reference!r}, expected a text or a number")
    text = str(reference).strip()
    boxed = text if boxed_contents(text) else f"\\boxed{{{text}}}"
    if not text or len(text) > MAX_PARSED or is_absurd(boxed):
        raise ValueError(f"the reference is {text[:200]!r}, expected mathematics of at most {MAX_PARSED} characters that can be worked out")
    parsed: list[Any] = _library()[0](boxed, parsing_timeout=None)
    trees = [tree for tree in parsed if not isinstance(tree, str)]
    if not trees or any(_is_costly(tree) for tree in trees):
        raise ValueError(f"the reference is {text[:200]!r}, expected mathematics that math-verify can parse and compare")
    return parsed


def is_absurd(text: str) -> bool:
    """Whether merely parsing `text` could take forever: deep brackets, many bars, endless numbers, large determinants and the like."""
    if _is_deep(text) or len(_BAR.findall(text)) > MAX_BARS or _LONG_NUMBER.search(text):
        return True
    if _REFUSED_OPERATOR.search(text) or _TOWER.search(text):
        return True
    return bool(_EAGER.search(text) and _EAGER_NUMBER.search(text.replace(",", "")))


def _is_deep(text: str) -> bool:
    depth = 0
    for match in _BRACKET.finditer(text):
        # Intervals such as [0,1) close with the other bracket, so the kinds are not told apart.
        depth = depth + 1 if match[0] in "([{" else max(0, depth - 1)
        if depth > MAX_DEPTH:
            return True
    return False


def _is_costly(tree: Any) -> bool:
    try:
        return not (_log10(tree) <= MAX_LOG10 and _num_terms(tree) <= MAX_TERMS) or _is_hard_to_solve(tree)
    except (OverflowError, RecursionError, TypeError, ValueError):  # past any float, past any depth, or not an expression
        return True


def _children(node: Any) -> list[Any]:
    return list(node.flat()) if type(node).__name__.endswith("Matrix") else list(node.args)


def _log10(node: Any) -> float:
    """Bounds the decimal digits that evaluating a SymPy tree can need before or after the point; a symbol counts as 2."""
    name = type(node).__name__
    if name in UNBOUNDED:
        return math.inf
    children = _children(node)
    if not children:
        return abs(math.log10(_value(node))) if _value(node) else 0.0
    if name == "Pow":
        return max(1.0, _log10(children[0])) * max(1.0, _value(children[1])) + _log10(children[1])
    if name == "exp":
        return max(1.0, _value(children[0]))
    if name in FACTORIALS:
        largest = max(_value(child) for child in children)
        return largest * math.log10(largest + 1) + 1 if largest <= MAX_FACTORIAL else math.inf
    sizes = [_log10(child) for child in children]
    if name not in (*ALGEBRAIC, *RELATIONS) and max(sizes) > MAX_ARGUMENT_LOG10:
        return math.inf
    return math.fsum(sizes) if name == "Mul" else max(sizes) + math.log10(len(sizes))


def _value(node: Any) -> float:
    """Bounds the absolute value of a SymPy tree; OverflowError past 10^308."""
    if node.args:
        return float(10.0 ** _log10(node))
    if not node.is_number:
        return 2.0
    # Infinity is a constant like any other: nothing is worked out with it.
    return abs(float(node)) if node.is_finite and node.is_real else 1.0


def _num_terms(node: Any) -> int:
    """Bounds the terms of a tree when it is multiplied out: (t terms)^n has C(t + n - 1, n) of them."""
    children = _children(node)
    if type(node).__name__ == "Pow" and (terms := _num_terms(children[0])) > 1:
        power = math.ceil(_value(children[1]))
        return math.comb(terms + power - 1, power) if max(terms, power) <= MAX_TERMS else MAX_TERMS + 1
    counts = [_num_terms(child) for child in children]
    if type(node).__name__ == "Mul":
        return math.prod(counts)
    return max(1, sum(counts))


def _is_hard_to_solve(tree: Any) -> bool:
    """Whether some equation or inequality in it is neither solved for a symbol (or f(x)) nor a polynomial of low degree."""
    if type(tree).__name__ not in RELATIONS:
        return any(_is_hard_to_solve(child) for child in _children(tree))
    left, right = tree.lhs, tree.rhs
    for side, other in ((left, right), (right, left)):
        is_named = side.is_Symbol or type(type(side)).__name__ == "UndefinedFunction"
        if is_named and not (side.is_Symbol and side in other.free_symbols):
            return False
    return not (_is_low_polynomial(left) and _is_low_polynomial(right))


def _is_low_polynomial(node: Any) -> bool:
    if not node.free_symbols:
        return True
    if type(node).__name__ == "Pow" and not (node.args[1].is_Integer and _value(node.args[1]) <= MAX_DEGREE):
        return False
    return (not node.args or type(node).__name__ in ALGEBRAIC) and all(_is_low_polynomial(child) for child in node.args)


@cache
def _library() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """math-verify's parse and verify (SymPy takes a second to import, so not before the first score)."""
    from math_verify import parse, verify

    # It warns in every process that there is no deadline, which is the caller's choice here.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return parse, verify
