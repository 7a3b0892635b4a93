"""Several tasks in fixed proportions: which prompts make the next batch, resumably.

Left out on purpose: the prompts themselves, and what a task's reward is.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from posttrain.data.cursor import PromptCursor
from posttrain.errors import UserError


class Mixture:
    """Deals prompts of several tasks so that after every batch each task has had its share of all prompts, to less than one.

    A share that divides the batch is exact in each; others by largest remainder, where what a batch rounds away the next one
    gives. With shares 1 : 1 and batches of 3, a and b get 2 and 1, then 1 and 2. Tasks stand interleaved in a batch, so that
    its mini-batches are mixtures too.
    """

    def __init__(self, num_prompts: Mapping[str, int], shares: Mapping[str, float], seed: int) -> None:
        """num_prompts: of each task; shares: any positive numbers, only their proportions count."""
        exact = {name: Fraction(str(share)) for name, share in shares.items()}
        self.shares = {name: share / sum(exact.values()) for name, share in exact.items()}
        self.cursors = {name: PromptCursor(number, seed) for name, number in num_prompts.items()}
        self.num_dealt = dict.fromkeys(self.cursors, 0)

    def take(self, n: int) -> list[tuple[str, int]]:
        """The next `n` prompts as (task, position)."""
        counts = self._counts(n)
        places = []
        for name, count in counts.items():
            self.num_dealt[name] += count
            places += [((k + 0.5) / count, name, position) for k, position in enumerate(self.cursors[name].take(count))]
        return [(name, position) for _, name, position in sorted(places)]

    def state(self) -> dict[str, Any]:
        """What `restore` needs, JSON-able."""
        return {"num_dealt": self.num_dealt, "cursors": {name: cursor.state() for name, cursor in self.cursors.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on where the mixture was that `state` was taken from.

        Raises UserError: it had other tasks, other prompts or another seed.
        """
        if state["num_dealt"].keys() != self.cursors.keys():
            raise UserError(
                f"the saved data position is for tasks {', '.join(state['num_dealt'])}, but this run has {', '.join(self.cursors)}; "
                "resume with the tasks that the run began with"
            )
        self.num_dealt = dict(state["num_dealt"])
        for name, cursor in self.cursors.items():
            cursor.restore(state["cursors"][name])

    def _counts(self, n: int) -> dict[str, int]:
        total = sum(self.num_dealt.values()) + n
        due = {name: share * total - self.num_dealt[name] for name, share in self.shares.items()}
        counts = {name: max(0, int(amount)) for name, amount in due.items()}
        by_remainder = sorted(counts, key=lambda name: counts[name] - due[name])
        for name in by_remainder[: n - sum(counts.values())]:
            counts[name] += 1
        return counts
