"""The way to a judge: messages and a JSON schema go in, the judge's text comes out; over HTTP, with retries, counters and a cache.

`Judge` is all that the rewards know; `JudgeClient` is the one for OpenAI-compatible servers. Everything about the server
comes from the environment, because that is where its key has to come from:

    POSTTRAIN_JUDGE_URL       http://localhost:8000/v1
    POSTTRAIN_JUDGE_MODEL     the model's name on that server
    POSTTRAIN_JUDGE_KEY       optional
    POSTTRAIN_JUDGE_CACHE     a folder for answers; default ~/.cache/posttrain/judge
    POSTTRAIN_JUDGE_DEADLINE  seconds for one question; default 25: less than rewards.timeout_s (30), which kills the scorer

The key is in no message, repr or file: errors are raised anew from the server's status and text, without the request that
carried the key, and a server that quotes the key back has it struck out.

Left out on purpose: what is asked and what an answer means (judge.py, safety.py), judges inside the run's own engines, money
(tokens are counted, prices change), a limit on the judge's tokens (the deadline is one), and the removal of old cache files.
"""

import asyncio
import hashlib
import json
import os
import random
import re
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from posttrain.errors import UserError
from posttrain.types import Message

DEFAULT_CACHE = Path("~/.cache/posttrain/judge")
DEFAULT_DEADLINE_S = 25.0
MAX_WAIT_S = 8.0  # between two requests, unless the server asks for longer
MAX_CONCURRENT = 64  # questions under way at once
MIN_SECRET = 8  # characters; a shorter key ("EMPTY", "none") is a placeholder, and its letters stand in honest text
TEMPORARY = (408, 409, 425, 429)  # and 5xx
FORMAT_REFUSED = (400, 422)
Schema = dict[str, Any]


class JudgeFailure(Exception):
    """The judge could not be asked: an outage, a limit, a malformed reply. Says nothing about the answer that was to be judged."""


