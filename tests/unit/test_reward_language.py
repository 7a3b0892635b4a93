"""The reward `language`: identification on short texts, what is left out, mixed scripts, and too little text."""

# ruff: noqa: RUF001 - full-width punctuation is meant

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.rewards.language import (
    LANGUAGES,
    MAX_FOREIGN_SHARE,
    LanguageConsistency,
    foreign_share,
    identify,
    is_in_language,
    prose,
)
from posttrain.types import Episode, Prompt, Turn

SHORT = {
    "en": ["We first add the numbers, then divide by two.", "The train arrives at noon.", "Nobody had seen the letter before."],
    "zh": ["我们先把数字相加，然后除以二。", "火车中午到达。", "結果可以從第二個方程式得出。"],
    "ja": ["まず数字を足して、二で割ります。", "電車は正午に到着します。", "誰もその手紙を見ていなかった。"],
    "ko": ["먼저 숫자를 더한 다음 둘로 나눕니다.", "기차는 오늘 정오에 도착합니다.", "아무도 그 편지를 보지 못했다."],
    "de": ["Wir addieren zuerst die Zahlen.", "Der Zug kommt um zwölf Uhr an.", "Niemand hatte den Brief gesehen."],
    "fr": ["Nous additionnons d'abord les nombres.", "Le train arrive à midi précis.", "Personne n'avait vu la lettre."],
    "es": ["Primero sumamos los números.", "El tren llega al mediodía.", "Nadie había visto la carta antes."],
    "ru": ["Сначала мы складываем эти числа.", "Поезд приходит ровно в полдень.", "Никто раньше не видел этого письма."],
    "ar": ["نجمع الأرقام أولا ثم نقسم على اثنين.", "يصل القطار في منتصف النهار.", "لم ير أحد الرسالة من قبل."],
}
SENTENCES = [(language, text) for language, texts in SHORT.items() for text in texts]


def score(question, *answers, messages=None):
    turns = [Turn(token_ids=[7], logprobs=[0.0], text=text, stop_reason="stop", policy_version=0) for text in answers]
    messages = [{"role": "user", "content": question}] if messages is None else messages
    prompt = Prompt(id="test/1", task="test", messages=messages, reference=None)
    return LanguageConsistency().score(prompt, Episode(prompt_id="test/1", turns=turns, status="complete"))


@pytest.mark.parametrize(("language", "text"), SENTENCES)
def test_one_short_sentence_tells_its_language(language, text):
    assert identify(text) == language
    assert [other for other in SHORT if is_in_language(text, other)] == [language]


@pytest.mark.parametrize("asked", SHORT)
@pytest.mark.parametrize("answered", SHORT)
def test_only_the_prompts_language_scores(asked, answered):
    scored = score(SHORT[asked][0], " ".join(SHORT[answered]))
    assert scored.value == (asked == answered)
    assert scored.details["prompt_language"] == asked


def test_the_thinking_is_free_and_the_last_user_message_is_the_prompt():
    english, chinese = SHORT["en"][0], SHORT["zh"][0]
    assert score(english, f"<think>{chinese * 9}</think>{english}").value == 1.0
    assert score(english, f"<think>{english * 9}</think>{chinese}").value == 0.0
    turns = [{"role": "system", "content": english}, {"role": "user", "content": english}, {"role": "assistant", "content": english}]
    last = {"role": "user", "content": [{"type": "image", "image": "clock.png"}, {"type": "text", "text": chinese}]}
    assert score("", chinese, messages=[*turns, last]).value == 1.0
    assert score("", english, messages=[*turns, last]).value == 0.0


IGNORED = [
    "\n```python\nprint('the sum of all the numbers in the list')\n```",
    "\n```\nthis fence is never closed and so the rest is code",
    "`the sum of all the numbers`",
    r"$\text{the sum of all the numbers in this list}$",
    r"$$\text{the sum of all the numbers in this list}$$",
    r"\(\text{the sum of all the numbers in this list}\)",
    "\\[\n\\text{the sum of all the numbers in this list}\n\\]",
    "https://example.org/the/sum/of/all/the/numbers/in/this/list",
    '"the sum of all the numbers in this list"',
    "“the sum of all the numbers in this list”",
    "「the sum of all the numbers in this list」",
    "\n> the sum of all the numbers in this list\n",
    "（the sum of all the numbers）",
]


@pytest.mark.parametrize("piece", IGNORED)
def test_code_formulas_addresses_and_quotations_are_no_prose(piece):
    answer = f"结果如下所示。{piece}"
    assert score(SHORT["zh"][0], answer).value == 1.0
    assert is_in_language(answer, "zh")
    assert not is_in_language("结果如下所示。the sum of all the numbers in this list", "zh")


def test_prices_are_no_formula_and_no_long_text_hides_in_quotes():
    assert "and that one is" in prose("this one is $5 and that one is $10 today")
    assert score(SHORT["zh"][0], f'"{SHORT["en"][0] * 9}"').value == 0.0


