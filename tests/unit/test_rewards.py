"""Rewards: what counts as the answer, exact numbers, and that no failure ever becomes a 0."""

import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.config import RewardsConfig
from posttrain.errors import RunError, UserError
from posttrain.rewards.base import Abstain, Reward, Score, answer_text
from posttrain.rewards.exact import Exact
from posttrain.rewards.manager import WINDOW, RewardManager
from posttrain.rewards.numeric import Numeric, last_number, parse_number
from posttrain.rewards.reasoning_gym import ReasoningGym
from posttrain.types import Episode, Group, Prompt, Turn

SCRIPTED = """
from posttrain.config import RewardsConfig
from posttrain.errors import UserError
from posttrain.rewards.base import Abstain, Reward, Score

class Scripted(Reward):
    def score(self, prompt, episode):
        return eval(episode.text)

class Half(Reward):
    def score(self, prompt, episode):
        return 0.5

class NeedsKey(Reward):
    def __init__(self, key):
        self.key = key

    def score(self, prompt, episode):
        return 0.0

class NoScore(Reward):
    pass

class NotAReward:
    pass

def a_function():
    return 1.0
"""
NAMES = {
    "scripted": "Scripted",
    "half": "Half",
    "needs_key": "NeedsKey",
    "no_score": "NoScore",
    "plain": "NotAReward",
    "function": "a_function",
}


def episode(*texts, status="complete"):
    turns = [
        Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0) for text in texts
    ]
    return Episode(prompt_id="test/1", turns=turns, status=status)


def prompt(reference="5", **metadata):
    return Prompt(id="test/1", task="test", messages=[{"role": "user", "content": "2 + 3 ="}], reference=reference, metadata=metadata)


def group(*texts):
    return Group(prompt=prompt(), prompt_token_ids=np.array([1, 2]), episodes=[episode(text) for text in texts])


@pytest.fixture
def scripted(install):
    install("scripted-rewards", {name: f"scripted_rewards:{value}" for name, value in NAMES.items()}, scripted_rewards=SCRIPTED)


# What the answer is


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 5\n", "5"),
        ("<think>3</think>\n\n5", "5"),
        ("3</think> 5", "5"),  # the template wrote the opening tag into the prompt
        ("<think>1</think> 2 <think>3</think> 5", "5"),
        ("<think>so it is 5", ""),
        ("<think>1</think>5<think>or 6", "5"),
        ("", ""),
    ],
)
def test_the_answer_is_what_follows_the_thinking(text, answer):
    assert answer_text(episode(text)) == answer


def test_the_answer_is_in_the_last_turn():
    assert answer_text(episode("4", "5")) == "5"
    assert answer_text(Episode(prompt_id="test/1", turns=[], status="complete")) == ""


# Numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", 5),
        ("The answer is 5.", 5),
        ("2 + 3 = 5", 5),
        ("5 of 7", 7),
        ("no idea", None),
        ("", None),
        ("-", None),
        # signs and operators
        ("-3", -3),
        ("is -3", -3),
        ("\N{MINUS SIGN}7", -7),
        ("5 - 9 = -4", -4),
        ("5 - 9 = - 4", -4),
        ("5-9=-4", -4),
        ("10-3", 3),
        ("4-1", 1),
        ("5 - 3", 3),
        ("5 -3", 3),
        ("5--3", -3),
        ("2*-3", -3),
        ("(8)-3", 3),
        ("(-3)", -3),
        ("5, -3", -3),
        ("5 - 8\n-3", -3),
        ("- 5 apples", 5),
        ("GPT-3", 3),
        ("2x-3", 3),
        ("**-3**", -3),
        ("3\N{EN DASH}5", 5),
        ("-$5", -5),
        ("$-5$", -5),
        ("$7 - $5", 5),
        # decimals and thousands
        ("3.50", Fraction(7, 2)),
        ("3.14.", Fraction(157, 50)),
        (".5", Fraction(1, 2)),
        ("is...5", 5),
        ("1,234", 1234),
        ("-1,234,567.5", Fraction(-2469135, 2)),
        ("1,2,3", 3),
        ("1,2345", 2345),
        ("12,345,6", 6),
        ("1.5e3", 1500),
        ("2E-2", Fraction(1, 50)),
        ("99%", 99),
        # fractions
        ("3/4", Fraction(3, 4)),
        ("-3/4.", Fraction(-3, 4)),
        ("1-3/4", Fraction(3, 4)),
        ("6 / 4", 4),
        ("5/0", None),
        ("12/05/2024", 2024),
        # LaTeX
        (r"\boxed{7} and not 8", 7),
        (r"\boxed{6}, no: \boxed{7}", 7),
        (r"\boxed{- 4}", -4),
        (r"\boxed{x} or 5", None),
        (r"\boxed{-\frac{3}{4}}", Fraction(-3, 4)),
        (r"$\dfrac{1}{2}$", Fraction(1, 2)),
        (r"\boxed{1{,}234\text{ km}}", 1234),
        (r"\boxed{12\,345}", 12345),
        (r"\boxed{7", 7),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == number


