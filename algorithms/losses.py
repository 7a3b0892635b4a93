"""Objectives: pure functions from log-probabilities to a loss for each token.

What lives here: one function a loss, and the corrections for the engine/learner mismatch. What does not: the sum over
tokens (loss weights are data, made in `posttrain.packing`), advantages, Ray, devices, configuration.

Shape suffix: `_N` the tokens of a micro-batch that are trained, in stream order.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to this before exp, so that an overflow can never reach a gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossTokens:
    """What an objective may look at; every field is float32 of shape (N,) but `segments_N`, which is int64.

    policy_logprobs_N carries the gradient. old_logprobs_N are the learner's before the optimizer step (the detached
    policy itself where a rollout batch is one step), behavior_logprobs_N the engine's at sampling. segments_N tells
    which tokens belong to the same episode.
    """

    policy_logprobs_N: Tensor
    old_logprobs_N: Tensor
    behavior_logprobs_N: Tensor
    advantages_N: Tensor
    segments_N: Tensor


Objective = Callable[[LossTokens], Tensor]
"""A loss of shape (N,); the learner sums it under the loss weights."""


def exp_clamped(log_ratio_N: Tensor) -> Tensor:
    """exp of the log-ratio clamped to +-20; the gradient is zero where the clamp holds."""
    return log_ratio_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def sapo(tokens: LossTokens, *, tau_pos: float, tau_neg: float) -> Tensor:
    """Soft Adaptive Policy Optimization (arXiv 2511.20347): a smooth gate in place of the clip.

        loss = -f(r) * A,   f(r) = sigmoid(tau * (r - 1)) * 4 / tau,   r = exp(policy - old)
        tau = tau_pos where A > 0, else tau_neg

    The gradient with respect to the log-probability is -w * r * A with w = sech^2(tau / 2 * (r - 1)), so the slope of f
    at r = 1 is 1 for any tau. Normaliser: none here; the paper's mean over tokens, then over sequences, is in the loss
    weights. tau takes the dtype of the log-probabilities, never that of the advantages. The property that its test pins:
    value and gradient equal the formula in float64.
    """
    ratio_N = exp_clamped(tokens.policy_logprobs_N - tokens.old_logprobs_N)
    tau_N = torch.where(tokens.advantages_N > 0, ratio_N.new_tensor(tau_pos), ratio_N.new_tensor(tau_neg))
    gate_N = torch.sigmoid(tau_N * (ratio_N - 1)) * 4 / tau_N
    return -gate_N * tokens.advantages_N


def token_tis(tokens: LossTokens, *, cap: float) -> Tensor:
    """Truncated importance sampling per token: min(exp(old - behavior), cap), without gradient, shape (N,).

    Corrects for the engine's log-probabilities differing from the learner's; 1 where they agree.
    """
    return exp_clamped((tokens.old_logprobs_N - tokens.behavior_logprobs_N).detach()).clamp(max=cap)


@dataclass(frozen=True, slots=True)
class Corrected:
    """An objective times a correction for the engine/learner mismatch; itself an objective."""

    objective: Objective
    correction: Objective

    def __call__(self, tokens: LossTokens) -> Tensor:
        """The corrected loss of each token, shape (N,)."""
        return self.objective(tokens) * self.correction(tokens)
