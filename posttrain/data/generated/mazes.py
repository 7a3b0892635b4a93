"""Mazes to be walked through, for the environment `maze`: every room can be reached, and in one way only."""

from dataclasses import dataclass, field
from random import Random

from posttrain.data.generated.base import Example, Family, whole

Room = tuple[int, int]
"""Row and column in the map, both odd."""
_STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_ASK = (
    "Find the way through this maze of {size} x {size} rooms, from S to E. `#` is a wall, and rooms stand side by side with a door or a "
    "wall between them. North is up.\n\n{map}\n\nIn each of your messages say one direction: north, south, east or west. "
    "You have {moves} moves."
)


@dataclass(frozen=True, kw_only=True)
class Mazes(Family):
    """Square mazes; spare_moves: beyond the shortest way."""

    size: int = field(default=4, metadata=whole(2, 15))
    spare_moves: int = field(default=4, metadata=whole(0, 100))

    def example(self, rng: Random) -> Example:
        """The reference is {"map", "num_moves"}; the metadata has the shortest way's length."""
        rooms = [(row, column) for row in range(1, 2 * self.size, 2) for column in range(1, 2 * self.size, 2)]
        start, end = rng.sample(rooms, 2)
        rows, length = self._carved(start, end, rng)
        rows[start[0]][start[1]], rows[end[0]][end[1]] = "S", "E"
        lines, moves = ["".join(row) for row in rows], length + self.spare_moves
        question = _ASK.format(size=self.size, map="\n".join(lines), moves=moves)
        return Example(question=question, reference={"map": lines, "num_moves": moves}, solution=None, metadata={"shortest": length})

    def _carved(self, start: Room, end: Room, rng: Random) -> tuple[list[list[str]], int]:
        """Opens a door from an open room to a closed one, going on from the latest where possible; and how far the end is."""
        rows = [["#"] * (2 * self.size + 1) for _ in range(2 * self.size + 1)]
        path, length = [start], 0
        rows[start[0]][start[1]] = " "
        while path:
            row, column = path[-1]
            closed = [(down, right) for down, right in _STEPS if self._is_closed(rows, row + 2 * down, column + 2 * right)]
            if not closed:
                path.pop()
                continue
            down, right = rng.choice(closed)
            path.append((row + 2 * down, column + 2 * right))
            rows[row + down][column + right] = rows[path[-1][0]][path[-1][1]] = " "
            if path[-1] == end:
                length = len(path) - 1
        return rows, length

    def _is_closed(self, rows: list[list[str]], row: int, column: int) -> bool:
        return 0 < row < len(rows) and 0 < column < len(rows) and rows[row][column] == "#"
