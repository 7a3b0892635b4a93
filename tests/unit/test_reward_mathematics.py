"""The reward `math`: it agrees with math-verify, and ends on whatever the policy writes."""

import random
import subprocess
import sys
import threading

import math_verify
import numpy as np
import pytest

from posttrain.rewards.mathematics import Math, final_answer, is_absurd, parse_reference
from posttrain.types import Episode, Prompt, Turn


def episode(text):
    turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="test/1", turns=[turn], status="complete")


def prompt(reference):
    return Prompt(id="test/1", task="test", messages=[], reference=reference)


def score(text, reference):
    return Math().score(prompt(reference), episode(text))


AGREED = [
    (r"\frac{1}{2}", r"\boxed{\frac{2}{4}}", 1),
    (r"\frac{1}{2}", r"\boxed{\dfrac12}", 1),
    (r"\frac{1}{2}", r"\boxed{0.5}", 1),
    (r"\frac{1}{2}", r"so it is $\frac{1}{3}$", 0),
    ("12", "The answer is 12.", 1),
    ("12", r"\boxed{1,200}", 0),
    ("1200", r"\boxed{1,200}", 1),
    ("{1,2}", r"\boxed{\{2,1\}}", 1),
    ("{1,2}", r"\boxed{1, 2}", 1),
    ("{1,2}", r"\boxed{\{1,3\}}", 0),
    ("[0,1)", r"\boxed{[0,1)}", 1),
    ("[0,1)", r"\boxed{[0,1]}", 0),
    (r"(-\infty,2]\cup(3,\infty)", r"\boxed{(-\infty, 2] \cup (3, \infty)}", 1),
    ("x=3", r"\boxed{3}", 1),
    ("3", "$x=3$", 1),
    ("x=3", r"\boxed{x=4}", 0),
    (r"5 \text{ cm}", r"\boxed{5}", 1),
    ("5", r"\boxed{5\text{ km}}", 1),
    (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", 1),
    (r"x^2+2x+1", r"\boxed{(x+1)^2}", 1),
    (r"x^2+y^2=1", r"\boxed{y^2+x^2-1=0}", 1),
    (r"\text{even}", r"\boxed{\text{even}}", 1),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}", 1),
    ("2^{2024}-1", r"\boxed{2^{2024}-1}", 1),
    ("120", r"\boxed{5!}", 1),
    ("7", r"first I had \boxed{6} but one of the cases is missing there: it must be \boxed{7}", 1),
    ("6", r"first I had \boxed{6} but one of the cases is missing there: it must be \boxed{7}", 0),
]


@pytest.mark.parametrize(("reference", "text", "expected"), AGREED)
def test_it_agrees_with_math_verify(reference, text, expected):
    gold = math_verify.parse(f"\\boxed{{{reference}}}")
    assert math_verify.verify(gold, math_verify.parse(text)) == bool(expected)
    assert score(text, reference) == expected


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        (r"\boxed{6} \boxed{7}", "7", 1),  # math-verify alone would join neighbours
        (r"\boxed{6} \boxed{7}", "6", 0),
        (r"\boxed{7} and then \boxed{6", "7", 1),
        (r"<think>\boxed{7}</think> \boxed{6}", "7", 0),
        (r"<think>so it is \boxed{7}", "7", 0),
        ("", "7", 0),
        (r"\boxed{}", "7", 0),
        ("\N{SNOWMAN}\N{FULLWIDTH DIGIT SEVEN}\x00\ud800", "8", 0),
        ("word " * 20_000 + r"\boxed{7}", "7", 1),
        (r"\boxed{7}" + " word" * 20_000, "7", 0),
        (r"\boxed{7" + " + 0" * 400 + "}", "7", 0),
        ("0.25", 0.25, 1),
        ("4", 4, 1),
    ],
)
def test_which_part_of_the_answer_counts(text, reference, expected):
    assert score(text, reference) == expected


def test_the_innermost_last_box_is_compared():
    assert final_answer(r"\boxed{1} \boxed{a \boxed{\{2\}}}") == r"\boxed{\{2\}}"


