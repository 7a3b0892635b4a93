"""`python -m posttrain.run` as a user meets it: one line for a mistake, quickly, and Hydra's own options."""

import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HEAVY = ("torch", "ray", "vllm", "transformers", "datasets", "deepspeed")
# Runs the command in this interpreter and writes, last, which heavy libraries it loaded.
WATCHED = f"""
import runpy, sys
try:
    runpy.run_module("posttrain.run", run_name="__main__", alter_sys=True)
finally:
    print("loaded:", *sorted(set({HEAVY}) & set(sys.modules)))
"""
# Twice what is asked for, so that a busy machine does not fail it; the time is printed.
LIMIT_S = 4.0

STAND_IN = '''
"""An algorithm that ends in every way a run can."""
import time
from dataclasses import dataclass
from posttrain.config import AlgoConfig
from posttrain.errors import RunError, UserError

@dataclass
class StandIn(AlgoConfig):
    """Does nothing."""

    name: str = "standin"
    ending: str = "done"  # how it ends
    def run(self, config):
        print("running", config.train.lr, config.run.dir, flush=True)
        if self.ending == "user":
            raise UserError("the data is\\nempty")
        if self.ending == "run":
            raise RunError("engine 0 did not answer\\nits log: x")
        if self.ending == "bug":
            raise ValueError("ours")
        if self.ending == "long":
            time.sleep(60)
'''

