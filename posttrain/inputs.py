"""Everything a run needs that can be wrong, checked before anything is started or written."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from posttrain.builtin_models import resolve
from posttrain.config import Config, TaskConfig
from posttrain.data.sources import load_task
from posttrain.errors import UserError
from posttrain.model import check_freeze, check_sequence_parallel, load_tokenizer, max_context_tokens
from posttrain.rewards.manager import RewardManager
from posttrain.rollout.render import Renderer
from posttrain.types import IntArray, RenderedPrompt
from posttrain.weights import DEFAULT_TOLERANCE, canary_token_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInputs:
    """A task's prompts as tokens, and its rewards."""

    config: TaskConfig
    train: list[RenderedPrompt]
    heldout: list[RenderedPrompt]
    rewards: RewardManager


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A run's tasks by name, and its model as a path that transformers and vLLM take; `close` ends the scoring processes."""

    model_path: str
    tasks: dict[str, TaskInputs]
    canary: IntArray
    canary_tolerance: float

    def close(self) -> None:
        """Ends the scoring processes."""
        for task in self.tasks.values():
            task.rewards.close()


def prepare(config: Config) -> Inputs:
    """Loads tasks, rewards and tokenizer and renders every prompt.

    Raises:
        UserError: whatever of these is missing, malformed or too long.
    """
    with ExitStack() as started:
        managers = [started.enter_context(RewardManager(task.rewards, config.rewards)) for task in config.tasks]
        data = [load_task(task) for task in config.tasks]
        num_prompts = sum(len(task.train) for task in data)
        if config.train.prompts_per_step > num_prompts:
            raise UserError(
                f"train.prompts_per_step={config.train.prompts_per_step}: "
                f"{' and '.join(task.name for task in data)} has only {num_prompts} training prompts"
            )
        model_path, tokenizer = prepare_model(config)
        check_freeze(model_path, config.model.freeze)
        renderer = Renderer(tokenizer)
        tasks = {}
        for settings, prompts, manager in zip(config.tasks, data, managers, strict=True):
            train, heldout = ([(prompt, renderer.prompt(prompt.messages)) for prompt in half] for half in (prompts.train, prompts.heldout))
            check_lengths([*train, *heldout], config)
            tasks[settings.name] = TaskInputs(config=settings, train=train, heldout=heldout, rewards=manager)
        tolerance = config.weights.canary_tolerance
        started.pop_all()  # from here on they are the caller's to close
        return Inputs(
            model_path=model_path,
            tasks=tasks,
            canary=canary_token_ids(tokenizer),
            canary_tolerance=DEFAULT_TOLERANCE[config.model.dtype] if tolerance is None else tolerance,
        )


def prepare_model(config: Config) -> tuple[str, Any]:
    """The model's path as transformers and vLLM take it, and its tokenizer.

    Raises:
        UserError: nothing usable there, it takes less than model.context_tokens, or its heads cannot be shared by ranks.
    """
    model_path = resolve(config.model.path)
    tokenizer, longest = load_tokenizer(model_path), max_context_tokens(model_path)
    if config.model.context_tokens > longest:
        raise UserError(f"model.context_tokens={config.model.context_tokens}: {config.model.path} takes {longest} at most")
    check_sequence_parallel(model_path, config.train.sequence_parallel)
    return model_path, tokenizer


def check_lengths(rendered: Sequence[RenderedPrompt], config: Config) -> None:
    """Raises UserError: a prompt leaves no room for a completion."""
    room = config.model.context_tokens - config.rollout.max_completion_tokens
    prompt, token_ids = max(rendered, key=lambda pair: len(pair[1]))
    if len(token_ids) > room:
        raise UserError(
            f"prompt {prompt.id} has {len(token_ids)} tokens, expected at most {room}: model.context_tokens={config.model.context_tokens} "
            f"less rollout.max_completion_tokens={config.rollout.max_completion_tokens}; raise model.context_tokens or shorten the prompt"
        )
