"""The reward `instructions`: every constraint with a text that satisfies it and one that does not, and broken data."""

# ruff: noqa: RUF001 - full-width punctuation is meant

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.rewards.constraints import CONSTRAINTS
from posttrain.rewards.constraints_base import check_parameters
from posttrain.rewards.constraints_code import MAX_CODE_CHARACTERS
from posttrain.rewards.instructions import Instructions
from posttrain.types import Episode, Prompt, Turn


def fence(code, label="python"):
    return f"Here it is:\n```{label}\n{code}\n```\nDone."


def python(type_, holds, fails, **parameters):
    return type_, parameters, fence(holds), fence(fails)


HINTED = "def f(a: int, *b: int, c: int = 1, **d: int) -> int:\n    return a"
RECURSIVE = "def f(n):\n    return 1 if n < 2 else n * f(n - 1)"
LOOP = "for i in range(3):\n    print(i)"
CLASS = (
    'class Stack:\n    """A stack."""\n\n    def __init__(self):\n        self.items = []\n\n    def push(self, x):\n        """Adds."""'
)

# type, parameters, a text that satisfies it, a text that does not
TABLE = [
    ("characters", {"min": 3, "max": 4}, "我是谁", "我是谁呢？"),
    ("characters", {"min": 3}, "abc", "ab"),
    ("words", {"max": 3}, "three short words", "there are four words"),
    ("words", {"min": 5, "max": 5}, "我爱猫 very much", "我爱猫 much"),
    ("sentences", {"min": 2, "max": 2}, "One. Two.", "One. Two. Three."),
    ("sentences", {"min": 3}, "一。二！三？", "一。二"),
    ("paragraphs", {"min": 2, "max": 2}, "a\nb\n\nc", "a\nb\nc"),
    ("lines", {"max": 2}, "a\n\nb\n", "a\nb\nc"),
    ("unique_words", {"max": 2}, "no No NO yes", "no, yes, perhaps"),
    ("longest_sentence", {"max": 3}, "One two three. Four.", "One two. Three four five six."),
    ("longest_paragraph", {"max": 2}, "one two\n\nthree", "one\ntwo three"),
    ("keyword", {"keyword": "cat", "min": 2}, "Cat and cat.", "A cat and cats, concatenated."),
    ("keyword", {"keyword": "猫", "min": 2, "max": 2}, "大猫和小猫", "小猫"),
    ("keyword", {"keyword": "Python", "min": 1}, "我用Python写", "我用Pythonic写"),
    ("keyword", {"keyword": "C++", "max": 0}, "I write C.", "I write c++."),
    ("letter", {"letter": "e", "max": 2}, "Every owl", "Every egg"),
    ("capital_words", {"min": 2}, "NASA and ESA", "NASA and I"),
    ("emojis", {"min": 2, "max": 2}, "👍🏽 and 👨‍👩‍👧", "👍🏽"),
    ("emojis", {"max": 0}, "5 * 3 # 2", "🇫🇷"),
    ("questions", {"min": 1, "max": 1}, "Why? Because.", "Why? 为什么？"),
    ("exclamations", {"max": 0}, "Good.", "好！"),
    ("bullets", {"min": 2, "max": 2}, "Two:\n- one\n  * two", "- one\n- two\n- three"),
    ("bullets", {"min": 1}, "• one", "-one\n---\n**bold**"),
    ("numbered_items", {"min": 3, "max": 3}, "1. a\n2. b\n3) c", "1. a\n3. b\n2. c"),
    ("numbered_items", {"min": 2}, "1、甲\n2、乙", "1、甲"),
    ("headings", {"min": 2}, "# A\ntext\n## B", "# A\n#B\n```\n# C\n```"),
    ("heading_levels", {"min": 2}, "# A\n## B", "# A\n# B"),
    ("sections", {"marker": "SECTION", "min": 2, "max": 2}, "SECTION 1\na\n## SECTION 2\nb", "SECTION 1\na SECTION 2"),
    ("highlights", {"min": 2}, "*one* and **two**", "* one\n* two *three*"),
    ("placeholders", {"min": 2}, "Dear [name], in [city]", "Dear [name], see [this](x)"),
    ("table_rows", {"min": 2, "max": 2}, "| a | b |\n|---|:-:|\n| 1 | 2 |", "| a | b |\n|---|---|"),
    ("code_blocks", {"min": 1, "max": 1}, "```\nx\n```", "```\nx"),
    ("keywords_present", {"keywords": ["sun", "月亮"]}, "The SUN, 月亮", "The sun"),
    ("keywords_absent", {"keywords": ["sun", "月亮"]}, "Sunny", "看月亮"),
    ("keywords_in_order", {"keywords": ["one", "two"]}, "two, one, two", "two and one"),
    ("uppercase", {}, "LOUD 42!", "Loud"),
    ("lowercase", {}, "quiet 42!", "Quiet"),
    ("title_case", {}, "The Lord of the Rings", "The lord of the Rings"),
    ("no_commas", {}, "One and two; 1.000", "一，二"),
    ("no_commas", {}, "一二", "one, two"),
    ("no_digits", {}, "five 五", "5 apples"),
    ("no_punctuation", {}, "just words", "words."),
    ("ends_with_punctuation", {}, "他说：“好。”", "so it goes"),
    ("sentences_end_with", {"marks": ["!", "！"]}, "Yes! 好！", "Yes! No."),
    ("starts_with", {"prefix": "Dear"}, "Dear Ann, hello", "My Dear Ann"),
    ("ends_with", {"suffix": "Is that all?"}, "Yes. Is that all?", "Is that all? Yes."),
    ("first_word", {"word": "yes"}, "**Yes**, it is", "Yesterday it was"),
    ("last_word", {"word": "end"}, "This is the END.", "The end is near"),
    ("sentences_start_with", {"word": "so"}, "So it is. So be it.", "So it is. Be it."),
    ("quoted", {}, '"all of it"', '"one" and "two"'),
    ("quoted", {}, "「全部」", "「全部"),
    ("no_repeated_words", {}, "each once only", "Again and again"),
    ("one_of", {"options": ["yes", "no"]}, "**Yes.**", "yes and no"),
    ("repeats_prompt", {"prompt": "What is 2 + 3?"}, "What is 2 + 3?\nFive.", "Five."),
    ("repeats_prompt", {"prompt": "What is it?"}, "What is it? Five.", "What is it?"),
    ("language_is", {"language": "de"}, "Der Zug kommt um zwölf Uhr an.", "The train arrives at noon."),
    ("language_is", {"language": "zh"}, "火车中午到达。", "電車は正午に到着します。"),
    ("postscript", {"marker": "P.S."}, "Hello.\n\nP.S. Bring milk.", "P.S. Bring milk.\n\nHello."),
    ("postscript", {"marker": "附言"}, "你好。\n\n附言：带牛奶。", "你好。\n\n附言"),
    ("title", {}, "<<A Day>>\nIt rained.", "<< >> A Day"),
    ("title", {}, "《一天》\n下雨了。", "〈一天〉"),
    ("json_only", {}, '```json\n{"a": [1]}\n```', 'Here: {"a": [1]}'),
    ("json_only", {}, "[1, 2]", "12"),
    ("two_responses", {}, "One.\n******\nTwo.", "One.\n******\nOne."),
    ("two_responses", {}, "One. ****** Two.", "a ****** b ****** c"),
    ("paragraph_starts_with", {"number": 2, "prefix": "Second"}, "First.\n\nsecond one.", "Second.\n\nFirst."),
    ("paragraphs_separated_by", {"separator": "***"}, "a\n***\nb", "a *** b\n***\n"),
    ("no_markdown", {}, "plain 3 * 4 text", "some **bold** text"),
    python("code_lines", "a = 1\n\nb = 2", "a = 1\nb = 2\nc = 3", max=2),
    python("code_longest_line", "a = 1", "a = 1  # one", max=10),
    python("code_functions", "def f(): pass\ndef g(): pass", "def f(): pass", min=2),
    python("code_longest_function", "def f():\n    pass", "def f():\n    a = 1\n    return a", max=2),
    python("code_loops", "[i for i in range(3)]", LOOP, max=0),
    python("code_loops", "while True:\n    break", "print(1)", min=1),
    python("code_comprehensions", "[i for i in range(3)]", LOOP, min=1),
    python("code_recursive_functions", RECURSIVE, "def f(n):\n    return g(n)", min=1),
    python(
        "code_recursive_functions", "class A:\n    def f(self):\n        self.f()", "class A:\n    def f(self, o):\n        o.f()", min=1
    ),
    python("code_comments", "a = 1  # one", 'a = "# one"\nb = 2  # two\n# three', min=1, max=1),
    ("code_parses", {}, fence("print(1)", "py"), fence("print(")),
    ("code_parses", {}, fence("print(1)", ""), fence("print(1)", "java")),
    ("code_parses", {}, fence("print(", "python") + "\n" + fence("print(1)"), "print(1)"),
    python("code_defines_function", "async def solve(): pass", "solve = 1", name="solve"),
    python("code_defines_class", CLASS, "def Stack(): pass", name="Stack"),
    python("code_uses_name", "sorted([2, 1])", "[2, 1].sort()", name="sorted"),
    python("code_without_name", "x = 'eval'", "x.eval()", name="eval"),
    python("code_imports", "import os.path", "import oscillate", module="os"),
    python("code_imports", "from collections import deque", "from .collections import deque", module="collections.deque"),
    python("code_without_import", "os = 1", "__import__('os')", module="os"),
    python("code_without_import", "import numpy", "import importlib\nimportlib.import_module('os.path')", module="os"),
    python("code_has_type_hints", HINTED, HINTED.replace("c: int", "c")),
    python("code_has_type_hints", "class A:\n    def __init__(self, a: int): pass", "def f(a: int): pass"),
    python("code_has_docstrings", CLASS, CLASS.replace('"""Adds."""', "pass")),
    python("code_has_snake_case", "MAX_SIZE = 1\ndef find_it(a_1, _): b = 2", "def findIt(): pass"),
    python("code_has_snake_case", "class ClassName: pass", "myValue = 1"),
    python("code_indentation", "if a:\n  if b:\n    c", "if a:\n  if b:\n      c", width=2),
    python("code_indentation", "a = (\n  1)", "if a:\n\tb", width=4),
]


