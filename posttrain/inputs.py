"""Everything a run needs that can be wrong, checked before anything is started or written."""

from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.builtin_models import resolve
from posttrain.config import Config
from posttrain.data.sources import load_task
from posttrain.errors import UserError
from posttrain.model import load_tokenizer, max_context_tokens
from posttrain.rewards.manager import RewardManager
from posttrain.rollout.render import Renderer
from posttrain.types import IntArray, RenderedPrompt
from posttrain.weights import DEFAULT_TOLERANCE, canary_token_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A run's prompts as tokens, its rewards, and its model as a path that transformers and vLLM take."""

    model_path: str
    train: list[RenderedPrompt]
    heldout: list[RenderedPrompt]
    rewards: RewardManager
    canary: IntArray
    canary_tolerance: float


def prepare(config: Config) -> Inputs:
    """Loads task, rewards and tokenizer and renders every prompt.

    Raises:
        UserError: whatever of these is missing, malformed or too long.
    """
    rewards = RewardManager(config.task.rewards, config.rewards)
    task = load_task(config.task)
    if config.train.prompts_per_step > len(task.train):
        raise UserError(
            f"train.prompts_per_step={config.train.prompts_per_step}: task {task.name} has only {len(task.train)} training prompts"
        )
    model_path = resolve(config.model.path)
    tokenizer = load_tokenizer(model_path)
    longest = max_context_tokens(model_path)
    if config.model.context_tokens > longest:
        raise UserError(f"model.context_tokens={config.model.context_tokens}: {config.model.path} takes {longest} at most")
    renderer = Renderer(tokenizer)
    rendered = [(prompt, renderer.prompt(prompt.messages)) for prompt in [*task.train, *task.heldout]]
    _check_lengths(rendered, config)
    tolerance = config.weights.canary_tolerance
    return Inputs(
        model_path=model_path,
        train=rendered[: len(task.train)],
        heldout=rendered[len(task.train) :],
        rewards=rewards,
        canary=canary_token_ids(tokenizer),
        canary_tolerance=DEFAULT_TOLERANCE[config.model.dtype] if tolerance is None else tolerance,
    )


def _check_lengths(rendered: Sequence[RenderedPrompt], config: Config) -> None:
    room = config.model.context_tokens - config.rollout.max_completion_tokens
    prompt, token_ids = max(rendered, key=lambda pair: len(pair[1]))
    if len(token_ids) > room:
        raise UserError(
            f"prompt {prompt.id} has {len(token_ids)} tokens, expected at most {room}: model.context_tokens={config.model.context_tokens} "
            f"less rollout.max_completion_tokens={config.rollout.max_completion_tokens}; raise model.context_tokens or shorten the prompt"
        )
