"""The environment `maze`: rooms with doors, seen on a map; the policy says a direction a turn, and is told where it stands then.

It reads the last of the words north, south, east, west (or up, down, right, left) in a turn. A wall is told and costs a move.
"""

import re
from collections import deque

from posttrain.rollout.env import Environment, Observation
from posttrain.types import Prompt

Room = tuple[int, int]
"""Row and column, from 0."""

STEPS: dict[str, Room] = {"north": (-1, 0), "south": (1, 0), "west": (0, -1), "east": (0, 1)}
_WORDS = {**{name: name for name in STEPS}, "up": "north", "down": "south", "left": "west", "right": "east"}
_WORD = re.compile(rf"\b({'|'.join(_WORDS)})\b", re.IGNORECASE)


class Maze(Environment):
    """Score 1 at the exit; before that half of the share of the way that is behind, at its nearest.

    The prompt's reference: {"map": rows of text, "num_moves"}. A map has a character for each room, wall and door: `#` is a wall, `S`
    and `E` are the rooms of start and exit, rooms stand at odd rows and columns.
    """

    def reset(self, prompt: Prompt) -> None:
        """Stands at the start."""
        self.rows: list[str] = list(prompt.reference["map"])
        self.num_left = int(prompt.reference["num_moves"])
        self.room = place(self.rows, "S")
        self.nearest = self.distance = distances(self.rows)[self.room]

    def step(self, text: str) -> Observation:
        """Moves, and says where it stands."""
        self.num_left -= 1
        words = _WORD.findall(text)
        told = "Say north, south, east or west." if not words else self._move(_WORDS[words[-1].lower()])
        left = distances(self.rows)[self.room]
        self.nearest = min(self.nearest, left)
        if not left:
            return Observation(text="You are at the exit.", score=1.0, is_over=True)
        score = 0.5 * (1 - self.nearest / self.distance)
        if not self.num_left:
            return Observation(text=f"{told} That was the last move.", score=score, is_over=True)
        doors = ", ".join(name for name in STEPS if neighbour(self.rows, self.room, name))
        row, column = (number // 2 + 1 for number in self.room)
        return Observation(
            text=f"{told} You are in row {row}, column {column}. Doors: {doors}. Moves left: {self.num_left}.".strip(), score=score
        )

    def _move(self, direction: str) -> str:
        beyond = neighbour(self.rows, self.room, direction)
        if beyond is None:
            return f"There is a wall in the {direction}."
        self.room = beyond
        return f"You went {direction}."


def place(rows: list[str], mark: str) -> Room:
    """The room with the mark."""
    return next((row, line.index(mark)) for row, line in enumerate(rows) if mark in line)


def neighbour(rows: list[str], room: Room, direction: str) -> Room | None:
    """The room behind the door in that direction; None where there is a wall."""
    (row, column), (down, right) = room, STEPS[direction]
    return None if rows[row + down][column + right] == "#" else (row + 2 * down, column + 2 * right)


def distances(rows: list[str]) -> dict[Room, int]:
    """Moves from each room to the exit."""
    start = place(rows, "E")
    found, waiting = {start: 0}, deque([start])
    while waiting:
        room = waiting.popleft()
        for direction in STEPS:
            beyond = neighbour(rows, room, direction)
            if beyond is not None and beyond not in found:
                found[beyond] = found[room] + 1
                waiting.append(beyond)
    return found
