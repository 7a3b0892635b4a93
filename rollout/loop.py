"""The episode loop: steps the engine, and lets a turn start as soon as its input is ready.

Consumes: episodes to sample. Waits for: the engine's next step, and the desk, which calls tools and steps environments in processes of
their own. Produces: finished episodes, in the order in which they finish. There is no barrier between turns, episodes or groups.

What is repeated: requests reach the engine in the order of the jobs, and answers that are there within `wait_s` of the engine's step that
ended their turns go to it together, in the order in which the turns ended, before its next step. So where all answers are that quick,
what the engine is given, and before which step, follows from what it wrote alone. A slower answer goes to the engine when it comes.

What does not live here: vLLM (`engine.py` offers a `TurnSampler`), what tools and environments say (`desk.py`), Ray, rewards.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from posttrain.errors import UserError
from posttrain.rollout.desk import Response, Utterance
from posttrain.rollout.render import Renderer
from posttrain.rollout.tools.base import ToolResult
from posttrain.types import EncodedImage, Episode, IntArray, Message, Prompt, Status, Turn


class RequestRefused(Exception):
    """The engine does not take this request; it costs one episode."""


class TurnSampler(Protocol):
    """What the loop needs of an engine."""

    def submit(self, request_id: int, token_ids: IntArray, images: Sequence[EncodedImage], max_tokens: int) -> None:
        """Queues one turn, with an image for each placeholder among its tokens; raises RequestRefused when the engine cannot take it."""

    def step(self) -> list[tuple[int, Turn]]:
        """Advances all running turns by one engine step; returns the turns that ended."""


class Responder(Protocol):
    """What answers between turns."""

    def submit(self, said: Utterance) -> "Future[Response]":
        """Begins to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeLimits:
    """What an episode may have.

    max_turns; max_completion_tokens: what the policy writes, all turns together; context_tokens: everything that the model sees, images
    as it sees them; max_images: the prompt's included.
    """

    max_turns: int
    max_completion_tokens: int
    context_tokens: int
    max_images: int = 0


@dataclass(slots=True, kw_only=True)
class EpisodeJob:
    """One episode to sample. `key` is the caller's."""

    key: tuple[int, int]
    prompt: Prompt
    prompt_token_ids: IntArray


@dataclass(slots=True)
class _Running:
    """An episode under way; `messages` is the conversation before the turn that is being written, num_context what it is to the model."""

    job: EpisodeJob
    messages: list[Message]
    context: IntArray
    images: list[EncodedImage]
    num_context: int
    turns: list[Turn] = field(default_factory=list)
    state: bytes | None = None
    score: float | None = None

    @property
    def num_written(self) -> int:
        return sum(len(turn.token_ids) for turn in self.turns)


