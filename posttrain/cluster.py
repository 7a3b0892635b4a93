"""Ray: starting or joining a cluster, placing actors, calling them with deadlines, and ending them.

Consumes: actor classes and what to build them with. Waits for: calls, each under `cluster.deadline_s` without progress.
Produces: results, or an ActorFailure that names the actor, its node and its last log lines. What actors compute is their
own files' business; which actors a run has is `posttrain.fleet`'s.
"""

import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from posttrain.config import ClusterConfig
from posttrain.errors import ActorFailure, RunError, UserError
from posttrain.worker import Host, WorkerInfo

POLL_S = 1.0
PLACEMENT_TIMEOUT_S = 60.0
TAIL_LINES = 15
RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # actors without a GPU see none
    "RAY_worker_niceness": "0",  # Ray's 15 starves a run beside anything else on a small machine
}

KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""Lets glibc keep what large tensors leave behind, and ask for huge pages. By default each tensor is mapped anew and its pages
are faulted in again: on two cores that was half of a learner's step. Huge pages (glibc 2.35 on; none where the kernel's are
`never`) took another twentieth of it."""


@dataclass(slots=True)
class Member:
    """One actor, as the driver knows it."""

    name: str
    handle: Any
    info: WorkerInfo | None = None


@dataclass(slots=True)
class Call:
    """A call under way; `waitable` is the reference to its result, or its stream of them."""

    member: Member
    method: str
    waitable: Any


@dataclass(slots=True)
class _Watch:
    """How far a member has come, and since when it has not moved."""

    since: float
    progress: int = -1
    asked: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What each actor of one kind takes."""

    count: int
    cpus: int
    gpus: int

    def bundle(self) -> dict[str, float]:
        """As a Ray resource bundle."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


class Cluster:
    """A Ray cluster for the length of a run; use as a context manager."""

    def __init__(self, config: ClusterConfig, log_folder: Path, num_teachers: int = 0) -> None:
        """Nothing is started before the context is entered. A teacher gets the room of a learner's rank."""
        self.config = config
        self.num_teachers = num_teachers
        self.log_folder = log_folder
        self.is_local = config.address == "local"
        self.members: list[Member] = []
        self._group: PlacementGroup | None = None

    def __enter__(self) -> Self:
        """Starts or joins Ray and reserves room for all actors."""
        for name, value in RAY_SETTINGS.items():
            os.environ.setdefault(name, value)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": None}
        try:
            if self.is_local:
                self._place(*_local_placements(self.config))
                cpus = sum(placement.count * placement.cpus for placement in self.placements)
                ray.init(address="local", num_cpus=cpus, **{**quiet, "include_dashboard": False})
            else:
                ray.init(address=self.config.address, **quiet)
                self._place(*_cluster_placements(self.config))
            self._reserve()
            # After Ray's own handler, which prints stack traces: a terminated run ends its actors like an interrupted one.
            signal.signal(signal.SIGTERM, _interrupt)
        except (ConnectionError, ValueError) as error:
            ray.shutdown()
            raise UserError(f"cluster.address={self.config.address}: Ray cannot be reached: {error}") from error
        except BaseException:
            ray.shutdown()
            raise
        return self

    def _place(self, engines: Placement, learners: Placement) -> None:
        self.engines, self.learners, self.teachers = engines, learners, replace(learners, count=self.num_teachers)
        self.placements = (self.engines, self.learners, self.teachers)

    def _reserve(self) -> None:
        bundles = [p.bundle() for p in self.placements for _ in range(p.count)]
        self._group = placement_group(bundles, strategy="PACK")
        if not self._group.wait(min(PLACEMENT_TIMEOUT_S, self.config.deadline_s)):
            raise UserError(
                f"the cluster has no room for {self.engines.count} engines of {self.engines.bundle()} and "
                f"{self.learners.count + self.teachers.count} learners and teachers of {self.learners.bundle()}; "
                f"it has {ray.cluster_resources()}; "
                "lower cluster.engine_cpus, cluster.learner_cpus or the GPUs asked for"
            )

    def spawn(self, name: str, target: str, spec: Any, placement: Placement, index: int) -> Member:
        """Creates the actor of worker `target` ("module:Class") in the `index`th of the bundles reserved for its kind."""
        bundle = index + sum(before.count for before in takewhile(lambda other: other is not placement, self.placements))
        threads = str(placement.cpus)
        environment = {**KEEP_MEMORY, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}
        handle = (
            ray.remote(concurrency_groups={"health": 1})(Host)
            .options(
                num_cpus=placement.cpus,
                num_gpus=placement.gpus,
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle),
                runtime_env={"env_vars": environment},
            )
            .remote(name, str(self.log_folder / f"{name}.log"), target, spec)
        )
        member = Member(name, handle)
        self.members.append(member)
        return member

    def call(self, member: Member, method: str, *args: Any) -> Call:
        """Starts a method of the member's worker; `wait` gives the result."""
        return Call(member, method, member.handle.invoke.remote(method, *args))

    def call_pair(self, member: Member, method: str, *args: Any) -> tuple[Call, Any]:
        """Starts a method that returns two things: the call gives the first, the second stays in the object store."""
        first, second = member.handle.invoke.options(num_returns=2).remote(method, *args)
        return Call(member, method, first), second

    def call_stream(self, member: Member, method: str, *args: Any) -> Call:
        """Starts a method that yields; `stream` gives what it yields."""
        return Call(member, method, member.handle.stream.options(num_returns="streaming").remote(method, *args))

    def call_all(self, members: Sequence[Member], method: str, *args: Any) -> list[Any]:
        """Calls all members with the same arguments and waits; results in order."""
        return self.wait([self.call(member, method, *args) for member in members])

    def identify(self, members: Sequence[Member]) -> None:
        """Asks new members who and where they are."""
        calls = [Call(member, "info", member.handle.info.remote()) for member in members]
        for member, info in zip(members, self.wait(calls), strict=True):
            member.info = info

    def wait(self, calls: Sequence[Call]) -> list[Any]:
        """Results of plain calls, in order.

        Raises:
            ActorFailure: an actor died, raised, or made no progress for cluster.deadline_s.
        """
        results: dict[int, Any] = {}
        for index, value in self._ready(calls, streaming=False):
            results[index] = value
        return [results[index] for index in range(len(calls))]

    def stream(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Any]]:
        """(call, item): what streaming calls yield, as it comes, from all of them together; raises as `wait` does."""
        for index, value in self._ready(calls, streaming=True):
            yield calls[index], value

    def _ready(self, calls: Sequence[Call], *, streaming: bool) -> Iterator[tuple[int, Any]]:
        pending = {call.waitable: (index, call) for index, call in enumerate(calls)}
        watches = {call.member.name: _Watch(since=time.monotonic()) for call in calls}
        while pending:
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=POLL_S)
            if not ready:
                self._watch([call for _, call in pending.values()], watches)
                continue
            index, call = pending[ready[0]]
            watches[call.member.name].since = time.monotonic()
            try:
                ref = next(ready[0]) if streaming else ready[0]
            except StopIteration:
                del pending[ready[0]]
                continue
            yield index, self._get(call, ref)
            if not streaming:
                del pending[ready[0]]

    def _get(self, call: Call, ref: Any) -> Any:
        try:
            return ray.get(ref, timeout=self.config.deadline_s)
        except RayTaskError as error:
            if isinstance(error.cause, (UserError, RunError)):
                raise error.cause from error
            message = f"raised {type(error.cause).__name__} in {call.method}: {error.cause}"
            raise self._failure(call.member, message) from error
        except RayActorError as error:
            raise self._failure(call.member, f"died in {call.method}") from error
        except GetTimeoutError as error:
            raise self._failure(
                call.member, f"finished {call.method}, but its result did not arrive in {self.config.deadline_s:g} s"
            ) from error
        except RayError as error:
            raise self._failure(call.member, f"failed in {call.method}: {type(error).__name__}: {error}") from error

    def _watch(self, calls: Sequence[Call], watches: dict[str, _Watch]) -> None:
        """Asks members with calls under way how far they are; fails on one that has not moved within the deadline."""
        for call in calls:
            watch = watches[call.member.name]
            if watch.asked is None:
                watch.asked = call.member.handle.progress.options(concurrency_group="health").remote()
            elif ray.wait([watch.asked], timeout=0)[0]:
                progress = self._get(call, watch.asked)
                watch.asked = None
                if progress != watch.progress:
                    watch.progress, watch.since = progress, time.monotonic()
            silent_s = time.monotonic() - watch.since
            if silent_s > self.config.deadline_s:
                raise self._failure(
                    call.member, f"made no progress in {call.method} for {silent_s:.0f} s (cluster.deadline_s={self.config.deadline_s:g})"
                )

    def _failure(self, member: Member, what: str) -> ActorFailure:
        where = f"process {member.info.pid} on node {member.info.host}" if member.info else "not yet placed"
        return ActorFailure(f"{member.name} ({where}) {what}\n{self._tail(member)}")

    def _tail(self, member: Member) -> str:
        path = self.log_folder / f"{member.name}.log"
        info = member.info
        if info is None or info.host == socket.gethostname():
            lines = read_tail(str(path))
        else:
            try:
                lines = ray.get(_on_node(read_tail, info).remote(info.log_path), timeout=10)
            except RayError as error:
                lines = [f"(its log cannot be read: {type(error).__name__})"]
        return "\n".join([f"last lines of {path}:", *(f"  {line}" for line in lines)])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends every actor's process, also a stopped one, then Ray if it was started here."""
        for member in self.members:
            ray.kill(member.handle)
            if member.info:
                _end_process(member.info)
        if self._group is not None:
            remove_placement_group(self._group)
        ray.shutdown()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def read_tail(path: str) -> list[str]:
    """The last lines of a log file."""
    try:
        return Path(path).read_text(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError as error:
        return [f"(no log: {error})"]


def kill_process(pid: int) -> None:
    """Ends a process whatever state it is in; nothing happens if it has ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _end_process(info: WorkerInfo) -> None:
    if info.host == socket.gethostname():
        kill_process(info.pid)
        return
    try:
        ray.get(_on_node(kill_process, info).remote(info.pid), timeout=10)
    except RayError:
        return  # the node is gone, and the process with it


def _on_node(function: Any, info: WorkerInfo) -> Any:
    return ray.remote(function).options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(info.node_id, soft=False))


def _local_placements(config: ClusterConfig) -> tuple[Placement, Placement]:
    """Engines, learners and teachers take turns, so each kind may use all cores of this machine."""
    cores = len(os.sched_getaffinity(0))
    engine_cpus = config.engine_cpus or max(1, cores // max(1, config.num_engines))
    learner_cpus = config.learner_cpus or max(1, cores // max(1, config.num_learners))
    return (
        Placement(count=config.num_engines, cpus=engine_cpus, gpus=config.engine_gpus),
        Placement(count=config.num_learners, cpus=learner_cpus, gpus=config.learner_gpus),
    )


def _cluster_placements(config: ClusterConfig) -> tuple[Placement, Placement]:
    """Where nothing is said, an actor takes a whole node's cores, or one core beside its GPUs."""
    cores = int(min((node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]), default=1))
    return (
        Placement(count=config.num_engines, cpus=config.engine_cpus or (1 if config.engine_gpus else cores), gpus=config.engine_gpus),
        Placement(count=config.num_learners, cpus=config.learner_cpus or (1 if config.learner_gpus else cores), gpus=config.learner_gpus),
    )
