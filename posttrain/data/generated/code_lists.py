"""Code problems on lists and dictionaries. Each function makes one problem, with constants and shape drawn from `rng`."""

from random import Random
from typing import Any

from posttrain.data.generated.code_base import WORDS, Problem, integers, some_words


def list_pipeline(rng: Random) -> Problem:
    """Keep some numbers, change them, and bring them down to one value: hundreds of shapes, times their constants."""
    k, c, m = rng.randint(2, 5), rng.randint(-5, 20), rng.randint(2, 9)
    keeps = {
        f"that {k} divides": f"number % {k} == 0",
        f"that are greater than {c}": f"number > {c}",
        f"that are at most {c}": f"number <= {c}",
        "that are odd": "number % 2 == 1",
        f"whose absolute value is at least {abs(c)}": f"abs(number) >= {abs(c)}",
        "that stand at an even index (the first has index 0)": "index % 2 == 0",
    }
    changes = {
        f"multiply each by {m}": f"number * {m}",
        f"subtract {m} from each": f"number - {m}",
        "square each": "number * number",
        "take the absolute value of each": "abs(number)",
        f"take each modulo {m} (the result is never negative)": f"number % {m}",
        "negate each": "-number",
    }
    results = {
        ("their sum, 0 if there are none", "int"): "sum(kept)",
        ("the largest of them, or -1 if there are none", "int"): "max(kept, default=-1)",
        ("the smallest of them, or -1 if there are none", "int"): "min(kept, default=-1)",
        ("how many different values there are", "int"): "len(set(kept))",
        ("them as a list in ascending order", "list[int]"): "sorted(kept)",
        ("them as a list in reversed order of the input", "list[int]"): "kept[::-1]",
    }
    keep, change, (result, kind) = rng.choice([*keeps]), rng.choice([*changes]), rng.choice([*results])
    return Problem(
        signature=f"pipeline(numbers: list[int]) -> {kind}",
        task=f"Of a list of whole numbers, keep those {keep}. Then {change}. Return {result}.",
        body=f"kept = [{changes[change]} for index, number in enumerate(numbers) if {keeps[keep]}]\nreturn {results[result, kind]}",
        draw=lambda draw: [integers(draw)],
    )


def rotate(rng: Random) -> Problem:
    """A list moved round by a constant."""
    k, side = rng.randint(1, 6), rng.choice(("left", "right"))
    return Problem(
        signature="rotate(items: list[int]) -> list[int]",
        task=f"Return the list rotated to the {side} by {k} places: what leaves at one end comes in again at the other. "
        "A list may be shorter than that, and an empty list stays empty.",
        body=f"if not items:\n    return []\nshift = {k if side == 'left' else -k} % len(items)\nreturn items[shift:] + items[:shift]",
        draw=lambda draw: [integers(draw)],
    )


def chunk(rng: Random) -> Problem:
    """Sums, largest or first elements of pieces of a constant length."""
    size = rng.randint(2, 4)
    what, code = rng.choice((("the sum", "sum(piece)"), ("the largest element", "max(piece)"), ("the last element", "piece[-1]")))
    return Problem(
        signature="of_pieces(numbers: list[int]) -> list[int]",
        task=f"Cut the list into pieces of {size} elements, from the start; the last piece may be shorter. "
        f"Return the list of {what} of each piece, in order.",
        body=f"pieces = [numbers[start : start + {size}] for start in range(0, len(numbers), {size})]\nreturn [{code} for piece in pieces]",
        draw=lambda draw: [integers(draw)],
    )


def window(rng: Random) -> Problem:
    """The best stretch of a constant length."""
    size = rng.randint(2, 4)
    word, code = rng.choice((("largest", "max"), ("smallest", "min")))
    return Problem(
        signature="best_window(numbers: list[int]) -> int | None",
        task=f"Return the {word} sum of {size} elements that stand next to each other, or None if the list is shorter than {size}.",
        body=f"if len(numbers) < {size}:\n    return None\n"
        f"return {code}(sum(numbers[start : start + {size}]) for start in range(len(numbers) - {size - 1}))",
        draw=lambda draw: [integers(draw)],
    )


def pairs(rng: Random) -> Problem:
    """Pairs of places whose sum, difference or product is a constant's affair."""
    target, k = rng.randint(0, 25), rng.randint(2, 5)
    what, code = rng.choice(
        (
            (f"add up to {target}", f"numbers[i] + numbers[j] == {target}"),
            (f"differ by at most {k}", f"abs(numbers[i] - numbers[j]) <= {k}"),
            (f"have a product that {k} divides", f"numbers[i] * numbers[j] % {k} == 0"),
            ("stand in the wrong order, the larger one first", "numbers[i] > numbers[j]"),
        )
    )
    return Problem(
        signature="count_pairs(numbers: list[int]) -> int",
        task=f"Return how many pairs of places i < j there are whose numbers {what}.",
        body="total = 0\nfor i in range(len(numbers)):\n    for j in range(i + 1, len(numbers)):\n"
        f"        if {code}:\n            total += 1\nreturn total",
        draw=lambda draw: [integers(draw, -5, 20)],
    )