ONE_LINE = {
    "": "algo=... is required; known: ",
    "train.steps=3": "algo=... is required; known: ",
    "algo=spo": "unknown choice algo=spo: did you mean sapo or",
    "algo=sapo model=smol": "unknown choice model=smol: did you mean smollm2?",
    "algo=sapo mixture=reasonin": "unknown choice mixture=reasonin: did you mean reasoning?",
    "algo=sapo cluster=zzz": "unknown choice cluster=zzz: known: local, ray",
    "algo=sapo algo.tau_ng=1": "unknown key algo.tau_ng: did you mean algo.tau_neg or algo.tau_pos?",
    "algo=sapo trian.steps=3": "unknown key trian.steps: did you mean train.steps?",
    "algo=sapo train.stesp=3": "unknown key train.stesp: did you mean train.steps?",
    "algo=sapo temperature=1": "unknown key temperature: did you mean rollout.temperature?",
    "algo=sapo train.group_size=4": "unknown key train.group_size: did you mean algo.group_size?",
    "algo=sapo modle=tiny": "unknown key modle: did you mean model?",
    "algo=sapo +newkey=1": "unknown key newkey: known: ",
    "algo=sapo +train.stesp=1": "unknown key train.stesp: did you mean train.steps?",
    "algo=sapo task.rewards.exact=1": "task.rewards has no exact yet: +task.rewards.exact=<value> adds it",
    "algo=sapo train.steps=abc": "train.steps=abc: expected an integer",
    "algo=sapo train.steps=null": "train.steps=null: expected an integer",
    "algo=sapo run.seed=1.5": "run.seed=1.5: expected an integer",
    "algo=sapo run.resume=maybe": "run.resume=maybe: expected true or false",
    "algo=sapo train.betas=3": "train.betas=3: expected a list, each a number",
    "algo=sapo train.betas=[a,b]": "train.betas[0]=a: expected a number",
    "algo=sapo task.rewards.numeric=x": "task.rewards.numeric=x: expected a number",
    "algo=sapo weights.canary_tolerance=x": "weights.canary_tolerance=x: expected a number or null",
    "algo=sapo train=3": "train=3: expected a section, set key by key: train.<key>=<value>",
    "algo=sapo rewards=[exact]": "rewards is given a list, expected a section, set key by key: rewards.<key>=<value>",
    "algo=sapo task.rewards=[exact]": "task.rewards is given a list, expected a mapping of names to values",
    "algo=sapo foo": "cannot read 'foo': expected <key>=<value>",
    "algo=sapo a==b": "cannot read 'a==b': expected <key>=<value>",
    "algo=sapo train.lr=[1": "cannot read 'train.lr=[1': expected <key>=<value>",
    "algo=sapo train.lr=1,2": "Ambiguous value for argument 'train.lr=1,2'",
    "algo=sapo ~model": "model.path is required",
    "algo=sapo model=null": "Config group override must be a string",
    "--foo": "unknown option --foo",
    "--cfg all-of-it": "argument --cfg/-c: invalid choice",
    "algo=sapo --config-dir nowhere": "Additional config directory",
    "algo=sapo --config-name nothing": "Cannot find primary config 'nothing'",
    "algo=sapo train.steps=0": "train.steps=0: expected a number above 0",
    "algo=sapo train.lr=nan": "train.lr=nan: expected a number above 0",
    "algo=sapo train.zero_stage=4": "train.zero_stage=4: expected one of 0, 1, 2, 3",
    "algo=sapo model.dtype=float16": "model.dtype=float16: expected one of auto, bfloat16, float32",
    "algo=sapo train.betas=[0.9]": "train.betas=[0.9]: expected two numbers",
    "algo=sapo task.heldout_fraction=1": "task.heldout_fraction=1.0: expected a number between 0 and 1",
    "algo=sapo ~task.rewards.numeric": "task.rewards={}: expected at least one",
    "algo=sapo run.resume=true": "run.resume=true: needs run.dir",
    "algo=sapo train.minibatches=16": "train.minibatches=16: expected at most train.prompts_per_step=8",
    "algo=sapo train.steps=3 train.minibatches=2": "train.steps=3: expected a multiple of train.minibatches=2",
    "algo=sapo rollout.max_completion_tokens=1024": "rollout.max_completion_tokens=1024: expected less than model.context_tokens=1024",
    "algo=sapo algo.group_size=1": "algo.group_size=1: expected at least 2",
    "algo=sapo model.attention=flex": "model.attention=flex: needs cluster.learner_gpus",
    "algo=grpo algo.correction=icepopp": "algo.correction=icepopp: unknown; did you mean icepop?",
    "algo=gspo algo.clip_low=0": "algo.clip_low=0.0: expected a number above 0",
    "algo=sapo algo.entropy_band=[0.3,0.1]": "algo.entropy_band=[0.3, 0.1]: expected []",
    "algo=sft": "task arithmetic has source=reasoning_gym: algo=sft learns from rows; expected task=conversations",
    "algo=sft task=conversations": "task.path=null: expected a .jsonl or .parquet file",
    "algo=sft task=conversations task.path=x.jsonl task.thinking=2": "task.thinking=2.0: expected a share from 0 to 1",
    "algo=reward_model task=preferences task.path=x.jsonl algo.overlong=split": "algo.overlong=split: unknown; known: drop, refuse",
    "algo=reward_model": "task arithmetic has source=reasoning_gym: algo=reward_model learns from rows; expected task=preferences",
    "algo=sft rollout.max_turns=2": "rollout.max_turns: algo=sft does not use it",
    "algo=sft algo.overlong=drp": "algo.overlong=drp: unknown; did you mean drop?",
    "algo=sft algo.stages=3": "algo.stages=3: expected a list, each a mapping with max_tokens, epochs, shares",
    "algo=sft algo.stages=[{max_token:3}]": "unknown key algo.stages.max_token: did you mean algo.stages.max_tokens?",
    "algo=sft algo.stages=[{epochs:x}]": "algo.stages.epochs=x: expected a number",
    "algo=sft algo.stages=[{epochs:0}]": "algo.stages[0]={'max_tokens': 0, 'epochs': 0.0, 'shares': {}}: expected",
    "algo=sft algo.epochs=2 algo.stages=[{epochs:1}]": "algo.epochs=2.0: expected null beside algo.stages",
    "pipeline=two_task": "unknown choice pipeline=two_task: did you mean two_tasks?",
    "pipeline=two_tasks sumz.train.steps=2": "sumz.train.steps=2: neither a stage nor a section of keys is called sumz; did you mean sums?",
    "pipeline=two_tasks check.train.stesp=2": "stage check: unknown key train.stesp: did you mean train.steps?",
    "pipeline=two_tasks -m": "pipeline=two_tasks: --multirun is for single runs",
    "pipeline=two_tasks pipeline=b": "pipeline=b: one at a time",
    "pipeline=two_tasks --config-dir nowhere": "--config-dir nowhere: there is no such folder",
    "-m algo=sapo train.stesp=1,2": "unknown key train.stesp: did you mean train.steps?",
}


