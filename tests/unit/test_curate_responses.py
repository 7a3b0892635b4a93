"""What is seen in a response: rules, final answers, scores of rewards and judges; and the judge's filter of questions."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.curate.query_filter import QueryFilter
from posttrain.curate.response_rules import RULES, ResponseRules, cut_off, malformed
from posttrain.curate.rows import Row
from posttrain.curate.scores import FinalAnswer, ResponseScore
from posttrain.errors import RunError, UserError

SOUND = "<think>\nTwo and two are four.\n</think>\n\nThe answer is 4."
MORE = "因为原来的数量加上新得到的数量再减去送出的数量就是最后的结果。"


def responding(*texts, **fields):
    return [
        Row(where=str(index), data={"prompt": "What is 2 + 2?", "response": text, "answer": "4", **fields})
        for index, text in enumerate(texts)
    ]


def reasons(outcome):
    return {row.where: drop.reason for row, drop in outcome.dropped}


# rules


@pytest.mark.parametrize(
    "text",
    [
        SOUND,
        "4",
        "The answer is 4",
        "We add. Then:\n\n- two and two are four and that is all there is to say\n- so it is four",
        "Here is code that does it. It runs.\n\n```python\nprint(2 + 2)\n```",
        "~~~\nprint(2)\n~~~\nDone.",
        "It is \\boxed{4}.",
        'I look it up.\n<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>',
        "## Result\n\nIt is four. It follows from counting.\n\n| a | b |",
        "所以一共有四个。答案是4",
    ],
)
def test_a_sound_response_stays(bench, text):
    assert ResponseRules().apply(responding(text), bench).dropped == []


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("<think>a<think>b</think>c", "malformed", "2 <think> and 1 </think>"),
        ("a</think>4", "malformed", "</think> without <think>"),
        ("</think><think>4", "malformed", "</think> before <think>"),
        ("<think>a</think> \n", "malformed", "nothing after the thinking"),
        ("<tool_call>{</tool_call>", "malformed", "a tool call that is not JSON"),
        ('<tool_call>{"name": "f"}</tool_call>', "malformed", "without a name and an object of arguments"),
        ("<tool_call><tool_call>{}</tool_call>", "malformed", "tags that do not pair"),
        ("</tool_call>", "malformed", "tags that do not pair"),
        ("<think>We add", "cut off", "a thought"),
        ('<tool_call>{"name": "f", ', "cut off", "a tool call"),
        ("Here:\n```python\nprint(2", "cut off", "a code block"),
        ("Here:\n~~~~\nprint(2\n~~~", "cut off", "a code block"),
        ("It is \\boxed{\\frac{1}{2}", "cut off", "a \\boxed{"),
        ("First we add two and two. After that we take away the number of", "cut off", "it ends with"),
        ("First we add two and two. After that we take away three apples,", "cut off", "it ends with"),
        ("We add it again and again. " * 10, "repetition", "of its 10-grams"),
        (f"We begin with seventeen and then we find eleven more of them. {MORE}", "language mixing", "of the answer is not"),
        (f"<think>We begin with seventeen and then we find more of them. {MORE}</think>It is 4.", "language mixing", "of the thinking"),
        ("I'll just guess: 4.", "guess", "it says"),
        ("It is merely a wild guess, but 4.", "guess", "it says"),
        ("不知道\uff0c我猜是4。", "guess", "it says"),
    ],
)
def test_a_defect_is_named(bench, text, reason, detail):
    [(_, drop)] = ResponseRules().apply(responding(text), bench).dropped
    assert drop.reason == reason and detail in drop.detail
    others = [rule for rule in RULES if rule != reason]
    left = ResponseRules(rules=others).apply(responding(text), bench).dropped
    assert reason not in [one.reason for _, one in left]


def test_what_a_row_says_of_its_response_counts(bench):
    assert reasons(ResponseRules().apply(responding("It is 4.", finish_reason="length"), bench)) == {"0": "cut off"}
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}
    row = Row(where="0", data={"messages": [{"role": "user", "content": "?"}, call, {"role": "assistant", "content": "4."}]})
    assert reasons(ResponseRules().apply([row], bench)) == {"0": "malformed"}


def test_an_answer_without_a_reason_is_a_guess_only_where_that_is_asked_for(bench):
    assert reasons(ResponseRules(min_words=5).apply(responding("It is 4.", SOUND), bench)) == {"0": "guess"}


def test_i_guess_is_no_guess(bench):
    assert ResponseRules().apply(responding("I guess we can factor this: it is 4."), bench).dropped == []


def test_rows_without_a_response_stay(bench):
    row = Row(where="0", data={"prompt": "?"})
    outcome = ResponseRules().apply([row], bench)
    assert (outcome.kept, outcome.counts["rows without a response"]) == ([row], 1)


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<tool_call>", "</tool_call>", "```", "\\boxed{", "{", "}", "a", ". ", "\n", "~~~"])
)


@given(PIECES)
def test_any_text_is_judged(pieces):
    text = "".join(pieces)
    assert isinstance(malformed(text), str) and isinstance(cut_off(text), str)


@given(st.sampled_from(["We add two and two. It is four.", "```\nx\n```\nDone. All of it.", SOUND]), st.integers(1, 8))
def test_a_text_that_ends_is_not_cut_off_and_without_its_end_in_a_block_it_is(text, number):
    assert cut_off(text) == ""
    if "```" in text:
        assert cut_off(text.partition("\n```")[0] + "\n" * number)


# rewards


def test_a_wrong_answer_goes_and_one_that_cannot_be_scored_is_told_apart(bench):
    rows = [*responding(SOUND, "The answer is 5."), Row(where="x", data={"prompt": "?", "response": "4", "answer": "four"})]
    step = FinalAnswer(reward="numeric", max_failure_fraction=1.0)
    outcome = step.apply(rows, bench)
    assert reasons(outcome) == {"1": "wrong answer", "x": "not scored"}
    assert "expected a number" in outcome.dropped[1][1].detail
    assert outcome.kept[0].data["scores"] == {"numeric": 1.0}
    assert (outcome.counts["rows not scored"], outcome.counts["mean score"]) == (1, 0.5)
    kept = FinalAnswer(reward="numeric", unscored="keep", max_failure_fraction=1.0).apply(rows, bench)
    assert reasons(kept) == {"1": "wrong answer"}


def test_a_reward_of_another_meaning_has_its_own_threshold(bench):
    rows = responding("a b c d " * 5, "one two three four five six")
    outcome = ResponseScore(reward="repetition", minimum=-0.2).apply(rows, bench)
    assert reasons(outcome) == {"0": "low score"}


def test_rows_without_a_response_are_not_scored(bench):
    outcome = FinalAnswer(reward="numeric").apply([Row(where="0", data={"prompt": "?", "answer": 1})], bench)
    assert (len(outcome.kept), outcome.counts["rows without a response"]) == (1, 1)


def test_an_unknown_reward_is_told_with_the_nearest():
    with pytest.raises(UserError, match="did you mean numeric"):
        FinalAnswer(reward="numerc").validate()


def test_a_judge_scores_responses(bench, judge_environment, judge_says):
    judge_environment.respond = lambda body: judge_says(
        {"reason": "", **dict.fromkeys(("helpful", "correct", "clear"), 10 if "good" in str(body) else 2)}
    )
    outcome = ResponseScore().apply(responding("a good one", "a poor one"), bench)
    assert reasons(outcome) == {"1": "low score"}
    assert outcome.kept[0].data["scores"] == {"judge_rubric": 1.0}


# the judge's filter


def verdicts(judge_says, **by_question):
    """Answers by the first word of the question that stands in what was asked; a rewriting asks for the field `question`."""

    def respond(body):
        asked = body["messages"][-1]["content"]
        is_rewriting = "question" in json.dumps(body["response_format"]["json_schema"]["schema"]["properties"])
        word, verdict = next((word, verdict) for word, verdict in by_question.items() if word in asked)
        return judge_says({"reason": "so", "question": f"Clear {word.lower()}?"} if is_rewriting else {"reason": "so", "verdict": verdict})

    return respond


def asking(*questions):
    return [Row(where=str(index), data={"prompt": text, "answer": "4"}) for index, text in enumerate(questions)]


def test_the_judge_drops_and_rewrites(bench, judge_environment, judge_says):
    judge_environment.respond = verdicts(
        judge_says, Clear="good", Plain="good", Taste="unverifiable", Hello="no_substance", Which="ambiguous"
    )
    outcome = QueryFilter().apply(asking("Plain one?", "Taste?", "Hello!", "Which one?"), bench)
    assert reasons(outcome) == {"1": "unverifiable", "2": "no substance"}
    assert outcome.dropped[0][1].detail == "so"
    assert outcome.kept[1].data == {"prompt": "Clear which?", "answer": "4", "rewritten_from": "Which one?"}
    assert outcome.counts["questions rewritten"] == 1
    before = len(judge_environment.raw)
    QueryFilter().apply(asking("Plain one?", "Taste?"), bench)
    assert len(judge_environment.raw) == before  # answers are cached


def test_a_question_that_stays_ambiguous_goes(bench, judge_environment, judge_says):
    judge_environment.respond = verdicts(judge_says, Clear="ambiguous", Which="ambiguous")
    assert reasons(QueryFilter().apply(asking("Which one?"), bench)) == {"0": "ambiguous"}
    assert len(judge_environment.raw) == 3
    assert reasons(QueryFilter(ambiguous="drop").apply(asking("Which two?"), bench)) == {"0": "ambiguous"}
    assert QueryFilter(ambiguous="keep").apply(asking("Which three?"), bench).dropped == []
    assert len(judge_environment.raw) == 5


def test_a_verdict_that_cannot_be_read_drops_nothing(bench, judge_environment, judge_says):
    judge_environment.respond = lambda body: judge_says("I would rather not say.")
    outcome = QueryFilter().apply(asking("Plain one?"), bench)
    assert (len(outcome.kept), outcome.counts["verdicts that could not be read"]) == (1, 1)


def test_a_judge_that_cannot_be_asked_ends_the_step_and_is_not_asked_again_what_it_said(bench, judge_environment, judge_says):
    good = verdicts(judge_says, Plain="good", Odd="good")
    refused = judge_says({}, status=403)
    judge_environment.respond = lambda body: refused if "Odd" in body["messages"][-1]["content"] else good(body)
    with pytest.raises(RunError, match="could not be asked about 1 of 2 questions"):
        QueryFilter().apply(asking("Plain one?", "Odd one?"), bench)
    judge_environment.respond = good
    before = len(judge_environment.raw)
    assert QueryFilter().apply(asking("Plain one?", "Odd one?"), bench).dropped == []
    assert len(judge_environment.raw) == before + 1


def test_without_a_judge_the_step_says_so_before_it_starts(bench, monkeypatch):
    monkeypatch.delenv("POSTTRAIN_JUDGE_URL", raising=False)
    with pytest.raises(UserError, match="POSTTRAIN_JUDGE_URL is not set"):
        QueryFilter().depends_on(bench)
