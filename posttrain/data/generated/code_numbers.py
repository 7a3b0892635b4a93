"""Code problems on numbers and with recursion. Each function makes one problem, with constants and shape drawn from `rng`."""

from random import Random
from typing import Any

from posttrain.data.generated.code_base import Problem


def digits(rng: Random) -> Problem:
    """Something of a number's digits in some base."""
    base = rng.choice((2, 3, 5, 8, 10))
    what, code = rng.choice(
        (
            ("the sum of its digits", "sum(digits)"),
            ("how many of its digits are 0", "digits.count(0)"),
            ("its largest digit", "max(digits)"),
            ("the number of its digits", "len(digits)"),
            ("how many different digits it has", "len(set(digits))"),
        )
    )
    return Problem(
        signature="of_digits(number: int) -> int",
        task=f"A whole number, at least 0, is written in base {base}. Return {what}. The number 0 has the single digit 0.",
        body=f"digits = [number % {base}]\nwhile number >= {base}:\n"
        f"    number //= {base}\n    digits.append(number % {base})\nreturn {code}",
        draw=lambda draw: [draw.choice((draw.randint(0, 9), draw.randint(10, 5000)))],
    )


def count_range(rng: Random) -> Problem:
    """How many numbers of a range have a property."""
    a, b = rng.sample(range(2, 9), 2)
    what, code = rng.choice(
        (
            (f"divisible by {a} or by {b}, or by both", f"n % {a} == 0 or n % {b} == 0"),
            (f"divisible by {a} but not by {b}", f"n % {a} == 0 and n % {b} != 0"),
            (f"written with the digit {a} (in base 10)", f"'{a}' in str(n)"),
            ("a prime", "n > 1 and all(n % d for d in range(2, n))"),
            ("the same read forwards and backwards (in base 10)", "str(n) == str(n)[::-1]"),
        )
    )
    return Problem(
        signature="count_between(low: int, high: int) -> int",
        task=f"Return how many whole numbers n with low <= n <= high are {what}. 0 <= low; there are none where high < low.",
        body=f"return sum(1 for n in range(low, high + 1) if {code})",
        draw=lambda draw: [draw.randint(0, 60), draw.randint(40, 160)],
    )


def recurrence(rng: Random) -> Problem:
    """A sequence in which each term follows from the two before it."""
    a, b, c, m = rng.randint(1, 3), rng.randint(1, 3), rng.randint(0, 5), rng.choice((97, 101, 1000))
    first, second = rng.randint(0, 4), rng.randint(0, 4)
    return Problem(
        signature="term(n: int) -> int",
        task=f"A sequence begins with f(0) = {first} and f(1) = {second}; then f(n) = ({a} * f(n-1) + {b} * f(n-2) + {c}) mod {m}. "
        "Return f(n), for n from 0.",
        body=f"older, newer = {first}, {second}\nfor _ in range(n):\n"
        f"    older, newer = newer, ({a} * newer + {b} * older + {c}) % {m}\nreturn older",
        draw=lambda draw: [draw.randint(0, 40)],
    )


def collatz(rng: Random) -> Problem:
    """How long a walk over the numbers takes."""
    down, up, end = rng.randint(2, 4), rng.randint(1, 6), rng.randint(1, 4)
    return Problem(
        signature="num_steps(number: int) -> int",
        task=f"Start from a whole number, at least 1. While it is greater than {end}: if {down} divides it, divide it by {down}, "
        f"otherwise subtract {up} from it. Return the number of such steps.",
        body=f"steps = 0\nwhile number > {end}:\n"
        f"    number = number // {down} if number % {down} == 0 else number - {up}\n    steps += 1\nreturn steps",
        draw=lambda draw: [draw.randint(1, 300)],
    )


def clamp(rng: Random) -> Problem:
    """A piecewise function."""
    low, width, k, c = rng.randint(-10, 5), rng.randint(5, 15), rng.randint(2, 5), rng.randint(1, 9)
    high = low + width
    return Problem(
        signature="piecewise(x: int) -> int",
        task=f"Return {k} * x for a whole number x less than {low}, x + {c} for x from {low} to {high}, both included, "
        f"and x - {high} for a greater x.",
        body=f"if x < {low}:\n    return {k} * x\nif x <= {high}:\n    return x + {c}\nreturn x - {high}",
        draw=lambda draw: [draw.choice((low - 1, low, high, high + 1, draw.randint(low - 15, high + 15), draw.randint(-99, 99)))],
    )


