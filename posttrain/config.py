"""Every key of a run's configuration, with its unit and its default.

Defaults are the settings of the default run (`python -m posttrain.run algo=sapo`) or of the paper that a section comes
from; the YAML files under `configs/` hold only differences. An algorithm's own keys stand in its own file. This module
imports neither torch, ray nor vllm: a mistake is told before any of them is loaded.

Left out on purpose: keys that nobody should have to set (ports, actor names, file names), and any second name for a key.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar

from omegaconf import MISSING

from posttrain.errors import UserError


@dataclass
class RunConfig:
    """Where a run lives and how it is repeated."""

    dir: str | None = None  # folder of the run; default runs/<date>-<time>-<algo>-<model>
    seed: int = 0  # data order, sampling and initialisation all follow from it
    resume: bool = False  # continue the run in run.dir from its last checkpoint
    checkpoint_every: int = 20  # steps between checkpoints (the last step always writes one)
    keep_checkpoints: int = 2  # older ones are removed


@dataclass
class ModelConfig:
    """The model to train."""

    path: str = MISSING  # Hugging Face folder or hub name, or builtin:smollm2, builtin:tiny
    dtype: str = "auto"  # bfloat16 (float32 master weights) or float32; auto: bfloat16 where the hardware has it
    attention: str = "auto"  # the learner's: blocks (any device), flex (CUDA), or auto: flex where there is CUDA
    context_tokens: int = 1024  # longest prompt plus completion that the engine takes
    freeze: list[str] = field(default_factory=list)  # patterns of parameter names that are not trained, such as *embed_tokens*


@dataclass
class TaskConfig:
    """Where prompts or conversations come from, and how answers are scored."""

    name: str = MISSING  # names the metrics eval/<name>/...
    source: str = "reasoning_gym"  # reasoning_gym, generated, file, or dataset
    family: str | None = None  # not for files: the family of problems, such as chain_sum or code_problems
    params: dict[str, Any] = field(default_factory=dict)  # not for files: the family's own parameters
    num_examples: int = 2000  # not for files: examples drawn; repeated questions are kept once
    path: str | None = None  # file: .jsonl or .parquet, of `messages` (and `answer`); dataset: folder or hub name
    heldout_fraction: float = 0.25  # share of the distinct prompts kept for evaluation, chosen by their content
    system_prompt: str | None = None  # put before each prompt; default: what the model's chat template does
    thinking: float = 1.0  # sft: share of rows with <think> that keep it; distill_offpolicy: of prompts with it
    rewards: dict[str, float] = field(default_factory=dict)  # reward name -> weight
    tools: list[str] = field(default_factory=list)  # what the policy may call, such as [calculator, python]
    environment: str | None = None  # what the policy plays against, turn by turn, such as maze
    share: float = 1.0  # of the prompts of a batch, in proportion to the other tasks' shares


@dataclass
class AlgoConfig:
    """What every algorithm has; each one's file adds its own keys."""

    unused: ClassVar[tuple[str, ...]] = ()
    """Keys and sections that mean nothing to the algorithm: not checked, and refused on the command line."""
    makes: ClassVar[tuple[str, ...]] = ("checkpoint",)
    """What a later stage of a pipeline can take from a run: a checkpoint, a dataset."""

    name: str = MISSING  # the algorithm's name in metrics and in run.dir; set by algo=<name>

    def uses(self, key: str) -> bool:
        """Whether a key means something to the algorithm."""
        return not any(key == name or key.startswith(f"{name}.") for name in self.unused)

    def validate(self) -> None:
        """Checks the algorithm's own keys; the base has none to check.

        Raises UserError.
        """

    def run(self, config: "Config") -> None:
        """Runs the whole of `config`. Heavy imports stand inside: a config must load without torch, ray or vllm."""
        raise NotImplementedError(f"{type(self).__name__} has no run()")