def score(constraints, *texts, reference=None):
    turns = [Turn(token_ids=[7], logprobs=[0.0], text=text, stop_reason="stop", policy_version=0) for text in texts]
    reference = {"constraints": constraints} if reference is None else reference
    prompt = Prompt(id="test/1", task="test", messages=[], reference=reference)
    return Instructions().score(prompt, Episode(prompt_id="test/1", turns=turns, status="complete"))


def test_every_constraint_has_a_text_that_satisfies_it_and_one_that_does_not():
    assert {row[0] for row in TABLE} == set(CONSTRAINTS)
    assert len(CONSTRAINTS) >= 30


def test_every_constraint_has_a_docstring():
    assert [name for name, check in CONSTRAINTS.items() if not check.__doc__] == []


@pytest.mark.parametrize(("name", "parameters", "holding", "failing"), TABLE)
def test_a_constraint_holds_and_fails(name, parameters, holding, failing):
    check_parameters(name, CONSTRAINTS[name], parameters)
    assert CONSTRAINTS[name](holding, **parameters) is True
    assert CONSTRAINTS[name](failing, **parameters) is False


# The reward


def test_the_score_is_the_fraction_that_holds_and_says_which():
    constraints = [{"type": "words", "max": 3}, {"type": "no_commas"}, {"type": "lowercase"}, {"type": "starts_with", "prefix": "Well"}]
    scored = score(constraints, "<think>Long, and with commas</think>Well, yes")
    assert scored.value == 0.5
    assert scored.details["constraints"] == [
        {**one, "holds": holds} for one, holds in zip(constraints, [True, False, False, True], strict=True)
    ]


