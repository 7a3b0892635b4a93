"""What a token's loss is multiplied with because its episode was sampled by somebody else: factors without gradient.

rho = exp(old - behavior) compares the learner before the step with the engine that sampled. `token_tis` and `sequence_tis`
weigh with it; `icepop` and `sequence_mask` leave tokens out where the two disagree too much. What is left out leaves the
normaliser too, so a mask has to be known before the step: `kept_tokens` says which tokens stay, and
`posttrain.packing.leave_out` makes new loss weights. `opsm` compares the policy with the learner before the step.

Shape suffix: `_N` trained tokens of a micro-batch.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posttrain.algorithms.losses import LossTokens, Objective, episode_mean, episode_sum, exp_clamped
from posttrain.types import Batch


def token_tis(tokens: LossTokens, *, cap: float) -> Tensor:
    """Truncated importance sampling a token: min(rho, cap), shape (N,); 1 where engine and learner agree."""
    return exp_clamped(_log_rho(tokens)).clamp(max=cap)


def sequence_tis(tokens: LossTokens, *, cap: float) -> Tensor:
    """Truncated importance sampling an episode: min(product of its tokens' rho, cap), shape (N,).

    Unbiased below the cap, and useless for long answers: the sum of many small gaps leaves the range of the cap.
    """
    return exp_clamped(episode_sum(_log_rho(tokens), tokens.segments_N)).clamp(max=cap)


def icepop(tokens: LossTokens, *, low: float, high: float) -> Tensor:
    """rho where low <= rho <= high, else 0 (IcePop, Ling team 2025), shape (N,)."""
    rho_N = exp_clamped(_log_rho(tokens))
    return torch.where(_inside(rho_N, low, high), rho_N, torch.zeros_like(rho_N))


def sequence_mask(tokens: LossTokens, *, low: float, high: float) -> Tensor:
    """1 for the tokens of an episode whose geometric mean of rho is in [low, high], else 0, shape (N,)."""
    mean_N = exp_clamped(episode_mean(_log_rho(tokens), tokens.segments_N))
    return _inside(mean_N, low, high).to(mean_N.dtype)


def opsm(tokens: LossTokens, *, delta: float) -> Tensor:
    """Off-policy sequence masking (DeepSeek-V3.2): 0 where A < 0 and the episode's mean of old - policy exceeds delta.

    The policy moves inside a rollout batch, so this mask is made in the loss and, as in the paper, stays in the normaliser.
    """
    drift_N = episode_mean((tokens.old_logprobs_N - tokens.policy_logprobs_N).detach(), tokens.segments_N)
    return 1 - ((tokens.advantages_N < 0) & (drift_N > delta)).to(drift_N.dtype)


def kept_tokens(batch: Batch, correction: Objective) -> NDArray[np.bool_]:
    """Which of a batch's tokens a correction does not set to 0, bool (T,); the batch has its old_logprobs."""
    assert batch.old_logprobs is not None
    trained_T = batch.loss_weights != 0
    old_N, behavior_N, segments_N = (
        torch.from_numpy(values_T[trained_T]) for values_T in (batch.old_logprobs, batch.behavior_logprobs, batch.segment_ids)
    )
    tokens = LossTokens(
        policy_logprobs_N=old_N,
        old_logprobs_N=old_N,
        behavior_logprobs_N=behavior_N,
        advantages_N=torch.zeros_like(old_N),
        segments_N=segments_N,
    )
    kept_T: NDArray[np.bool_] = trained_T.copy()
    kept_T[trained_T] = correction(tokens).numpy() > 0
    return kept_T


def _log_rho(tokens: LossTokens) -> Tensor:
    return (tokens.old_logprobs_N - tokens.behavior_logprobs_N).detach()


def _inside(values_N: Tensor, low: float, high: float) -> Tensor:
    return (values_N >= low) & (values_N <= high)
