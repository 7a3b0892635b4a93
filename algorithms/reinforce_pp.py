"""REINFORCE++ (arXiv 2501.03262)."""

from dataclasses import dataclass

from posttrain.algorithms.grpo import GrpoConfig


@dataclass
class ReinforcePpConfig(GrpoConfig):
    """Rewards whitened over the whole batch, PPO's clip, every token alike, no KL penalty."""

    name: str = "reinforce_pp"
    advantage: str = "whitened"  # the reward minus the mean of the batch, over its standard deviation
    normalization: str = "token_mean"  # every token of the batch weighs the same
    kl_coefficient: float = 0.0  # weight of k3 to the model as it was at the start; above 0 a frozen copy is loaded