def longest_run(rng: Random) -> Problem:
    """The longest stretch in which each number follows from the one before."""
    k = rng.randint(1, 6)
    what, code = rng.choice(
        (
            (f"each number is greater than the one before it by at least {k}", f"number - before >= {k}"),
            (f"each number differs from the one before it by at most {k}", f"abs(number - before) <= {k}"),
            ("each number is smaller than the one before it", "number < before"),
        )
    )
    return Problem(
        signature="longest_run(numbers: list[int]) -> int",
        task=f"Return the length of the longest stretch of neighbours in which {what}. "
        "A single number is a stretch of length 1; the answer for an empty list is 0.",
        body="best = current = 0\nbefore = 0\nfor number in numbers:\n"
        f"    current = current + 1 if current and {code} else 1\n    best = max(best, current)\n    before = number\nreturn best",
        draw=lambda draw: [integers(draw, 0, 12)],
    )


def matrix(rng: Random) -> Problem:
    """Something of a table of numbers."""
    k = rng.randint(2, 9)
    what, kind, code = rng.choice(
        (
            ("the list of the sums of its columns", "list[int]", "[sum(column) for column in zip(*rows)]"),
            (
                f"it transposed, with each number multiplied by {k}",
                "list[list[int]]",
                f"[[{k} * x for x in column] for column in zip(*rows)]",
            ),
            (f"how many of its numbers are greater than {k}", "int", f"sum(x > {k} for row in rows for x in row)"),
            ("it turned by 90 degrees clockwise", "list[list[int]]", "[list(column) for column in zip(*rows[::-1])]"),
            ("the list of the largest number of each row", "list[int]", "[max(row) for row in rows]"),
        )
    )
    return Problem(
        signature=f"of_table(rows: list[list[int]]) -> {kind}",
        task=f"A table is given as a list of at least one row; all rows are equally long and not empty. Return {what}.",
        body=f"return {code}",
        draw=_table,
    )


def _table(rng: Random) -> list[Any]:
    height, width = rng.randint(1, 4), rng.randint(1, 4)
    return [[[rng.randint(-9, 20) for _ in range(width)] for _ in range(height)]]


def group_by(rng: Random) -> Problem:
    """Words or numbers sorted into a dictionary."""
    k = rng.randint(2, 5)
    if rng.random() < 0.5:
        what, code = rng.choice(
            (("its first letter", "word[0]"), ("its last letter", "word[-1]"), (f"its first {k} letters", f"word[:{k}]"))
        )
        return Problem(
            signature="group(words: list[str]) -> dict[str, list[str]]",
            task=f"Group the words by {what}: return a dictionary from each such text to the list of the words that have it, "
            "in the order of the input.",
            body=f"groups = {{}}\nfor word in words:\n    groups.setdefault({code}, []).append(word)\nreturn groups",
            draw=lambda draw: [some_words(draw)],
        )
    return Problem(
        signature="group(numbers: list[int]) -> dict[str, int]",
        task=f"Return a dictionary that says how many of the numbers leave each remainder when divided by {k}. "
        f"Its keys are the remainders as text, such as '0'; a remainder (0 to {k - 1}) that does not occur is left out.",
        body=f"counts = {{}}\nfor number in numbers:\n    key = str(number % {k})\n    counts[key] = counts.get(key, 0) + 1\nreturn counts",
        draw=lambda draw: [integers(draw)],
    )


def totals(rng: Random) -> Problem:
    """Amounts added up by name, with a threshold."""
    limit = rng.randint(5, 30)
    what, code = rng.choice(
        ((f"is at least {limit}", f">= {limit}"), (f"is less than {limit}", f"< {limit}"), ("is an even number", "% 2 == 0"))
    )
    return Problem(
        signature="totals(sales: list[list]) -> dict[str, int]",
        task="Each sale is a list [name, amount]. Add up the amounts of each name and return a dictionary from name to total, "
        f"of those names only whose total {what}.",
        body="sums = {}\nfor name, amount in sales:\n    sums[name] = sums.get(name, 0) + amount\n"
        f"return {{name: total for name, total in sums.items() if total {code}}}",
        draw=lambda draw: [[[draw.choice(WORDS[:4]), draw.randint(1, 20)] for _ in range(draw.randint(0, 7))]],
    )


KINDS = (list_pipeline, rotate, chunk, window, pairs, longest_run, matrix, group_by, totals)
