"""Mazes to be walked through, for the environment `maze`: every room can be reached, and in one way only."""

from dataclasses import dataclass, field
from random import Random

from posttrain.data.generated.base import Example, Family, whole

_ASK = (
    "Find the way through this maze of {size} x {size} rooms, from S to E. `#` is a wall, and rooms stand side by side with a door or a "
    "wall between them. North is up.\n\n{map}\n\nIn each of your messages say one direction: north, south, east or west. "
    "You have {moves} moves."
)


@dataclass(frozen=True, kw_only=True)
class Mazes(Family):
    """Square mazes; spare_moves: beyond the shortest way."""

    size: int = field(default=3, metadata=whole(2, 15))
    spare_moves: int = field(default=3, metadata=whole(0, 100))

    def example(self, rng: Random) -> Example:
        """The reference is {"map", "num_moves"}; the metadata has the shortest way's length."""
        rows = [["#"] * (2 * self.size + 1) for _ in range(2 * self.size + 1)]
        last = 2 * self.size - 1
        depth = {(1, 1): 0}
        self._carve(rows, depth, rng)
        rows[1][1], rows[last][last] = "S", "E"
        lines, length = ["".join(row) for row in rows], depth[last, last]
        question = _ASK.format(size=self.size, map="\n".join(lines), moves=length + self.spare_moves)
        reference = {"map": lines, "num_moves": length + self.spare_moves}
        return Example(question=question, reference=reference, solution=None, metadata={"shortest": length})

    def _carve(self, rows: list[list[str]], depth: dict[tuple[int, int], int], rng: Random) -> None:
        """Opens a door from a room that is open to one that is not, going on from the latest where possible, until all are."""
        path = [(1, 1)]
        rows[1][1] = " "
        while path:
            row, column = path[-1]
            steps = [(-1, 0), (1, 0), (0, -1), (0, 1)]
            closed = [(down, right) for down, right in steps if self._is_closed(rows, row + 2 * down, column + 2 * right)]
            if not closed:
                path.pop()
                continue
            down, right = rng.choice(closed)
            beyond = (row + 2 * down, column + 2 * right)
            rows[row + down][column + right] = rows[beyond[0]][beyond[1]] = " "
            depth[beyond] = depth[path[-1]] + 1
            path.append(beyond)

    def _is_closed(self, rows: list[list[str]], row: int, column: int) -> bool:
        return 0 < row < len(rows) and 0 < column < len(rows) and rows[row][column] == "#"
