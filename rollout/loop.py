"""The episode loop: steps the engine, and lets a turn start as soon as its input is ready.

Consumes: episodes to sample. Waits for: the engine's next step, and environments answering in threads. Produces: finished
episodes, in the order in which they finish. There is no barrier between turns, episodes or groups.

What does not live here: vLLM (`engine.py` offers a `TurnSampler`), Ray, rewards.
"""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from posttrain.rollout.env import Environment
from posttrain.rollout.render import Renderer
from posttrain.types import EncodedImage, Episode, IntArray, Message, Prompt, Turn

RESPONSE_THREADS = 16


class RequestRefused(Exception):
    """The engine does not take this request; it costs one episode."""


class TurnSampler(Protocol):
    """What the loop needs of an engine."""

    def submit(self, request_id: int, token_ids: IntArray, images: Sequence[EncodedImage], max_tokens: int) -> None:
        """Queues one turn, with an image for each placeholder among its tokens; raises RequestRefused when the engine cannot take it."""

    def step(self) -> list[tuple[int, Turn]]:
        """Advances all running turns by one engine step; returns the turns that ended."""


@dataclass(slots=True, kw_only=True)
class EpisodeJob:
    """One episode to sample. `key` is the caller's."""

    key: tuple[int, int]
    prompt: Prompt
    prompt_token_ids: IntArray


@dataclass(slots=True)
class _Running:
    """An episode under way; `messages` is the conversation before the turn that is being written."""

    job: EpisodeJob
    messages: list[Message]
    context: IntArray
    turns: list[Turn] = field(default_factory=list)

    @property
    def images(self) -> list[EncodedImage]:
        return [*self.job.prompt.images, *(image for turn in self.turns for image in turn.observation_images)]

    @property
    def num_written(self) -> int:
        return sum(len(turn.token_ids) for turn in self.turns)


class EpisodeLoop:
    """Runs episodes against one engine."""

    def __init__(
        self, sampler: TurnSampler, renderer: Renderer, environment: Environment, *, max_turns: int, max_completion_tokens: int
    ) -> None:
        """max_turns: turns an episode may have; max_completion_tokens: tokens the policy may write in all of them."""
        self.sampler = sampler
        self.renderer = renderer
        self.environment = environment
        self.max_turns = max_turns
        self.max_completion_tokens = max_completion_tokens
        self._request_ids = itertools.count()
        self._writing: dict[int, _Running] = {}
        self._responding: dict[Future[list[Message] | None], _Running] = {}

    def run(self, jobs: Sequence[EpisodeJob]) -> Iterator[tuple[tuple[int, int], Episode]]:
        """Yields (key, episode) as episodes finish; every job is yielded once."""
        with ThreadPoolExecutor(RESPONSE_THREADS) as pool:
            for job in jobs:
                episode = self._submit(_Running(job, list(job.prompt.messages), job.prompt_token_ids))
                if episode:
                    yield job.key, episode
            while self._writing or self._responding:
                finished = self._step_engine(pool) if self._writing else []
                finished += self._take_responses(block=not self._writing)
                for item in finished:  # not `yield from`: Ray sends into the generator, which a list cannot take
                    yield item

    def _submit(self, running: _Running) -> Episode | None:
        """Starts the episode's next turn; the failed episode if the engine refuses it."""
        request_id = next(self._request_ids)
        try:
            self.sampler.submit(request_id, running.context, running.images, self.max_completion_tokens - running.num_written)
        except RequestRefused as refusal:
            return _finish(running, failure=f"engine: {refusal}")
        self._writing[request_id] = running
        return None

    def _step_engine(self, pool: ThreadPoolExecutor) -> list[tuple[tuple[int, int], Episode]]:
        finished = []
        for request_id, turn in self.sampler.step():
            running = self._writing.pop(request_id)
            running.turns.append(turn)
            if turn.stop_reason == "length":
                finished.append((running.job.key, _finish(running)))
            else:
                future = pool.submit(self.environment.respond, running.job.prompt, running.turns)
                self._responding[future] = running
        return finished

    def _take_responses(self, *, block: bool) -> list[tuple[tuple[int, int], Episode]]:
        if not self._responding:
            return []
        done, _ = wait(self._responding, timeout=None if block else 0, return_when=FIRST_COMPLETED)
        finished = []
        # In the order in which the turns ended, so that a run repeats when the answers were ready in time.
        for future in [f for f in self._responding if f in done]:
            running = self._responding.pop(future)
            episode = self._continue(running, future)
            if episode:
                finished.append((running.job.key, episode))
        return finished

    def _continue(self, running: _Running, answer: Future[list[Message] | None]) -> Episode | None:
        """Appends what came back and starts the next turn; the episode if it is over."""
        error = answer.exception()
        if error is not None:
            return _finish(running, failure=f"environment: {type(error).__name__}: {error}")
        observed = answer.result()
        if observed is None:
            return _finish(running)
        if len(running.turns) == self.max_turns or running.num_written >= self.max_completion_tokens:
            return _finish(running, at_turn_limit=True)
        last = running.turns[-1]
        last.observation_token_ids = self.renderer.observation(running.messages, observed)
        last.observation = "\n".join(str(message["content"]) for message in observed)
        running.context = np.concatenate([running.context, last.token_ids, last.observation_token_ids])
        running.messages += [{"role": "assistant", "content": last.text}, *observed]
        return self._submit(running)


def _finish(running: _Running, *, at_turn_limit: bool = False, failure: str | None = None) -> Episode:
    episode = Episode(prompt_id=running.job.prompt.id, turns=running.turns, status="complete", failure=failure)
    if failure is not None:
        episode.status = "failed"
    elif at_turn_limit:
        episode.status = "turn_limit"
    elif running.turns[-1].stop_reason == "length":
        episode.status = "truncated"
    return episode