def test_the_last_turn_is_judged_and_a_parameter_of_none_is_none():
    assert score([{"type": "words", "min": 1, "max": None, "keyword": None}], "a b c", "a").value == 1.0
    assert score([{"type": "words", "min": 2}], "a b c", "a").value == 0.0


@pytest.mark.parametrize("text", ["", " \n", "<think>never closed and of many words", "<think>a</think>"])
def test_an_empty_answer_satisfies_nothing(text):
    assert score([{"type": "no_commas"}, {"type": "words", "max": 9}, {"type": "no_repeated_words"}], text).value == 0.0


@pytest.mark.parametrize("reference", [{}, [], "", 5, {"constraints": []}, {"constraints": {"type": "words"}}, {"instructions": []}])
def test_a_reference_without_constraints_is_a_mistake_in_the_data(reference):
    with pytest.raises(ValueError, match=r"expected .*with at least one constraint"):
        score([], "five", reference=reference)


@pytest.mark.parametrize(
    ("constraint", "error"),
    [
        ("words", "a constraint is 'words'"),
        ({"max": 3}, "expected .*type"),
        ({"type": ["words"]}, "expected .*type"),
        ({"type": "word", "max": 3}, "unknown constraint 'word'; did you mean .*words"),
        ({"type": "words", "maximum": 3}, "constraint words has no parameter 'maximum'; did you mean max"),
        ({"type": "no_commas", "max": 3}, "no_commas has no parameter 'max'; it takes none"),
        ({"type": "words", "max": "3"}, "words: max is '3', expected a whole number from 0"),
        ({"type": "words", "max": -1}, "expected a whole number from 0"),
        ({"type": "words", "max": True}, "expected a whole number from 0"),
        ({"type": "words", "max": 2.5}, "expected a whole number from 0"),
        ({"type": "words", "min": 3, "max": 2}, "min 3 is more than max 2"),
        ({"type": "words"}, "has neither min nor max"),
        ({"type": "keyword", "min": 1}, "constraint keyword lacks keyword"),
        ({"type": "keyword", "keyword": " ", "min": 1}, "keyword is ' ', expected a text that is not empty"),
        ({"type": "keywords_present", "keywords": "sun"}, "expected a list of texts"),
        ({"type": "keywords_present", "keywords": []}, "expected a list of texts"),
        ({"type": "one_of", "options": ["a", 5]}, "expected a list of texts"),
        ({"type": "code_indentation"}, "lacks width"),
        ({"type": "code_loops", "max": None}, "has neither min nor max"),
        ({"type": "code_imports", "name": "os"}, "no parameter 'name'"),
        ({"type": "language_is", "language": "german"}, "language_is: language is 'german', expected one of ar, "),
    ],
)
def test_a_constraint_that_is_none_is_a_mistake_in_the_data_whatever_the_answer(constraint, error):
    for text in ("five", ""):
        with pytest.raises(ValueError, match=error):
            score([{"type": "no_commas"}, constraint], text)