MIXED = [
    ("zh", "我认为这个问题很有趣，because it involves many different ideas，所以我们继续。"),
    ("zh", "我们 need to 计算 the total 结果。"),
    ("zh", "这个函数很好用。We can call it as often as we like."),
    ("zh", "Yes, that is the correct answer."),
    ("en", "We then 计算 the total 结果 of the apples"),
    ("en", "The answer follows from the definition. 所以答案是五。"),
    (
        "en",
        "First we add the numbers and then we look at the mean of them all. Danach teilen wir das Ergebnis durch zwei und runden es auf.",
    ),
    ("de", "Wir brauchen zuerst ein Ergebnis. Сначала мы складываем эти числа."),
    ("ru", "Сначала мы складываем эти числа and then we divide them by two."),
    ("ja", "まず数字を足します。and then we divide the sum by two"),
    ("ko", "먼저 숫자를 더한 다음 结果除以二就可以了"),
]
PURE_ENOUGH = [
    ("zh", "我们使用 PyTorch 的 DataLoader 加载数据，然后训练 Transformer 模型。"),
    ("zh", "答案是 Guido van Rossum。"),
    ("zh", "常用的框架：PyTorch, TensorFlow, JAX, MXNet"),
    ("en", "The Chinese word for cat is 猫"),
    ("en", "The capital of China is Beijing (北京), a very large city."),
    ("de", "Nutzen Sie den DataLoader von PyTorch für das Training des Modells."),
    ("ru", "Используйте DataLoader из PyTorch для загрузки данных."),
    ("ja", "Python のリストを使ってデータを処理します。"),
    ("ko", "PyTorch 모델을 사용하여 데이터를 학습합니다."),
]


@pytest.mark.parametrize(("language", "text"), MIXED)
def test_whole_clauses_of_another_language_are_inconsistent(language, text):
    assert foreign_share(prose(text), language) > MAX_FOREIGN_SHARE
    assert score(SHORT[language][0], text).value == 0.0


@pytest.mark.parametrize(("language", "text"), PURE_ENOUGH)
def test_terms_and_names_are_consistent(language, text):
    assert score(SHORT[language][0], text).value == 1.0


@pytest.mark.parametrize(("num_chinese", "value"), [(0, 1.0), (3, 1.0), (4, 0.0), (20, 0.0)])
def test_the_share_that_is_borne(num_chinese, value):
    assert MAX_FOREIGN_SHARE == 0.15
    assert (
        score(SHORT["en"][0], "We add all of the numbers in the list, and then we divide the sum by two " + "数" * num_chinese).value
        == value
    )


@pytest.mark.parametrize(
    "answer", ["", "42", "```\ncode only\n```", "$x = 5$", "<think>never closed, in whatever language it is", "好的。", "Oui."]
)
def test_too_little_text_is_not_held_against_it(answer):
    assert score(SHORT["en"][0], answer).value == 1.0
    assert score(SHORT["en"][0], answer).details["reason"] == "too short"


def test_a_prompt_without_language_asks_for_none():
    assert score("2 + 3 = ?", SHORT["zh"][0]).value == 1.0
    assert score("2 + 3 = ?", SHORT["zh"][0]).details["reason"] == "too short: the prompt"


def test_a_prompt_without_user_message_is_a_mistake_in_the_data():
    with pytest.raises(ValueError, match="test/1 has no user message"):
        score("", "five", messages=[{"role": "system", "content": "Be brief."}])


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="language is 'eng', expected an ISO 639-1 code; did you mean en"):
        is_in_language("five", "eng")


def test_texts_without_or_with_few_words_in_a_language():
    assert not is_in_language("", "en") and not is_in_language("42", "en")
    assert is_in_language("Hello", "en") and not is_in_language("Hello", "zh") and is_in_language("好", "zh")
    assert foreign_share("", "en") == 0.0


def test_every_language_of_the_table_is_known_to_the_model_and_can_win():
    own = {
        "el": "Ο τρένος φτάνει το μεσημέρι σήμερα.",
        "he": "הרכבת מגיעה היום בצהריים.",
        "hi": "रेलगाड़ी आज दोपहर को पहुँचती है।",
        "th": "รถไฟมาถึงตอนเที่ยงวันนี้",
    }
    for language, text in own.items():
        assert identify(text) == language and is_in_language(text, language)
    assert set(SHORT) | set(own) <= set(LANGUAGES)


def test_the_same_text_gets_the_same_judgement():
    shares = {foreign_share(text, "en") for _ in range(5) for text in [SHORT["en"][0] + SHORT["de"][0]]}
    assert len(shares) == 1


@settings(max_examples=200)
@given(st.text(max_size=200) | st.text(alphabet="ab 我の가яα$\\()[]`\"'>\n.,", max_size=200), st.sampled_from(sorted(LANGUAGES)))
def test_no_text_breaks_it(text, language):
    assert 0.0 <= foreign_share(prose(text), language) <= 1.0
    assert score(SHORT["en"][0], text).value in (0.0, 1.0)
    assert score(text, SHORT["en"][0]).value in (0.0, 1.0)


PIECES = [
    "a",
    "你",
    "$",
    "$a",
    "$$a ",
    "\\(",
    "\\[ a",
    "`a",
    "(a",
    "（你",
    '"a',
    "“a",
    "> ",
    "你bb ",
    "bb 你",
    "www.",
    "http://",
    "hello. ",
    "\u0300",
    "```\n",
    "\n",
]


@pytest.mark.parametrize("piece", PIECES)
def test_degenerate_texts_are_judged_in_time(piece):
    identify(SHORT["en"][0])  # the model is loaded
    text = (piece * 100_000)[:100_000]
    for language in ("en", "zh"):
        started = time.process_time()
        is_in_language(text, language)
        assert time.process_time() - started < 5
