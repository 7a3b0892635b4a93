"""The learner: one DeepSpeed rank in a Ray actor. It takes packed batches and an objective and knows neither algorithm nor task.

What lives here: the optimizer step, scoring, the export of weights, saving and loading. What does not: how batches are
made (`posttrain.packing`), what the loss is (`posttrain.algorithms.losses`), how ranks are started (`posttrain.cluster`).

Every method is called on all ranks at once and takes part in collectives; results that need only one copy come from
rank 0. Shape suffixes: `_T` tokens of a stream, `_N` its trained tokens.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import cos, pi
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import ray
import torch
from torch import Tensor

from posttrain import attention
from posttrain.algorithms.divergences import Divergence
from posttrain.algorithms.losses import LossTokens, Objective
from posttrain.config import TrainConfig
from posttrain.errors import RunError
from posttrain.head import Teaching
from posttrain.learner_spec import LearnerSpec
from posttrain.model import (
    AnswerScorer,
    Reading,
    TokenScorer,
    compile_layers,
    freeze,
    load_model,
    load_reward_model,
    load_tokenizer,
    stream_tensors,
)
from posttrain.pixels import PixelReader, reads_images, save_processor
from posttrain.sequence_parallel import SharedStreams
from posttrain.stats import LearnerStats, ScoredTokens
from posttrain.teacher import TeacherScores
from posttrain.teacher_head import SampledTeaching, TeacherHead
from posttrain.types import Batch, FloatArray
from posttrain.weights import WeightsManifest, WeightsPayload, fingerprints, send
from posttrain.worker import Worker


class Learner(Worker):
    """One rank of the trained model."""

    def __init__(self, spec: LearnerSpec) -> None:
        """Only notes what to build; `start` builds it, once every rank has a process."""
        super().__init__()
        self.spec = spec
        self.teacher_heads: dict[str, TeacherHead] = {}
        self.reading = Reading(at_predictors=not spec.is_reward_model, is_merged=spec.train.shared_prefix)

    def rendezvous(self) -> tuple[str, int]:
        """This node's address and a port that is free now: where rank 0 lets the others find it."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), int(probe.getsockname()[1])

    def start(self, rank: int, world_size: int, master_host: str, master_port: int) -> int:
        """Joins the process group and builds model, optimizer and schedule; returns the number of parameters."""
        os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(world_size), MASTER_ADDR=master_host, MASTER_PORT=str(master_port))
        torch.set_num_threads(self.spec.threads)
        torch.manual_seed(self.spec.seed)
        self.rank, self.world_size = rank, world_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        by_device = "flex" if self.device.type == "cuda" else "blocks"
        self.attention = by_device if self.spec.attention == "auto" else self.spec.attention
        # DeepSpeed would compile a shared-memory all-reduce here, a minute under a lock file that a killed process leaves
        # behind for ever: every later start would wait for it. It speeds up several CPU ranks of one node, nothing else.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="nccl" if self.device.type == "cuda" else "gloo")
        self.advance()
        train = self.spec.train
        load = load_reward_model if self.spec.is_reward_model else load_model
        self.model = load(self.spec.model_path, self.spec.dtype)
        freeze(self.model, self.spec.freeze)
        self.pixels = PixelReader(self.spec.model_path) if reads_images(self.model.config) else None
        if train.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        if train.compile:
            compile_layers(self.model)
        num_parameters = self.model.num_parameters()
        self.advance()
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=train.lr,
            betas=(train.betas[0], train.betas[1]),
            weight_decay=train.weight_decay,
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, train))
        self.engine, *_ = deepspeed.initialize(
            model=AnswerScorer(self.model) if self.spec.is_reward_model else TokenScorer(self.model, train.head_chunk_mb),
            optimizer=optimizer,
            lr_scheduler=schedule,
            config=deepspeed_config(train, self.spec.dtype),
        )
        self._clip_without_zero(optimizer)
        self.engine.train()
        self.reference = self._load_reference()
        self.sharing = self._share_streams()
        self.advance()
        return int(num_parameters)

    def _load_reference(self) -> TokenScorer | None:
        """Whole on every rank, whatever the ZeRO stage."""
        if self.spec.reference_path is None:
            return None
        model = load_model(self.spec.reference_path, self.spec.dtype).to(self.device).eval().requires_grad_(False)
        return TokenScorer(model, self.spec.train.head_chunk_mb)

    def _share_streams(self) -> SharedStreams | None:
        """With sequence parallelism, the other ranks of this one's group; attention is then theirs together."""
        if self.spec.train.sequence_parallel == 1:
            return None
        sharing = SharedStreams(self.spec.train.sequence_parallel, self.reading)
        attention.register(sharing.attention(self.model.config))
        return sharing

    def _clip_without_zero(self, optimizer: torch.optim.Optimizer) -> None:
        """Plain float32 data parallelism: DeepSpeed's own clipping does not tell the norm, so it is done here."""
        self._plain_grad_norm = 0.0
        self._is_plain = self.spec.train.zero_stage == 0 and self.spec.dtype == "float32"
        if not self._is_plain:
            return

        def clip(*_: object) -> None:
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.train.max_grad_norm)
            self._plain_grad_norm = norm.item()

        optimizer.register_step_pre_hook(clip)

    def step(self, batches: Sequence[Batch], objective: Objective) -> LearnerStats:
        """One optimizer step over this rank's micro-batches; the statistics are those of this rank alone.

        The loss is the sum over all ranks of loss_weights times the objective: DeepSpeed averages gradients over ranks,
        so each rank's sum is multiplied by their number. Ranks that share streams have the same micro-batches and statistics,
        and each its own tokens' gradient.
        """
        with self.computing():
            return self._step(batches, objective)

    def _step(self, batches: Sequence[Batch], objective: Objective) -> LearnerStats:
        stats = LearnerStats(is_off_policy=any(batch.old_logprobs is not None for batch in batches))
        for batch in batches:
            logprobs_N, entropies_N, *taught = self._score(self.engine, batch, self.spec.temperature, self._teaching(batch))
            # The objective sees leaves, so that its gradient a token can be looked at before it goes through the model.
            outputs = [logprobs_N, *taught[:1]]
            leaves = [values_N.detach().requires_grad_() for values_N in outputs]
            tokens = self._loss_tokens(batch, *leaves)
            loss = (self._trained(batch, batch.loss_weights) * objective(tokens)).sum()
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
            through_model = sum((gradient_N * values_N).sum() for gradient_N, values_N in zip(gradients, outputs, strict=True))
            self.engine.backward(through_model * self.world_size)
            felt_N = torch.stack(gradients).abs().sum(0)
            stats.add(loss.item(), _scored_tokens(tokens, entropies_N, felt_N, *taught[1:]))
            self.advance()
        stats.lr = float(self.engine.get_lr()[0])
        self.engine.step()
        norm = self._plain_grad_norm if self._is_plain else self.engine.get_global_grad_norm()
        stats.grad_norm = float(norm)
        if not np.isfinite(stats.grad_norm):
            raise RunError(f"the gradient norm is {stats.grad_norm}: nothing after this step can be trusted")
        self.advance()
        return stats

    def evaluate(self, batches: Sequence[Batch], measures: Mapping[str, Objective]) -> dict[str, float]:
        """The sum of each measure over this rank's micro-batches under the current weights; nothing changes."""
        totals = dict.fromkeys(measures, 0.0)
        with torch.no_grad(), self.computing():
            for batch in batches:
                logprobs_N, _, *taught = self._score(self.engine, batch, self.spec.temperature, self._teaching(batch))
                tokens, weights_N = self._loss_tokens(batch, logprobs_N, *taught[:1]), self._trained(batch, batch.loss_weights)
                for name, measure in measures.items():
                    totals[name] += float((weights_N * measure(tokens)).sum())
                self.advance()
        return totals

    def score(self, batches: Sequence[Batch], temperature: float, by_reference: bool = False) -> list[FloatArray]:
        """Log-probabilities of the trained tokens in stream order, one array a batch, under the current or the reference's weights."""
        scored = []
        module = self.reference if by_reference else self.engine
        with torch.no_grad(), self.computing():
            for batch in batches:
                logprobs_N, _ = self._score(module, batch, temperature)
                scored.append(_as_numpy(logprobs_N))
                self.advance()
        return scored

    def score_canary(self, batch: Batch) -> FloatArray:
        """Log-probabilities of a batch's trained tokens at temperature 1; no computation that a step is for, and not counted as one."""
        with torch.no_grad():
            logprobs_N, _ = self._score(self.engine, batch, 1.0)
        self.advance()
        scored: FloatArray = _as_numpy(logprobs_N)
        return scored

    def export(self) -> tuple[WeightsManifest, WeightsPayload]:
        """All weights by their Hugging Face names, tied ones under each name, and their fingerprints; nothing but on rank 0."""
        with self._gathered():
            if self.rank:
                return {}, []
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
            sent = send(tensors)
            manifest = fingerprints(sent)
        self.advance()
        return manifest, sent

    def save(self, folder: str) -> None:
        """Everything that resuming needs, under `folder`/deepspeed, and a Hugging Face folder under `folder`/hf."""
        self.engine.save_checkpoint(str(Path(folder) / "deepspeed"), tag="state")
        self.advance()
        with self._gathered():
            if not self.rank:
                state = {name: tensor.detach().cpu() for name, tensor in self.model.state_dict().items()}
                self.model.save_pretrained(str(Path(folder) / "hf"), state_dict=state)
                if self.pixels is not None:
                    save_processor(self.spec.model_path, str(Path(folder) / "hf"))
                tokenizer = load_tokenizer(self.spec.model_path)
                if self.spec.is_reward_model:
                    tokenizer.pad_token_id = self.model.config.pad_token_id
                tokenizer.save_pretrained(str(Path(folder) / "hf"))
        self.advance()

    def load(self, folder: str) -> None:
        """Continues from what `save` wrote.

        Raises:
            RunError: the checkpoint is not whole or was written by another number of ranks.
        """
        path, _ = self.engine.load_checkpoint(str(Path(folder) / "deepspeed"), tag="state")
        if path is None:
            raise RunError(f"rank {self.rank} found no state in {folder}/deepspeed")
        self.advance()

    def _gathered(self) -> Any:
        """Under ZeRO 3 parameters are whole only inside this context."""
        if self.spec.train.zero_stage < 3:
            return nullcontext()
        return deepspeed.zero.GatheredParameters(list(self.model.parameters()))

    def _score(self, module: Any, batch: Batch, temperature: float, teaching: Teaching | None = None) -> tuple[Tensor, ...]:
        if self.sharing is not None:
            return self.sharing.score(module, batch, (self.device, self.attention), temperature, teaching)
        stream = stream_tensors(batch, self.device, self.attention, self.pixels, self.reading)
        scored: tuple[Tensor, ...] = module(stream, temperature, teaching)
        return scored

    def take_teacher_head(self, name: str, sent: WeightsPayload) -> WeightsManifest:
        """Keeps a teacher's output layer for batches that carry its hidden states; returns what arrived."""
        layer = {item.name: item.tensor().to(self.device) for item in sent}
        self.teacher_heads[name] = TeacherHead(layer["weight"], layer.get("bias"))
        self.advance()
        return fingerprints(sent)

    def _teaching(self, batch: Batch) -> Teaching | None:
        """What the batch's teacher says, fetched from the object store if it is there.

        An empty batch that a rank was filled up with has a word on no tokens: under ZeRO 3 every rank has to go backward through
        as many outputs as the others.
        """
        chosen = self.spec.distillation
        if chosen is None:
            return None
        divergence = Divergence(chosen.kind, chosen.beta)
        if batch.teacher_scores is None:
            assert not batch.loss_weights.any(), "a batch came without its teacher's scores"
            return SampledTeaching(divergence, self._trained(batch, batch.behavior_logprobs))
        is_elsewhere = isinstance(batch.teacher_scores, ray.ObjectRef)
        scores: TeacherScores = ray.get(batch.teacher_scores) if is_elsewhere else batch.teacher_scores
        return scores.teaching(divergence, self.teacher_heads.get(batch.teacher), self.device)

    def _loss_tokens(self, batch: Batch, policy_logprobs_N: Tensor, divergences_N: Tensor | None = None) -> LossTokens:
        old_logprobs_N = policy_logprobs_N.detach() if batch.old_logprobs is None else self._trained(batch, batch.old_logprobs)
        return LossTokens(
            policy_logprobs_N=policy_logprobs_N,
            old_logprobs_N=old_logprobs_N,
            behavior_logprobs_N=self._trained(batch, batch.behavior_logprobs),
            advantages_N=self._trained(batch, batch.advantages),
            segments_N=self._trained(batch, batch.segment_ids),
            ref_logprobs_N=None if batch.ref_logprobs is None else self._trained(batch, batch.ref_logprobs),
            divergences_N=divergences_N,
        )

    def _trained(self, batch: Batch, values_T: Any) -> Tensor:
        return self._tensor(values_T[batch.loss_weights != 0])

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, device=self.device)


