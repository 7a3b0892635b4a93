"""Objectives: pure functions from log-probabilities to a loss for each token.

What lives here: one function a loss, the KL penalty, and `PolicyLoss`, which puts a loss, its corrections and its penalty
together. What does not: the sum over tokens (loss weights are data, made in `posttrain.packing`), the corrections
(`corrections.py`), advantages, Ray, devices, configuration.

In the formulas r = exp(policy - old) of a token, A the advantage of its episode, sg[] a stopped gradient. Every loss leaves
its normaliser to the loss weights. Shape suffix: `_N` the tokens of a micro-batch that are trained, in stream order; an
episode is never cut over micro-batches, so sums over its tokens are whole.
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
    policy itself where a rollout batch is one step), behavior_logprobs_N the engine's at sampling, ref_logprobs_N a frozen
    reference's where the objective wants one. segments_N tells which tokens belong to the same episode. divergences_N, the
    policy's from a teacher, carries the gradient too where there is a teacher.
    """

    policy_logprobs_N: Tensor
    old_logprobs_N: Tensor
    behavior_logprobs_N: Tensor
    advantages_N: Tensor
    segments_N: Tensor
    ref_logprobs_N: Tensor | None = None
    divergences_N: Tensor | None = None


Objective = Callable[[LossTokens], Tensor]
"""A loss of shape (N,); the learner sums it under the loss weights."""


def exp_clamped(log_ratio_N: Tensor) -> Tensor:
    """exp of the log-ratio clamped to +-20; the gradient is zero where the clamp holds."""
    return log_ratio_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def episode_sum(values_N: Tensor, segments_N: Tensor) -> Tensor:
    """Each token gets the sum over its episode, shape (N,)."""
    _, inverse_N = segments_N.unique(return_inverse=True)
    sums = values_N.new_zeros(len(values_N)).index_add(0, inverse_N, values_N)
    return sums[inverse_N]


def episode_mean(values_N: Tensor, segments_N: Tensor) -> Tensor:
    """Each token gets the mean over its episode, shape (N,)."""
    return episode_sum(values_N, segments_N) / episode_sum(torch.ones_like(values_N), segments_N)


def sapo(tokens: LossTokens, *, tau_pos: float, tau_neg: float) -> Tensor:
    """Soft Adaptive Policy Optimization (arXiv 2511.20347): a smooth gate in place of the clip.

        loss = -f(r) * A,   f(r) = sigmoid(tau * (r - 1)) * 4 / tau
        tau = tau_pos where A > 0, else tau_neg

    The gradient with respect to the log-probability is -w * r * A with w = sech^2(tau / 2 * (r - 1)), so the slope of f
    at r = 1 is 1 for any tau. Normaliser: sequence_mean. tau takes the dtype of the log-probabilities, never that of the
    advantages. The property that its test pins: value and gradient equal the formula in float64.
    """
    ratio_N = exp_clamped(tokens.policy_logprobs_N - tokens.old_logprobs_N)
    tau_N = torch.where(tokens.advantages_N > 0, ratio_N.new_tensor(tau_pos), ratio_N.new_tensor(tau_neg))
    gate_N = torch.sigmoid(tau_N * (ratio_N - 1)) * 4 / tau_N
    return -gate_N * tokens.advantages_N


def clipped(tokens: LossTokens, *, clip_low: float, clip_high: float) -> Tensor:
    """PPO's clipped surrogate, a token at a time: loss = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A).

    Source: PPO (arXiv 1707.06347); in GRPO (2402.03300), Dr.GRPO (2503.20783), DAPO (2503.14476, which parts the two
    bounds) and REINFORCE++ (2501.03262), which differ in advantages and normaliser. The property that its test pins: no
    gradient where r has left the range in the direction that A asks for, and gradient r A elsewhere.
    """
    ratio_N = exp_clamped(tokens.policy_logprobs_N - tokens.old_logprobs_N)
    return _pessimistic(ratio_N, tokens.advantages_N, clip_low, clip_high)


def gspo(tokens: LossTokens, *, clip_low: float, clip_high: float) -> Tensor:
    """Group Sequence Policy Optimization (arXiv 2507.18071, equation 5): one ratio an episode.

        s = exp(mean over the episode's tokens of policy - old);   loss = -min(s A, clip(s, 1 - clip_low, 1 + clip_high) A)

    Every token of an episode gets the same value. Normaliser: sequence_mean. The property that its test pins: the summed
    gradient of an episode is that of the formula for the whole episode.
    """
    log_ratio_N = episode_mean(tokens.policy_logprobs_N - tokens.old_logprobs_N, tokens.segments_N)
    return _pessimistic(exp_clamped(log_ratio_N), tokens.advantages_N, clip_low, clip_high)


