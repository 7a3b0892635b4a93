"""The reward `environment`: what the environment that the policy played against said last of how it went."""

from posttrain.rewards.base import Reward
from posttrain.types import Episode, Prompt


class EnvironmentScore(Reward):
    """The environment's last score; 0.0 for an episode that it never got to answer."""

    def score(self, prompt: Prompt, episode: Episode) -> float:
        """Raises ValueError: the task has no environment, so nothing will ever be scored."""
        if prompt.environment is None:
            raise ValueError("the prompt has no environment, expected task.environment=<name>")
        return 0.0 if episode.environment_score is None else episode.environment_score