@pytest.mark.parametrize("reference", ["", " ", r"\frac{", "$", "!!!", None, True, [1], {"a": 1}, "9^{9^{9^9}}", "1+" * 900 + "1"])
def test_a_reference_that_is_no_mathematics_is_a_mistake_in_the_data(reference):
    with pytest.raises(ValueError, match="the reference is"):
        score("5", reference)


def test_a_broken_reference_raises_before_the_answer_is_looked_at():
    with pytest.raises(ValueError, match="the reference is"):
        score("", r"\frac{")


ABSURD = [
    "9^9^9^9",
    "9^{9^{9^9}}",
    "9**9**9**9",
    r"{10^{10}}^{10^{10}}",
    r"\sin(10^{10^{10}})",
    "e^{e^{e^{e^{9}}}}",
    "1e99999999",
    "100000!",
    "9!!!!",
    r"\binom{1000000000}{500000000}",
    r"\Gamma(100000000)",
    r"\operatorname{eye}(3000)",
    r"\sum_{i=1}^{1000000000} i^i",
    r"\int e^{-x^2 \sin(x)} dx",
    "(x+y+z+w)^{300}",
    "((x+1)^{50}+1)^{50}",
    "x^" * 40 + "2",
    "2^" * 20 + "2",
    "(" * 60 + "1" + ")" * 60,
    "{" * 60 + "1" + "}" * 60,
    r"\frac{" * 40 + "1" + "}{2}" * 40,
    "|" * 40 + "x" + "|" * 40,
    "9" * 900,
    r"x^{17}+3x^5+\sin(x)=e^x",
    r"\sqrt{x+\sqrt{x+1}}=\sqrt{x^3+2}+x^5",
]


@pytest.mark.parametrize("content", ABSURD)
@pytest.mark.timeout(20)
def test_what_would_never_end_is_wrong(content):
    assert score(f"\\boxed{{{content}}}", "5") == 0.0
    assert score(f"\\boxed{{{content}}}", "x=5") == 0.0


def test_ordinary_mathematics_is_not_absurd():
    for _, text, _ in AGREED:
        assert not is_absurd(text)
    for reference in (r"\frac{\sqrt{1+\frac{1}{x^{2}}}}{2}", r"\binom{10}{3}", "10^{100}", "(x+1)^{20}", r"y=\sin(x)+e^x", r"\infty"):
        assert parse_reference(reference)


@pytest.mark.parametrize("piece", ["\\boxed{", "{", "}", "$", "\\", "^", "answer is ", "\n", "1 ", "\\[", "|", "<think>", "\\boxed{1}"])
@pytest.mark.timeout(10)
def test_huge_texts_are_scored_in_time(piece):
    assert score(piece * (100_000 // len(piece)), "5") == 0.0


def test_it_works_outside_the_main_thread():
    scores = []
    thread = threading.Thread(target=lambda: scores.append(score(r"\boxed{\frac{2}{4}}", "1/2")))
    thread.start()
    thread.join()
    assert scores == [1.0]


PIECES = (
    *(r"\boxed{", "}", "(", ")", "[", "]", r"\frac{1}{2}", r"\frac", r"\sqrt{", r"\left(", r"\right)"),
    *("12", "0.5", "x", "y", "=", "<", "^", "_", "+", "-", "*", "/", "!", ",", ";"),
    *("$", r"\text{ab}", r"\pi", r"\{", r"\}", "|", "%", "e", r"\infty"),
)


def garbage(rng):
    text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 14)))
    return f"\\boxed{{{text}}}" if rng.random() < 0.5 else text


@pytest.mark.timeout(300)
def test_malformed_texts_are_scored():
    rng = random.Random(0)
    assert {score(garbage(rng), "5") for _ in range(300)} <= {0.0, 1.0}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_malformed_texts_are_scored():
    rng = random.Random(1)
    for index in range(10_000):
        assert score(garbage(rng), ("5", "x=3", r"\{1,2\}", "[0,1)")[index % 4]) in (0.0, 1.0)


def test_sympy_is_imported_at_the_first_score_only():
    program = "import posttrain.rewards.mathematics, sys; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.split())
    assert not loaded & {"sympy", "math_verify", "torch"}
