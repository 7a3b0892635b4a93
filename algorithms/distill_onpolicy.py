"""On-policy distillation (GKD, arXiv 2306.13649): the student samples, a teacher scores its tokens, the student comes closer."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING

from posttrain.algorithms.sapo import SapoConfig
from posttrain.errors import UserError, nearest
from posttrain.learner_spec import Distillation

if TYPE_CHECKING:
    from posttrain.algorithms.losses import Objective

KINDS = ("forward", "reverse", "jsd")
SUPPORTS = ("full", "topk", "sampled")


@dataclass
class DistillOnpolicyConfig(SapoConfig):
    """A divergence from the teacher, the mean over tokens; rewards are learned from too with task_weight."""

    name: str = "distill_onpolicy"
    normalization: str = "token_mean"  # every token of the batch weighs the same
    teacher: str | None = None  # folder, hub name or builtin:<name>; its vocabulary is the student's
    teachers: dict[str, str] = field(default_factory=dict)  # task -> its own teacher; the other tasks have algo.teacher
    divergence: str = "reverse"  # KL(student || teacher); or forward, KL(teacher || student); or jsd, between them
    beta: float = 0.5  # jsd: the teacher's share of the mixture
    support: str = "full"  # whole vocabulary; or topk, the teacher's and the rest as one; or sampled, the token
    top_k: int = 64  # topk: tokens that the teacher names
    task_weight: float = 0.0  # of SAPO's loss on the rewards, added to the divergence

    @property
    def needs_every_episode(self) -> bool:
        """A divergence has no advantage."""
        return True

    def distillation(self) -> Distillation:
        """What is minimised."""
        return Distillation(kind=self.divergence, beta=self.beta, support=self.support, top_k=self.top_k)

    def teacher_paths(self, tasks: Iterable[str]) -> dict[str, str]:
        """The teacher of each task.

        Raises UserError: a task has none, or one is named for a task that there is not.
        """
        known = list(tasks)
        for task in self.teachers:
            if task not in known:
                raise UserError(f"algo.teachers.{task}: the run has no such task; {nearest(task, known)}")
        paths = {task: self.teachers.get(task, self.teacher) for task in known}
        if None in paths.values():
            raise UserError("algo.teacher=null: expected a folder, a hub name or builtin:<name>")
        return {task: path for task, path in paths.items() if path is not None}

    def objective(self) -> "Objective":
        """The divergence, and SAPO's loss if it weighs anything."""
        from posttrain.algorithms.divergences import DistillationLoss, importance

        samples_count = self.support == "sampled" and self.correction != "none"
        return DistillationLoss(
            task=super().objective() if self.task_weight else None,
            task_weight=self.task_weight,
            importance=partial(importance, cap=self.correction_cap) if samples_count else None,
        )

    def validate(self) -> None:
        """Raises UserError for an unknown kind or support, and numbers that mean nothing."""
        super().validate()
        for key, known in {"divergence": KINDS, "support": SUPPORTS}.items():
            self.check(key, vars(self)[key] in known, f"one of {', '.join(known)}")
        self.check("beta", 0 < self.beta < 1, "a number between 0 and 1; forward and reverse are kinds of their own")
        self.check("top_k", self.top_k >= 1, "at least 1")
        self.check("task_weight", isfinite(self.task_weight) and self.task_weight >= 0, "0 or more")
        for key, idle in {"kl_coefficient": 0.0, "opsm_delta": None}.items():
            self.check(
                key, self.task_weight > 0 or vars(self)[key] == idle, f"{idle} where algo.task_weight is 0: it is a part of that loss"
            )
        self.check("teacher", bool(self.teacher or self.teachers), "a folder, a hub name or builtin:<name>")
