"""The order in which prompts are used: endless, shuffled by epoch, and exactly resumable.

Left out on purpose: the prompts themselves. The cursor deals in positions of the list that `load_task` returned.
"""

from collections.abc import Mapping

import numpy as np

from posttrain.errors import UserError
from posttrain.types import IntArray


class PromptCursor:
    """Walks over `num_prompts` prompts, one shuffled epoch after another; an epoch's order follows from (seed, epoch) only.

    A batch may take the end of one epoch and the start of the next. A prompt that it would then hold twice is put off to the
    next batch, so that every epoch still uses every prompt once. With 3 prompts, epochs [2 0 1] and [1 0 2], batches of 2:

        take(2) -> [2, 0]    take(2) -> [1, 0]  (1 is put off)    take(2) -> [1, 2]
    """

    _order: IntArray
    _deferred: list[int]

    def __init__(self, num_prompts: int, seed: int) -> None:
        if num_prompts < 1:
            raise UserError(f"there are {num_prompts} prompts to train on, expected at least 1")
        self.num_prompts = num_prompts
        self.seed = seed
        self._start_epoch(0)

    def take(self, n: int) -> list[int]:
        """The next `n` positions; they are distinct unless n > num_prompts, where no order could make them so."""
        batch: list[int] = []
        taken: set[int] = set()
        while len(batch) < n:
            position = self._next(taken if n <= self.num_prompts else set())
            batch.append(position)
            taken.add(position)
        return batch

    def state(self) -> dict[str, int]:
        """What `restore` needs to go on from here, JSON-able; the put-off positions are deferred_0, deferred_1 and so on."""
        state = {"num_prompts": self.num_prompts, "seed": self.seed, "epoch": self._epoch, "offset": self._offset}
        return state | {f"deferred_{i}": position for i, position in enumerate(self._deferred)}

    def restore(self, state: Mapping[str, int]) -> None:
        """Goes on exactly where the cursor was that `state` was taken from.

        Raises UserError: that cursor had another number of prompts or another seed, so that its position means nothing here.
        """
        if (state["num_prompts"], state["seed"]) != (self.num_prompts, self.seed):
            raise UserError(
                f"the saved data position is for {state['num_prompts']} prompts and run.seed={state['seed']}, but this run has "
                f"{self.num_prompts} prompts and run.seed={self.seed}; resume with the data and the seed that the run began with"
            )
        self._start_epoch(state["epoch"])
        self._offset = state["offset"]
        self._deferred = [state[f"deferred_{i}"] for i in range(len(state) - 4)]

    def _start_epoch(self, epoch: int) -> None:
        self._epoch = epoch
        self._order = np.random.default_rng(np.random.SeedSequence([self.seed, epoch])).permutation(self.num_prompts)
        self._offset = 0
        self._deferred = []

    def _next(self, avoid: set[int]) -> int:
        """The next position that is not in `avoid`, which is never everything that there is."""
        for i, position in enumerate(self._deferred):
            if position not in avoid:
                return self._deferred.pop(i)
        if self._offset == self.num_prompts:
            self._start_epoch(self._epoch + 1)
        while True:
            position = int(self._order[self._offset])
            self._offset += 1
            if position not in avoid:
                return position
            self._deferred.append(position)
