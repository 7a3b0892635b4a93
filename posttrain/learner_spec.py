"""What a learner and a teacher are told of the configuration; apart from them so that the driver does not load DeepSpeed."""

from dataclasses import dataclass

from posttrain.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """What a student minimises. support: full, topk or sampled; top_k: the teacher's tokens that topk names."""

    kind: str = "reverse"
    beta: float = 0.5
    support: str = "full"
    top_k: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSpec:
    """What a teacher needs to know of the configuration. output_rows: the student's; padding beyond them is cut off."""

    model_path: str
    dtype: str
    attention: str
    output_rows: int
    head_chunk_mb: float
    temperature: float
    distillation: Distillation
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """What a learner needs to know of the configuration."""

    model_path: str
    reference_path: str | None = None  # a frozen model that scores beside the trained one
    is_reward_model: bool = False  # answers are scored by one number, and tokens are not predicted
    dtype: str
    attention: str = "auto"  # as in ModelConfig
    freeze: tuple[str, ...] = ()  # as in ModelConfig
    distillation: Distillation | None = None  # what batches with a teacher's scores are measured by
    train: TrainConfig
    temperature: float
    seed: int
    threads: int
