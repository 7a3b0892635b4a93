"""Decontamination: runs of words, characters where words do not serve, templates."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.curate.decontaminate import Decontaminate
from posttrain.curate.rows import Row
from posttrain.errors import UserError

LONG = "In the harbour of Lisbon seven old ships wait for wind while their captains play cards with a parrot that never loses"
CHINESE = "一个长方形的长是十二厘米宽是七厘米它的面积是多少平方厘米"


@pytest.fixture
def sift(bench):
    """sift(evaluation questions, rows' questions, **settings): the reasons' details by question, "" for kept rows."""

    def run(questions, texts, response=None, **settings):
        lines = [json.dumps({"prompt": text, "answer": 1}) for text in questions]
        (bench.base / "eval.jsonl").write_text("\n".join(lines))
        fields = {} if response is None else {"response": response}
        rows = [Row(where=str(index), data={"prompt": text, **fields}) for index, text in enumerate(texts)]
        step = Decontaminate(against=["eval.jsonl"], **settings)
        outcome = step.apply(rows, bench)
        assert len(outcome.kept) + len(outcome.dropped) == len(rows)
        assert step.apply(outcome.kept, bench).dropped == []
        return {row.data["prompt"]: drop.detail for row, drop in outcome.dropped}

    return run


def test_thirteen_words_in_common_are_too_many_and_twelve_are_not(sift):
    words = LONG.split()
    at_all = sift([LONG], [" ".join(["Yes", *words[2:15]]), " ".join(["Yes", *words[2:14]])])
    [detail] = at_all.values()
    assert detail == f"eval.jsonl line 1: {' '.join(words[2:15]).lower()}"


def test_case_and_punctuation_do_not_hide_a_question(sift):
    assert sift([LONG], [LONG.upper().replace(" ", ", ")])


def test_a_response_that_quotes_a_question_is_found_unless_it_is_not_looked_at(sift):
    assert sift([LONG], ["Tell me a riddle."], response=f"Here: {LONG}?")
    assert not sift([LONG], ["Tell me a riddle."], response=f"Here: {LONG}?", responses=False)


def test_chinese_is_compared_by_characters(sift):
    changed = CHINESE.replace("十二", "十四")
    assert [*sift([CHINESE], [f"请问\uff1a{CHINESE}\uff1f", changed, "今天天气好"])] == [f"请问\uff1a{CHINESE}\uff1f"]
    assert changed in sift([CHINESE], [changed], share=0.4)


def test_short_questions_are_compared_by_characters_and_tiny_ones_as_a_whole(sift):
    short = "What is the capital of Mongolia?"
    assert [*sift([short], [f"Please tell me: {short}", "What is the capital of Portugal?"])] == [f"Please tell me: {short}"]
    assert [*sift(["3 + 4 ="], ["3+4=", "3 + 4 = 7, is it?", "13 + 4 ="])] == ["3+4="]


def test_an_evaluation_sets_template_proves_nothing(sift):
    template = "Please reason step by step and put your final answer within a box at the very end of what you write. "
    questions = [f"{template}{subject}" for subject in ("Who was Napoleon?", "Why is grass green?", "How far is Mars?", "What is jazz?")]
    assert sift(questions, [f"{template}Where does the Nile end?"]) == {}
    assert sift(questions, [questions[1]])


@given(
    st.lists(st.sampled_from([LONG, CHINESE, "What is the capital of Mongolia?", "a b c"]), max_size=5), st.randoms(use_true_random=False)
)
def test_rows_are_judged_one_by_one(tmp_path_factory, texts, random):
    from posttrain.curate.base import Bench

    base = tmp_path_factory.mktemp("base")
    (base / "eval.jsonl").write_text("\n".join(json.dumps({"prompt": text}) for text in (LONG, "a b c")))
    rows = [Row(where=str(index), data={"prompt": text}) for index, text in enumerate(texts)]
    random.shuffle(rows)
    outcome = Decontaminate(against=["eval.jsonl"]).apply(rows, Bench(seed=0, folder=base, base=base))
    assert sorted(row.data["prompt"] for row, _ in outcome.dropped) == sorted(text for text in texts if text in (LONG, "a b c"))


def test_a_file_that_is_not_there_is_told_before_anything_is_done(bench):
    with pytest.raises(UserError, match=r"against=none\.jsonl: there is no such file"):
        Decontaminate(against=["none.jsonl"]).depends_on(bench)


def test_another_evaluation_file_is_another_result(bench):
    (bench.base / "eval.jsonl").write_text('{"prompt": "a"}')
    before = Decontaminate(against=["eval.jsonl"]).depends_on(bench)
    (bench.base / "eval.jsonl").write_text('{"prompt": "b"}')
    assert Decontaminate(against=["eval.jsonl"]).depends_on(bench) != before
