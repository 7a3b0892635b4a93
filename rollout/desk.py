"""What answers the policy between turns: its tools and its environment, each in processes that can be killed.

Consumes: what a turn said. Waits for: each tool call or step, `timeout_s` at most. Produces: a `Response`. A mistake of the policy and
a tool that raises, hangs or dies are answered by a text that the policy can read; an environment that does so costs the episode.

Left out on purpose: turns, limits and tokens (`loop.py`).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from posttrain.errors import UserError, nearest
from posttrain.lanes import Failure, Lane, Work
from posttrain.rollout.requests import Answer, CallRequest, StepRequest
from posttrain.rollout.tools.base import ToolResult
from posttrain.tool_calls import WrittenCall, said_after_thinking, written_calls
from posttrain.types import EncodedImage, Prompt, ToolCall

NUM_PROCESSES = 8
"""Another one starts when all are busy."""
MEMORY_GB = 4.0
ENVIRONMENT_FAILED = "environment "
"""How the failure of an episode begins that its environment cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """What a turn said, and all that answering it takes.

    text: without special tokens, as environments take it; raw_text: with them, as calls are written in some vocabularies. images: of
    the conversation so far. state: what the environment's last answer left, None at first.
    """

    prompt: Prompt
    text: str
    raw_text: str
    images: list[EncodedImage]
    state: bytes | None = None


@dataclass(slots=True, kw_only=True)
class Response:
    """What follows a turn.

    results: one for each tool call, or one of the environment; none when the policy is done. calls: as they went. state, score: the
    environment's, None without one. is_over: nothing follows. failure: why the episode cannot be used, "" when it can.
    """

    results: list[ToolResult] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    state: bytes | None = None
    score: float | None = None
    is_over: bool = False
    failure: str = ""


class Desk:
    """Answers the turns of many episodes at a time."""

    def __init__(
        self, tools: Iterable[str], environments: Iterable[str], *, timeout_s: float, advance: Callable[[], None] = lambda: None
    ) -> None:
        """tools, environments: names of entry points. advance: called after each answer. Nothing is started before it is needed."""
        names = (*(f"tool:{name}" for name in tools), *(f"environment:{name}" for name in environments))
        self.timeout_s = timeout_s
        self._advance = advance
        self._lane = Lane(Work(module="posttrain.rollout.process", names=names, memory_gb=MEMORY_GB), num_slots=NUM_PROCESSES)
        # They live as long as the desk: a process is killed by the kernel when the thread that started it ends.
        self._threads = ThreadPoolExecutor(NUM_PROCESSES, thread_name_prefix="desk")

    def schemas(self) -> dict[str, dict[str, Any]]:
        """The schema of each tool, from a process in which everything can be constructed.

        Raises UserError: something cannot be.
        """
        schemas: dict[str, dict[str, Any]] = self._threads.submit(self._lane.start).result()
        return schemas

    def submit(self, said: Utterance) -> "Future[Response]":
        """Answers as soon as a process is free. The future raises UserError where only the user can mend what went wrong."""
        return self._threads.submit(self._respond, said)

    def close(self) -> None:
        """Kills all processes, whatever they are at."""
        self._lane.close()
        self._threads.shutdown(cancel_futures=True)

    def _respond(self, said: Utterance) -> Response:
        written = written_calls(said_after_thinking(said.raw_text)) if said.prompt.tools else []
        if written:
            return self._call_all(written, said)
        if said.prompt.environment is not None:
            return self._step(said.prompt.environment, said)
        return Response(is_over=True)

    def _call_all(self, written: Sequence[WrittenCall], said: Utterance) -> Response:
        """One call after the other; each sees the images that those before it made."""
        response, images = Response(state=said.state), [*said.images]
        for call in written:
            started = time.monotonic()
            done, result = self._call(call, said.prompt, images)
            done.seconds = time.monotonic() - started
            response.calls.append(done)
            response.results.append(result)
            images += result.images
        return response

    def _call(self, call: WrittenCall, prompt: Prompt, images: list[EncodedImage]) -> tuple[ToolCall, ToolResult]:
        done = ToolCall(name=call.name, arguments=call.arguments, status="invalid")
        known = [tool["function"]["name"] for tool in prompt.tools]
        if call.error:
            return done, _error(call.error)
        if call.name not in known:
            return done, _error(f"there is no tool {call.name[:100]!r}; {nearest(call.name[:100], known)}")
        answer = self._ask(CallRequest(name=call.name, arguments=call.arguments, images=images))
        if isinstance(answer, Failure):
            done.status = "failed"
            return done, _error(f"the tool {call.name} failed: {answer.reason}")
        done.status = "refused" if answer.is_refusal else "answered"
        return done, _error(answer.result.text) if answer.is_refusal else answer.result

    def _step(self, name: str, said: Utterance) -> Response:
        answer = self._ask(StepRequest(name=name, prompt=said.prompt, text=said_after_thinking(said.text).strip(), state=said.state))
        if isinstance(answer, Failure):
            return Response(failure=f"{ENVIRONMENT_FAILED}{name}: {answer.reason}")
        return Response(results=[answer.result], state=answer.state, score=answer.score, is_over=answer.is_over)

    def _ask(self, request: CallRequest | StepRequest) -> Answer | Failure:
        with self._lane.ask(request, self.timeout_s) as answers:
            answer: Answer | Failure = next(answers)
        self._advance()
        if isinstance(answer, Failure) and answer.is_mistake:
            raise UserError(answer.reason)
        return answer


def _error(text: str) -> ToolResult:
    return ToolResult(text=f"Error: {text}")
