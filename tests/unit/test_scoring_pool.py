"""Rewards that hang, die, eat memory or print: each costs one episode and nothing else."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from posttrain import lanes
from posttrain.config import RewardsConfig
from posttrain.errors import UserError
from posttrain.rewards.manager import RewardManager
from posttrain.types import Episode, Group, Prompt, Turn

WILD = """
import asyncio, os, signal, subprocess, sys, time
from posttrain.rewards.base import Reward, Score
from posttrain.rewards.batched import BatchedReward

class Wild(Reward):
    def __init__(self):
        self.num_scored = 0

    def score(self, prompt, episode):
        self.num_scored += 1
        kind, _, value = episode.text.partition(" ")
        return vars(Wild)[kind](self, value)

    def plain(self, value):
        return float(value)

    def hang(self, value):
        while True:
            pass

    def sleep(self, value):
        time.sleep(float(value))
        return 1.0

    def segfault(self, value):
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)  # from a thread it takes a moment

    def leave(self, value):
        os._exit(3)

    def eat(self, value):
        return float(len(bytearray(int(value))) > 0)

    def shout(self, value):
        sys.stdout.write("x" * 10_000_000)
        print("garbage", file=sys.stderr)
        os.write(1, b"\\x80\\x04" * 1000)
        return 1.0

    def start_child(self, value):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(value, "w").write(str(child.pid))
        while True:
            pass

    def count(self, value):
        return float(self.num_scored)

    def fail_once(self, value):
        if os.path.exists(value):
            return 1.0
        open(value, "w").close()
        raise OSError("the first time")

    def usage(self):
        return {"num_scored": self.num_scored}

    async def later(self, value):
        await asyncio.sleep(0.01)
        return Score(0.5, {"waited": {1, 2}})

class Patient(Wild):
    concurrency = 16

class Numbered(BatchedReward):
    def __init__(self):
        self.sizes = []

    def score_batch(self, cases):
        self.sizes.append(len(cases))
        if any(episode.text == "raise" for _, episode in cases):
            raise OSError("the whole batch")
        return [Score(float(episode.text), {"size": len(cases)}) for _, episode in cases]

class Short(BatchedReward):
    def score_batch(self, cases):
        return []

class Broken(Reward):
    def __init__(self):
        raise RuntimeError("no model file")
    score = None
