"""Everything a run needs that can be wrong, checked before anything is started or written."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

from posttrain import plugins
from posttrain.builtin_models import resolve
from posttrain.config import Config, TaskConfig
from posttrain.data.sources import load_task
from posttrain.errors import UserError
from posttrain.model import check_freeze, check_sequence_parallel, load_tokenizer, max_context_tokens
from posttrain.pixels import image_geometry
from posttrain.rewards.manager import RewardManager
from posttrain.rollout.desk import Desk
from posttrain.rollout.env import ENTRY_POINTS as ENVIRONMENTS
from posttrain.rollout.render import Renderer
from posttrain.rollout.tools.base import ENTRY_POINTS as TOOLS
from posttrain.types import Prompt, RenderedPrompt
from posttrain.vision import ImageGeometry, num_tokens, read
from posttrain.weights import DEFAULT_TOLERANCE, Canary, make_canary


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInputs:
    """A task's prompts as tokens, and its rewards."""

    config: TaskConfig
    train: list[RenderedPrompt]
    heldout: list[RenderedPrompt]
    rewards: RewardManager


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A run's tasks by name, and its model as a path that transformers and vLLM take; `close` ends the scoring processes.

    geometry: how the model reads images; None: it reads text only.
    """

    model_path: str
    geometry: ImageGeometry | None
    tasks: dict[str, TaskInputs]
    canary: Canary
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
        schemas = tool_schemas(config)
        data = [load_task(task) for task in config.tasks]
        num_prompts = sum(len(task.train) for task in data)
        if config.train.prompts_per_step > num_prompts:
            raise UserError(
                f"train.prompts_per_step={config.train.prompts_per_step}: "
                f"{' and '.join(task.name for task in data)} has only {num_prompts} training prompts"
            )
        model = prepare_model(config)
        check_freeze(model.path, config.model.freeze)
        renderer = Renderer(model.tokenizer)
        tasks = {}
        for settings, prompts, manager in zip(config.tasks, data, managers, strict=True):
            equipped = (_equipped(half, settings, schemas) for half in (prompts.train, prompts.heldout))
            train, heldout = ([(prompt, renderer.prompt(prompt.messages, prompt.tools)) for prompt in half] for half in equipped)
            check_lengths([*train, *heldout], config, model.geometry)
            _check_turns(train[0][0], renderer)
            tasks[settings.name] = TaskInputs(config=settings, train=train, heldout=heldout, rewards=manager)
        tolerance = config.weights.canary_tolerance
        started.pop_all()  # from here on they are the caller's to close
        return Inputs(
            model_path=model.path,
            geometry=model.geometry,
            tasks=tasks,
            canary=make_canary(model.tokenizer, model.geometry),
            canary_tolerance=DEFAULT_TOLERANCE[config.model.dtype] if tolerance is None else tolerance,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInputs:
    """A model's path as transformers and vLLM take it, its tokenizer, and how it reads images, if it does."""

    path: str
    tokenizer: Any
    geometry: ImageGeometry | None


def prepare_model(config: Config) -> ModelInputs:
    """What is to be known of the model before it is loaded.

    Raises:
        UserError: nothing usable there, it takes less than model.context_tokens, or its heads cannot be shared by ranks.
    """
    model_path = resolve(config.model.path)
    tokenizer, longest = load_tokenizer(model_path), max_context_tokens(model_path)
    if config.model.context_tokens > longest:
        raise UserError(f"model.context_tokens={config.model.context_tokens}: {config.model.path} takes {longest} at most")
    check_sequence_parallel(model_path, config.train.sequence_parallel)
    return ModelInputs(path=model_path, tokenizer=tokenizer, geometry=image_geometry(model_path))


def tools_and_environments(config: Config) -> tuple[list[str], list[str]]:
    """The names of what any task's episodes may use, each once."""
    tools = dict.fromkeys(name for task in config.tasks for name in task.tools)
    return [*tools], [*dict.fromkeys(task.environment for task in config.tasks if task.environment is not None)]


def tool_schemas(config: Config) -> dict[str, dict[str, Any]]:
    """The schema of every tool by name, from a process in which all tools and environments of the run could be constructed.

    Raises:
        UserError: one is unknown or broken.
    """
    tools, environments = tools_and_environments(config)
    for group, names in ((TOOLS, tools), (ENVIRONMENTS, environments)):
        for name in names:
            plugins.describe(group, name)
    if not tools and not environments:
        return {}
    with closing(Desk(tools, environments, timeout_s=config.rollout.tool_timeout_s)) as desk:
        return desk.schemas()


def _equipped(prompts: Sequence[Prompt], task: TaskConfig, schemas: Mapping[str, dict[str, Any]]) -> list[Prompt]:
    """The prompts with the task's tools and environment."""
    if not task.tools and task.environment is None:
        return list(prompts)
    tools = [schemas[name] for name in task.tools]
    return [replace(prompt, tools=tools, environment=task.environment) for prompt in prompts]


def _check_turns(prompt: Prompt, renderer: Renderer) -> None:
    """Asks the chat template once for what comes after a turn, where there are several."""
    if prompt.tools or prompt.environment is not None:
        role = "tool" if prompt.tools else "user"
        renderer.observation(prompt.messages, [{"role": role, "content": "0"}], prompt.tools)


def check_lengths(rendered: Sequence[RenderedPrompt], config: Config, geometry: ImageGeometry | None) -> None:
    """As the model reads them, images included.

    Raises UserError: a prompt leaves no room for a completion, has too many images, or its images and placeholders do not fit together.
    """
    room = config.model.context_tokens - config.rollout.max_completion_tokens
    for prompt, token_ids in rendered:
        if len(prompt.images) > config.rollout.max_images:
            raise UserError(
                f"prompt {prompt.id} has {len(prompt.images)} images, expected at most {config.rollout.max_images}: rollout.max_images"
            )
        try:
            read(token_ids, prompt.images, geometry)
        except UserError as error:
            raise UserError(f"prompt {prompt.id}: {error}") from error
    lengths = [num_tokens(len(token_ids), prompt.images, geometry) for prompt, token_ids in rendered]
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    if lengths[longest] > room:
        raise UserError(
            f"prompt {rendered[longest][0].id} has {lengths[longest]} tokens, expected at most {room}: "
            f"model.context_tokens={config.model.context_tokens} less "
            f"rollout.max_completion_tokens={config.rollout.max_completion_tokens}; "
            "raise model.context_tokens or shorten the prompt"
        )
