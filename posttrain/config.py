"""Every key of a run's configuration, with its unit and its default.

Defaults are the settings of the default run (`python -m posttrain.run algo=sapo`) or of the paper that a section comes
from; the YAML files under `configs/` hold only differences. An algorithm's own keys stand in its own file. This module
imports neither torch, ray nor vllm: a mistake is told before any of them is loaded.

Left out on purpose: keys that nobody should have to set (ports, actor names, file names), and any second name for a key.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


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
    dtype: str = "bfloat16"  # bfloat16 (with float32 master weights) or float32, for learner and engine
    context_tokens: int = 1024  # longest prompt plus completion that the engine takes


@dataclass
class TaskConfig:
    """Where prompts come from and how answers are scored."""

    name: str = MISSING  # names the metrics eval/<name>/...
    source: str = "reasoning_gym"  # reasoning_gym, or file
    family: str | None = None  # reasoning_gym: the dataset family, such as chain_sum
    params: dict[str, Any] = field(default_factory=dict)  # reasoning_gym: the family's own parameters
    num_examples: int = 2000  # reasoning_gym: examples drawn; repeated questions are kept once
    path: str | None = None  # file: a .jsonl or .parquet file whose rows have `messages` and `answer`
    heldout_fraction: float = 0.25  # share of the distinct prompts kept for evaluation, chosen by their content
    system_prompt: str | None = None  # put before each prompt; default: what the model's chat template does
    rewards: dict[str, float] = field(default_factory=dict)  # reward name -> weight


@dataclass
class AlgoConfig:
    """What every algorithm has; each one's file adds its own keys."""

    name: str = MISSING


@dataclass
class TrainConfig:
    """The optimizer step."""

    steps: int = 60  # optimizer steps = minibatches times rollout batches
    lr: float = 2e-5
    lr_schedule: str = "constant"  # constant, linear or cosine, after the warm-up
    warmup_steps: int = 5
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    max_grad_norm: float = 1.0
    prompts_per_step: int = 8  # prompts in a rollout batch
    minibatches: int = 1  # optimizer steps a rollout batch is cut into
    microbatch_tokens: int = 2048  # packed tokens in one forward and backward pass
    shared_prefix: bool = True  # a group's prompt stands once in the stream; false: once an episode
    zero_stage: int = 1  # DeepSpeed ZeRO stage, 0 to 3
    gradient_checkpointing: bool = False
    head_chunk_tokens: int = 1024  # loss positions that meet the vocabulary at a time


@dataclass
class RolloutConfig:
    """Sampling."""

    max_completion_tokens: int = 32  # tokens the policy may write in an episode, all turns together
    max_turns: int = 1  # turns an episode may have
    temperature: float = 1.0
    max_num_seqs: int = 128  # sequences an engine runs at a time
    kv_cache_gb: float = 1.0  # CPU engines: memory for the key-value cache
    gpu_memory_utilization: float = 0.85  # CUDA engines: share of the device's memory


@dataclass
class ClusterConfig:
    """Processes and where they run."""

    address: str = "local"  # local starts Ray here; auto or host:port joins a running cluster
    num_engines: int = 1
    num_learners: int = 1  # DeepSpeed ranks
    engine_cpus: int = 0  # threads of an engine; 0: all cores of this machine, shared fairly on cluster=local
    learner_cpus: int = 0  # threads of a learner rank; 0: as above
    engine_gpus: int = 0
    learner_gpus: int = 0
    deadline_s: float = 300.0  # an actor that makes no progress for this long ends the run


@dataclass
class EvalConfig:
    """Held-out evaluation; always before the first and after the last step."""

    every: int = 0  # steps between further evaluations; 0: none
    num_prompts: int = 50
    samples_per_prompt: int = 4


@dataclass
class WeightsConfig:
    """Proof that the engines hold the learner's weights."""

    canary_tolerance: float | None = None  # max |log-probability difference|; default 1e-3 in float32, 0.5 in bfloat16


@dataclass
class Config:
    """A whole run."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    algo: Any = MISSING
    train: TrainConfig = field(default_factory=TrainConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
