"""Environments that come with the toolkit, the problems made for them, and their reward."""

import pickle

import pytest

from posttrain.data.generated import draw
from posttrain.rewards.environment import EnvironmentScore
from posttrain.rollout.environments.maze import STEPS, Maze, distances, neighbour, place
from posttrain.rollout.environments.twenty_questions import TwentyQuestions, guess, truth
from posttrain.types import Episode, Prompt


def played(environment, reference, texts):
    """Plays the texts, pickled between turns as in a run; the observations."""
    environment.reset(Prompt(id="p", task="t", messages=[], reference=reference))
    observed = []
    for text in texts:
        environment = pickle.loads(pickle.dumps(environment))
        observed.append(environment.step(text))
    return observed


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Is it greater than 7?", True), ("is it > 8", False), ("Is the number larger than the number 3?", True), ("above 100?", False),
        ("Is it at least 8?", True), ("is it less than or equal to 8?", True), ("is it < 8?", False), ("Is it even?", True),
        ("is it odd", False), ("Is it prime?", False), ("Is it divisible by 4?", True), ("a multiple of 3?", False),
        ("divisible by 0?", False), ("Is it 8?", True), ("7", False), ("hello", None), ("Is it even and greater than 3?", None),
        ("Is it 7 or 8?", None), ("Is it greater than 3 or less than 9?", None), ("", None), ("9" * 30, None),
    ],
)  # fmt: skip
def test_questions_are_answered_truly(question, expected):
    assert truth(question, 8) is expected


def test_a_number_is_found_or_not():
    reference = {"number": 5, "num_questions": 3}
    found = played(TwentyQuestions(), reference, ["Is it greater than 3?", "Is it 5?"])
    assert [(one.text, one.score, one.is_over) for one in found] == [
        ("Yes. Questions left: 2.", 0.0, False),
        ("Yes, you found it.", 1.0, True),
    ]
    lost = played(TwentyQuestions(), reference, ["what?", "Is it 4?", "Is it 3?"])
    assert lost[0].text.startswith("I understand one question") and lost[2].text == "No. That was the last question."
    assert [(one.score, one.is_over) for one in lost] == [(0.0, False), (0.0, False), (0.0, True)]
    assert guess("Is it 5?") == 5 and guess("Is it greater than 5?") is None


def test_halving_finds_every_number_in_time():
    for example in draw("number_questions", {"span": 16, "num_questions": 5}, 50):
        low, high = (int(word.strip(".")) for word in example.question.split()[8:11:2])
        environment = TwentyQuestions()
        environment.reset(Prompt(id="p", task="t", messages=[], reference=example.reference))
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if environment.step(f"Is it greater than {middle}?").text.startswith("Yes") else (low, middle)
        last = environment.step(f"Is it {low}?")
        assert (last.score, last.is_over) == (1.0, True)


def shortest_way(rows):
    """Directions from start to exit."""
    left, room, way = distances(rows), place(rows, "S"), []
    while left[room]:
        direction = next(name for name in STEPS if (beyond := neighbour(rows, room, name)) and left[beyond] < left[room])
        room = neighbour(rows, room, direction)
        way.append(direction)
    return way


@pytest.mark.parametrize("size", [2, 4, 9])
def test_mazes_can_be_left_by_one_way_and_every_room_reached(size):
    for example in draw("mazes", {"size": size, "spare_moves": 0}, 20):
        rows = example.reference["map"]
        assert len(distances(rows)) == size**2 and sum(row.count(" ") + row.count("S") + row.count("E") for row in rows) == 2 * size**2 - 1
        way = shortest_way(rows)
        observed = played(Maze(), example.reference, [f"I go {direction}." for direction in way])
        assert len(way) == example.metadata["shortest"] == example.reference["num_moves"]
        assert [one.is_over for one in observed] == [False] * (len(way) - 1) + [True]
        scores = [one.score for one in observed]
        assert scores == sorted(scores) and scores[-1] == 1.0 and all(score < 0.5 for score in scores[:-1])


def test_walls_words_and_the_last_move_are_told():
    rows = ["#####", "#S  #", "# # #", "# #E#", "#####"]
    first, second, third = played(Maze(), {"map": rows, "num_moves": 3}, ["I could go east, but west!", "hm", "right"])
    assert first.text == "There is a wall in the west. You are in row 1, column 1. Doors: south, east. Moves left: 2."
    assert second.text.startswith("Say north, south, east or west.")
    assert (third.text, third.score, third.is_over) == ("You went east. That was the last move.", 0.25, True)


def test_the_reward_is_the_environments_last_word():
    prompt = Prompt(id="p", task="t", messages=[], reference=None, environment="maze")
    episode = Episode(prompt_id="p", turns=[], status="complete", environment_score=0.25)
    assert EnvironmentScore().score(prompt, episode) == 0.25
    episode.environment_score = None
    assert EnvironmentScore().score(prompt, episode) == 0.0
    prompt.environment = None
    with pytest.raises(ValueError, match="no environment"):
        EnvironmentScore().score(prompt, episode)