"""


@pytest.fixture
def manager(install):
    """manager(**settings): with the reward `wild`; closed after the test."""
    names = ("wild", "patient", "numbered", "short", "broken")
    install("wild-rewards", {name: f"wild_rewards:{name.title()}" for name in names}, wild_rewards=WILD)
    made = []

    def make(*rewards, **settings):
        weights = dict.fromkeys(rewards or ["wild"], 1.0)
        made.append(RewardManager(weights, RewardsConfig(**{"num_processes": 4, "timeout_s": 1.0, "max_failure_fraction": 1, **settings})))
        return made[-1]

    yield make
    for one in made:
        one.close()


def group(*texts):
    def episode(text):
        turn = Turn(token_ids=np.array([7]), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0)
        return Episode(prompt_id="p", turns=[turn], status="complete")

    prompt = Prompt(id="p", task="t", messages=[], reference=None)
    return Group(prompt=prompt, prompt_token_ids=np.array([1]), episodes=[episode(text) for text in texts])


def processes():
    return [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


def processes_of(name):
    return [process for process in processes() if name in process.cmdline()]


def test_what_hangs_or_dies_costs_one_episode_and_one_time_out(manager):
    wild = manager()
    scored = group("plain 1", "hang", "segfault", "plain 0", "leave", "hang", "plain 0.5")
    started = time.monotonic()
    wild.score(scored)
    assert time.monotonic() - started < 8  # both time-outs at the same time, and the start of new processes
    assert [episode.failure for episode in scored.episodes] == [
        None,
        "reward wild: no answer within 1 s",
        "reward wild: its process died with SIGSEGV",
        None,
        "reward wild: its process died with exit code 3",
        "reward wild: no answer within 1 s",
        None,
    ]
    assert [episode.reward for episode in scored.episodes if episode.status == "complete"] == [1, 0, 0.5]
    assert wild.counts == {"scored": 3, "timeout": 2, "crash": 2}
    assert wild.take_counts()["timeout"] == 2 and wild.take_counts()["timeout"] == 0


def test_memory_is_limited(manager):
    wild = manager(memory_gb=0.5)
    scored = group("eat 10000000", "eat 2000000000")
    wild.score(scored)
    assert [episode.failure for episode in scored.episodes] == [None, "reward wild: MemoryError: "]


def test_what_it_prints_harms_nothing(manager, capfd):
    wild = manager()
    scored = group("shout", "plain 1")
    wild.score(scored)
    assert [episode.reward for episode in scored.episodes] == [1, 1]
    assert capfd.readouterr() == ("", "")


def test_what_a_hung_reward_started_is_killed_with_it(manager, tmp_path):
    wild = manager()
    wild.score(group(f"start_child {tmp_path / 'pid'}"))
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_reward_keeps_its_state_and_is_replaced_after_a_while(manager, monkeypatch):
    monkeypatch.setattr(lanes, "MAX_REQUESTS", 3)
    wild = manager(num_processes=1)
    scored = group(*["count"] * 7)
    wild.score(scored)
    assert sorted(episode.reward for episode in scored.episodes) == [1, 1, 1, 2, 2, 3, 3]


def test_a_coroutine_is_awaited_and_details_become_json(manager):
    scored = group("later")
    manager().score(scored)
    assert (scored.episodes[0].reward, scored.episodes[0].details) == (0.5, {"wild": '{"waited": "{1, 2}"}'})


def test_rewards_that_wait_share_a_process_and_run_at_the_same_time(manager):
    patient = manager("patient", timeout_s=20)
    started = time.monotonic()
    scored = group(*["sleep 1"] * 16)
    patient.score(scored)
    assert time.monotonic() - started < 6, "one after the other they take 16 s"
    assert [episode.reward for episode in scored.episodes] == [1.0] * 16
    assert len(processes_of("patient")) == 1
    assert patient.take_counts()["patient/num_scored"] == 16


def test_one_that_hangs_among_others_costs_them_nothing(manager):
    patient = manager("patient", timeout_s=2)
    scored = group("sleep 1.5", "sleep 60", "sleep 0.1")
    patient.score(scored)
    assert [episode.failure for episode in scored.episodes] == [None, "reward patient: no answer within 2 s", None]
    assert not processes_of("patient")
    patient.score(again := group("plain 1"))
    assert again.episodes[0].reward == 1


def test_a_shared_process_that_dies_takes_what_was_under_way_with_it(manager):
    patient = manager("patient", timeout_s=20)
    scored = group("sleep 10", "segfault")
    patient.score(scored)
    assert [episode.failure for episode in scored.episodes] == ["reward patient: its process died with SIGSEGV"] * 2
    patient.score(again := group("plain 1", "plain 0"))
    assert [episode.reward for episode in again.episodes] == [1, 0]


def test_rewards_of_both_kinds_score_one_after_the_other(manager):
    both = manager("patient", "wild", timeout_s=2)
    scored = group("plain 1", "count", "segfault")
    both.score(scored)
    assert scored.episodes[0].scores == {"patient": 1, "wild": 1}
    # What the first kind failed on never gets to the second.
    assert scored.episodes[2].failure == "reward wild: its process died with SIGSEGV"
    assert len(processes_of("patient")) == 1 and both.take_counts()["patient/num_scored"] == 2


def test_a_batch_is_scored_together_and_fails_together(manager):
    numbered = manager("numbered", timeout_s=20)
    scored = group(*map(str, range(20)))
    numbered.score(scored)
    assert [episode.reward for episode in scored.episodes] == [*range(20)]
    assert max(int(json.loads(episode.details["numbered"])["size"]) for episode in scored.episodes) > 4
    numbered.score(failed := group("1", "raise"))
    assert [episode.failure for episode in failed.episodes] == ["reward numbered: OSError: the whole batch"] * 2
    short = manager("short")
    short.score(failed := group("1"))
    assert failed.episodes[0].failure == "reward short: ValueError: 0 judgements of 1 episodes"


def test_a_failed_episode_is_tried_again_by_choice(manager, tmp_path):
    scored = group(f"fail_once {tmp_path / 'a'}", "leave")
    wild = manager(retries=1)
    wild.score(scored)
    assert [episode.failure for episode in scored.episodes] == [None, "reward wild: its process died with exit code 3"]
    assert wild.counts == {"retried": 2, "scored": 1, "crash": 1}


def test_what_scoring_took_is_counted(manager):
    wild = manager(num_processes=2)
    wild.score(group(*["sleep 0.1"] * 4, "leave"))
    counts = wild.take_counts()
    assert (counts["scored"], counts["crash"], counts["wild/num_scored"]) == (4, 1, 4)
    assert 0.4 <= counts["wild/seconds"] < 2
    wild.score(group("plain 1"))
    assert wild.take_counts()["wild/num_scored"] == 1


def test_scoring_goes_on_while_the_driver_does_other_things(manager):
    wild = manager(num_processes=4)
    wild.score(group(*["sleep 0.01"] * 8))  # from here on all processes run
    started = time.monotonic()
    wild.submit(group(*["sleep 0.5"] * 4))
    assert time.monotonic() - started < 0.1
    wild.finish()
    assert 0.4 < time.monotonic() - started < 1.0


def test_closing_leaves_nothing_behind(manager):
    before = {process.pid for process in processes()}
    wild = manager(timeout_s=60)
    wild.submit(group("hang", "plain 1"))
    time.sleep(0.5)
    wild.close()
    assert {process.pid for process in processes()} <= before


def test_a_hung_reward_does_not_outlive_a_killed_driver(manager, tmp_path):
    manager()  # makes the plug-in importable
    program = (
        "import sys; sys.path[:0] = eval(sys.argv[1]); sys.argv[0] = ''\n"
        "from tests_group import group\n"
        "from posttrain.rewards.manager import RewardManager\n"
        "manager = RewardManager({'wild': 1.0}); manager.submit(group('hang')); print('started', flush=True)\n"
        "import time; time.sleep(600)"
    )
    source = Path(__file__).read_text()
    (tmp_path / "tests_group.py").write_text(source.replace("@pytest.fixture", "@(lambda function: function)"))
    paths = repr([str(tmp_path), *sys.path])
    driver = subprocess.Popen([sys.executable, "-c", program, paths], stdout=subprocess.PIPE, text=True)
    assert driver.stdout.readline() == "started\n"
    time.sleep(0.3)
    family = psutil.Process(driver.pid).children(recursive=True)
    assert family
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_a_reward_that_cannot_be_constructed_is_one_line(manager):
    manager()
    with pytest.raises(
        UserError, match=r"broken = wild_rewards:Broken \(from wild-rewards 1\.0\) cannot be constructed: RuntimeError: no model file"
    ):
        RewardManager({"broken": 1.0})
