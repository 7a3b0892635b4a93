"""Samples a model on the rows' questions and counts what is right, with the engines and rewards of a run.

Consumes: rows. Waits for: vLLM engines on Ray (`posttrain.fleet`), and scoring processes. Produces: counts a row. Questions are
sampled in chunks, each with its own seed and from an empty prefix cache, and each chunk's counts are on disk before the next
begins, under a hash of its questions and of how they are sampled. A step that is killed goes on at the chunk it was at, and gets the
same samples as if it had not been; other thresholds sample nothing anew.

Left out on purpose: pictures (the engines take text), tools, and what counts mean.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import xxhash
from omegaconf import MISSING

from posttrain import plugins
from posttrain.builtin_models import PREFIX, resolve
from posttrain.config import ClusterConfig, RewardsConfig, RolloutConfig
from posttrain.curate.base import Bench, Drop, Outcome, Step, require, sift
from posttrain.curate.rows import Row
from posttrain.curate.scores import fingerprints
from posttrain.errors import RunError
from posttrain.files import whole
from posttrain.rewards.manager import RewardManager
from posttrain.rewards.process import ENTRY_POINTS as REWARDS
from posttrain.types import Group, Message, RenderedPrompt

PART_BYTES = 1 << 20
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Measured:
    """Counts of one row's samples: drawn, scored by the rewards, passed, and cut by the completion length (which may pass)."""

    samples: int
    scored: int
    passed: int
    truncated: int

    @property
    def rate(self) -> float:
        """The pass rate: of those that were scored."""
        return self.passed / self.scored


