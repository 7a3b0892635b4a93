"""Which rows of a packed stream meet which keys: the blocks that attention on the CPU is computed by.

A stream holds segments, prompts and the completions that branch from them; a token sees the earlier tokens of its own segment and
all of the segment's prefix. A block is a few rows and the keys that they may see, `n` units of `L` rows and `S` keys side by side:

- long segments are cut into blocks of one unit, up to 128 rows, which may run over several branches of one prompt;
- short segments are units of their own, and units of about the same size go into one block. What a unit lacks to the block's size
  is padded: with rows that are computed again and thrown away, and with keys that nobody sees.

Shape suffixes: `_T` tokens of the stream, `_N` units, `_L` rows and `_S` keys of a unit, `_K` key-value heads, `_R` heads that share one,
`_D` head size, `_W` all heads of a token side by side.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

BLOCK_ROWS = 128
"""Rows of a unit at most; a segment is short if it has no more, and sees no more than twice as many keys."""

UNITS_ROWS = 4096
"""Rows of a block at most, padding included."""

PADDING = 1.25
"""The padded size of a block, in pairs of rows and keys, over that of its units."""

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
    """Rows of a stream, and the keys they meet: those of `prefix`, then those of `own`."""

    rows: range
    prefix: range
    own: range

    @property
    def num_keys(self) -> int:
        return len(self.prefix) + len(self.own)


def blocks_of(segment_ids_T: Tensor, prefix_ids_T: Tensor) -> list[Block]:
    """The blocks of a `posttrain.types.Batch`; every token is a row of one block."""
    short: list[_Unit] = []
    blocks: list[Block] = []
    for unit in _units(segment_ids_T, prefix_ids_T):
        if len(unit.rows) <= BLOCK_ROWS and unit.num_keys <= 2 * BLOCK_ROWS:
            short.append(unit)
        else:
            blocks += [_long_block(part, segment_ids_T) for part in _cut(unit, segment_ids_T)]
    device = segment_ids_T.device
    return blocks + [_short_block(units, device) for units in _bundles(short)]


def _units(segment_ids_T: Tensor, prefix_ids_T: Tensor) -> Iterator[_Unit]:
    """A segment each, but for those branches of a prompt which see more than a short segment may: they are one unit."""
    segments, lengths = torch.unique_consecutive(segment_ids_T, return_counts=True)
    stops = lengths.cumsum(0).tolist()
    where = {segment: range(stop - length, stop) for segment, stop, length in zip(segments.tolist(), stops, lengths.tolist(), strict=True)}
    run: _Unit | None = None
    for segment, rows in where.items():
        parent = int(prefix_ids_T[rows.start])
        prefix = range(0) if parent == segment else where[parent]
        is_long = len(prefix) + len(rows) > 2 * BLOCK_ROWS
        if run is not None and is_long and prefix == run.prefix and len(prefix):
            run = _Unit(range(run.rows.start, rows.stop), prefix, range(run.own.start, rows.stop))
            continue
        if run is not None:
            yield run
        run = _Unit(rows, prefix, rows) if is_long else None
        if run is None:
            yield _Unit(rows, prefix, rows)
    if run is not None:
        yield run


def _cut(unit: _Unit, segment_ids_T: Tensor) -> Iterator[_Unit]:
    """Parts of at most `BLOCK_ROWS` rows, each of which meets its own keys from where its first row's segment begins."""
    for start in range(unit.rows.start, unit.rows.stop, BLOCK_ROWS):
        rows = range(start, min(start + BLOCK_ROWS, unit.rows.stop))
        is_own = segment_ids_T[unit.own.start : rows.stop] == segment_ids_T[start]
        yield _Unit(rows, unit.prefix, range(unit.own.start + int(is_own.int().argmax()), rows.stop))


def _long_block(unit: _Unit, segment_ids_T: Tensor) -> Block:
    rows, own = (slice(part.start, part.stop) for part in (unit.rows, unit.own))
    rows_L, prefix_S, own_S = (
        torch.arange(part.start, part.stop, device=segment_ids_T.device) for part in (unit.rows, unit.prefix, unit.own)
    )
    keys_S = torch.cat([prefix_S, own_S])
    is_prefix_S = torch.arange(unit.num_keys, device=keys_S.device) < len(unit.prefix)
    is_own_LS = segment_ids_T[rows, None] == segment_ids_T[keys_S]
    sees_LS = (is_own_LS | is_prefix_S) & (keys_S <= rows_L[:, None])
    return Block(rows, keys_S if unit.prefix else own, sees_LS[None])


def _bundles(units: list[_Unit]) -> Iterator[list[_Unit]]:
    """Units of about the same size, those with the most keys first."""
    bundle: list[_Unit] = []
    longest = size = 0
    for unit in sorted(units, key=lambda unit: (-unit.num_keys, -len(unit.rows))):
        longest, size = max(longest, len(unit.rows)), size + len(unit.rows) * unit.num_keys
        num_rows = (len(bundle) + 1) * longest
        if bundle and (num_rows > UNITS_ROWS or num_rows * bundle[0].num_keys > PADDING * size):
            yield bundle
            bundle, longest, size = [], len(unit.rows), len(unit.rows) * unit.num_keys
        bundle.append(unit)
    if bundle:
        yield bundle


def _short_block(units: list[_Unit], device: torch.device) -> Block:
    rows_NL, is_row_NL = _side_by_side([[*unit.rows] for unit in units], device)
    keys_NS, is_key_NS = _side_by_side([[*unit.prefix, *unit.own] for unit in units], device)
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
