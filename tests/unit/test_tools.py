"""The tools that come with the toolkit: the calculator's grammar, and Python in the sandbox."""

import json
import struct
import zlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rollout.tools.base import ToolError
from posttrain.rollout.tools.calculator import Calculator, value_of, written
from posttrain.rollout.tools.python import Python


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("2+3", "5"), ("(3 + 4) * 2 ** 5 / 7", "32"), ("1/3", "0.333333333333"), ("0.1+0.2", "0.3"), ("2^10", "1024"), ("7//2", "3"),
        ("sqrt(16)", "4"), ("sqrt(2)", "1.41421356237"), ("round(2.567, 2)", "2.57"), ("max(1,2,3)", "3"), ("2**-3", "0.125"),
        ("2**999 - 2**999 + 1", "1"), ("123456789 * 987654321", "121932631112635269"),
        ("3 \N{MULTIPLICATION SIGN} 4 \N{DIVISION SIGN} 6 \N{MINUS SIGN} 5", "-3"), ("log(e)", "1"),
    ],
)  # fmt: skip
def test_the_calculator_calculates(expression, expected):
    assert Calculator().call({"expression": expression}, []).text == expected


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("9**9**9", "too large"), ("10**400", "too large"), ("exp(1000)", "too large"), ("1e400", "too large"), ("1/0", "division by zero"),
        ("log(0)", "math domain"), ("(-8)**(1/3)", "not a real number"), ("(" * 300, "too many nested"),
        ("max()", "does not take 0 numbers"),
        ("f(2)", "no function 'f'"), ("__import__('os')", "may hold numbers"), ("[1]*10", "may hold numbers"), ("'a'", "may hold numbers"),
        ("x := 3", "cannot be evaluated"), ("True", "may hold numbers"), ("", "cannot be evaluated"), ("\0", "null bytes"),
        ("1" * 501, "expected at most 500"), ("sqrt.__class__", "may hold numbers"), ("(lambda: 1)()", "may hold numbers"),
        ("round(1, 10**9)", "expected a whole number of at most 60"),
    ],
)  # fmt: skip
def test_the_calculator_says_what_is_wrong(expression, error):
    with pytest.raises(ToolError, match=error.replace("(", "\\(")):
        Calculator().call({"expression": expression}, [])


@pytest.mark.parametrize("arguments", [{}, {"expression": 3}, {"expression": None}])
def test_the_calculator_wants_an_expression(arguments):
    with pytest.raises(ToolError, match="expression is missing or not a text"):
        Calculator().call(arguments, [])


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9), st.sampled_from("+-*/"))
def test_whole_numbers_are_exact(a, b, sign):
    if sign == "/" and b == 0:
        return
    exact = {"+": Fraction(a) + b, "-": Fraction(a) - b, "*": Fraction(a) * b, "/": Fraction(a, b or 1)}[sign]
    assert value_of(f"({a}) {sign} ({b})") == exact
    assert written(exact) == (str(exact) if exact.denominator == 1 else f"{float(exact):.12g}")


@given(st.text(alphabet="0123456789.+-*/%() esqrtlogmaxin,^", max_size=40))
def test_any_text_is_a_number_or_a_tool_error(text):
    try:
        assert written(value_of(text))
    except ToolError as error:
        assert str(error)


def png(width, height):
    """A grey picture, written with the standard library alone, as the policy's code has to."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + b"\x80" * width) * height)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


@pytest.fixture(scope="module")
def python():
    return Python()


def run(python, code):
    return python.call({"code": code}, [])


def test_python_prints_and_shows_a_last_value(python):
    assert run(python, "print(6 * 7)").text == "42"
    assert run(python, "x = [n * n for n in range(4)]\nx").text == "[0, 1, 4, 9]"
    assert run(python, "x = 1").text == "(the code printed nothing)"
    assert run(python, "import sys\nprint('a')\nsys.exit(1)").text == "a"


def test_python_says_what_went_wrong(python):
    text = run(python, "def f():\n    return 1 / 0\n\nf()").text
    assert text.endswith("ZeroDivisionError: division by zero") and "return 1 / 0" in text and "main.py" not in text
    assert "SyntaxError" in run(python, "print(").text
    assert (
        "OSError" in run(python, "import socket; socket.socket()").text
        or "PermissionError" in run(python, "import socket; socket.socket()").text
    )
    assert "ModuleNotFoundError" in run(python, "import numpy").text
    assert run(python, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)").text.startswith("(the code ended with status -9")
    with pytest.raises(ToolError, match="code is missing"):
        python.call({"expression": "1"}, [])


def test_python_is_stopped_at_its_limits(python):
    assert "passed its limit: output" in run(python, "while True: print('x' * 1000)").text
    assert (
        "passed its limit: memory" in run(python, "x = bytearray(10 ** 10)").text
        or "MemoryError" in run(python, "x = bytearray(10 ** 10)").text
    )


def test_python_shows_the_pictures_that_it_leaves(python):
    code = (
        f"for name in 'abcdef':\n    open(name + '.png', 'wb').write({png(5, 3)!r})\nopen('c.png', 'w').write('no picture')\nprint('done')"
    )
    result = run(python, code)
    assert [(image.width, image.height, image.data) for image in result.images] == [(5, 3, png(5, 3))] * 3
    assert result.text == "done\n(c.png is no PNG picture of at most 16000000 pixels)"
    huge = run(python, f"open('a.png', 'wb').write({png(1, 1)!r}.replace(bytes([0,0,0,1,0,0,0,1]), bytes([0,1,0,0,0,1,0,0])))")
    assert huge.images == [] and "no PNG picture" in huge.text


def test_python_that_writes_results_of_its_own_makes_no_sense_and_no_harm(python):
    lines = [b"nonsense", b"[1]", json.dumps({"name": 1, "data": "?"}).encode(), b"\xff"]
    assert run(python, f"import os\nfor line in {lines!r}: os.write(3, line + b'\\n')").images == []