@dataclass
class Sampled(Step):
    """What the steps have in common that sample a model."""

    UNKEYED: ClassVar[tuple[str, ...]] = ("address", "deadline_s")

    model: str = MISSING  # Hugging Face folder (relative to the recipe) or hub name, or builtin:<name>
    rewards: dict[str, float] = field(default_factory=dict)  # reward name: weight; a sample passes by the weighted sum
    passing: float = 1.0  # weighted sum of rewards from which on a sample passes
    num_samples: int = 16  # samples a question
    temperature: float = 1.0  # of sampling; top-p is 1 and top-k is off
    max_completion_tokens: int = 1024  # tokens of a sample
    context_tokens: int = 4096  # question and sample together; a longer question has the reason `too long`
    dtype: str = "bfloat16"  # bfloat16 or float32
    save_as: str = "pass_rate"  # the row's field for counts and sampler
    chunk_prompts: int = 64  # questions sampled together; what is repeated after a kill
    num_engines: int = 1  # vLLM engines
    engine_gpus: int = 0  # GPUs of an engine; 0: on the CPU
    address: str = "local"  # of the Ray cluster; local starts one here
    deadline_s: float = 300.0  # an engine that makes no progress for this long ends the curation

    def validate(self) -> None:
        """There are rewards, and numbers are what they have to be."""
        require("rewards", self.rewards, bool(self.rewards), "at least one reward: weight")
        for name in self.rewards:
            plugins.describe(REWARDS, name)
        require("dtype", self.dtype, self.dtype in ("bfloat16", "float32"), "bfloat16 or float32")
        for name in ("num_samples", "temperature", "max_completion_tokens", "chunk_prompts", "num_engines", "deadline_s"):
            require(name, vars(self)[name], vars(self)[name] > 0, "a number above 0")
        holds = self.max_completion_tokens < self.context_tokens
        require("max_completion_tokens", self.max_completion_tokens, holds, f"less than context_tokens={self.context_tokens}")

    def depends_on(self, bench: Bench) -> dict[str, str]:
        """The model's files and the rewards' distributions."""
        return {"model": model_fingerprint(self._model_path(bench)), **fingerprints(self.rewards)}

    def sampler(self, bench: Bench) -> dict[str, Any]:
        """How samples are drawn and judged: kept in every row beside its counts."""
        names = ("model", "dtype", "temperature", "max_completion_tokens", "num_samples", "rewards", "passing")
        fixed = {"top_p": 1.0, "top_k": 0, "seed": bench.seed, "model_fingerprint": model_fingerprint(self._model_path(bench))}
        return {name: vars(self)[name] for name in names} | fixed

    def measure(self, rows: Sequence[Row], bench: Bench, ask: Callable[[Row], list[Message]]) -> dict[str, Measured | Drop]:
        """Counts by `where`, or why a row cannot be sampled. ask: what the model is shown of a row.

        Raises UserError: a model or reward that cannot be used. RunError: an engine failed, or too many scorings did.
        """
        from posttrain.model import load_tokenizer, max_context_tokens
        from posttrain.rollout.render import Renderer

        path = self._model_path(bench)
        renderer = Renderer(load_tokenizer(path))
        longest = max_context_tokens(path)
        require("context_tokens", self.context_tokens, self.context_tokens <= longest, f"at most {longest}, which {self.model} takes")
        room = self.context_tokens - self.max_completion_tokens
        found: dict[str, Measured | Drop] = {}
        prompts: list[RenderedPrompt] = []
        for row in rows:
            prompt = row.group().prompt
            prompt.messages = ask(row)
            token_ids = renderer.prompt(prompt.messages)
            if len(token_ids) > room:
                found[row.where] = Drop("too long", f"{len(token_ids)} tokens of at most {room}")
            else:
                prompts.append((prompt, token_ids))
        with _Sampler(self, path, bench) as sampler:
            for start in range(0, len(prompts), self.chunk_prompts):
                chunk = prompts[start : start + self.chunk_prompts]
                counts = sampler.chunk(start // self.chunk_prompts, chunk)
                found |= {prompt.id: measured for (prompt, _), measured in zip(chunk, counts, strict=True)}
                bench.say(f"{min(start + self.chunk_prompts, len(prompts))} of {len(prompts)} questions sampled")
        return found

    def verdicts(
        self, rows: Sequence[Row], found: Mapping[str, Measured | Drop], bench: Bench, verdict: Callable[[Measured], Drop | None]
    ) -> Outcome:
        """The rows by what was measured; kept or dropped, each has its counts and the sampler. One that was not sampled stays."""
        sampler = self.sampler(bench)

        def with_counts(row: Row) -> Row:
            one = found.get(row.where)
            if not isinstance(one, Measured) or not one.scored:
                return row
            return row.having(**{self.save_as: {"rate": one.rate, **asdict(one), "sampler": sampler}})

        def look(row: Row) -> Row | Drop:
            one = found.get(row.where)
            if not isinstance(one, Measured):
                return one or row
            if not one.scored:
                return Drop("not scored", f"none of {one.samples} samples could be scored")
            return verdict(one) or with_counts(row)

        outcome = sift(rows, look)
        outcome.dropped = [(with_counts(row), drop) for row, drop in outcome.dropped]
        outcome.counts["questions sampled"] = sum(isinstance(one, Measured) for one in found.values())
        return outcome

    def count(self, group: Group) -> Measured:
        """The counts of a scored group; a sample that no reward scored is neither right nor wrong."""
        scored = [episode for episode in group.episodes if episode.status != "failed"]
        return Measured(
            samples=len(group.episodes),
            scored=len(scored),
            passed=sum(episode.outcome >= self.passing - TOLERANCE for episode in scored),
            truncated=sum(episode.turns[-1].stop_reason == "length" for episode in group.episodes if episode.turns),
        )

    def _model_path(self, bench: Bench) -> str:
        if self.model.startswith(PREFIX):
            return resolve(self.model)
        folder = bench.path(self.model)
        return str(folder) if folder.is_dir() else self.model


class _Sampler:
    """Engines and scoring processes, started when the first chunk is not on disk yet."""

    def __init__(self, settings: Sampled, model_path: str, bench: Bench) -> None:
        self.settings = settings
        self.model_path = model_path
        self.bench = bench
        self._started = ExitStack()
        self._engines: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._started.close()

    def chunk(self, number: int, prompts: Sequence[RenderedPrompt]) -> list[Measured]:
        """The counts of a chunk's prompts, from its file or by sampling it."""
        path = self.bench.cache / f"{number:05d}-{self._key(prompts)}.json"
        if path.exists():
            return [Measured(**counts) for counts in json.loads(path.read_text())]
        if self._engines is None:
            self._start()
        groups = self._sample(prompts, np.random.SeedSequence([self.bench.seed, number]).generate_state(1)[0])
        counts = [self.settings.count(group) for group in groups]
        with whole(path) as draft:
            draft.write_text(json.dumps([asdict(one) for one in counts]))
        return counts

    def _key(self, prompts: Sequence[RenderedPrompt]) -> str:
        """Names what the counts follow from, beside the chunk's number."""
        settings = self.settings
        asked = [[token_ids.tolist(), prompt.messages, prompt.reference, prompt.metadata] for prompt, token_ids in prompts]
        sampler = [settings.sampler(self.bench), settings.context_tokens, settings.num_engines, settings.engine_gpus]
        depended = settings.depends_on(self.bench)
        return xxhash.xxh3_128_hexdigest(json.dumps([asked, sampler, depended], sort_keys=True).encode())

    def _sample(self, prompts: Sequence[RenderedPrompt], seed: np.uint32) -> list[Group]:

        groups: dict[int, Group] = {}
        for index, group in self._engines.sample(prompts, self.settings.num_samples, int(seed)):
            self._rewards.submit(group)
            groups[index] = group
        self._rewards.finish()
        failures = [episode.failure for group in groups.values() for episode in group.episodes if not episode.turns]
        if failures:
            raise RunError(f"an engine gave no sample: {failures[0]}")
        return [groups[index] for index in range(len(prompts))]

    def _start(self) -> None:
        from posttrain.cluster import Cluster
        from posttrain.fleet import Engines
        from posttrain.pixels import image_geometry
        from posttrain.rollout.engine import EngineSpec

        settings = self.settings
        rollout = RolloutConfig(max_completion_tokens=settings.max_completion_tokens, temperature=settings.temperature)
        self._rewards = self._started.enter_context(RewardManager(settings.rewards, RewardsConfig(retries=1)))
        config = ClusterConfig(
            address=settings.address,
            num_engines=settings.num_engines,
            engine_gpus=settings.engine_gpus,
            num_learners=0,
            learner_cpus=1,
            deadline_s=settings.deadline_s,
        )
        cluster = self._started.enter_context(Cluster(config, self.bench.folder.absolute() / "logs"))
        engines = Engines(
            cluster,
            lambda threads: EngineSpec(
                model_path=self.model_path,
                geometry=image_geometry(self.model_path),
                dtype=settings.dtype,
                context_tokens=settings.context_tokens,
                rollout=rollout,
                threads=threads,
            ),
        )
        self.bench.say(f"starting {settings.num_engines} engine(s) with {settings.model}")
        cluster.wait(engines.begin_start())
        self._engines = engines


def model_fingerprint(path: str) -> str:
    """Of a model's folder: names and sizes of its files, and the first and last megabyte of each; of a hub name, the name."""
    folder = Path(path)
    if not folder.is_dir():
        return path
    digest = xxhash.xxh3_128()
    for file in sorted(file for file in folder.iterdir() if file.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(PART_BYTES))
            opened.seek(max(PART_BYTES, size - PART_BYTES))
            digest.update(opened.read())
    return digest.hexdigest()
