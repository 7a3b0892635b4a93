"""Rewards that score many episodes at once: a reward model, an endpoint that takes batches."""

import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future

from posttrain.rewards.base import Abstain, Reward, Score
from posttrain.types import Episode, Prompt

Scored = float | Score | Abstain


class BatchedReward(Reward):
    """Gathers the episodes that are waiting and scores them together.

    concurrency: most episodes in a batch. gather_s: how long the first of a batch waits for others. A batch that raises has failed
    for each of its episodes.
    """

    concurrency = 32
    gather_s = 0.02

    @abstractmethod
    def score_batch(self, cases: Sequence[tuple[Prompt, Episode]]) -> Sequence[Scored]:
        """Judges each of `cases`, in their order; called by one thread at a time. Otherwise as `Reward.score`."""

    def score(self, prompt: Prompt, episode: Episode) -> Scored:
        """Waits for a batch and takes its part of it.

        Raises ValueError: there were not as many judgements as episodes.
        """
        state = self.__dict__.setdefault("_batching", _Batching())  # here, because subclasses have constructors of their own
        result: Future[Scored] = Future()
        with state.lock:
            state.waiting.append(((prompt, episode), result))
            is_first = len(state.waiting) == 1
        if is_first:
            time.sleep(self.gather_s)
            with state.scoring:
                self._score_waiting(state)
        return result.result()

    def _score_waiting(self, state: "_Batching") -> None:
        with state.lock:
            batch, state.waiting = state.waiting, []
        results = [result for _, result in batch]
        try:
            scored = self.score_batch([case for case, _ in batch])
            if len(scored) != len(batch):
                raise ValueError(f"{len(scored)} judgements of {len(batch)} episodes")
        except Exception as error:  # told to each of them: their threads raise it
            for result in results:
                result.set_exception(error)
            return
        for result, one in zip(results, scored, strict=True):
            result.set_result(one)


class _Batching:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.scoring = threading.Lock()
        self.waiting: list[tuple[tuple[Prompt, Episode], Future[Scored]]] = []
