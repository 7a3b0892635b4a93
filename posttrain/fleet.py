"""The actors of a run, as the driver uses them: `Learners` (the DeepSpeed ranks), `Engines` (the vLLM engines) and `Teachers`.

Thin: each method says which actors are called with what, and puts their answers together. What crosses processes is
here; what is computed is in `posttrain.learner`, `posttrain.rollout.engine` and `posttrain.teacher`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from posttrain.algorithms.losses import Objective
from posttrain.cluster import Call, Cluster
from posttrain.errors import WeightSyncError
from posttrain.learner_spec import LearnerSpec, TeacherSpec
from posttrain.packing import prompts_of, rewrite, sequence_batch, spread
from posttrain.rollout.engine import EngineSpec
from posttrain.rollout.loop import EpisodeJob
from posttrain.stats import LearnerStats
from posttrain.teacher_inputs import TeacherInputs
from posttrain.types import Batch, FloatArray, Group, RenderedPrompt
from posttrain.weights import Canary, CanaryReceipt, WeightsManifest, verify_canary, verify_delivery

LEARNER = "posttrain.learner:Learner"
ENGINE = "posttrain.rollout.engine:Engine"
TEACHER = "posttrain.teacher:Teacher"
SERVED_TEACHER = "posttrain.served_teacher:ServedTeacher"


class Learners:
    """All ranks of the trained model."""

    def __init__(self, cluster: Cluster, make_spec: Callable[[int], LearnerSpec]) -> None:
        """Creates the processes; `start` builds the model. make_spec takes the threads of a rank."""
        self.cluster = cluster
        placement = cluster.learners
        self.num_sharing = make_spec(placement.cpus).train.sequence_parallel
        self.members = [cluster.spawn(f"learner_{i}", LEARNER, make_spec(placement.cpus), placement, i) for i in range(placement.count)]

    def begin_start(self) -> list[Call]:
        """Lets every rank join the process group and load; returns the calls to wait for."""
        self.cluster.identify(self.members)
        host, port = self.cluster.wait([self.cluster.call(self.members[0], "rendezvous")])[0]
        return [self.cluster.call(m, "start", i, len(self.members), host, port) for i, m in enumerate(self.members)]

    def step(self, batches: Sequence[Batch], objective: Objective) -> LearnerStats:
        """One optimizer step over micro-batches that make up the whole step."""
        calls = [self.cluster.call(member, "step", share, objective) for member, share in self._deal(batches)]
        return LearnerStats.merge(self.cluster.wait(calls)[:: self.num_sharing])

    def evaluate(self, batches: Sequence[Batch], measures: Mapping[str, Objective]) -> dict[str, float]:
        """The sum of each measure, under the loss weights, over micro-batches that make up the whole; without a step."""
        calls = [self.cluster.call(member, "evaluate", share, measures) for member, share in self._deal(batches)]
        totals = self.cluster.wait(calls)[:: self.num_sharing]
        return {name: float(sum(total[name] for total in totals)) for name in measures}

    def score(self, batches: Sequence[Batch]) -> list[FloatArray]:
        """Log-probabilities of each batch's trained tokens at temperature 1, (T,), 0 where nothing is trained."""
        scored = {id(batch): logprobs_T for batch, logprobs_T in self._score(batches, 1.0, by_reference=False)}
        return [scored[id(batch)] for batch in batches]

    def score_old(self, batches: Sequence[Batch], temperature: float) -> None:
        """Sets old_logprobs of every batch to the current model's log-probabilities."""
        for batch, logprobs_T in self._score(batches, temperature, by_reference=False):
            batch.old_logprobs = logprobs_T

    def score_reference(self, batches: Sequence[Batch], temperature: float) -> None:
        """Sets ref_logprobs of every batch to the frozen reference's log-probabilities."""
        for batch, logprobs_T in self._score(batches, temperature, by_reference=True):
            batch.ref_logprobs = logprobs_T

    def _score(self, batches: Sequence[Batch], temperature: float, *, by_reference: bool) -> Iterator[tuple[Batch, FloatArray]]:
        """(batch, float32 log-probabilities (T,), 0 where nothing is trained)."""
        dealt = self._deal(batches)
        calls = [self.cluster.call(member, "score", share, temperature, by_reference) for member, share in dealt]
        for (_, share), scored in zip(dealt, self.cluster.wait(calls), strict=True):
            for batch, logprobs_N in zip(share, scored, strict=True):
                logprobs_T = np.zeros(batch.num_tokens, np.float32)
                logprobs_T[batch.loss_weights != 0] = logprobs_N
                yield batch, logprobs_T

    def _deal(self, batches: Sequence[Batch]) -> list[tuple[Any, list[Batch]]]:
        """Every rank and its micro-batches; ranks that share streams stand together and have the same."""
        shares = spread(batches, len(self.members) // self.num_sharing)
        return [(member, shares[index // self.num_sharing]) for index, member in enumerate(self.members)]

    def score_canary(self, canary: Canary) -> FloatArray:
        """Log-probabilities of its tokens but the first and its images', (N,)."""
        batch = sequence_batch(canary.token_ids, canary.images, canary.geometry)
        scored: FloatArray = self.cluster.call_all(self.members, "score_canary", batch)[0]
        return scored

    def take_busy_seconds(self) -> float:
        """Seconds of computation since the last time, of the rank that computed longest."""
        return float(max(self.cluster.call_all(self.members, "take_busy_seconds")))

    def export(self) -> tuple[Any, WeightsManifest]:
        """A reference to all weights in the object store, and their manifest."""
        calls, payloads = zip(*[self.cluster.call_pair(member, "export") for member in self.members], strict=True)
        manifest, *_ = self.cluster.wait(calls)
        return payloads[0], manifest

    def take_teacher_head(self, name: str, sent: Any, manifest: WeightsManifest) -> None:
        """Gives every rank a teacher's output layer.

        Raises:
            WeightSyncError: what a rank holds is not what the teacher sent.
        """
        for member, received in zip(self.members, self.cluster.call_all(self.members, "take_teacher_head", name, sent), strict=True):
            if received != manifest:
                raise WeightSyncError(f"{member.name} does not hold the head of {name}: got {received}, expected {manifest}")

    def save(self, folder: str) -> None:
        """Writes a checkpoint and a Hugging Face folder."""
        self.cluster.call_all(self.members, "save", folder)

    def load(self, folder: str) -> None:
        """Continues from a checkpoint."""
        self.cluster.call_all(self.members, "load", folder)


class Engines:
    """All rollout engines."""

    def __init__(self, cluster: Cluster, make_spec: Callable[[int], EngineSpec]) -> None:
        """Creates the processes; make_spec takes the threads of an engine."""
        self.cluster = cluster
        self.expected: tuple[FloatArray, float] | None = None
        self.canary_gap: float | None = None
        placement = cluster.engines
        self.members = [cluster.spawn(f"engine_{i}", ENGINE, make_spec(placement.cpus), placement, i) for i in range(placement.count)]

    def begin_start(self) -> list[Call]:
        """Lets every engine load; returns the calls to wait for."""
        self.cluster.identify(self.members)
        return [self.cluster.call(member, "start") for member in self.members]

    def sample(self, prompts: Sequence[RenderedPrompt], group_size: int, seed: int) -> Iterator[tuple[int, Group]]:
        """Samples `group_size` episodes a prompt; yields (index into prompts, group) as groups are complete.

        Prompts are dealt to engines in turn, a whole group to one engine, so that its prompt is computed once. What engines say of
        the canary is held against what the learner said (`expect`) as soon as it comes; canary_gap: the largest difference.

        Raises:
            WeightSyncError: an engine does not sample from the learner's weights.
        """
        shares: list[list[EpisodeJob]] = [[] for _ in self.members]
        for index, (prompt, token_ids) in enumerate(prompts):
            jobs = [EpisodeJob(key=(index, k), prompt=prompt, prompt_token_ids=token_ids) for k in range(group_size)]
            shares[index % len(shares)] += jobs
        calls = [
            self.cluster.call_stream(member, "rollout", share, seed + i)
            for i, (member, share) in enumerate(zip(self.members, shares, strict=True))
            if share
        ]
        self.canary_gap = None
        for call, item in self.cluster.stream(calls):
            if isinstance(item, CanaryReceipt):
                self._check(call.member.name, item)
                continue
            index, episodes = item
            prompt, token_ids = prompts[index]
            yield index, Group(prompt=prompt, prompt_token_ids=token_ids, episodes=episodes)

    def take_busy_seconds(self) -> float:
        """Seconds spent in vLLM since the last time, of the engine that was busy longest."""
        return float(max(self.cluster.call_all(self.members, "take_busy_seconds")))

    def load(self, weights: Any, policy_version: int, canary: Canary) -> list[WeightsManifest]:
        """Gives every engine the weights, and the canary that it scores in each rollout with them; returns what each received."""
        received: list[WeightsManifest] = self.cluster.call_all(self.members, "load", weights, policy_version, canary)
        return received

    def expect(self, canary_logprobs: FloatArray, tolerance: float) -> None:
        """What the learner says of the canary under the weights that engines sample from now on."""
        self.expected = canary_logprobs, tolerance

    def _check(self, engine: str, receipt: CanaryReceipt) -> None:
        assert self.expected is not None, "engines had a canary with weights, and the learner did not say what it is"
        self.canary_gap = max(self.canary_gap or 0.0, verify_canary(engine, self.expected[0], receipt, self.expected[1]))


class Teachers:
    """The frozen models that a policy is to come closer to, one actor each; without any, nothing happens here."""

    def __init__(self, cluster: Cluster, inputs: Sequence[TeacherInputs], make_spec: Callable[[TeacherInputs, int], TeacherSpec]) -> None:
        """Creates the processes; make_spec takes a teacher and its threads."""
        self.cluster, self.inputs = cluster, inputs
        placement = cluster.teachers
        self.members = [
            cluster.spawn(teacher.name, SERVED_TEACHER if teacher.is_served else TEACHER, make_spec(teacher, placement.cpus), placement, i)
            for i, teacher in enumerate(inputs)
        ]

    def begin_start(self) -> list[Call]:
        """Lets every teacher load; returns the calls to wait for."""
        self.cluster.identify(self.members)
        return [self.cluster.call(member, "start") for member in self.members]

    def give_heads(self, learners: Learners) -> None:
        """Sends every teacher's output layer to the learners, once."""
        for member in self.members:
            call, sent = self.cluster.call_pair(member, "export_head")
            (manifest,) = self.cluster.wait([call])
            if manifest:  # a server shows none
                learners.take_teacher_head(member.name, sent, manifest)

    def part(self, batch: Batch) -> list[Batch]:
        """A micro-batch for each teacher that has prompts in it; the micro-batch itself where that is one or none."""
        own = prompts_of(batch)
        shares = [(teacher, {name: own[name] for name in own if name in teacher.prompts}) for teacher in self.inputs]
        parts = []
        for teacher, prompts in shares:
            if prompts:
                parts.append(batch if len(prompts) == len(own) else rewrite(batch, prompts))
                parts[-1].teacher = teacher.name
        return parts or [batch]

    def score(self, batches: Sequence[Batch]) -> None:
        """Lets each batch's teacher score it, after the prompts as that teacher's template renders them; the scores stay where they are."""
        calls = []
        for batch in batches:
            index = next(index for index, teacher in enumerate(self.inputs) if teacher.name == batch.teacher)
            stream = rewrite(batch, {name: self.inputs[index].prompts[name] for name in batch.prompt_ids})
            call, batch.teacher_scores = self.cluster.call_pair(self.members[index], "score", stream)
            calls.append(call)
        for batch, num_scored in zip(batches, self.cluster.wait(calls), strict=True):
            assert num_scored == np.count_nonzero(batch.loss_weights)


def publish(learners: Learners, engines: Engines, *, policy_version: int, canary: Canary, tolerance: float) -> None:
    """Brings every engine to the learner's weights. That they arrived is proved here, that engines compute with them in the next rollout.

    Raises:
        WeightSyncError: an engine did not get the learner's weights.
    """
    weights, manifest = learners.export()
    for member, received in zip(engines.members, engines.load(weights, policy_version, canary), strict=True):
        verify_delivery(member.name, manifest, received)
    engines.expect(learners.score_canary(canary), tolerance)
