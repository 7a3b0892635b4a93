"""vLLM in an actor's own process: token ids in, token ids with their log-probabilities out.

What lives here: everything that touches vLLM, but for where new weights go (`direct_load.py`) and how a token is drawn on the CPU
(`sampling.py`). What does not: conversations (`loop.py`), rendering (`render.py`), Ray (the actor is made in `posttrain.cluster`), the
verdict on a publish (`posttrain.weights`).

vLLM runs without a process of its own behind it, which makes weight updates simple and leaves nothing behind. Its
sampler uses torch's global generator, so seeding that before a batch of requests in a fixed order, after the prefix cache
was reset, repeats the batch bit by bit.
"""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.config import RolloutConfig
from posttrain.data.images import Decoder
from posttrain.rollout.desk import Desk
from posttrain.rollout.direct_load import Place, plan_direct_load
from posttrain.rollout.loop import EpisodeJob, EpisodeLimits, EpisodeLoop, RequestRefused
from posttrain.rollout.render import Renderer
from posttrain.types import EncodedImage, Episode, FloatArray, IntArray, Turn
from posttrain.vision import ImageGeometry
from posttrain.weights import NUM_CANARY_TOKENS, Canary, CanaryReceipt
from posttrain.worker import Worker

BLOCK_TOKENS = 32
"""Prefix-cache granularity: short enough that a group shares most of a short prompt, and what the CPU kernels want."""

PLAIN_CANARY, SCORED_CANARY = "canary", "canary, scored"
"""The ids of its two requests; a turn's is a number."""

