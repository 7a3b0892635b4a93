"""Bands of difficulty, shares of tasks, and what a pass rate of n samples can tell."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.curate.balance import Balance, largest_remainder, most
from posttrain.curate.base import Bench, Drop, drawn
from posttrain.curate.difficulty import Difficulty
from posttrain.curate.needs_image import NeedsImage, blind
from posttrain.curate.pass_rate import PassRate
from posttrain.curate.rows import Row
from posttrain.curate.sampling import Measured, model_fingerprint
from posttrain.errors import UserError
from posttrain.types import Episode, Group, Prompt

NAMES = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 9), min_size=1)


def rated(*rates):
    return [Row(where=str(index), data={"prompt": str(index), "pass_rate": {"rate": rate}}) for index, rate in enumerate(rates)]


def of_tasks(**sizes):
    return [
        Row(where=f"{task}{index}", data={"prompt": f"{task}{index}", "task": task})
        for task, size in sizes.items()
        for index in range(size)
    ]


def counts(rows):
    return dict(Counter(row.task for row in rows))


# largest remainder


@given(st.integers(0, 200), NAMES)
def test_counts_sum_and_are_less_than_one_from_their_share(total, shares):
    found = largest_remainder(total, shares)
    assert sum(found.values()) == total
    assert all(abs(found[name] - total * share / sum(shares.values())) < 1 for name, share in shares.items())


def test_largest_remainder_by_hand():
    assert largest_remainder(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}
    assert largest_remainder(7, {"a": 0.5, "b": 0.3, "c": 0.2}) == {"a": 4, "b": 2, "c": 1}
    assert largest_remainder(3, {"a": 0.1, "b": 0.2}) == {"a": 1, "b": 2}


@given(NAMES, st.data())
def test_most_is_the_largest_total_that_there_are_rows_for(shares, data):
    sizes = {name: data.draw(st.integers(1, 30)) for name in shares}
    best = max(
        (
            total
            for total in range(sum(sizes.values()) + 1)
            if all(largest_remainder(total, shares)[name] <= sizes[name] for name in shares)
        ),
        default=0,
    )
    assert sum(most(sizes, shares).values()) == best


# balance


def test_tasks_get_their_shares(bench):
    outcome = Balance(shares={"a": 2, "b": 1}).apply(of_tasks(a=30, b=10), bench)
    assert counts(outcome.kept) == {"a": 21, "b": 10}  # two thirds of 31 are 20.67
    assert {drop.reason for _, drop in outcome.dropped} == {"over its task's share"}
    assert counts(Balance().apply(of_tasks(a=30, b=10), bench).kept) == {"a": 11, "b": 10}
    assert counts(Balance(shares={"a": 2, "b": 1}, total=7).apply(of_tasks(a=30, b=10), bench).kept) == {"a": 5, "b": 2}


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 3), st.randoms(use_true_random=False))
def test_who_is_drawn_follows_from_content_and_seed_alone(a, b, seed, random):
    bench = Bench(seed=seed, folder=None, base=None)
    rows = of_tasks(a=a, b=b)
    outcome = Balance().apply(rows, bench)
    assert len(outcome.kept) + len(outcome.dropped) == a + b
    assert Balance().apply(outcome.kept, bench).dropped == []
    assert outcome.kept == [row for row in rows if row in outcome.kept]
    random.shuffle(rows)
    assert {row.where for row in Balance().apply(rows, bench).kept} == {row.where for row in outcome.kept}


def test_seeds_draw_differently_and_more_rows_only_add():
    rows = of_tasks(a=50)
    assert drawn(rows, 10, 0) != drawn(rows, 10, 1)
    assert drawn(rows, 10, 0) < drawn(rows, 20, 0)
    elsewhere = [Row(where=f"other {row.where}", data=row.data) for row in rows]
    assert drawn(elsewhere, 10, 0) == {f"other {where}" for where in drawn(rows, 10, 0)}


@pytest.mark.parametrize(
    ("shares", "total", "message"),
    [
        ({"a": 1}, 0, "b0 has task 'b', which has no share; known: a"),
        ({"a": 1, "b": 1, "c": 1}, 0, "shares.c: there are no rows of that task"),
        ({}, 12, "total=12 takes 6 rows of 'b', which has 4"),
    ],
)
def test_shares_that_do_not_fit_the_rows(bench, shares, total, message):
    with pytest.raises(UserError) as raised:
        Balance(shares=shares, total=total).apply(of_tasks(a=9, b=4), bench)
    assert message in str(raised.value)


# difficulty


def test_bands_are_labels_and_are_sampled(bench):
    outcome = Difficulty().apply(rated(0.0, 0.25, 0.26, 0.75, 1.0), bench)
    assert [row.data["difficulty"] for row in outcome.kept] == ["hard", "hard", "medium", "medium", "easy"]
    sampled = Difficulty(keep={"medium": 1}).apply(rated(0.0, 0.3, 0.4, 0.5, 1.0), bench)
    assert Counter(row.data["difficulty"] for row in sampled.kept) == {"hard": 1, "medium": 1, "easy": 1}
    assert [drop.reason for _, drop in sampled.dropped] == ["band is full"] * 2
    assert sampled.counts == {"band hard": 1, "band medium": 3, "band easy": 1}
    assert Difficulty(keep={"medium": 1}).apply(sampled.kept, bench).dropped == []


def test_bands_that_are_none(bench):
    for bands, message in (({}, "different pass rates"), ({"a": 0.5}, "the highest one 1"), ({"a": 1, "b": 1}, "different pass rates")):
        with pytest.raises(UserError, match=message):
            Difficulty(bands=bands).validate()
    with pytest.raises(UserError, match="there is no such band; did you mean easy"):
        Difficulty(keep={"eazy": 1}).validate()
    with pytest.raises(UserError, match="0 has no pass_rate"):
        Difficulty().apply([Row(where="0", data={"prompt": "?"})], bench)


# pass rates


def test_what_sixteen_samples_say_of_a_question_near_the_threshold():
    step = PassRate(model="m", rewards={"numeric": 1.0})
    assert step.chance_dropped(0.85) == pytest.approx(0.2839, abs=1e-4)
    assert step.chance_dropped(0.0) == step.chance_dropped(1.0) == 1.0
    assert PassRate(model="m", min_rate=-1, max_rate=1).chance_dropped(0.3) == 0.0


@pytest.mark.parametrize(
    ("passed", "scored", "reason"),
    [(0, 16, "all wrong"), (1, 16, None), (14, 16, None), (15, 16, "pass rate too high"), (9, 10, None)],
)
def test_the_thresholds(passed, scored, reason):
    drop = PassRate(model="m")._verdict(Measured(samples=16, scored=scored, passed=passed, truncated=0))
    assert (drop and drop.reason) == reason


def test_every_sampled_row_has_its_counts_whatever_became_of_it(bench):
    rows = [Row(where=name, data={"prompt": name}) for name in ("right", "wrong", "broken", "long", "other")]
    counts = {"right": (16, 8), "wrong": (15, 0), "broken": (0, 0)}
    found = {name: Measured(samples=16, scored=scored, passed=passed, truncated=1) for name, (scored, passed) in counts.items()}
    step = PassRate(model="builtin:tiny", save_as="rates")
    outcome = step.verdicts(rows, found | {"long": Drop("too long")}, bench, step._verdict)
    assert [row.where for row in outcome.kept] == ["right", "other"]
    assert [(row.where, drop.reason) for row, drop in outcome.dropped] == [
        ("wrong", "all wrong"),
        ("broken", "not scored"),
        ("long", "too long"),
    ]
    stored = outcome.kept[0].data["rates"]
    sampler = stored.pop("sampler")
    assert stored == {"rate": 0.5, "samples": 16, "scored": 16, "passed": 8, "truncated": 1}
    assert sampler.items() >= {"model": "builtin:tiny", "temperature": 1.0, "num_samples": 16, "seed": 0, "top_p": 1.0}.items()
    assert outcome.dropped[0][0].data["rates"] | {"sampler": 0} == {**stored, "rate": 0.0, "scored": 15, "passed": 0, "sampler": 0}
    assert "rates" not in outcome.kept[1].data and "rates" not in outcome.dropped[1][0].data


def test_a_low_threshold_above_zero_has_its_own_reason():
    step = PassRate(model="m", min_rate=0.2)
    assert step._verdict(Measured(samples=10, scored=10, passed=2, truncated=0)).reason == "pass rate too low"
    assert step._verdict(Measured(samples=10, scored=10, passed=3, truncated=0)) is None


def test_samples_that_failed_to_be_scored_count_neither_way():
    episodes = [
        Episode(prompt_id="0", turns=[], status=status, outcome=outcome)
        for status, outcome in (("complete", 1.0), ("truncated", 0.0), ("failed", 0.0))
    ]
    group = Group(prompt=Prompt(id="0", task="", messages=[], reference=None), prompt_token_ids=None, episodes=episodes)
    assert PassRate(model="m").count(group) == Measured(samples=3, scored=2, passed=1, truncated=0)


def test_pictures_are_refused_or_left_alone(bench):
    with pytest.raises(UserError, match="0 shows a picture"):
        PassRate(model="builtin:tiny").apply([Row(where="0", data={"prompt": "?", "images": ["a.png"]})], bench)


def test_a_blind_question_is_its_text_and_what_is_solved_blind_goes(bench):
    seen = {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "How many?"}]}
    told = {"role": "system", "content": "Be brief."}
    assert blind([told, seen]) == [told, {"role": "user", "content": "How many?"}]
    step = NeedsImage(model="m")
    drops = [step._verdict(Measured(samples=8, scored=8, passed=passed, truncated=0)) for passed in (0, 4, 5)]
    assert [drop and drop.reason for drop in drops] == [None, None, "solved without the image"]
    # Nothing is left of these to answer, so no model is loaded.
    pure = Row(where="0", data={"messages": [{"role": "user", "content": seen["content"][:1]}]})
    outcome = NeedsImage(model="builtin:tiny").apply([pure, Row(where="1", data={"prompt": "?"})], bench)
    assert (len(outcome.kept), outcome.counts) == (2, {"questions sampled": 0, "rows without pictures": 1})


def test_a_models_fingerprint_is_its_files(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(3 << 20))
    before = model_fingerprint(str(tmp_path))
    assert model_fingerprint(str(tmp_path)) == before
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-10, 2)
        file.write(b"x")
    assert model_fingerprint(str(tmp_path)) != before
    assert model_fingerprint("org/name") == "org/name"
