"""Advantages: pure functions from a group's rewards to one number an episode. Float64 throughout, no torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STD_EPSILON = 1e-6
"""Added to a group's standard deviation."""


def group_normalized(rewards: Sequence[float]) -> NDArray[np.float64]:
    """(R - mean) / (std + 1e-6) over one group, with the sample standard deviation (n - 1); shape (G,).

    Source: GRPO (arXiv 2402.03300, section 4.1.2), as SAPO uses it. A group of equal rewards, and a group of one, gives
    exactly 0 for everybody: there is no signal and no division noise.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if len(values) < 2 or np.all(values == values[0]):
        return np.zeros_like(values)
    return np.asarray((values - values.mean()) / (values.std(ddof=1) + STD_EPSILON))