BANNED_LOGIT_BIAS = -100.0
"""The lowest that vLLM takes: a factor of 4e-44, which float32 rounds to 0 beside 1. vLLM adds it before it tells log-probabilities,
so those are the ones without the banned tokens, and the learner leaves them out too (`Batch.banned_token_ids`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """What an engine needs to know of the configuration.

    geometry: how the model reads images; None: it reads text only. tools, environments: what any task's episodes may use, by entry point.
    """

    model_path: str
    geometry: ImageGeometry | None = None
    dtype: str
    context_tokens: int
    rollout: RolloutConfig
    threads: int
    top_logprobs: int = 0  # most likely tokens that are told of each place of a turn
    tools: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()


class Engine(Worker):
    """One vLLM engine and the episodes that run on it."""

    def __init__(self, spec: EngineSpec) -> None:
        """Only notes what to build; `start` builds it."""
        super().__init__()
        self.spec = spec
        self.policy_version = 0  # of the weights that it starts with
        self.canary: Canary | None = None  # comes with the first weights
        self.decode = Decoder()
        self.desk = Desk(spec.tools, spec.environments, timeout_s=spec.rollout.tool_timeout_s, advance=self.advance)

    def start(self) -> None:
        """Loads vLLM and the model."""
        os.environ.update(
            VLLM_ENABLE_V1_MULTIPROCESSING="0",
            VLLM_CPU_KVCACHE_SPACE=str(max(1, round(self.spec.rollout.kv_cache_gb))),
            VLLM_CPU_OMP_THREADS_BIND="nobind",
            VLLM_NO_USAGE_STATS="1",
        )
        import torch
        from vllm import LLM
        from vllm.platforms import current_platform

        from posttrain.rollout.sampling import install

        torch.set_num_threads(self.spec.threads)
        self.advance()
        self.llm = LLM(
            model=self.spec.model_path,
            dtype=self.spec.dtype,
            max_model_len=self.spec.context_tokens,
            max_num_seqs=self.spec.rollout.max_num_seqs,
            block_size=BLOCK_TOKENS,
            gpu_memory_utilization=self.spec.rollout.gpu_memory_utilization,
            distributed_executor_backend="uni",
            enforce_eager=not self.spec.rollout.compile,
            enable_prefix_caching=True,
            logprobs_mode="processed_logprobs",
            max_logprobs=max(1, self.spec.top_logprobs),
            disable_log_stats=True,
            # The canary holds an image. No videos: for them vLLM would set memory aside and run the vision tower at the start.
            limit_mm_per_prompt=None if self.spec.geometry is None else {"image": max(1, self.spec.rollout.max_images), "video": 0},
            seed=0,
        )
        if current_platform.is_cpu():
            self.llm.collective_rpc(install)
        self.renderer = Renderer(self.llm.get_tokenizer())
        self.advance()

    def rollout(self, jobs: Sequence[EpisodeJob], seed: int) -> Iterator[tuple[int, list[Episode]] | CanaryReceipt]:
        """Samples the jobs' episodes; yields a group, (index, episodes), when the last of the jobs with key (index, ...) has ended.

        If the weights came with a canary, it is scored in the first step, with prompts of the jobs, and what it says is yielded too.
        """
        import torch

        self.llm.reset_prefix_cache()
        torch.manual_seed(seed)
        settings = self.spec.rollout
        limits = EpisodeLimits(
            max_turns=settings.max_turns,
            max_completion_tokens=settings.max_completion_tokens,
            context_tokens=self.spec.context_tokens,
            max_images=settings.max_images,
        )
        geometry = self.spec.geometry
        image_tokens = None if geometry is None else lambda image: math.prod(geometry.tokens(image))
        sampler = _VllmSampler(self)
        loop = EpisodeLoop(sampler, self.renderer, self.desk, limits, wait_s=settings.tool_wait_s, image_tokens=image_tokens)
        is_told = sampler.begin_canary()
        sizes = Counter(job.key[0] for job in jobs)
        groups: defaultdict[int, dict[int, Episode]] = defaultdict(dict)
        for (index, k), episode in loop.run(jobs):
            if not is_told and sampler.receipt is not None:
                is_told = True
                yield sampler.receipt
            groups[index][k] = episode
            if len(groups[index]) == sizes[index]:
                group = groups.pop(index)
                yield index, [group[k] for k in sorted(group)]
        if not is_told:
            yield sampler.finish_canary()

    def load(self, sent: Sequence[Any], policy_version: int, canary: Canary) -> dict[str, str]:
        """Takes new weights (`posttrain.weights.SentTensor`s) and forgets what was computed with the old ones.

        Returns the fingerprint of each tensor that vLLM's loader consumed. Turns from now on carry `policy_version`.
        """
        from posttrain.weights import fingerprints

        prints = fingerprints(sent)
        received: dict[str, str] = {}

        def take(item: Any) -> Any:
            received[item.name] = prints[item.name]
            return item.tensor()

        places = self.direct_places(sent)
        if places is None:
            consumed = ((item.name, take(item)) for item in sent)
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": consumed})
        else:
            by_name = {item.name: item for item in sent}
            for place in places:
                place.fill([take(by_name[name]) for name in place.names])
        self.llm.reset_prefix_cache()
        if self.spec.geometry is not None:
            self.llm.llm_engine.reset_encoder_cache()  # images' features by the old vision tower
        self.policy_version, self.canary = policy_version, canary
        self.advance()
        return received

    def direct_places(self, sent: Sequence[Any]) -> list[Place] | None:
        """Where in vLLM's layers these tensors go, if it can be told; else its own loader takes them."""
        (model,) = self.llm.apply_model(lambda model: model)
        return plan_direct_load(model, {item.name: (item.dtype, item.shape) for item in sent}, self.spec.dtype)

    def request(self, token_ids: IntArray, images: Sequence[EncodedImage]) -> dict[str, Any]:
        """A prompt as vLLM takes it. Images go by their digest in its caches: of pixels, of features, of prefixes."""
        asked: dict[str, Any] = {"prompt_token_ids": token_ids.tolist()}
        if images:
            asked["multi_modal_data"] = {"image": [self.decode(image) for image in images]}
            asked["multi_modal_uuids"] = {"image": [image.digest for image in images]}
        return asked