def gspo_token(tokens: LossTokens, *, clip_low: float, clip_high: float) -> Tensor:
    """GSPO-token (arXiv 2507.18071, equation 13): GSPO's ratio in value, each token's own gradient.

        s_t = sg[s] * exp(policy - sg[policy]);   loss = -min(s_t A, clip(s_t, 1 - clip_low, 1 + clip_high) A)

    With one advantage an episode it equals GSPO in value and gradient, which its test pins; it is for advantages that
    differ inside an episode. Normaliser: sequence_mean.
    """
    policy_N = tokens.policy_logprobs_N
    log_ratio_N = episode_mean((policy_N - tokens.old_logprobs_N).detach(), tokens.segments_N)
    ratio_N = exp_clamped(log_ratio_N) * (policy_N - policy_N.detach()).exp()
    return _pessimistic(ratio_N, tokens.advantages_N, clip_low, clip_high)


def cispo(tokens: LossTokens, *, ratio_cap: float) -> Tensor:
    """CISPO (MiniMax-M1, arXiv 2506.13585): loss = -sg[min(r, ratio_cap)] * A * policy log-probability.

    The cap bounds a token's weight and never takes its gradient away, which its test pins. Normaliser: token_mean.
    """
    ratio_N = exp_clamped((tokens.policy_logprobs_N - tokens.old_logprobs_N).detach())
    return -ratio_N.clamp(max=ratio_cap) * tokens.advantages_N * tokens.policy_logprobs_N


def reinforce(tokens: LossTokens) -> Tensor:
    """REINFORCE on whole episodes, as RLOO uses it (arXiv 2402.14740): loss = -sg[R] * A * policy log-probability.

    R = exp(sum over the episode's tokens of policy - old) is 1 where a rollout batch is one optimizer step, as in the
    paper; with more it is the exact, unbounded importance weight of the episode. Normaliser: sequence_sum. The property
    that its test pins: on-policy, the gradient with respect to every log-probability is -A.
    """
    log_ratio_N = episode_sum((tokens.policy_logprobs_N - tokens.old_logprobs_N).detach(), tokens.segments_N)
    return -exp_clamped(log_ratio_N) * tokens.advantages_N * tokens.policy_logprobs_N


def negative_logprob(tokens: LossTokens) -> Tensor:
    """Cross entropy with the tokens themselves, as supervised fine-tuning minimises it: loss = -policy log-probability.

    Normaliser: token_mean, or any other. The property that its test pins: with token_mean the loss equals transformers' own.
    """
    return -tokens.policy_logprobs_N


def bradley_terry(tokens: LossTokens) -> Tensor:
    """The Bradley-Terry loss of preference pairs (WorldPM, arXiv 2505.10527): -log sigmoid(score chosen - score rejected).

    The N = 2 P positions are the ends of P pairs' answers, two and two as `packing.pack_pairs` has them; policy_logprobs_N
    are a reward model's scores, advantages_N say which answer was chosen (1) and which rejected (-1). Both ends of a pair get
    its loss; the weights make the sum the mean over pairs. The property that its test pins: value and gradient equal the
    formula in float64.
    """
    return -torch.nn.functional.logsigmoid(_margins(tokens)).repeat_interleave(2)


def chosen_above_rejected(tokens: LossTokens) -> Tensor:
    """1 at both ends of a pair whose chosen answer scores higher, else 0: under the weights, accuracy. A tie is 0."""
    return (_margins(tokens) > 0).to(tokens.policy_logprobs_N).repeat_interleave(2)


def _margins(tokens: LossTokens) -> Tensor:
    return (tokens.policy_logprobs_N * tokens.advantages_N).view(-1, 2).sum(-1)


def kl_to_reference(tokens: LossTokens) -> Tensor:
    """The estimator k3 of KL(policy || reference): exp(d) - d - 1 with d = ref - policy, shape (N,), never negative.

    Source: GRPO (arXiv 2402.03300, equation 4).
    """
    if tokens.ref_logprobs_N is None:
        if len(tokens.policy_logprobs_N):
            raise ValueError("the KL penalty needs ref_logprobs, and the batch has none")
        return torch.zeros_like(tokens.policy_logprobs_N)  # a rank that was filled up with an empty batch
    gap_N = (tokens.ref_logprobs_N - tokens.policy_logprobs_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return gap_N.exp() - gap_N - 1


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """loss * correction * correction ... + kl_coefficient * k3; itself an objective. Corrections carry no gradient."""

    loss: Objective
    corrections: tuple[Objective, ...] = ()
    kl_coefficient: float = 0.0

    def __call__(self, tokens: LossTokens) -> Tensor:
        """The whole loss of each token, shape (N,)."""
        loss_N = self.loss(tokens)
        for correction in self.corrections:
            loss_N = loss_N * correction(tokens)
        return loss_N + self.kl_coefficient * kl_to_reference(tokens) if self.kl_coefficient else loss_N


def _pessimistic(ratio_N: Tensor, advantages_N: Tensor, clip_low: float, clip_high: float) -> Tensor:
    return -torch.minimum(ratio_N * advantages_N, ratio_N.clamp(1 - clip_low, 1 + clip_high) * advantages_N)