@given(st.integers())
def test_an_integer_is_read_back_however_it_is_written(n):
    unicode_minus = f"{n}".replace("-", "\N{MINUS SIGN}")
    for written in (f"{n}", f"{n:,}", f"{n}.0", f"= {n}", f"9 - 4 = {n}", f"\\boxed{{{n}}}", f"{n}/1", unicode_minus):
        assert last_number(written) == n
    assert parse_number(n) == parse_number(f"{n:+,}") == n


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6))
def test_a_decimal_is_read_exactly(value):
    assert last_number(f"it is {value:f} m") == Fraction(value)
    assert parse_number(value) == parse_number(f"{value:,f}") == Fraction(value)


@given(st.text(alphabet="0123456789.,-/eE\\{} $=()boxedfrac\n<think>") | st.text())
def test_no_text_of_the_policy_breaks_the_numeric_reward(text):
    assert Numeric().score(prompt(), episode(text)) in (0.0, 1.0)


@pytest.mark.parametrize("text", ["9" * 20_000, "1e999999999", "9/" * 20_000, "1,111," * 20_000, "- " * 20_000 + "5", "\\boxed{" * 20_000])
@pytest.mark.timeout(20)
def test_degenerate_texts_are_scored_in_time(text):
    Numeric().score(prompt(), episode(text))


@pytest.mark.parametrize(
    ("reference", "text", "score"),
    [("3", "3.0", 1), (3, "6/2", 1), (0.1, "0.10", 1), (Fraction(1, 3), "1/3", 1), ("1/3", "0.333", 0), (Decimal("1E+3"), "1,000", 1)],
)
def test_values_are_compared_exactly(reference, text, score):
    assert Numeric().score(prompt(reference), episode(text)) == score


@pytest.mark.parametrize("reference", ["5 kg", "", "five", None, True, "nan", float("inf"), [5], "1/0", "5-3"])
def test_a_reference_that_is_no_number_is_a_mistake_in_the_data(reference):
    with pytest.raises(ValueError, match="expected a number"):
        Numeric().score(prompt(reference), episode("5"))


def test_a_truncated_episode_may_score_but_not_by_its_thinking():
    assert Numeric().score(prompt(), episode("= 5", status="truncated")) == 1.0
    assert Numeric().score(prompt(), episode("<think>perhaps 5", status="truncated")) == 0.0


@pytest.mark.parametrize(
    ("reference", "text", "score"), [("a b", " a\n b ", 1), ("a b", "ab", 0), ("A", "a", 0), (5, "<think>6</think>5", 1), ("", "", 1)]
)
def test_exact_compares_words(reference, text, score):
    assert Exact().score(prompt(reference), episode(text)) == score


# reasoning-gym


def drawn(dataset, entry, **params):
    return prompt(entry["answer"], dataset=dataset, params=params, entry=entry)


def test_reasoning_gym_uses_the_familys_own_scorer():
    right = drawn("chain_sum", {"question": "2 + 3 =", "answer": "5", "metadata": {}}, min_terms=2, max_terms=2)
    assert ReasoningGym().score(right, episode("<think>7</think> 05.0 ")) == 1.0
    assert 0.0 < ReasoningGym().score(right, episode("it is 5")) < 1.0
    assert ReasoningGym().score(right, episode("6")) == 0.0


def test_reasoning_gym_scores_with_the_parameters_that_drew():
    entry = {"question": "0.5 + 0.25 =", "answer": "0.8", "metadata": {}}
    scores = [
        ReasoningGym().score(drawn("decimal_arithmetic", entry, max_num_decimal_places=places), episode("0.8004")) for places in (1, 3, 6)
    ]
    assert scores == sorted(scores, reverse=True) and scores[0] != scores[-1]


