"""Which rows of a packed stream meet which keys: the blocks that attention on the CPU is computed by.

A stream is a tree in depth-first order (`posttrain.prefix_tree`); a token sees itself and those above it. A block is a few rows and the
keys that they may see, `n` units of `L` rows and `S` keys side by side:

- a short branch is a unit of its own, and units of about the same size go into one block. What a unit lacks to the block's size is
  padded: with rows that are computed again and thrown away, and with keys that nobody sees;
- long branches are cut into blocks of one unit, up to 128 rows, which may run over several branches of one long prompt.

Shape suffixes: `_T` tokens of the stream, `_N` units, `_L` rows and `_S` keys of a unit, `_K` key-value heads, `_R` heads that share one,
`_D` head size, `_W` all heads of a token side by side.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

BLOCK_ROWS = 128
"""Rows of a unit at most; a branch is short if it has no more, and sees no more than twice as many keys."""

UNITS_ROWS = 4096
"""Rows of a block at most, padding included."""

BLOCK_COST = 8192
"""What one more block costs, in pairs of a row and a key: small blocks go together even where that pads them much."""

KEPT_KEYS = 1024
"""What is computed for blocks with at most this many keys is kept, probabilities for backward and biases for the next layer;
above it that costs more memory than time."""

Places = slice | Tensor
"""Tokens of a stream: a run of them, or int64 places."""


@dataclass(frozen=True, slots=True)
class Block:
    """n units; rows and keys: theirs, one unit after the other; bool (n, L, S): which of its keys a row sees.

    padding, real: rows that are padded and those that are not, by their place among the block's; None: none are padded.
    """

    rows: Places
    keys: Places
    sees_NLS: Tensor
    padding: Tensor | None = None
    real: Tensor | None = None
    biases: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)

    @property
    def is_long(self) -> bool:
        """Whether what is computed for it is too large to keep."""
        return self.sees_NLS.shape[2] > KEPT_KEYS

    def bias_for(self, num_sharing: int, dtype: torch.dtype) -> Tensor:
        """0 where a row sees a key and -inf elsewhere, (n, 1, R * L, S): below itself for each of the R heads that share keys."""
        wanted = num_sharing, dtype
        if wanted in self.biases:
            return self.biases[wanted]
        bias = torch.zeros_like(self.sees_NLS, dtype=dtype).masked_fill_(~self.sees_NLS, -torch.inf).repeat(1, num_sharing, 1)[:, None]
        if not self.is_long:
            self.biases[wanted] = bias
        return bias

    def take_rows(self, values_TW: Tensor, heads: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """The rows' values by heads (K, R), (n * K, R * L, D): heads that share keys stand one below the other."""
        return self._by_heads(_at(values_TW, self.rows), heads, dtype)

    def take_keys(self, values_TW: Tensor, num_heads: int, dtype: torch.dtype) -> Tensor:
        """The keys' values by heads, (n * K, S, D)."""
        return self._by_heads(_at(values_TW, self.keys), (num_heads, 1), dtype)

    def take_gradient(self, values_TW: Tensor, heads: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """As `take_rows`, with zeros for padded rows."""
        rows = _at(values_TW, self.rows)
        return self._by_heads(rows if self.padding is None else rows.index_fill_(0, self.padding, 0), heads, dtype)

    def put_rows(self, target_TW: Tensor, values: Tensor, heads: tuple[int, int]) -> None:
        """Writes what was made of `take_rows`' values where they came from, without padded rows."""
        rows_W = self._by_token(values, heads, target_TW.dtype)
        if isinstance(self.rows, slice):
            target_TW[self.rows] = rows_W
        elif self.real is None:
            target_TW.index_copy_(0, self.rows, rows_W)
        else:
            target_TW.index_copy_(0, self.rows.index_select(0, self.real), rows_W.index_select(0, self.real))

    def add_keys(self, target_TW: Tensor, values: Tensor, num_heads: int) -> None:
        """Adds the gradient of what `take_keys` gave where it came from."""
        keys_W = self._by_token(values, (num_heads, 1), target_TW.dtype)
        if isinstance(self.keys, slice):
            target_TW[self.keys] += keys_W
        else:
            target_TW.index_add_(0, self.keys, keys_W)

    def _by_heads(self, values_W: Tensor, heads: tuple[int, int], dtype: torch.dtype) -> Tensor:
        num_units = len(self.sees_NLS)
        view = values_W.unflatten(1, (*heads, -1)).unflatten(0, (num_units, -1)).permute(0, 2, 3, 1, 4)
        return torch.empty(view.shape, dtype=dtype, device=view.device).copy_(view).flatten(2, 3).flatten(0, 1)

    def _by_token(self, values: Tensor, heads: tuple[int, int], dtype: torch.dtype) -> Tensor:
        view = values.unflatten(1, (heads[1], -1)).unflatten(0, (-1, heads[0])).permute(0, 3, 1, 2, 4)
        return torch.empty(view.shape, dtype=dtype, device=view.device).copy_(view).flatten(2, 4).flatten(0, 1)


def _at(values_TW: Tensor, places: Places) -> Tensor:
    return values_TW[places] if isinstance(places, slice) else values_TW.index_select(0, places)


@dataclass(frozen=True, slots=True)
class _Unit:
    """Rows of a stream, one below the other in the tree, and the places above them."""

    rows: range
    above_S: Tensor

    @property
    def num_keys(self) -> int:
        return len(self.above_S) + len(self.rows)


def blocks_of(stops_T: Tensor) -> list[Block]:
    """The blocks of a `posttrain.prefix_tree.PrefixTree`; every node is a row of one block."""
    short: list[_Unit] = []
    blocks: list[Block] = []
    run = range(0)
    for unit in _units(stops_T):
        is_short = len(unit.rows) <= BLOCK_ROWS and unit.num_keys <= 2 * BLOCK_ROWS
        if is_short:
            short.append(unit)
        elif run.stop == unit.rows.start and len(unit.above_S) >= BLOCK_ROWS:
            run = range(run.start, unit.rows.stop)
        else:
            blocks += _long_blocks(run, stops_T)
            run = unit.rows
    blocks += _long_blocks(run, stops_T)
    return blocks + [_short_block(units, stops_T.device) for units in _bundles(short)]


def _units(stops_T: Tensor) -> Iterator[_Unit]:
    """Stretches without a branch: each ends at a leaf, or where what follows are several branches."""
    ends = torch.arange(1, len(stops_T) + 1, device=stops_T.device)
    is_last = stops_T == ends
    is_last[:-1] |= stops_T[1:] < stops_T[:-1]  # the next one's branch ends before its own
    start = 0
    for stop in ends[is_last].tolist():
        yield _Unit(range(start, stop), _above(start, stops_T))
        start = stop


def _above(place: int, stops_T: Tensor) -> Tensor:
    """The places that this one sees, but for itself."""
    return torch.nonzero(stops_T[:place] > place)[:, 0]


def _long_blocks(run: range, stops_T: Tensor) -> Iterator[Block]:
    """Blocks of one unit; the rows of a run that goes over several leaves see only some of their keys."""
    for start in range(run.start, run.stop, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, run.stop)
        rows_L, above_S = torch.arange(start, stop, device=stops_T.device), _above(start, stops_T)
        keys_S = torch.cat([above_S, rows_L])
        sees_LS = (keys_S <= rows_L[:, None]) & (rows_L[:, None] < stops_T[keys_S])
        first = start - len(above_S)
        is_gapless = not len(above_S) or int(above_S[0]) == first
        yield Block(slice(start, stop), slice(first, stop) if is_gapless else keys_S, sees_LS[None])


def _bundles(units: list[_Unit]) -> Iterator[list[_Unit]]:
    """Parts of the units, sorted by keys, with the least padding and the fewest blocks; a block's size is that of its largest unit."""
    ordered = sorted(units, key=lambda unit: (-unit.num_keys, -len(unit.rows)))
    costs, begins = [0.0], [0]  # of the best parting of the first units, and where its last part begins
    for stop in range(1, len(ordered) + 1):
        longest, best = 0, (math.inf, 0)
        for begin in range(stop - 1, -1, -1):
            longest = max(longest, len(ordered[begin].rows))
            num_rows = longest * (stop - begin)
            if num_rows > UNITS_ROWS and begin < stop - 1:
                break
            best = min(best, (costs[begin] + num_rows * ordered[begin].num_keys + BLOCK_COST, begin))
        costs.append(best[0])
        begins.append(best[1])
    stop = len(ordered)
    while stop:
        yield ordered[begins[stop] : stop]
        stop = begins[stop]


def _short_block(units: list[_Unit], device: torch.device) -> Block:
    rows_NL, is_row_NL = _side_by_side([[*unit.rows] for unit in units], device)
    keys_NS, is_key_NS = _side_by_side([[*unit.above_S.tolist(), *unit.rows] for unit in units], device)
    sees_NLS = is_key_NS[:, None] & (keys_NS[:, None] <= rows_NL[:, :, None])
    rows, keys = rows_NL.flatten(), keys_NS.flatten()
    if is_row_NL.all():
        return Block(rows, keys, sees_NLS)
    padding, real = (torch.nonzero(which.flatten())[:, 0] for which in (~is_row_NL, is_row_NL))
    return Block(rows, keys, sees_NLS, padding, real)


def _side_by_side(lists: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Lists of places as one table, in which the last place of a shorter one is repeated; and where it was not."""
    longest = max(map(len, lists))
    table = torch.tensor([places + [places[-1]] * (longest - len(places)) for places in lists], device=device)
    lengths = torch.tensor([len(places) for places in lists], device=device)
    return table, torch.arange(longest, device=device) < lengths[:, None]