@dataclass
class TrainConfig:
    """The optimizer step."""

    steps: int = 45  # optimizer steps = minibatches times rollout batches
    lr: float = 2e-5  # peak learning rate of AdamW
    lr_schedule: str = "constant"  # constant, linear or cosine, after the warm-up
    warmup_steps: int = 5  # optimizer steps of linear warm-up
    weight_decay: float = 0.0  # AdamW's, decoupled
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # AdamW's two
    max_grad_norm: float = 1.0  # gradients are scaled down to this global norm
    prompts_per_step: int = 8  # prompts in a rollout batch
    minibatches: int = 1  # optimizer steps a rollout batch is cut into
    microbatch_tokens: int = 2048  # packed tokens in one forward and backward pass
    shared_prefix: bool = True  # a group's prompt stands once in the stream; false: once an episode
    zero_stage: int = 1  # DeepSpeed ZeRO stage, 0 to 3
    sequence_parallel: int = 1  # learner ranks that share each micro-batch, a slice each (DeepSpeed Ulysses)
    gradient_checkpointing: bool = False  # less memory, one more forward pass
    compile: bool = False  # torch.compile each layer: on two cores 5 % faster after a slower start
    head_chunk_mb: float = 200.0  # megabytes of logits at a time: trained positions times vocabulary


@dataclass
class RolloutConfig:
    """Sampling."""

    max_completion_tokens: int = 24  # tokens the policy may write in an episode, all turns together
    max_turns: int = 1  # turns an episode may have
    max_images: int = 8  # images an episode may show, the prompt's included
    tool_timeout_s: float = 20.0  # one call, or one answer of an environment; a process that takes longer is killed
    tool_wait_s: float = 0.2  # the engine waits so long for answers to turns that just ended, so that runs repeat
    tool_rate_floor: float = 0.0  # a smaller share of episodes that call tools is warned of: tool use dies unnoticed
    temperature: float = 1.0  # of sampling in training; 1 samples from the policy itself
    max_num_seqs: int = 128  # sequences an engine runs at a time
    compile: bool = False  # vLLM's compilation and CUDA graphs; on two cores 15 % faster, a minute later
    kv_cache_gb: float = 1.0  # CPU engines: memory for the key-value cache
    gpu_memory_utilization: float = 0.85  # CUDA engines: share of the device's memory


@dataclass
class RewardsConfig:
    """How scores are computed; which rewards, a task says."""

    num_processes: int = 8  # processes a task's rewards may have; another one starts when all are busy
    timeout_s: float = 30.0  # one reward on one episode; a process that takes longer is killed
    memory_gb: float = 4.0  # memory of a scoring process
    retries: int = 0  # further attempts at an episode whose scoring failed, before it leaves its group
    judge_model: str | None = None  # a model that vLLM serves as this run's judge; null: POSTTRAIN_JUDGE_URL, if any
    max_failure_fraction: float = 0.1  # a larger share among the latest 500 episodes, or of a batch's tool calls, ends the run


@dataclass
class ClusterConfig:
    """Processes and where they run."""

    address: str = "local"  # local starts Ray here; auto or host:port joins a running cluster
    num_engines: int = 1  # vLLM engines, one an actor
    num_learners: int = 1  # DeepSpeed ranks
    engine_cpus: int = 0  # threads of an engine; 0: all cores of this machine, shared fairly on cluster=local
    learner_cpus: int = 0  # threads of a learner rank; 0: as above
    engine_gpus: int = 0  # GPUs of an engine; 0: on the CPU
    learner_gpus: int = 0  # GPUs of a learner rank; 0: on the CPU
    deadline_s: float = 300.0  # an actor that makes no progress for this long ends the run


@dataclass
class EvalConfig:
    """Held-out evaluation; always before the first and after the last step."""

    every: int = 0  # steps between further evaluations; 0: none
    num_prompts: int = 50  # held-out prompts, or rows of each task, the same ones every time
    samples_per_prompt: int = 8  # episodes a prompt; eval/<task>/reward_mean is over all of them