def test_an_answer_that_the_scorer_stumbles_over_is_wrong_and_a_broken_entry_is_a_failure():
    whole = {"question": "?", "answer": "2 \N{MULTIPLICATION SIGN} 3", "metadata": {}}
    broken = {"question": "?", "answer": "two", "metadata": {}}
    assert ReasoningGym().score(drawn("prime_factorization", whole), episode(whole["answer"])) == 1.0
    assert ReasoningGym().score(drawn("prime_factorization", whole), episode("two of three")) == 0.0
    with pytest.raises(ValueError, match="invalid literal"):
        ReasoningGym().score(drawn("prime_factorization", broken), episode("2"))


@pytest.mark.parametrize("family", ["binary_matrix", "spiral_matrix", "n_queens", "string_insertion", "countdown", "puzzle24"])
def test_what_the_policy_wrote_never_runs(family, tmp_path):
    witness = tmp_path / "ran"
    entry = {"question": "?", "answer": "1", "metadata": {"valid_answers": ["1"], "numbers": [1], "target": 1}}
    attack = f"__import__('pathlib').Path({str(witness)!r}).touch()"
    assert ReasoningGym().score(drawn(family, entry), episode(attack)) == 0.0
    assert ReasoningGym().score(drawn(family, entry), episode("9**9**9**9**9")) == 0.0
    assert not witness.exists()


@pytest.mark.parametrize(
    ("family", "answer", "score"),
    [("countdown", "(1 + 2) * 3", 1.0), ("puzzle24", "(1 + 2 + 3) * 4", 1.0), ("spiral_matrix", "[1, 2]", 0.1)],
)
def test_honest_answers_of_those_families_still_count(family, answer, score):
    entry = {"question": "?", "answer": "1 2", "metadata": {"numbers": [1, 2, 3], "target": 9}}
    assert ReasoningGym().score(drawn(family, entry), episode(answer)) == score


def test_families_that_only_evaluate_are_refused():
    with pytest.raises(UserError, match="does not judge simple_integration"):
        ReasoningGym().score(drawn("simple_integration", {"question": "?", "answer": "x", "metadata": {}}), episode("x"))


def test_reasoning_gym_needs_its_own_prompts():
    with pytest.raises(UserError, match=r"task\.source=reasoning_gym, got test/1"):
        ReasoningGym().score(prompt(), episode("5"))


# The manager


@pytest.fixture
def managed(scripted):
    """managed(weights, **settings): a manager whose processes end with the test."""
    managers = []

    def make(weights, **settings):
        managers.append(RewardManager(weights, RewardsConfig(**{"num_processes": 2, **settings})))
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


def test_the_reward_is_the_weighted_sum_of_the_scores(managed):
    manager = managed({"scripted": 2.0, "half": -1.0})
    scored = group("1.0", "Score(0.25, {'why': 'partly'})", "True", "__import__('numpy').float32(0.5)")
    manager.score(scored)
    assert [episode.reward for episode in scored.episodes] == [1.5, 0.0, 1.5, 0.5]
    assert scored.episodes[1].scores == {"scripted": 0.25, "half": 0.5}
    assert {type(value) for one in scored.episodes for value in one.scores.values()} == {float}
    assert scored.episodes[1].weights == {"scripted": 2.0, "half": -1.0}
    assert [episode.details for episode in scored.episodes] == [{}, {"scripted": '{"why": "partly"}'}, {}, {}]
    assert manager.counts == {"scored": 4}


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("1/0", "reward scripted: ZeroDivisionError: division by zero"),
        ("float('nan')", "reward scripted: ValueError: the score is nan, expected a finite number"),
        ("float('inf')", "reward scripted: ValueError: the score is inf, expected a finite number"),
        ("Score(float('-inf'))", "reward scripted: ValueError: the score is -inf, expected a finite number"),
        ("'1.0'", "reward scripted: TypeError: the score is '1.0', expected a number, a Score or an Abstain"),
        ("None", "reward scripted: TypeError: the score is None, expected a number, a Score or an Abstain"),
        ("10**400", "reward scripted: OverflowError: int too large to convert to float"),
        ("Abstain('off-scale')", "reward scripted abstained: off-scale"),
    ],
)
def test_what_is_not_a_score_leaves_the_group_and_is_never_a_zero(managed, text, failure):
    manager = managed({"half": 1.0, "scripted": 1.0})
    scored = group("1.0", text)
    manager.score(scored)
    fine, left_out = scored.episodes
    assert (fine.status, fine.reward, fine.failure) == ("complete", 1.5, None)
    assert (left_out.status, left_out.failure, left_out.scores) == ("failed", failure, {})
    assert manager.counts == {"scored": 1, "abstained" if "abstained" in failure else "error": 1}