@pytest.mark.parametrize("command", ONE_LINE)
def test_a_mistake_is_one_line_and_exit_code_2(python, tmp_path: Path, command: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = python("-c", WATCHED, *command.split())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # of a core, however busy the machine is
    print(f"{seconds:.2f} s")
    assert result.returncode == 2, result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith(f"posttrain: {ONE_LINE[command]}")
    assert result.stdout == "loaded:\n"
    assert seconds < LIMIT_S
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_group_and_key(python, root: Path) -> None:
    result = python("-c", WATCHED, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("\nloaded:\n")
    for file in (root / "configs").glob("*/*.yaml"):
        assert file.stem in result.stdout
    assert re.search(r"^  algo +[^()]*\bsapo\b[^()]*\(required\)$", result.stdout, re.MULTILINE)
    assert re.search(r"^  train\.steps +\d+ +optimizer steps", result.stdout, re.MULTILINE)
    assert result.stdout.count("\n  python -m posttrain.run") == 5
    assert max(map(len, result.stdout.splitlines())) <= 140


def test_cfg_job_shows_the_composed_configuration(python) -> None:
    result = python("-m", "posttrain.run", "algo=sapo", "--cfg", "job", "model=tiny", "train.steps=4")
    assert (result.returncode, result.stderr) == (0, "")
    shown = yaml.safe_load(result.stdout)
    assert (shown["algo"]["name"], shown["model"]["path"], shown["train"]["steps"]) == ("sapo", "builtin:tiny", 4)


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    """The environment in which a distribution with the algorithm above is installed."""
    info = tmp_path / "site" / "stand_in-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stand-in\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[posttrain.algorithms]\nstandin = stand_in:StandIn\n")
    (tmp_path / "site" / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "empty").mkdir()
    return {"PYTHONPATH": str(tmp_path / "site")}


@pytest.mark.parametrize(
    ("ending", "code", "error"),
    [("done", 0, ""), ("user", 2, "posttrain: the data is empty\n"), ("run", 1, "engine 0 did not answer\nits log: x\n")],
)
def test_how_a_run_ends(python, tmp_path: Path, stand_in, ending: str, code: int, error: str) -> None:
    result = python("-m", "posttrain.run", "algo=standin", f"algo.ending={ending}", env=stand_in, cwd=tmp_path / "empty")
    assert (result.returncode, result.stderr, result.stdout) == (code, error, "running 2e-05 None\n")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_bug_keeps_its_traceback(python, stand_in) -> None:
    result = python("-m", "posttrain.run", "algo=standin", "algo.ending=bug", env=stand_in)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("ValueError: ours\n")


def test_ctrl_c_is_exit_code_130(tmp_path: Path, stand_in) -> None:
    command = [sys.executable, "-m", "posttrain.run", "algo=standin", "algo.ending=long"]
    with subprocess.Popen(command, env=stand_in, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("running")
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "posttrain: interrupted\n"
        assert process.wait(10) == 130


def test_a_sweep_runs_every_combination_and_leaves_nothing(python, tmp_path: Path, stand_in) -> None:
    result = python("-m", "posttrain.run", "-m", "algo=standin", "train.lr=1e-5,2e-5", "run.dir=kept", env=stand_in, cwd=tmp_path / "empty")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "running 1e-05 kept\nrunning 2e-05 kept\n"
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_failed_run_ends_its_sweep(python, stand_in) -> None:
    result = python("-m", "posttrain.run", "-m", "algo=standin", "algo.ending=run,done", env=stand_in)
    assert (result.returncode, result.stdout) == (1, "running 2e-05 None\n")


def test_own_folder_of_choices(python, tmp_path: Path, stand_in) -> None:
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "quick.yaml").write_text("defaults: [standin]\nending: user\n")
    (tmp_path / "mine" / "night.yaml").write_text("defaults: [config, _self_]\ntrain: {lr: 0.5}\n")
    common = ("-m", "posttrain.run", "--config-dir", "mine", "--config-name", "night", "algo=quick")
    result = python(*common, env=stand_in)
    assert (result.returncode, result.stdout) == (2, "running 0.5 None\n")
    assert "quick" in python(*common, "--help", env=stand_in).stdout
    (tmp_path / "mine" / "night.yaml").write_text("defaults: [config, _self_]\ntrain: {stesp: 3}\n")
    result = python(*common, env=stand_in)
    assert (result.returncode, result.stderr) == (2, "posttrain: unknown key train.stesp: did you mean train.steps?\n")
    (tmp_path / "mine" / "night.yaml").write_text("train: [\n")
    result = python(*common, env=stand_in)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


def test_a_plug_in_of_the_wrong_kind_is_named(python, tmp_path: Path, stand_in) -> None:
    (tmp_path / "site" / "stand_in.py").write_text("StandIn = 3\n")
    result = python("-m", "posttrain.run", "--help", env=stand_in)
    assert result.returncode == 2
    assert result.stderr.startswith("posttrain: algorithm standin: the entry point holds 3, expected a subclass of")
