"""What an environment is: a programme that the policy plays against, turn by turn.

The prompt is what it says first; from then on it answers whatever the policy writes, until it is over. An environment of your own:

    # my_games/echo.py
    from posttrain.rollout.env import Environment, Observation

    class Echo(Environment):
        \"\"\"Repeats what it hears; polite is who says "bye" soon.\"\"\"

        def reset(self, prompt):
            self.num_left = prompt.reference["patience"]

        def step(self, text):
            self.num_left -= 1
            is_over = "bye" in text or not self.num_left
            return Observation(text=text, score=float("bye" in text), is_over=is_over)

    # setup.cfg of my-games
    [options.entry_points]
    posttrain.environments =
        echo = my_games.echo:Echo

After `pip install`, `task.environment=echo` plays it, and the reward `environment` is the last score. There is one object an episode. It
is constructed without arguments and lives in tool processes, pickled between turns, so its attributes are what pickle takes, and no
process keeps an episode to itself. Its chance follows from the prompt (`Random(prompt.id)`), or episodes cannot be repeated.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from posttrain.types import EncodedImage, Prompt

ENTRY_POINTS = "posttrain.environments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the environment answers. score: how the episode has gone up to here; where it is over, the policy sees nothing of this."""

    text: str
    score: float
    is_over: bool = False
    images: list[EncodedImage] = field(default_factory=list)


class Environment(ABC):
    """The other side of a conversation; a subclass is a plug-in under the entry-point group `posttrain.environments`."""

    @abstractmethod
    def reset(self, prompt: Prompt) -> None:
        """Starts an episode of the prompt."""

    @abstractmethod
    def step(self, text: str) -> Observation:
        """Answers one turn of the policy; text: what it said after any thinking, without white space around it.

        It raises for a failure of its own, which costs the episode, never for a mistake of the policy: that is told in an answer.
        """