def _scored_tokens(tokens: LossTokens, entropies_N: Tensor, gradient_N: Tensor, teacher_N: Tensor | None = None) -> ScoredTokens:
    reference_N, divergences_N = tokens.ref_logprobs_N, tokens.divergences_N
    return ScoredTokens(
        policy=_as_numpy(tokens.policy_logprobs_N),
        old=_as_numpy(tokens.old_logprobs_N),
        behavior=_as_numpy(tokens.behavior_logprobs_N),
        reference=None if reference_N is None else _as_numpy(reference_N),
        advantages=_as_numpy(tokens.advantages_N),
        segments=_as_numpy(tokens.segments_N),
        entropies=_as_numpy(entropies_N),
        gradient=_as_numpy(gradient_N),
        teacher=None if teacher_N is None else _as_numpy(teacher_N),
        divergences=None if divergences_N is None else _as_numpy(divergences_N),
    )


def _as_numpy(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()


def lr_factor(step: int, train: TrainConfig) -> float:
    """The learning rate of optimizer step `step` (from 0) as a share of train.lr.

    Rises linearly and reaches 1 at step `warmup_steps` - 1, so that no step is wasted on a rate of 0; then stays
    (constant), falls to 0 at train.steps (linear), or follows half a cosine to 0 (cosine).
    """
    if step < train.warmup_steps:
        return (step + 1) / train.warmup_steps
    left = (train.steps - step) / max(1, train.steps - train.warmup_steps)
    shapes = {"constant": 1.0, "linear": max(0.0, left), "cosine": 0.5 * (1 - cos(pi * max(0.0, left)))}
    return shapes[train.lr_schedule]


def deepspeed_config(train: TrainConfig, dtype: str) -> dict[str, Any]:
    """DeepSpeed's configuration: the caller decides where a step ends, and gradients add up in float32."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": train.zero_stage, "overlap_comm": False},
        "communication_data_type": "fp32",  # by default gradients are rounded to bfloat16 on their way, on a single rank too
        "steps_per_print": None,
    }
    is_plain = train.zero_stage == 0 and dtype == "float32"
    config["gradient_clipping"] = 0.0 if is_plain else train.max_grad_norm
    if dtype == "bfloat16":
        config["bf16"] = {"enabled": True}
        if train.zero_stage:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config
