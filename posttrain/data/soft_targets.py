"""A teacher's distributions as rows hold them: the field `soft_targets`, written beside an answer and read to learn from it.

The field: `token_ids`, the answer's tokens as the teacher sampled them; `logprobs` of them; and for each its K most likely
tokens at that place, `top_ids`, with `top_logprobs`, all under the distribution that was sampled from. Left out on purpose: what
is learned from them (algorithms/sft.py).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.data.messages import shorten
from posttrain.errors import UserError
from posttrain.types import SoftTargets, Turn

FIELD = "soft_targets"
DIGITS = 6
"""Log-probabilities are written to a millionth of a nat."""
MOST = 1 + 1e-3
"""Named tokens never hold more probability than this, up to rounding."""


def to_field(turn: Turn) -> dict[str, Any]:
    """The field of a turn whose most likely tokens the engine told."""
    assert turn.top_ids is not None and turn.top_logprobs is not None
    return {
        "token_ids": turn.token_ids.tolist(),
        "logprobs": _rounded(turn.logprobs),
        "top_ids": turn.top_ids.tolist(),
        "top_logprobs": _rounded(turn.top_logprobs),
    }


def from_field(where: str, value: Any) -> SoftTargets:
    """The field of a row.

    Raises UserError: it is not what `to_field` writes.
    """
    try:
        targets = SoftTargets(
            token_ids=np.array(value["token_ids"], np.int64),
            logprobs=np.array(value["logprobs"], np.float32),
            top_ids=np.array(value["top_ids"], np.int64),
            top_logprobs=np.array(value["top_logprobs"], np.float32),
        )
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise UserError(
            f"{where}: `{FIELD}` is {shorten(value)}, expected token_ids, logprobs, top_ids and top_logprobs of equal length"
        ) from error
    if problem := _problem(targets):
        raise UserError(f"{where}: `{FIELD}`: {problem}")
    return targets


def _problem(targets: SoftTargets) -> str | None:
    shape = targets.top_ids.shape
    if len(shape) != 2 or 0 in shape or targets.top_logprobs.shape != shape or targets.logprobs.shape != targets.token_ids.shape:
        return f"top_ids has shape {shape}, top_logprobs {targets.top_logprobs.shape}, expected a row of at least 1 for each token"
    if targets.token_ids.shape != shape[:1]:
        return f"{targets.token_ids.shape} token_ids and {shape[0]} rows of top_ids, expected as many"
    if min(targets.token_ids.min(), targets.top_ids.min()) < 0:
        return "a token id is negative"
    values = targets.top_logprobs
    if not (np.isfinite(values).all() and np.isfinite(targets.logprobs).all() and (np.exp(values).sum(1) <= MOST).all()):
        return "log-probabilities that are not finite, or whose exponentials add up to more than 1"
    return None if (np.diff(values, axis=1) <= 0).all() else "expected the most likely tokens first"


def _rounded(values: NDArray[np.float32]) -> Any:
    return np.round(values.astype(np.float64), DIGITS).tolist()