@dataclass
class ChecksConfig:
    """Tests of what would go wrong unseen."""

    every: int = 20  # steps between tests that blank images change what a model says; 0: at the start


@dataclass
class WeightsConfig:
    """Proof that the engines hold the learner's weights."""

    canary_tolerance: float | None = None  # max |log-probability difference|; default 1e-3 in float32, 2 in bfloat16


@dataclass
class Config:
    """A whole run."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    mixture: dict[str, TaskConfig] = field(default_factory=dict)  # more tasks beside task; task=[a,b,c] fills it
    algo: Any = MISSING  # an AlgoConfig; Any, because each algorithm brings its own subclass
    train: TrainConfig = field(default_factory=TrainConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    checks: ChecksConfig = field(default_factory=ChecksConfig)

    @property
    def tasks(self) -> list[TaskConfig]:
        """All tasks of the run, `task` first."""
        return [self.task, *self.mixture.values()]


_POSITIVE = (
    *("run.checkpoint_every", "run.keep_checkpoints", "model.context_tokens"),
    *("train.steps", "train.lr", "train.max_grad_norm", "train.prompts_per_step", "train.minibatches"),
    *("train.microbatch_tokens", "train.sequence_parallel", "train.head_chunk_mb", "rollout.max_completion_tokens", "rollout.max_turns"),
    *("rollout.tool_timeout_s",),
    *("rollout.temperature", "rollout.max_num_seqs", "rollout.kv_cache_gb", "cluster.num_engines", "cluster.num_learners"),
    *("cluster.deadline_s", "eval.num_prompts", "eval.samples_per_prompt"),
    *("rewards.num_processes", "rewards.timeout_s", "rewards.memory_gb"),
)
_NOT_NEGATIVE = (
    *("run.seed", "train.warmup_steps", "train.weight_decay", "cluster.engine_cpus", "cluster.learner_cpus"),
    *("cluster.engine_gpus", "cluster.learner_gpus", "eval.every", "rewards.retries", "rollout.max_images", "rollout.tool_wait_s"),
    *("checks.every",),
)
_CHOICES: dict[str, tuple[str | int, ...]] = {
    "model.dtype": ("auto", "bfloat16", "float32"),
    "model.attention": ("auto", "blocks", "flex"),
    "train.lr_schedule": ("constant", "linear", "cosine"),
    "train.zero_stage": (0, 1, 2, 3),
}
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{key: (lambda value: math.isfinite(value) and value > 0, "a number above 0") for key in _POSITIVE},
    **{key: (lambda value: math.isfinite(value) and value >= 0, "0 or more") for key in _NOT_NEGATIVE},
    **{key: (known.__contains__, f"one of {', '.join(map(str, known))}") for key, known in _CHOICES.items()},
    "model.path": (bool, "a folder, a hub name or builtin:<name>"),
    "train.betas": (lambda betas: len(betas) == 2 and all(0 <= beta < 1 for beta in betas), "two numbers from 0 to below 1"),
    "rewards.max_failure_fraction": (lambda share: 0 <= share <= 1, "a share from 0 to 1"),
    "rollout.tool_rate_floor": (lambda share: 0 <= share <= 1, "a share from 0 to 1"),
    "rollout.gpu_memory_utilization": (lambda share: 0 < share <= 1, "a number above 0 and at most 1"),
    "weights.canary_tolerance": (lambda value: value is None or (math.isfinite(value) and value > 0), "null or a number above 0"),
}

DRAWN = ("reasoning_gym", "generated")  # sources that need no files

_TASK_RULES: dict[str, tuple[Callable[[TaskConfig], object], str]] = {
    "source": (lambda task: task.source in (*DRAWN, "file", "dataset"), f"one of {', '.join(DRAWN)}, file, dataset"),
    "num_examples": (lambda task: task.num_examples > 0, "a number above 0"),
    "heldout_fraction": (lambda task: 0 < task.heldout_fraction < 1, "a number between 0 and 1"),
    "rewards": (lambda task: task.rewards and all(map(math.isfinite, task.rewards.values())), "at least one reward name: weight"),
    "thinking": (lambda task: 0 <= task.thinking <= 1, "a share from 0 to 1"),
    "share": (lambda task: math.isfinite(task.share) and task.share > 0, "a number above 0"),
    "family": (lambda task: task.source not in DRAWN or task.family, "a family of problems, such as chain_sum"),
    "path": (lambda task: task.source in DRAWN or task.path, "a .jsonl or .parquet file, or with source=dataset a folder or hub name"),
}


def validate(config: Config) -> None:
    """Checks what types cannot say, before anything heavy is loaded; then the algorithm checks its own keys.

    Raises UserError: with the key, what was got and what was expected.
    """
    algo: AlgoConfig = config.algo
    for key, (holds, expected) in _RULES.items():
        got = attrgetter(key)(config)
        if algo.uses(key) and not holds(got):
            raise UserError(f"{key}={got}: expected {expected}")
    for section, task in {"task": config.task, **{f"mixture.{name}": task for name, task in config.mixture.items()}}.items():
        _validate_task(section, task, algo)
        if algo.uses("rollout") and (task.tools or task.environment is not None) and config.rollout.max_turns < 2:
            what = f"{section}.tools={task.tools}" if task.tools else f"{section}.environment={task.environment}"
            raise UserError(f"rollout.max_turns={config.rollout.max_turns}: expected 2 or more with {what}, or no answer is ever read")
    names = [task.name for task in config.tasks]
    if len(set(names)) < len(names):
        raise UserError(f"tasks {', '.join(names)}: expected different names, which tell their metrics apart; set mixture.<task>.name")
    train = config.train
    together = (
        (config.run.dir or not config.run.resume, "run.resume=true: needs run.dir=<the run to continue>"),
        (
            train.minibatches <= train.prompts_per_step,
            f"train.minibatches={train.minibatches}: expected at most train.prompts_per_step={train.prompts_per_step}",
        ),
        (
            train.steps % train.minibatches == 0,
            f"train.steps={train.steps}: expected a multiple of train.minibatches={train.minibatches}",
        ),
        (
            not algo.uses("rollout") or config.rollout.max_completion_tokens < config.model.context_tokens,
            f"rollout.max_completion_tokens={config.rollout.max_completion_tokens}: expected less than "
            f"model.context_tokens={config.model.context_tokens}, which holds the prompt too",
        ),
        (
            config.cluster.num_learners % train.sequence_parallel == 0,
            f"train.sequence_parallel={train.sequence_parallel}: expected a divisor of cluster.num_learners={config.cluster.num_learners}, "
            "because that many of its ranks share a micro-batch",
        ),
        (
            train.sequence_parallel == 1 or not train.compile,
            f"train.sequence_parallel={train.sequence_parallel}: has not been tried with train.compile=true; expected one of the two",
        ),
        (
            not any(task.tools or task.environment for task in config.tasks) or config.rollout.tool_timeout_s < config.cluster.deadline_s,
            f"rollout.tool_timeout_s={config.rollout.tool_timeout_s:g}: expected less than cluster.deadline_s="
            f"{config.cluster.deadline_s:g}, in which an engine has to make progress",
        ),
        (
            config.model.attention != "flex" or config.cluster.learner_gpus > 0,
            "model.attention=flex: needs cluster.learner_gpus, because FlexAttention trains on CUDA only; expected auto or blocks",
        ),
    )
    for holds_together, message in together:
        if not holds_together:
            raise UserError(message)
    algo.validate()


def _validate_task(section: str, task: TaskConfig, algo: AlgoConfig) -> None:
    for key, (holds, expected) in _TASK_RULES.items():
        if algo.uses(f"task.{key}") and not holds(task):
            got = vars(task)[key]
            raise UserError(f"{section}.{key}={'null' if got is None else got}: expected {expected}")