class Judge(Protocol):
    """What a judging reward needs. Whoever serves a judge in another way writes this one method."""

    def ask(self, messages: list[Message], schema: Schema) -> str:
        """The judge's text on `messages`, constrained to `schema` where that is possible: the caller still checks it.

        May be called by several threads at once. Raises JudgeFailure when there is no text to be had.
        """


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """Which judge, and how long to try.

    deadline_s: for one question, all its requests and the waits between them; backoff_s: the first wait, doubled each time,
    less up to a quarter by chance; max_concurrent: questions under way at once, further ones wait for their turn.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    cache: Path = DEFAULT_CACHE
    deadline_s: float = DEFAULT_DEADLINE_S
    max_retries: int = 5
    backoff_s: float = 0.5
    max_concurrent: int = MAX_CONCURRENT


def settings_from_environment(*roles: str) -> JudgeSettings:
    """The settings in POSTTRAIN_<ROLE>_*, of the first role that has them: ("GUARD", "JUDGE") is a guard or else the judge.

    A role's model may be served at a later role's address; an address never gets a model or a key that were set for another.
    Raises UserError: no address, no model, an address or a key that cannot be one (neither is repeated), a deadline that is none.
    """
    values = [{name: os.environ.get(f"POSTTRAIN_{role}_{name}", "").strip() for name in ("URL", "MODEL", "KEY")} for role in roles]
    at = next((index for index, value in enumerate(values) if value["URL"]), None)
    if at is None:
        raise UserError(f"POSTTRAIN_{roles[0]}_URL is not set, expected an OpenAI-compatible server such as http://localhost:8000/v1")
    model = next((value["MODEL"] for value in values[: at + 1] if value["MODEL"]), "")
    if not model:
        raise UserError(f"POSTTRAIN_{roles[at]}_MODEL is not set, expected the name of a model at POSTTRAIN_{roles[at]}_URL")
    url, key = values[at]["URL"], values[at]["KEY"]
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc or parts.query:
        raise UserError(f"POSTTRAIN_{roles[at]}_URL is no http(s)://host/path; user names, keys and queries do not belong in it")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"POSTTRAIN_{roles[at]}_KEY has characters that no key has; was something else copied with it?")
    cache = Path(os.environ.get("POSTTRAIN_JUDGE_CACHE") or DEFAULT_CACHE)
    deadline = os.environ.get("POSTTRAIN_JUDGE_DEADLINE") or str(DEFAULT_DEADLINE_S)
    if not re.fullmatch(r"\d+(\.\d+)?", deadline) or not float(deadline):
        raise UserError(f"POSTTRAIN_JUDGE_DEADLINE is {deadline!r}, expected a number of seconds above 0")
    return JudgeSettings(url=url, model=model, key=key, cache=cache, deadline_s=float(deadline))


@dataclass(slots=True)
class JudgeCounters:
    """What the judge has cost since the client was made.

    num_requests: sent over HTTP, whatever became of them; num_retries: those of them that repeat one after an outage;
    num_errors: questions that ended in a JudgeFailure; tokens as the server counts them, 0 where it does not;
    latency_s: seconds spent in requests, summed, so that two at once count twice.
    """

    num_requests: int = 0
    num_cache_hits: int = 0
    num_retries: int = 0
    num_errors: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    latency_s: float = 0.0


class AnswerCache:
    """Judges' answers in a folder, one file each; several processes may use it at once, and losing it costs only requests.

    An answer is found by the model's name, the messages and the schema. Not by the address: a model is the same behind two of
    them. Who puts another model behind a name takes another folder.
    """

    def __init__(self, folder: Path) -> None:
        """Makes the folder. Raises UserError when that is not possible."""
        self.folder = folder.expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"POSTTRAIN_JUDGE_CACHE: {self.folder} cannot be made a folder: {error.strerror}") from error

    def path(self, model: str, messages: list[Message], schema: Schema) -> Path:
        """Where that question's answer is, or would be. The order of the schema's fields counts: the judge writes in it."""
        digest = hashlib.sha256(json.dumps([model, messages, schema]).encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest[2:]}.json"

    def get(self, path: Path) -> str | None:
        """The answer at `path`; None when there is none, or when the file is damaged."""
        try:
            answer = json.loads(path.read_bytes())["answer"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return answer if isinstance(answer, str) else None

    def put(self, path: Path, answer: str) -> None:
        """Writes the answer; a reader sees all of it or nothing, and of two writers the later one wins."""
        path.parent.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump({"answer": answer}, file)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@dataclass(frozen=True, slots=True)
class _Reply:
    """One HTTP reply; status 0 when there was none, and then `text` says why. retry_after_s: 0 when the server named no time."""

    status: int
    text: str
    retry_after_s: float = 0.0

    @property
    def is_temporary(self) -> bool:
        # A 200 gets here when it is no completion: the error page of something in between.
        return self.status in (0, 200, *TEMPORARY) or self.status >= 500


class JudgeClient:
    """Asks a model behind an OpenAI-compatible server; temperature 0, and verdicts constrained to the schema where it can.

    A server that refuses `response_format` (400 or 422) and answers without it is not asked for it again. All requests run in
    one background thread, which is what makes the deadline one: a server that trickles its reply is cut off as well. When nothing
    was answered for a whole deadline while questions failed, only one question at a time is still asked, and the others fail at
    once: an outage costs a batch of any size one deadline.
    `counters` may be read at any time. Make the client in the process that uses it: threads do not survive a fork.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        """Contacts nobody yet. Raises UserError when the cache folder cannot be made."""
        from openai import AsyncOpenAI  # a second's import, and whoever lists rewards asks nothing

        self.settings = settings
        self.counters = JudgeCounters()
        self.cache = AnswerCache(settings.cache)
        # "none", because without a key the package would take OPENAI_API_KEY and send it to this server.
        self._client = AsyncOpenAI(base_url=settings.url, api_key=settings.key or "none", max_retries=0, timeout=settings.deadline_s)
        self._slots = asyncio.Semaphore(settings.max_concurrent)
        self._takes_schema = True
        self._has_answered = False
        self._failing_since: float | None = None
        self._num_under_way = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=_run, args=(self._loop,), name="judge", daemon=True).start()
        weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)

    def ask(self, messages: list[Message], schema: Schema) -> str:
        """The judge's text, from the cache when it was asked the same before; "" when it declined to say anything.

        Raises JudgeFailure: no answer after the retries or within the deadline. UserError: the very first answers say that key
        (401) or model (404) are wrong; later on these are failures like others.
        """
        return asyncio.run_coroutine_threadsafe(self._ask(messages, schema), self._loop).result()

    async def _ask(self, messages: list[Message], schema: Schema) -> str:
        path = self.cache.path(self.settings.model, messages, schema)
        cached = self.cache.get(path)
        if cached is not None:
            self.counters.num_cache_hits += 1
            return cached
        async with self._slots:
            outcome = self._outage() or await self._answer(messages, schema)
        if isinstance(outcome, Exception):
            self.counters.num_errors += 1
            raise outcome
        self.cache.put(path, outcome)
        return outcome

    def _outage(self) -> JudgeFailure | None:
        """What to answer instead of asking, because others have asked in vain for a whole deadline and one still does."""
        if self._failing_since is None or not self._num_under_way:
            return None
        failing_s = self._loop.time() - self._failing_since
        return JudgeFailure(f"{self._who} has answered nothing for {failing_s:.0f} s") if failing_s > self.settings.deadline_s else None

    async def _answer(self, messages: list[Message], schema: Schema) -> str | Exception:
        # Exceptions are returned up to here, and raised where no other is being handled: a handled one would be their
        # context, and it holds the request with its headers.
        started = self._loop.time()
        deadline = started + self.settings.deadline_s
        self._num_under_way += 1
        try:
            async with asyncio.timeout_at(deadline):
                return await self._try(messages, schema, deadline)
        except TimeoutError:
            self._failing_since = self._failing_since or started
        finally:
            self._num_under_way -= 1
        return JudgeFailure(f"{self._who} gave no answer within {self.settings.deadline_s:g} s")

    async def _try(self, messages: list[Message], schema: Schema, deadline: float) -> str | Exception:
        is_constrained = self._takes_schema
        num_retries = 0
        while True:
            reply = await self._send(messages, schema if is_constrained else None)
            text = self._read(reply)
            if text is not None:
                self._takes_schema &= is_constrained
                self._has_answered = True
                self._failing_since = None
                return text
            # Refused with the format and then without it, it was something else that was refused.
            if is_constrained and reply.status in FORMAT_REFUSED:
                is_constrained = False
                continue
            if reply.is_temporary:
                self._failing_since = self._failing_since or self._loop.time()
            wait_s = max(reply.retry_after_s, _backoff(self.settings.backoff_s, num_retries))
            if not reply.is_temporary or num_retries == self.settings.max_retries or self._loop.time() + wait_s > deadline:
                return self._failure(reply, num_retries)
            num_retries += 1
            await asyncio.sleep(wait_s)
            self.counters.num_retries += 1

    async def _send(self, messages: list[Message], schema: Schema | None) -> _Reply:
        import openai

        body: dict[str, Any] = {"model": self.settings.model, "messages": messages, "temperature": 0}
        if schema is not None:
            verdict = {"name": "verdict", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": verdict}
        # What the package would add from OPENAI_ORG_ID and OPENAI_PROJECT_ID is none of this server's business.
        headers = {"OpenAI-Organization": openai.omit, "OpenAI-Project": openai.omit}
        self.counters.num_requests += 1
        started = time.monotonic()
        try:
            raw = await self._client.chat.completions.with_raw_response.create(**body, extra_headers=headers)
            return _Reply(200, self._struck(raw.text))
        except openai.APIStatusError as error:
            return _Reply(error.status_code, self._struck(error.response.text), _retry_after(error.response.headers))
        except openai.APIConnectionError as error:
            return _Reply(0, self._struck(f"{error} {error.__cause__ or ''}"))
        finally:
            self.counters.latency_s += time.monotonic() - started

    def _read(self, reply: _Reply) -> str | None:
        """The text of a completion, whose tokens are counted; None for every other reply."""
        if reply.status != 200:
            return None
        try:
            body = json.loads(reply.text)
            content = body["choices"][0]["message"].get("content")
            usage = body.get("usage") or {}
            num_tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
        if not isinstance(content, str | None):
            return None
        self.counters.num_prompt_tokens += num_tokens[0]
        self.counters.num_completion_tokens += num_tokens[1]
        return content or ""

    def _failure(self, reply: _Reply, num_retries: int) -> Exception:
        said = " ".join(reply.text.split())[:200]
        what = f"{self._who}: {reply.status or 'no reply'} after {num_retries} retries: {said}"
        if reply.status in (401, 404) and not self._has_answered:
            return UserError(f"{what}; check the POSTTRAIN_ variables of its {'key' if reply.status == 401 else 'address and model'}")
        return JudgeFailure(what)

    @property
    def _who(self) -> str:
        return f"the judge {self.settings.model} at {urlsplit(self.settings.url).netloc}"

    def _struck(self, text: str) -> str:
        key = self.settings.key
        return text.replace(key, "[key]") if len(key) >= MIN_SECRET else text


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _backoff(first_s: float, num_retries: int) -> float:
    # By chance, so that many workers whose server came back do not all return at the same moment.
    return min(first_s * 2.0**num_retries, MAX_WAIT_S) * random.uniform(0.75, 1.0)


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("retry-after", "")
    return float(value) if value.isdecimal() else 0.0
