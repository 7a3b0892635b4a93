"""Runs of the real thing: `posttrain.run` in a process of its own, with Ray, vLLM and DeepSpeed on the tiny model."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

TINY = [
    *("algo=sapo", "model=tiny", "train.lr=1e-3", "+task.rewards.vowels=1.0"),
    *("eval.num_prompts=8", "eval.samples_per_prompt=2", "rollout.max_completion_tokens=12"),
]

VOWELS = '''
import hashlib, os, signal

from posttrain.rewards.base import Reward

class Vowels(Reward):
    """The share of vowels in the answer: random text of an untrained model differs in it."""

    def score(self, prompt, episode):
        return sum(letter in "aeiou" for letter in episode.text) / max(1, len(episode.text))

def fault(text):
    """Of a hundred texts, five hang a reward and two end its process."""
    place = int(hashlib.md5(text.encode()).hexdigest(), 16) % 100
    return "hang" if place < 5 else "crash" if place < 7 else None

class Faulty(Reward):
    """Fails as `fault` says."""

    def score(self, prompt, episode):
        while fault(episode.text) == "hang":
            pass
        if fault(episode.text) == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        return 0.5
'''


AGAIN = '''
import io
from PIL import Image
from posttrain.rollout.env import Environment, Observation
from posttrain.types import EncodedImage

class Again(Environment):
    """Says "again" twice; the score is the share of vowels in what it hears."""

    def reset(self, prompt):
        self.num_heard = 0

    def step(self, text):
        self.num_heard += 1
        score = sum(letter in "aeiou" for letter in text) / max(1, len(text))
        return Observation(text="again", score=score, is_over=self.num_heard == 3, images=self.pictures())

    def pictures(self):
        return []

class Pictures(Again):
    """The same, with a picture beside it."""

    def pictures(self):
        file = io.BytesIO()
        Image.new("RGB", (64, 32 * self.num_heard), (80 * self.num_heard, 99, 200)).save(file, "PNG")
        return [EncodedImage(data=file.getvalue(), width=64, height=32 * self.num_heard)]
'''


@dataclass
class Result:
    """A finished command."""

    code: int
    out: str
    err: str
    seconds: float


class Running:
    """A `posttrain.run` under way, in a session of its own so that nothing of it can be missed."""

    def __init__(self, folder: Path, overrides: list[str], log: Path, base: Sequence[str] = TINY):
        self.folder, self.log = folder, log
        self.started = time.monotonic()
        self.out, self.err = log.with_suffix(".out"), log.with_suffix(".err")
        command = [sys.executable, "-m", "posttrain.run", *base, f"run.dir={folder}", *overrides]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(command, stdout=out, stderr=err, cwd=log.parent, start_new_session=True)

    def descendants(self):
        """The driver's processes: Ray's daemons, actors and workers; found by session or by the Ray session folder."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def wait_for(self, condition, timeout=240):
        """Until condition() is true, or the process has ended, or time is up; returns whether it became true."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if condition():
                return True
            if self.process.poll() is not None:
                return condition()
            time.sleep(0.05)
        return False

    def kill(self):
        """kill -9 of the driver; waits until everything that it started is gone, but for Ray's agents, which take a minute."""
        family = [process for process in self.descendants() if "Agent" not in process.name()]
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        gone_within(family, 30)

    def finish(self, timeout=400) -> Result:
        """Waits for the end; the processes it leaves behind are an error of the test that calls this."""
        self.process.wait(timeout)
        return Result(self.process.returncode, self.out.read_text(), self.err.read_text(), time.monotonic() - self.started)


def gone_within(processes, seconds):
    """Asserts that all of these processes end in time (zombies of a dead parent count as gone)."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    left = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not left, f"still running: {[(p.pid, p.name()) for p in left]}"


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory):
    """No hub, no leftovers of a caller's Ray, and a third party's installed rewards and environment: `vowels`, `faulty`, `again`."""
    site = tmp_path_factory.mktemp("site")
    info = site / "vowel_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vowel-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[posttrain.rewards]\nvowels = vowel_rewards:Vowels\nfaulty = vowel_rewards:Faulty\n"
        "[posttrain.environments]\nagain = again_games:Again\npictures = again_games:Pictures\n"
    )
    (site / "vowel_rewards.py").write_text(VOWELS)
    (site / "again_games.py").write_text(AGAIN)
    # The lock that a process killed while DeepSpeed compiles leaves behind; whoever waits for it waits for ever.
    (site / "torch_extensions" / "deepspeed_shm_comm").mkdir(parents=True)
    (site / "torch_extensions" / "deepspeed_shm_comm" / "lock").touch()
    os.environ.update(HF_HUB_OFFLINE="1", PYTHONPATH=str(site), TORCH_EXTENSIONS_DIR=str(site / "torch_extensions"))
    os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(scope="session")
def launch():
    """launch(folder, overrides, log): a run that the caller looks after."""
    return Running


@pytest.fixture
def start(tmp_path):
    """start(name, *overrides): a run in tmp_path/name; killed at the end of the test if it is still there."""
    started: list[Running] = []

    def begin(name: str, *overrides: str) -> Running:
        running = Running(tmp_path / name, list(overrides), tmp_path / f"{name}_{len(started)}")
        started.append(running)
        return running

    yield begin
    for running in started:
        if running.process.poll() is None:
            running.kill()