def test_a_failed_episode_is_not_scored(managed):
    scored = group("1.0")
    scored.episodes[0].status, scored.episodes[0].failure = "failed", "engine: no answer"
    manager = managed({"scripted": 1.0})
    manager.score(scored)
    assert (scored.episodes[0].failure, scored.episodes[0].scores, manager.counts) == ("engine: no answer", {}, {})


def test_a_truncated_episode_is_scored(managed):
    scored = group("1.0")
    scored.episodes[0].status = "truncated"
    managed({"scripted": 1.0}).score(scored)
    assert (scored.episodes[0].status, scored.episodes[0].outcome) == ("truncated", 1.0)


def test_too_many_failures_end_the_run_with_counts_and_the_last_one(managed):
    manager = managed({"scripted": 1.0}, max_failure_fraction=0.1)
    manager.score(group("Abstain('no')", "1/0", "1/0", "[][3]", *["1.0"] * 15))  # 19 episodes are too few to judge by
    with pytest.raises(RunError) as raised:
        manager.score(group("1.0"))
    assert str(raised.value) == (
        "rewards failed on 3 of the latest 20 episodes, more than 10% (since the start: 16 scored, 1 abstained, 3 failed); "
        "the last failure: reward scripted: IndexError: list index out of range"
    )


def test_failures_up_to_the_fraction_are_borne(managed):
    manager = managed({"scripted": 1.0}, max_failure_fraction=0.1)
    for _ in range(30):
        manager.score(group(*["1.0"] * 9, "1/0"))
    assert manager.counts == {"error": 30, "scored": 270}


def test_abstentions_alone_end_nothing(managed):
    manager = managed({"scripted": 1.0}, max_failure_fraction=0.0)
    manager.score(group(*["Abstain('no')"] * 40))
    assert manager.counts == {"abstained": 40}


def test_an_outage_late_in_a_long_run_still_ends_it(managed):
    manager = managed({"scripted": 1.0}, max_failure_fraction=0.1)
    manager.score(group(*["1.0"] * (20 * WINDOW)))
    with pytest.raises(RunError, match="the last failure: reward scripted: ZeroDivisionError"):
        manager.score(group(*["1/0"] * WINDOW))


def test_a_reward_can_hand_a_mistake_back_to_the_user(managed):
    needs_reading = group("(_ for _ in ()).throw(UserError('set JUDGE_URL'))")
    with pytest.raises(UserError, match="set JUDGE_URL"):
        managed({"scripted": 1.0}).score(needs_reading)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("plain", "plain = scripted_rewards:NotAReward (from scripted-rewards 1.0) is not a subclass of posttrain.rewards.base.Reward"),
        ("function", "function = scripted_rewards:a_function (from scripted-rewards 1.0) is not a subclass"),
        ("needs_key", "(from scripted-rewards 1.0) cannot be constructed: TypeError: "),
        ("no_score", "(from scripted-rewards 1.0) cannot be constructed: TypeError: Can't instantiate abstract class NoScore"),
        ("scriptd", "unknown name 'scriptd' in posttrain.rewards; did you mean scripted?"),
    ],
)
def test_a_reward_that_cannot_be_used_is_told_in_one_line(scripted, name, line):
    with pytest.raises(UserError) as raised:
        RewardManager({name: 1.0})
    assert line in str(raised.value) and "\n" not in str(raised.value)


def test_a_task_without_rewards_is_refused(scripted):
    with pytest.raises(UserError, match=r"task\.rewards is empty.*half"):
        RewardManager({})


def test_records_are_frozen_and_the_base_is_abstract():
    with pytest.raises(AttributeError):
        Score(1.0).value = 2.0
    with pytest.raises(AttributeError):
        Abstain("no").reason = "yes"
    with pytest.raises(TypeError):
        Reward()


def test_rewards_import_nothing_heavy():
    modules = "manager pool process numeric exact reasoning_gym"
    program = f"import sys; [__import__('posttrain.rewards.' + name) for name in {modules.split()}]; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.split())
    assert not loaded & {"torch", "ray", "vllm", "transformers", "sympy"}
    assert "reasoning_gym" not in loaded