class _VllmSampler:
    """vLLM's own loop as the `TurnSampler` that `EpisodeLoop` steps."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.vllm = engine.llm.llm_engine
        self.receipt: CanaryReceipt | None = None
        self._canary_outputs: dict[str, Any] = {}

    def begin_canary(self) -> bool:
        """Queues the canary; returns whether there is none to wait for.

        Two requests: vLLM never reads the cache for one that wants its prompt's log-probabilities. The plain one, text over and over, is
        just long enough to be found there. Both sample as all others do: a batch of one kind takes vLLM's shorter way.
        """
        canary = self.engine.canary
        if canary is None:
            return True
        temperature = self.engine.spec.rollout.temperature
        for name, token_ids, images, scored in (
            (PLAIN_CANARY, np.resize(canary.token_ids[: NUM_CANARY_TOKENS // 2], BLOCK_TOKENS + 1), (), None),
            (SCORED_CANARY, canary.token_ids, canary.images, 0),
        ):
            prompt: Any = self.engine.request(token_ids, images)
            self.vllm.add_request(name, prompt, self._params(max_tokens=1, temperature=temperature, prompt_logprobs=scored))
        return False

    def finish_canary(self) -> CanaryReceipt:
        """Steps until the canary is scored, where no episode needed a step."""
        while self.receipt is None:
            assert self.vllm.has_unfinished_requests(), "vLLM ended the canary without an answer"
            self.step()
        return self.receipt

    def _take_canary(self, output: Any) -> None:
        self._canary_outputs[output.request_id] = output
        if len(self._canary_outputs) < 2:
            return
        plain, scored = (self._canary_outputs[name] for name in (PLAIN_CANARY, SCORED_CANARY))
        geometry = self.engine.spec.geometry
        rows = zip((scored.prompt_logprobs or [])[1:], (scored.prompt_token_ids or [])[1:], strict=True)
        unscored = set() if geometry is None else {geometry.image_token_id}
        logprobs = [row[token_id].logprob for row, token_id in rows if row and token_id not in unscored]
        self.receipt = CanaryReceipt(logprobs=np.asarray(logprobs, np.float32), cached_tokens=int(plain.num_cached_tokens or 0))

    def submit(self, request_id: int, token_ids: IntArray, images: Sequence[EncodedImage], max_tokens: int) -> None:
        geometry = self.engine.spec.geometry
        params = self._params(
            max_tokens=max_tokens,
            logit_bias=None if geometry is None else dict.fromkeys(geometry.banned_token_ids, BANNED_LOGIT_BIAS),
            temperature=self.engine.spec.rollout.temperature,
            logprobs=self.engine.spec.top_logprobs,
        )
        prompt: Any = self.engine.request(token_ids, images)
        try:
            with self.engine.computing():
                self.vllm.add_request(str(request_id), prompt, params)
        except ValueError as error:
            raise RequestRefused(str(error)) from error

    def step(self) -> list[tuple[int, Turn]]:
        with self.engine.computing():
            outputs = self.vllm.step()
        self.engine.advance()
        turns = []
        for output in (output for output in outputs if output.finished):
            if output.request_id in (PLAIN_CANARY, SCORED_CANARY):
                self._take_canary(output)
            else:
                turns.append((int(output.request_id), self._turn(output)))
        return turns

    def _params(self, **options: Any) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY, **options)

    def _turn(self, output: Any) -> Turn:
        completion = output.outputs[0]
        token_ids = np.asarray(completion.token_ids, np.int64)
        logprobs = [row[token_id].logprob for row, token_id in zip(completion.logprobs, completion.token_ids, strict=True)]
        top_ids, top_logprobs = most_likely(completion.logprobs, self.engine.spec.top_logprobs)
        return Turn(
            token_ids=token_ids,
            logprobs=np.asarray(logprobs, np.float32),
            text=self.engine.renderer.text(token_ids),
            stop_reason="length" if completion.finish_reason == "length" else "stop",
            policy_version=self.engine.policy_version,
            top_ids=top_ids,
            top_logprobs=top_logprobs,
        )


def most_likely(rows: Sequence[Mapping[int, Any]], k: int) -> tuple[IntArray | None, FloatArray | None]:
    """The k most likely tokens of each place, best first, and their log-probabilities, (N, k); None where k is 0.

    rows: of each place vLLM's log-probabilities by token id: those of the k most likely tokens and, if it is another, of the
    sampled one.
    """
    if not k:
        return None, None
    best = [sorted(((token, entry.logprob) for token, entry in row.items()), key=lambda pair: -pair[1])[:k] for row in rows]
    ids = [[token for token, _ in pairs] for pairs in best]
    return np.array(ids, np.int64), np.array([[logprob for _, logprob in pairs] for pairs in best], np.float32)
