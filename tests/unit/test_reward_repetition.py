"""The reward `repetition`: what counts as repeated, its sign, and its range; and how texts fall into words."""

# ruff: noqa: RUF001 - full-width punctuation is meant

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.repetition import NGRAM_WORDS, Repetition, repetition_rate
from posttrain.rewards.texts import fenced_blocks, paragraphs, sentences, without_fenced_blocks, words
from posttrain.types import Episode, Prompt, Turn


def score(*texts):
    turns = [Turn(token_ids=[7], logprobs=[0.0], text=text, stop_reason="stop", policy_version=0) for text in texts]
    prompt = Prompt(id="test/1", task="test", messages=[], reference=None)
    return Repetition().score(prompt, Episode(prompt_id="test/1", turns=turns, status="complete"))


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("", 0.0),
        ("again again again", 0.0),  # shorter than n
        ("one two three four five six", 0.0),
        ("again again again again", 0.0),  # one 4-gram
        ("again again again again again", -1 / 2),
        ("a b c d a b c d", -1 / 5),
        ("A b, c d! a B c D?", -1 / 5),  # case and punctuation do not count
        ("<think>a b c d</think>a b c d", -2 / 7),  # a think tag is a word like any other
        ("我是我是我是我是", -3 / 5),
        ("我们先加再减", 0.0),
    ],
)
def test_the_reward_is_minus_the_share_of_repeated_four_grams(text, reward):
    assert score(text).value == pytest.approx(reward)


def test_only_the_last_turn_counts_and_an_episode_without_turns_scores_nothing():
    assert score("again " * 50, "one two three four five").value == 0.0
    assert score("one two three four five", "again " * 50).value < -0.9
    assert score().value == 0.0


def test_the_details_say_rate_and_n():
    assert score("a b c d a b c d").details == {"repetition_rate": pytest.approx(0.2), "ngram_words": NGRAM_WORDS}


@given(st.text())
def test_the_reward_is_above_minus_one_and_at_most_zero(text):
    assert -1 < score(text).value <= 0


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 5))
def test_the_rate_agrees_with_counting_by_hand(sequence, n):
    grams = [tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1)]
    expected = 1 - len(set(grams)) / len(grams) if grams else 0.0
    assert repetition_rate(" ".join(sequence), n) == pytest.approx(expected)


@given(st.lists(st.integers(0, 99), min_size=8, max_size=30, unique=True))
def test_writing_it_twice_repeats_more(sequence):
    once, twice = " ".join(map(str, sequence)), " ".join(map(str, sequence * 2))
    assert repetition_rate(twice, NGRAM_WORDS) > repetition_rate(once, NGRAM_WORDS)


def test_ngrams_have_words():
    with pytest.raises(ValueError, match="n-grams of 0 words, expected at least 1"):
        repetition_rate("a", 0)


# How texts fall apart, which all rewards over words share


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("I don't know a well-known one.", ["I", "don't", "know", "a", "well-known", "one"]),
        ("3.14, 1,000 and 2.", ["3.14", "1,000", "and", "2"]),
        ("我用Python写3行代码。", ["我", "用", "Python", "写", "3", "行", "代", "码"]),
        ("ひらがな", ["ひ", "ら", "が", "な"]),
        ("답은 다섯", ["답은", "다섯"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("e\u0301te\u0301 a/b _c_ -- …", ["e\u0301te\u0301", "a", "b", "c"]),
        ("", []),
    ],
)
def test_words(text, parts):
    assert words(text) == parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Wu paid 3.14 to J. Smith, e.g. today. Then left.", ["Dr. Wu paid 3.14 to J. Smith, e.g. today.", "Then left."]),
        ("第一句。第二句！第三句？", ["第一句。", "第二句！", "第三句？"]),
        ("他说：“好。”然后走了。", ["他说：“好。”", "然后走了。"]),
        ("**Yes.** No...\n- item\n\n", ["**Yes.**", "No...", "- item"]),
        ("Wait... what?!", ["Wait...", "what?!"]),
        ("... !", []),
        ("no end", ["no end"]),
    ],
)
def test_sentences(text, parts):
    assert sentences(text) == parts


def test_paragraphs_and_fences():
    assert paragraphs("\n\na\nb\n \n\nc\n") == ["a\nb", "c"] and paragraphs(" \n ") == []
    text = "a\n```Python x\n~~~\n1\n```\nb\n~~~~\n2\n~~~\n~~~~\nc\n```\nnever closed"
    assert [(block.label, block.code) for block in fenced_blocks(text)] == [("python x", "~~~\n1"), ("", "2\n~~~")]
    assert without_fenced_blocks(text) == "a\nb\nc"


@given(st.text(alphabet="a.!? \n我。\"'`~"))
def test_nothing_is_lost_between_sentences(text):
    assert words(" ".join(sentences(text))) == words(text)