# Code is read, never run


@pytest.mark.parametrize("type_", ["code_loops", "code_comments", "code_longest_function"])
@pytest.mark.parametrize(
    "text", ["no block", fence("x = ("), fence("a", "java"), "```python\nx = 1", fence("# " + "a" * MAX_CODE_CHARACTERS)]
)
def test_without_code_not_even_a_maximum_is_kept(type_, text):
    assert CONSTRAINTS[type_](text, max=10**9) is False
    assert CONSTRAINTS[type_](fence(""), max=10**9) is True


def test_code_never_runs(tmp_path):
    witness = tmp_path / "ran"
    attack = f"__import__('pathlib').Path({str(witness)!r}).touch()\nwhile True: pass"
    for name, parameters, _, _ in TABLE:
        CONSTRAINTS[name](fence(attack), **parameters)
    assert not witness.exists()


# Whatever the policy writes


@settings(max_examples=150)
@given(st.text() | st.text(alphabet="a我#*-`~\"'[]<>《》|.!?。 \n1💡{}:=") | st.text(alphabet="def f():\n #'x=[]\t0@").map(fence))
def test_no_text_breaks_a_constraint(text):
    for name, parameters, _, _ in TABLE:
        assert CONSTRAINTS[name](text, **parameters) in (True, False)


