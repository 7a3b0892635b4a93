"""Dr.GRPO: GRPO done right (arXiv 2503.20783)."""

from dataclasses import dataclass

from posttrain.algorithms.grpo import GrpoConfig


@dataclass
class DrGrpoConfig(GrpoConfig):
    """The paper's settings: no division by the group's standard deviation or the episode's length, no KL penalty."""

    name: str = "dr_grpo"
    advantage: str = "group_centered"  # the reward minus the mean of its group
    normalization: str = "constant"  # every token weighs 1 / max_completion_tokens
    kl_coefficient: float = 0.0  # weight of k3 to the model as it was at the start; above 0 a frozen copy is loaded