def common_factors(rng: Random) -> Problem:
    """Greatest common divisors and least common multiples, with a twist."""
    k = rng.randint(2, 6)
    what, code = rng.choice(
        (
            (f"the greatest common divisor of a and b, multiplied by {k}", f"{k} * x"),
            ("the least common multiple of a and b", "a * b // x"),
            (f"True if a and b have a common divisor of at least {k}, otherwise False", f"x >= {k}"),
        )
    )
    return Problem(
        signature=f"common(a: int, b: int) -> {'bool' if 'True' in what else 'int'}",
        task=f"For whole numbers a and b, both at least 1, return {what}.",
        body=f"x, y = a, b\nwhile y:\n    x, y = y, x % y\nreturn {code}",
        draw=lambda draw: [draw.randint(1, 12) * (f := draw.randint(1, 8)), draw.randint(1, 12) * f],
    )


def stairs(rng: Random) -> Problem:
    """The ways to climb with some kinds of steps."""
    steps = sorted(rng.sample(range(1, 6), rng.randint(2, 3)))
    kinds = f"{', '.join(map(str, steps[:-1]))} or {steps[-1]}"
    return Problem(
        signature="num_ways(n: int) -> int",
        task=f"A staircase has n stairs, n at least 0. With each move you climb {kinds} stairs. "
        "Return in how many ways you can reach exactly the top; the order of moves matters, and 0 stairs are climbed in 1 way.",
        body=f"ways = [1]\nfor i in range(1, n + 1):\n"
        f"    ways.append(sum(ways[i - step] for step in {tuple(steps)} if step <= i))\nreturn ways[n]",
        draw=lambda draw: [draw.randint(0, 18)],
    )


def nested_sum(rng: Random) -> Problem:
    """A sum over nested lists in which the depth counts."""
    k = rng.randint(2, 5)
    what, code = rng.choice(
        (
            ("multiplied by its depth", "item * depth"),
            (f"multiplied by {k} for each level below the first", f"item * {k} ** (depth - 1)"),
            (f"if its depth is less than {k}, and others left out", f"item if depth < {k} else 0"),
        )
    )
    return Problem(
        signature="nested_sum(items: list, depth: int = 1) -> int",
        task="A list holds whole numbers and lists of the same kind. A number in the outer list has depth 1, one in a list within it "
        f"depth 2, and so on. Return the sum of all numbers, each counted {what}. It is called with the list alone.",
        body="total = 0\nfor item in items:\n    if isinstance(item, list):\n        total += nested_sum(item, depth + 1)\n"
        f"    else:\n        total += {code}\nreturn total",
        draw=lambda draw: [_nested(draw, 3)],
    )


def _nested(rng: Random, levels: int) -> list[Any]:
    return [_nested(rng, levels - 1) if levels and rng.random() < 0.35 else rng.randint(0, 9) for _ in range(rng.randint(0, 4))]


def grid_paths(rng: Random) -> Problem:
    """Paths over a grid with a diagonal move or a closed cell."""
    row, column = rng.randint(1, 2), rng.randint(1, 2)
    if rng.random() < 0.5:
        moves, closed = "one cell to the right, one cell down, or one cell diagonally right and down", ""
        ways, least = "ways.get((r - 1, c), 0) + ways.get((r, c - 1), 0) + ways.get((r - 1, c - 1), 0)", (1, 1)
    else:
        moves = "one cell to the right or one cell down"
        closed = f"The cell that is {row} rows above the last one and {column} columns left of it is closed: no path goes through it. "
        ways = f"0 if (rows - r, columns - c) == {(row + 1, column + 1)} else ways.get((r - 1, c), 0) + ways.get((r, c - 1), 0)"
        least = (row + 2, column + 2)
    return Problem(
        signature="count_paths(rows: int, columns: int) -> int",
        task=f"On a grid with at least {least[0]} rows and {least[1]} columns, a path leads from the first cell (top left) to the last one "
        f"(bottom right); each move goes {moves}. {closed}Return the number of paths.",
        body="ways = {(0, 0): 1}\nfor r in range(rows):\n    for c in range(columns):\n        if (r, c) != (0, 0):\n"
        f"            ways[r, c] = {ways}\nreturn ways[rows - 1, columns - 1]",
        draw=lambda draw: [draw.randint(least[0], 7), draw.randint(least[1], 7)],
    )


KINDS = (digits, count_range, recurrence, collatz, clamp, common_factors, stairs, nested_sum, grid_paths)
