"""Running a pipeline: each stage a process in a folder of its own, skipped when it is finished and nothing about it has changed.

Consumes: a checked `Pipeline`. Waits for: one stage's process at a time. Produces: `<folder>/01-<stage>/`, each what
its command leaves behind plus `stage.json` (what it depends on, and whether it is finished) and `stage.log` (what it printed),
then the table and `report.md`. A stage's folder is never deleted: what no longer counts is moved aside.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from posttrain.errors import RunError, UserError
from posttrain.files import whole
from posttrain.fingerprint import Fingerprint, difference, fingerprint
from posttrain.pipeline import Compose, Pipeline, Stage, check
from posttrain.pipeline_commands import COMMANDS
from posttrain.pipeline_report import LOG, SAVED, Done, Record, print_table, read_record, write_report

POLL_S = 0.2
MISTAKE, INTERRUPTED, PREFIX = 2, 130, r"posttrain[.\w]*: "
"""Exit codes of posttrain's commands, and how the line about a mistake begins."""
# Asks the kernel for a SIGTERM when the pipeline's process dies, however it dies; a run then ends its actors. Hears SIGINT even if the
# pipeline was started where a shell had it ignored: behind an `&` in a script.
STARTER = (
    "import runpy, signal; from posttrain.sandbox.kernel import die_with_parent; die_with_parent(signal.SIGTERM); "
    "signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('posttrain.{command}', run_name='__main__', alter_sys=True)"
)


@dataclass(slots=True, kw_only=True)
class Work:
    """A pipeline under way. options: of the command line, passed on to each stage."""

    pipeline: Pipeline
    compose: Compose
    options: Sequence[str]
    folder: Path
    done: list[Done] = field(default_factory=list)


def run_pipeline(pipeline: Pipeline, compose: Compose, options: Sequence[str]) -> None:
    """Runs what is not finished, then reports.

    Raises:
        UserError: the folder is taken or empty, or a stage found a mistake; nothing was started before all were checked.
        RunError: a stage failed.
    """
    check(pipeline, compose)
    folder = _open_folder(pipeline)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    work = Work(pipeline=pipeline, compose=compose, options=options, folder=folder)
    for stage in pipeline.stages:
        work.done.append(_do(work, stage))
    print_table(work.done)
    print(f"done; the report is {write_report(folder, pipeline.name, work.done)}")


def _open_folder(pipeline: Pipeline) -> Path:
    """Makes the folder and marks it by a copy of the file."""
    folder = pipeline.folder or Path("runs") / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{pipeline.name}"
    saved = folder / SAVED
    if pipeline.is_resumed and not saved.exists():
        raise UserError(f"run.resume=true: {folder} holds no pipeline (no {SAVED}); leave run.resume out to start one")
    if not pipeline.is_resumed and saved.exists():
        raise UserError(f"run.dir={folder} already holds a pipeline: set run.resume=true to continue it, or another run.dir")
    if (folder / "config.yaml").exists():
        raise UserError(f"run.dir={folder} already holds a run: give the pipeline another run.dir")
    with whole(saved) as draft:
        shutil.copyfile(pipeline.file, draft)
    return folder


def _do(work: Work, stage: Stage) -> Done:
    """Skips, resumes or starts a stage."""
    overrides = stage.fill({(done.stage.name, product): path for done in work.done for product, path in done.products.items()})
    settings = work.compose(stage.command, overrides)
    overrides = [override for override in overrides if override not in settings.unused]
    depends_on: Fingerprint = json.loads(json.dumps(fingerprint(settings.values)))
    folder = _stage_folder(work.folder, stage)
    title = f"stage {stage.number}/{len(work.pipeline.stages)} {stage.name}"
    record = read_record(folder)
    if record is not None and record.depends_on != depends_on:
        aside = _move_aside(folder)
        _say(f"{title}: {difference(record.depends_on, depends_on)}: runs anew; what it had is kept in {aside}")
        record = None
    command = COMMANDS[stage.command]
    options = work.options if command.is_run else ()
    arguments = [*options, *overrides, f"{command.folder_key}={command.quote(folder)}"]
    shown = shlex.join(["python", "-m", f"posttrain.{stage.command}", *arguments])
    done = Done(stage=stage, settings=settings, folder=folder, command=shown)
    if record is not None and record.is_finished and not done.missing:
        _say(f"{title}: skipped, it is finished and nothing that it depends on has changed")
        return done
    has_begun = (folder / command.begun).exists()
    _say(f"{title}: {'resumes' if has_begun else 'starts'}: {shown}")
    record = record or Record(depends_on=depends_on)
    _run(done, record, [*arguments, *command.resume] if has_begun else arguments)
    if done.missing:
        raise RunError(f"stage {stage.name} ended well, but {folder} holds no {' and no '.join(done.missing)}; its log is {folder / LOG}")
    record.is_finished = True
    record.write(folder)
    return done


def _stage_folder(folder: Path, stage: Stage) -> Path:
    """The stage's folder; it keeps the number of the place where it first ran, because configurations of other stages name it."""
    return next(iter(sorted(folder.glob(f"[0-9][0-9]-{stage.name}"))), folder / f"{stage.number:02d}-{stage.name}")


def _move_aside(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.replaced-{number}")).exists():
        number += 1
    return folder.rename(aside)


def _run(done: Done, record: Record, arguments: Sequence[str]) -> None:
    """Runs the stage's process to its end; what it prints goes to its log and, from there, to the screen.

    Raises:
        UserError: it ended with a user's mistake (exit code 2), which is repeated with the stage's name.
        RunError: it ended in another way than well.
    """
    log, name = done.folder / LOG, done.stage.name
    done.folder.mkdir(exist_ok=True)
    record.num_starts += 1
    record.write(done.folder)
    command = [sys.executable, "-u", "-c", STARTER.format(command=done.stage.command), *arguments]
    started = time.monotonic()
    with log.open("ab") as written, log.open("rb") as shown:
        shown.seek(0, os.SEEK_END)
        start = shown.tell()
        # In a session of its own, so that Ctrl-C reaches it once, through this process.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _show_until_end(process, shown)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            _say(f"stage {name} was interrupted; run.resume=true continues it; its log is {log}")
            raise
        finally:
            record.seconds += time.monotonic() - started
            record.write(done.folder)
        code = process.returncode
        shown.seek(start)
        printed = shown.read().decode(errors="replace").splitlines()
    if code == INTERRUPTED:
        _say(f"stage {name} was interrupted; run.resume=true continues it; its log is {log}")
        raise KeyboardInterrupt
    if code == MISTAKE:
        mistakes = [line.partition(": ")[2] for line in printed if re.match(PREFIX, line)]
        raise UserError(f"stage {name}: {mistakes[-1] if mistakes else 'exit code 2'}; its log is {log}")
    if code:
        how = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
        raise RunError(f"stage {name} failed ({how}); its log is {log}; run.resume=true continues after it is mended")


def _show_until_end(process: subprocess.Popen[bytes], shown: BinaryIO) -> None:
    has_ended = False
    while not has_ended:
        has_ended = process.poll() is not None  # before reading, so that its last words are shown
        sys.stdout.buffer.write(shown.read())
        sys.stdout.buffer.flush()
        if not has_ended:
            time.sleep(POLL_S)


def _say(text: str) -> None:
    print(text, flush=True)
