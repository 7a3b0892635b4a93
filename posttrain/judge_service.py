"""A judge of the run's own: vLLM serves `rewards.judge_model` on the loopback for as long as the run lasts.

Consumes: a model. Waits for: the server's health, under `cluster.deadline_s`. Produces: POSTTRAIN_JUDGE_URL and
POSTTRAIN_JUDGE_MODEL for the scoring processes, which then use it like any other endpoint.

Left out on purpose: sharing the policy's engines (its weights change and its cache is reset every step; a judge's must not).
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from posttrain.builtin_models import resolve
from posttrain.errors import RunError
from posttrain.processor import fast_dtype

NAME = "judge"
SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
TAIL_LINES = 15
# Free white space between a verdict's fields is where a small judge gets lost: it writes line breaks until the question's deadline.
NO_WHITESPACE = '{"backend": "xgrammar", "disable_any_whitespace": true}'
# Asks the kernel for a SIGTERM when the driver dies, however it dies; the server then ends its own processes.
STARTER = (
    "import runpy, signal; from posttrain.sandbox.kernel import die_with_parent; die_with_parent(signal.SIGTERM); "
    "runpy.run_module('vllm.entrypoints.openai.api_server', run_name='__main__', alter_sys=True)"
)


class JudgeService:
    """The server's process; use as a context manager. Without a model it does nothing."""

    def __init__(self, model_path: str | None, *, deadline_s: float) -> None:
        """Chooses a port and tells the scoring processes, which are started before the server is.

        model_path: a folder, hub name or builtin:<name>. Raises UserError: there is no such builtin model.
        """
        self.model_path = None if model_path is None else resolve(model_path, "rewards.judge_model")
        self.deadline_s = deadline_s
        self.log_path = Path(os.devnull)
        self._process: subprocess.Popen[bytes] | None = None
        if model_path is None:
            return
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        os.environ.update(POSTTRAIN_JUDGE_URL=f"http://127.0.0.1:{self.port}/v1", POSTTRAIN_JUDGE_MODEL=NAME)

    def start(self, log_folder: Path) -> None:
        """Starts the server and waits until it answers.

        Raises RunError: it ended or does not answer within the deadline; with the last lines of its log.
        """
        if self.model_path is None:
            return
        log_folder.mkdir(parents=True, exist_ok=True)
        self.log_path = log_folder / "judge.log"
        command = [
            *(sys.executable, "-c", STARTER, "--model", self.model_path, "--served-model-name", NAME),
            *("--host", "127.0.0.1", "--port", str(self.port), "--enforce-eager"),
            *("--structured-outputs-config", NO_WHITESPACE),
            *("--dtype", "auto" if fast_dtype(has_gpu=torch.cuda.is_available()) == "bfloat16" else "float32"),
        ]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command, env={**SETTINGS, **os.environ}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + self.deadline_s
        while not self._is_healthy():
            if self._process.poll() is not None:
                raise RunError(f"the judge {self.model_path} ended with exit code {self._process.returncode}; {self._tail()}")
            if time.monotonic() > end:
                raise RunError(f"the judge {self.model_path} did not answer within {self.deadline_s:g} s; {self._tail()}")
            time.sleep(0.5)

    def __enter__(self) -> Self:
        """Nothing; `start` does."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the server with everything that it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _tail(self) -> str:
        lines = self.log_path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([f"the end of {self.log_path}:", *lines])
