"""DAPO: Decoupled clip and dynamic sampling (arXiv 2503.14476)."""

from dataclasses import dataclass

from posttrain.algorithms.grpo import GrpoConfig


@dataclass
class DapoConfig(GrpoConfig):
    """A wider upper clip, every token of the batch alike, refill, a penalty for length, no KL penalty."""

    name: str = "dapo"
    normalization: str = "token_mean"  # every token of the batch weighs the same
    kl_coefficient: float = 0.0  # weight of k3 to the model as it was at the start; above 0 a frozen copy is loaded
    clip_high: float = 0.28  # the ratio has no gradient above 1 + clip_high where the advantage is positive
    refill: int = 9  # further sampling rounds a batch that replace groups whose outcomes are all equal
    overlong_buffer: float = 0.2  # share of max_completion_tokens at its end over which a penalty grows to -1