class EpisodeLoop:
    """Runs episodes against one engine."""

    def __init__(
        self,
        sampler: TurnSampler,
        renderer: Renderer,
        responder: Responder,
        limits: EpisodeLimits,
        *,
        wait_s: float = 0.0,
        image_tokens: Callable[[EncodedImage], int] | None = None,
    ) -> None:
        """wait_s: see above. image_tokens: what an image is to the model; None: it reads text only, and is shown no images."""
        self.sampler = sampler
        self.renderer = renderer
        self.responder = responder
        self.limits = limits
        self.wait_s = wait_s
        self.image_tokens = image_tokens
        self._request_ids = itertools.count()
        self._writing: dict[int, _Running] = {}
        self._responding: dict[Future[Response], _Running] = {}

    def run(self, jobs: Sequence[EpisodeJob]) -> Iterator[tuple[tuple[int, int], Episode]]:
        """Yields (key, episode) as each ends, in whatever order that is.

        Raises UserError: a template that does not append, or a tool that only the user can mend.
        """
        for job in jobs:
            episode = self._submit(self._running(job))
            if episode:
                yield job.key, episode
        while self._writing or self._responding:
            finished = self._step_engine() if self._writing else []
            finished += self._take_responses()
            for item in finished:  # not `yield from`: Ray sends into the generator, which a list cannot take
                yield item

    def _running(self, job: EpisodeJob) -> _Running:
        prompt = job.prompt
        num_context = len(job.prompt_token_ids) + self._extra_tokens(prompt.images)
        return _Running(job, list(prompt.messages), job.prompt_token_ids, list(prompt.images), num_context)

    def _extra_tokens(self, images: Sequence[EncodedImage]) -> int:
        """How many more tokens the images are to the model than their placeholders are to the engine."""
        return sum(self.image_tokens(image) - 1 for image in images) if self.image_tokens else 0

    def _room(self, running: _Running) -> int:
        """Tokens that the next turn may have."""
        left = self.limits.max_completion_tokens - running.num_written
        return min(left, self.limits.context_tokens - running.num_context)

    def _submit(self, running: _Running) -> Episode | None:
        """Starts the episode's next turn; the failed episode if the engine refuses it."""
        request_id = next(self._request_ids)
        try:
            self.sampler.submit(request_id, running.context, running.images, self._room(running))
        except RequestRefused as refusal:
            return _finish(running, "failed", failure=f"engine: {refusal}")
        self._writing[request_id] = running
        return None

    def _step_engine(self) -> list[tuple[tuple[int, int], Episode]]:
        finished, asked = [], []
        for request_id, turn in self.sampler.step():
            running = self._writing.pop(request_id)
            running.turns.append(turn)
            running.num_context += len(turn.token_ids)
            prompt = running.job.prompt
            if turn.stop_reason == "length":
                finished.append((running.job.key, _finish(running, "truncated")))
            elif not prompt.tools and prompt.environment is None:
                finished.append((running.job.key, _finish(running, "complete")))
            else:
                asked.append(self._ask(running, turn))
        wait(asked, timeout=self.wait_s)
        return finished

    def _ask(self, running: _Running, turn: Turn) -> Future[Response]:
        said = Utterance(
            prompt=running.job.prompt,
            text=turn.text,
            raw_text=self.renderer.raw_text(turn.token_ids),
            images=[*running.images],
            state=running.state,
        )
        future = self.responder.submit(said)
        self._responding[future] = running
        return future

    def _take_responses(self) -> list[tuple[tuple[int, int], Episode]]:
        if self._responding and not self._writing:
            wait(self._responding, return_when=FIRST_COMPLETED)
        finished = []
        for future in [future for future in self._responding if future.done()]:  # in the order in which the turns ended
            running = self._responding.pop(future)
            episode = self._continue(running, future.result())
            if episode:
                finished.append((running.job.key, episode))
        return finished

    def _continue(self, running: _Running, response: Response) -> Episode | None:
        """Appends what came back and starts the next turn; the episode if it is over. All of it is appended or nothing."""
        last = running.turns[-1]
        last.tool_calls = response.calls
        running.state = response.state
        running.score = running.score if response.score is None else response.score
        if response.failure:
            return _finish(running, "failed", failure=response.failure)
        if response.is_over:
            return _finish(running, "complete")
        if len(running.turns) == self.limits.max_turns:
            return _finish(running, "turn_limit")
        results = [self._shown(result) for result in response.results]
        images = [image for result in results for image in result.images]
        if len(running.images) + len(images) > self.limits.max_images and images:
            return _finish(running, "image_limit")
        observed = [_message(result, "tool" if response.calls else "user") for result in results]
        token_ids = self.renderer.observation(running.messages, observed, running.job.prompt.tools)
        running.num_context += len(token_ids) + self._extra_tokens(images)
        if self._room(running) < 1:
            return _finish(running, "token_limit")
        last.observed, last.observation_token_ids, last.observation_images = observed, token_ids, images
        running.context = np.concatenate([running.context, last.token_ids, token_ids])
        running.images += images
        running.messages += [self.renderer.written, *observed]
        return self._submit(running)

    def _shown(self, result: ToolResult) -> ToolResult:
        """What the policy is shown of a result: text that is nothing but text, and the images that it can see."""
        images, notes = [], []
        for image in result.images:
            why = self._cannot_see(image)
            if why:
                notes.append(f"(an image of {image.width} x {image.height} pixels is not shown: {why})")
            else:
                images.append(image)
        text = "\n".join(filter(None, [self.renderer.harmless(result.text), *notes]))
        return ToolResult(text=text, images=images)

    def _cannot_see(self, image: EncodedImage) -> str:
        if self.image_tokens is None:
            return "only text can be read here"
        try:
            self.image_tokens(image)
        except UserError as error:  # a tool made it, not the user
            return str(error)
        return ""


def _message(result: ToolResult, role: str) -> Message:
    if not result.images:
        return {"role": role, "content": result.text}
    parts = [{"type": "image"} for _ in result.images]
    return {"role": role, "content": [*parts, {"type": "text", "text": result.text}] if result.text else parts}


def _finish(running: _Running, status: Status, *, failure: str | None = None) -> Episode:
    return Episode(prompt_id=running.job.prompt.id, turns=running.turns, status=status, failure=failure, environment_score=running.score)
