"""What a learner is told of the configuration; apart from `learner.py` so that the driver does not load DeepSpeed."""

from dataclasses import dataclass

from posttrain.config import TrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """What a learner needs to know of the configuration."""

    model_path: str
    reference_path: str | None = None  # a frozen model that scores beside the trained one
    dtype: str
    attention: str = "auto"  # as in ModelConfig
    train: TrainConfig
    temperature: float
    seed: int
    threads: int
