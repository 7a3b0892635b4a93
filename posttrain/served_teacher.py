"""A teacher behind an OpenAI-compatible server that tells the log-probabilities of a prompt's tokens: vLLM's, with its extensions.

Asked of it: `/tokenize` for the teacher's own chat template, and `/v1/completions` with `prompt_logprobs` for the k most likely
tokens at every place (the server's --max-logprobs allows 20 unless it says otherwise) and the sampled one. There are no
hidden states to be had, so support is topk or sampled, and the temperature is 1.

The server's key, if it wants one, is in POSTTRAIN_TEACHER_KEY; it is in no message.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from posttrain.errors import RunError, UserError
from posttrain.learner_spec import TeacherSpec
from posttrain.packing import sequences_of
from posttrain.teacher import TeacherScores
from posttrain.types import Batch, IntArray, Message
from posttrain.weights import WeightsManifest, WeightsPayload
from posttrain.worker import Worker

REQUESTS_AT_ONCE = 16
FIRST_WAIT_S = 0.5


def is_url(path: str) -> bool:
    """Whether a teacher is named by an address."""
    return path.startswith(("http://", "https://"))


class TeacherServer:
    """The server at `url`, such as http://localhost:8000/v1."""

    def __init__(self, url: str, patience_s: float = 60.0) -> None:
        """Asks which model it serves. patience_s: how long a server that is busy (429, 5xx, no answer) is asked again.

        Raises:
            UserError: it does not answer, or serves none.
        """
        self.url, self.patience_s = url.rstrip("/"), patience_s
        try:
            self.model = str(self._ask("/models", None)["data"][0]["id"])
        except (RunError, LookupError) as error:
            raise UserError(
                f"algo.teacher={url}: expected an OpenAI-compatible server such as http://localhost:8000/v1; {error}"
            ) from error

    def tokenize(self, text: str) -> list[int]:
        """A text's tokens."""
        return self._tokens({"prompt": text, "add_special_tokens": False})

    def render(self, messages: Sequence[Message]) -> IntArray:
        """A prompt's tokens by the server's chat template, up to where the assistant starts to write."""
        return np.asarray(self._tokens({"messages": list(messages), "add_generation_prompt": True}), np.int64)

    def score(self, token_ids: IntArray, k: int) -> list[dict[int, float]]:
        """For each token but the first, log-probabilities by token id: the k most likely ones' and its own."""
        asked = {"model": self.model, "prompt": token_ids.tolist(), "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": k}
        rows = self._ask("/completions", asked)["choices"][0].get("prompt_logprobs")
        if rows is None or len(rows) != len(token_ids):
            raise RunError(f"the teacher at {self.url} does not tell prompt_logprobs; expected vLLM's server")
        return [{int(token): float(entry["logprob"]) for token, entry in row.items()} for row in rows[1:]]

    def _tokens(self, asked: dict[str, Any]) -> list[int]:
        root = self.url.removesuffix("/v1")
        return [int(token) for token in self._ask("/tokenize", {"model": self.model, **asked}, root)["tokens"]]

    def _ask(self, path: str, body: dict[str, Any] | None, root: str | None = None) -> Any:
        """The answer, as JSON; asks again while the server is only busy."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("POSTTRAIN_TEACHER_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request((self.url if root is None else root) + path, data, headers)
        end, wait_s = time.monotonic() + self.patience_s, FIRST_WAIT_S
        while True:
            try:
                with urllib.request.urlopen(request, timeout=self.patience_s) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                problem = f"{error.code} {error.read(300).decode(errors='replace')}"
                is_temporary = error.code == 429 or error.code >= 500
            except (OSError, ValueError) as error:
                problem, is_temporary = str(error), body is not None
            if not is_temporary or time.monotonic() + wait_s > end:
                raise RunError(f"the teacher at {self.url} answered {path} with {problem}")
            time.sleep(wait_s)
            wait_s *= 2


class ServedTeacher(Worker):
    """Asks the server about every episode of a stream; the same face as `posttrain.teacher.Teacher`."""

    def __init__(self, spec: TeacherSpec) -> None:
        """spec.model_path: the server's address."""
        super().__init__()
        self.spec = spec

    def start(self) -> None:
        """Finds the server."""
        self.server = TeacherServer(self.spec.model_path)
        self.advance()

    def export_head(self) -> tuple[WeightsManifest, WeightsPayload]:
        """Nothing: a server does not show its weights."""
        return {}, []

    def score(self, batch: Batch) -> tuple[int, TeacherScores]:
        """The number of trained tokens of a stream that was made for this teacher's template, and its word on them."""
        sequences = sequences_of(batch)
        with self.computing(), ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            scored = list(pool.map(self._score_one, sequences))
        rows = [row for rows in scored for row in rows]
        targets = [int(token) for token_ids, trained in sequences for token in token_ids[trained]]
        logprobs_N = torch.tensor([row[target] for row, target in zip(rows, targets, strict=True)], dtype=torch.float32)
        chosen = self.spec.distillation
        if chosen.support == "sampled":
            return len(rows), TeacherScores.of(logprobs=logprobs_N)
        top = [self._best(row) for row in rows]
        k = min(map(len, top), default=chosen.top_k)
        ids_NK = torch.tensor([[token for token, _ in row[:k]] for row in top], dtype=torch.int64).reshape(len(top), k)
        top_NK = torch.tensor([[logprob for _, logprob in row[:k]] for row in top], dtype=torch.float32).reshape(len(top), k)
        return len(rows), TeacherScores.of(logprobs=logprobs_N, top_ids=ids_NK, top_logprobs=top_NK)

    def _best(self, row: dict[int, float]) -> list[tuple[int, float]]:
        """The most likely tokens first, padding rows of the teacher's head left out."""
        known = [entry for entry in row.items() if entry[0] < self.spec.output_rows]
        return sorted(known, key=lambda entry: -entry[1])[: self.spec.distillation.top_k]

    def _score_one(self, sequence: tuple[IntArray, IntArray]) -> list[dict[int, float]]:
        token_ids, trained = sequence
        rows = self.server.score(token_ids, self.spec.distillation.top_k if self.spec.distillation.support == "topk" else 0)
        self.advance()
        return [rows[place - 1] for place in trained]