@given(st.text(), st.integers(0, 5), st.integers(0, 5))
def test_bounds_are_inclusive_and_narrower_bounds_are_stricter(text, low, width):
    words = CONSTRAINTS["words"]
    assert words(text, min=low, max=low + width) == any(words(text, min=number, max=number) for number in range(low, low + width + 1))
    assert words(text, min=low + 1) <= words(text, min=low)
    assert words(text, max=low) <= words(text, max=low + 1)


@given(st.lists(st.sampled_from(["sun", "moon", "star"]), min_size=1))
def test_keywords_are_counted_and_found_in_their_order(words):
    text = " and ".join(words)
    for word in ("sun", "moon", "star"):
        assert CONSTRAINTS["keyword"](text, keyword=word, min=words.count(word), max=words.count(word))
        assert CONSTRAINTS["keywords_present"](text, keywords=[word]) != CONSTRAINTS["keywords_absent"](text, keywords=[word])
    assert CONSTRAINTS["keywords_in_order"](text, keywords=words)
    assert not CONSTRAINTS["keywords_in_order"](text, keywords=[*words, "sun"])


@given(st.integers(0, 12), st.integers(0, 12))
def test_lists_are_counted(num_bullets, num_numbers):
    text = "\n".join(["Lists:", *["- item"] * num_bullets, "", *[f"{number}. item" for number in range(1, num_numbers + 1)]])
    assert CONSTRAINTS["bullets"](text, min=num_bullets, max=num_bullets)
    assert CONSTRAINTS["numbered_items"](text, min=num_numbers, max=num_numbers)


PIECES = [
    "a",
    "a ",
    "我",
    "!",
    ".",
    '."',
    "*",
    "**a",
    "*a ",
    "==a",
    "[",
    "[a",
    "<<",
    "<<a",
    "《",
    " ",
    "\n",
    " \n",
    "\n\n",
    "- ",
    "1. ",
    "#",
    "# ",
    "|",
    "|-",
]
PIECES += [
    "`",
    "```\n",
    "~~~\n`",
    "{",
    '{"a":',
    "9",
    "👍",
    "👍\u200d",
    "\U0001f1e6",
    "\u0300",
    "******",
    "'a",
    "a-",
    "1,",
    "Dr. ",
    "\0",
    "\ud800",
    "SECTION ",
    "cat",
]
CODE = [
    "a+",
    "-",
    "(",
    "[",
    "not ",
    "a.",
    "a[0]",
    "f()(",
    "lambda:",
    "x=1\n",
    "#\n",
    "# ",
    "a<",
    "a**",
    "a=",
    "'",
    "f'{",
    "@a\n",
    "if x:\n ",
    "\t",
    "\\\n",
    "def f():f()\n",
]
CODE += ["import a;", "elif a:pass\n", "1 if a else ", "[x for x in y ", "{", "a\0"]


def check_times(text, prefix=""):
    assert CONSTRAINTS["language_is"]("The model is loaded now.", language="en")
    for name, parameters in {name: parameters for name, parameters, _, _ in TABLE if name.startswith(prefix)}.items():
        started = time.process_time()
        CONSTRAINTS[name](text, **parameters)
        assert time.process_time() - started < 5, name


@pytest.mark.parametrize("piece", PIECES)
def test_every_constraint_judges_100_kb_within_a_second(piece):
    check_times((piece * 100_000)[:100_000] + "x")


@pytest.mark.parametrize("piece", CODE)
def test_every_code_constraint_judges_long_code_within_a_second(piece):
    code = (piece * MAX_CODE_CHARACTERS)[: MAX_CODE_CHARACTERS - 1] + "a"
    check_times(fence(code), "code_")
    check_times(fence(code * 2), "code_")
