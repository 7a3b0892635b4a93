"""The scoring processes of a task's rewards, each given as many episodes at a time as its rewards take, killed when it hangs.

Consumes: (prompt, episode). Waits for: each judgement, `timeout_s` at most. Produces: one judgement a reward, where a process
that was too slow or died is a `Failure` of the reward that it was at. What happens inside a process is in
`posttrain.rewards.process`; what judgements mean to a group is the manager's; how processes live and die is in `posttrain.lanes`.

Rewards that take one episode at a time have processes of their own, `num_processes` of them at most. Those that take several
(`Reward.concurrency`: judges, which mostly wait) share one, and see an episode only when all others have scored it.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from posttrain.errors import RunError, UserError
from posttrain.lanes import Failure, Lane, Work
from posttrain.rewards.base import Judgement, Score
from posttrain.types import Episode, Prompt

MAX_SHARED = 64
"""Episodes under way in the process of rewards that take several at a time."""

Judged = tuple[Judgement, dict[str, float]]
"""A judgement and what it took: seconds, and what the reward counts."""


class ScoringPool:
    """The scoring processes of a task's rewards, behind as many threads as episodes can be under way."""

    def __init__(self, names: Sequence[str], *, num_processes: int, timeout_s: float, memory_gb: float) -> None:
        """Starts one process, which shows that the rewards can be constructed and how many episodes each takes at a time.

        Raises UserError: one of them cannot be.
        """
        self.timeout_s = timeout_s
        work = Work(module="posttrain.rewards.process", names=tuple(names), memory_gb=memory_gb)
        self._lanes = [Lane(work, num_slots=num_processes)]
        # The threads live as long as the pool: a process is killed by the kernel when the thread that started it ends.
        self._threads = ThreadPoolExecutor(num_processes + MAX_SHARED, thread_name_prefix="scoring")
        try:
            takes = self._threads.submit(self._lanes[0].start).result()
        except (UserError, RunError):
            self.close()
            raise
        shared = [name for name in names if takes[name] > 1]
        if not shared:
            return
        alone, first = [name for name in names if name not in shared], self._lanes.pop()
        if alone:
            first.close()
            self._lanes.append(Lane(replace(work, names=tuple(alone)), num_slots=num_processes))
        concurrency, kept = min(MAX_SHARED, *(takes[name] for name in shared)), first.hand_over()
        self._lanes.append(Lane(replace(work, names=tuple(shared)), num_slots=concurrency, concurrency=concurrency, processes=kept))

    def submit(self, prompt: Prompt, episode: Episode) -> "Future[dict[str, Judged]]":
        """Judges an episode as soon as a process is free."""
        return self._threads.submit(self._judge, prompt, episode)

    def close(self) -> None:
        """Kills all processes, whatever they are at."""
        for lane in self._lanes:
            lane.close()
        self._threads.shutdown(cancel_futures=True)

    def _judge(self, prompt: Prompt, episode: Episode) -> dict[str, Judged]:
        judged: dict[str, Judged] = {}
        for lane in self._lanes:
            judged |= _judge_in(lane, prompt, episode, self.timeout_s)
            if not all(isinstance(judgement, Score) for judgement, _ in judged.values()):
                break
        return judged


def _judge_in(lane: Lane, prompt: Prompt, episode: Episode, timeout_s: float) -> dict[str, Judged]:
    """Judgements and usage by reward, up to the first that is not a score."""
    judged: dict[str, Judged] = {}
    with lane.ask((prompt, episode), timeout_s) as answers:
        for name, answer in zip(lane.work.names, answers, strict=False):
            judged[name] = (answer, {}) if isinstance(answer, Failure) else answer
            if not isinstance(judged[name][0], Score):
                break
    return judged
