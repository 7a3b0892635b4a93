"""The step `pass_rate`: how often a model gets a question right; what it never or almost always does teaches it nothing.

n samples a question, scored by rewards. Each row keeps its counts and the sampler's settings, not the verdict alone: at 16
samples a question of true pass rate 0.85 is dropped as easier than 0.9 in 28 % of the cases, and who filters anew wants to know what
was seen. A recipe may have the step twice, with a strong model to find what nobody solves and with the model to be trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from posttrain.curate.base import Bench, Drop, Outcome, require
from posttrain.curate.rows import Row
from posttrain.curate.sampling import Measured, Sampled
from posttrain.errors import UserError


@dataclass
class PassRate(Sampled):
    """Questions that a model gets right never, or almost always, go."""

    min_rate: float = 0.0  # a question with this pass rate or a lower one goes; -1: none does
    max_rate: float = 0.9  # a question with a higher pass rate goes; 1: none does
    pictures: str = "refuse"  # rows that show pictures: refuse, or keep them unmeasured

    def validate(self) -> None:
        """Rates in order."""
        super().validate()
        require("max_rate", self.max_rate, self.min_rate < self.max_rate <= 1, f"above min_rate={self.min_rate:g} and at most 1")
        require("pictures", self.pictures, self.pictures in ("refuse", "keep"), "refuse or keep")

    def apply(self, rows: Sequence[Row], bench: Bench) -> Outcome:
        """Reasons: all wrong, pass rate too low, pass rate too high, not scored, too long."""
        asked = [row for row in rows if not row.pictures]
        if len(asked) < len(rows) and self.pictures == "refuse":
            shown = next(row.where for row in rows if row.pictures)
            raise UserError(f"{shown} shows a picture, which the engines do not take; pictures=keep leaves such rows alone")
        outcome = self.verdicts(rows, self.measure(asked, bench, lambda row: row.question), bench, self._verdict)
        outcome.counts["rows left alone because of pictures"] = len(rows) - len(asked)
        for rate in (0.05, 0.5, 0.85, 0.95):
            outcome.counts[f"chance that a true pass rate of {rate} is dropped"] = round(self.chance_dropped(rate), 4)
        return outcome

    def chance_dropped(self, rate: float) -> float:
        """Probability that a question of this true pass rate goes: binomial, with all samples scored."""
        n = self.num_samples
        goes = (k for k in range(n + 1) if k / n <= self.min_rate or k / n > self.max_rate)
        return sum(comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in goes)

    def _verdict(self, measured: Measured) -> Drop | None:
        counts = f"{measured.passed} of {measured.scored}"
        if measured.rate <= self.min_rate:
            return Drop("pass rate too low" if measured.passed else "all wrong", counts)
        return Drop("pass rate too high", counts) if measured.rate > self.max_rate else None
