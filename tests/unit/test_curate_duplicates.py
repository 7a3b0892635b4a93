"""Exact and near duplicates: what goes, what the order may not change, and MinHash against the Jaccard that it estimates."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.curate.exact_duplicates import ExactDuplicates
from posttrain.curate.minhash import MAX_MISSED, NUM_HASHES, bands, jaccard, rows_per_band, shingles, signature
from posttrain.curate.near_duplicates import NearDuplicates
from posttrain.curate.rows import Row

LONG = (
    "A train leaves the harbour town early in the morning and passes seven quiet villages before it reaches the mountains, "
    "where it waits for the mail; how many villages does a passenger see who falls asleep after the third one and wakes at the end?"
)


def rows(*texts, **fields):
    return [Row(where=str(index), data={"prompt": text, **fields}) for index, text in enumerate(texts)]


def texts(outcome):
    return [row.data["prompt"] for row in outcome.kept]


# exact


def test_the_first_of_the_same_stands(bench):
    outcome = ExactDuplicates().apply(rows("a", "b", "a", "a"), bench)
    assert texts(outcome) == ["a", "b"]
    assert [(row.where, drop.reason, drop.detail) for row, drop in outcome.dropped] == [
        ("2", "exact duplicate", "of 0"),
        ("3", "exact duplicate", "of 0"),
    ]


def test_another_answer_is_another_content_but_the_same_question(bench):
    both = [Row(where="0", data={"prompt": "a", "response": "x"}), Row(where="1", data={"prompt": "a", "response": "y"})]
    assert len(ExactDuplicates().apply(both, bench).kept) == 2
    assert len(ExactDuplicates(by="question").apply(both, bench).kept) == 1


SMALL = st.lists(st.text(alphabet="ab 1", max_size=3), max_size=12)


@given(SMALL, st.randoms(use_true_random=False))
def test_exact_duplicates_keep_the_same_contents_in_any_order_once(found, random):
    step = ExactDuplicates()
    given_rows = rows(*found)
    outcome = step.apply(given_rows, None)
    assert sorted(texts(outcome)) == sorted(set(found))
    assert len(outcome.kept) + len(outcome.dropped) == len(found)
    assert step.apply(outcome.kept, None).dropped == []
    random.shuffle(given_rows)
    assert sorted(texts(step.apply(given_rows, None))) == sorted(set(found))


# near


def test_a_question_in_almost_the_same_words_goes_and_the_longest_stands(bench):
    shorter = LONG.replace("quiet ", "")
    for pair in ((LONG, shorter), (shorter, LONG)):
        outcome = NearDuplicates().apply(rows("Something else.", *pair), bench)
        assert texts(outcome) == ["Something else.", LONG]
        [(_, drop)] = outcome.dropped
        # 45 words make 43 shingles; without one word in the middle 40 of them are left, of 42.
        assert (drop.reason, drop.detail[-4:]) == ("near duplicate", f"{40 / (43 + 42 - 40):.2f}")


def test_other_numbers_and_other_pictures_are_other_questions(bench):
    assert len(NearDuplicates().apply(rows(LONG, LONG.replace("seven", "7")), bench).kept) == 2
    assert len(NearDuplicates(same_numbers=False).apply(rows(f"{LONG} 7", f"{LONG} 8"), bench).kept) == 1
    pictured = [Row(where=str(i), data={"prompt": LONG, "images": [f"{i}.png"]}) for i in range(2)]
    assert len(NearDuplicates().apply(pictured, bench).kept) == 2


def test_tasks_and_responses_count_where_they_are_asked_to(bench):
    tasks = [Row(where=str(i), data={"prompt": LONG, "task": str(i)}) for i in range(2)]
    assert len(NearDuplicates().apply(tasks, bench).kept) == 1
    assert len(NearDuplicates(same_task=True).apply(tasks, bench).kept) == 2
    answers = [Row(where=str(i), data={"prompt": "Why?", "response": text}) for i, text in enumerate((LONG, LONG[::-1]))]
    assert len(NearDuplicates().apply(answers, bench).kept) == 1
    assert len(NearDuplicates(by="all").apply(answers, bench).kept) == 2


def test_a_threshold_of_one_means_the_same_shingles(bench):
    assert len(NearDuplicates(threshold=1).apply(rows(LONG, LONG.upper(), LONG.replace("quiet", "calm")), bench).kept) == 2


def test_between_equal_questions_the_content_decides_and_not_the_order(bench):
    for number in range(5):
        pair = [Row(where=str(i), data={"prompt": LONG, "response": f"{number} {i}"}) for i in range(2)]
        kept = [NearDuplicates().apply(ordered, bench).kept for ordered in (pair, pair[::-1])]
        assert kept[0] == kept[1]


def test_chinese_is_compared_by_characters(bench):
    first = "小明有五个苹果\uff0c妈妈又给了他三个\uff0c现在一共有多少个苹果呢\uff1f"
    second = first.replace("呢", "")
    assert texts(NearDuplicates(threshold=0.7).apply(rows(second, first), bench)) == [first]
    assert len(NearDuplicates(threshold=0.7).apply(rows(first, "今天天气很好我们去公园玩吧"), bench).kept) == 2


def test_a_chain_is_not_dropped_whole(bench):
    """a is like b and b like c, but a is not like c: a and c stand."""
    words = LONG.split()
    a, b, c = " ".join(words), " ".join(words[3:]), " ".join(words[6:])
    step = NearDuplicates(threshold=0.9)
    outcome = step.apply(rows(b, a, c), bench)
    assert texts(outcome) == [a, c]
    assert outcome.dropped[0][1].detail.startswith("of 1")


WORDS = st.lists(st.sampled_from(["red", "green", "blue", "one", "two", "cat", "dog", "bird"]), min_size=1, max_size=14).map(" ".join)


@given(st.lists(WORDS, max_size=10), st.sampled_from([0.5, 0.8, 1.0]), st.randoms(use_true_random=False))
def test_near_duplicates_are_conserved_idempotent_and_without_order(bench_of, found, threshold, random):
    step = NearDuplicates(threshold=threshold)
    given_rows = rows(*found)
    outcome = step.apply(given_rows, bench_of)
    assert sorted(row.where for row in [*outcome.kept, *(row for row, _ in outcome.dropped)]) == sorted(row.where for row in given_rows)
    assert step.apply(outcome.kept, bench_of).dropped == []
    random.shuffle(given_rows)
    assert sorted(texts(step.apply(given_rows, bench_of))) == sorted(texts(outcome))


@pytest.fixture(scope="module")
def bench_of(tmp_path_factory):
    from posttrain.curate.base import Bench

    return Bench(seed=0, folder=tmp_path_factory.mktemp("step"), base=tmp_path_factory.mktemp("base"))


@given(st.lists(WORDS, min_size=2, max_size=8))
def test_no_two_kept_rows_are_alike(bench_of, found):
    """Against all pairs: what LSH misses is at most a hundredth of the pairs at the threshold, and none that are the same."""
    step = NearDuplicates(threshold=0.8, same_numbers=False)
    kept = texts(step.apply(rows(*found), bench_of))
    alike = [(a, b) for a, b in combinations(kept, 2) if jaccard(step._shingles(a), step._shingles(b)) >= 0.95]
    assert alike == []


# MinHash


def test_signatures_agree_in_a_share_like_the_jaccard_similarity():
    rng = np.random.default_rng(0)
    for similarity in (0.2, 0.5, 0.9):
        estimates = []
        for seed in range(40):
            values = rng.choice(2**32, 1000, replace=False).astype(np.uint32)
            common = round(1000 * similarity)
            rest = (1000 - common) // 2
            a, b = np.sort(values[: common + rest]), np.sort(np.concatenate([values[:common], values[common + rest :]]))
            estimates.append(np.mean(signature(a, seed) == signature(b, seed)))
            assert jaccard(a, b) == pytest.approx(similarity, abs=0.01)
        # 40 x 128 draws: a standard error of 0.007 at most.
        assert np.mean(estimates) == pytest.approx(similarity, abs=0.03)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.99])
def test_bands_miss_few_pairs_at_the_threshold_and_are_as_long_as_they_can_be(threshold):
    def missed(size):
        return (1 - threshold**size) ** (NUM_HASHES // size)

    size = rows_per_band(threshold)
    assert missed(size) <= MAX_MISSED
    assert size == NUM_HASHES or all(missed(longer) > MAX_MISSED for longer in range(size + 1, NUM_HASHES + 1))
    assert len(bands(signature(shingles("abcdef", 2), 0), threshold)) == NUM_HASHES // size


def test_jaccard_and_shingles_by_hand():
    assert len(shingles(["a", "b", "a", "b", "c"], 2)) == 3
    assert len(shingles("ab", 5)) == 1
    assert jaccard(shingles("abcd", 2), shingles("abce", 2)) == pytest.approx(2 / 4)
    assert list(shingles("ab", 5)) != list(shingles("ac", 5))
