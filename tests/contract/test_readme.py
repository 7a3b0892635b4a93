"""Every command that a README quotes exists: modules, make targets, and the overrides of a run."""

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READMES = [file for file in (ROOT / "README.md", *sorted(ROOT.glob("examples/*/README.md"))) if file.exists()]


def quoted(file: Path) -> list[str]:
    """Lines of code blocks, continued lines joined, prompts and comments removed; and `inline code`."""
    text = file.read_text().replace("\\\n", " ")
    blocks = [line for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [re.sub(r"\s#\s.*", "", line.strip().removeprefix("$ ")) for line in (*blocks, *inline)]


def commands(pattern: str) -> list[str]:
    """What follows `pattern` in each quoted line that starts with it; lines with <placeholders> and ... are left out."""
    lines = [line for file in READMES for line in quoted(file)]
    found = [match[1].strip() for line in lines if (match := re.match(rf"(?:\S+=\S+ )*{pattern}(.*)", line))]
    return sorted({command for command in found if not re.search(r"<\w|\.\.\.", command)})


def test_there_is_a_readme() -> None:
    if ROOT / "README.md" not in READMES:
        pytest.skip("README.md is not written yet")
    assert commands(r"make\b") and commands(r"\S*python -m posttrain\.run\b")


@pytest.mark.parametrize("command", commands(r"\S*python -m (?=posttrain)"))
def test_module_exists(command: str) -> None:
    assert importlib.util.find_spec(command.split()[0])


@pytest.mark.parametrize("command", commands(r"\S*python -m posttrain\.run\b"))
def test_overrides_of_a_run_compose(python, command: str) -> None:
    arguments = [word for word in shlex.split(command) if word not in ("-m", "--multirun")]
    if not {"--help", "--hydra-help", "--cfg"} & set(arguments):
        # A sweep's values are tried one by one; here the first of each.
        arguments = [re.sub(r"=([^\[\{,]+),.*", r"=\1", word) for word in arguments] + ["--cfg", "job"]
    result = python("-m", "posttrain.run", *arguments, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("command", commands(r"make\b"))
def test_make_target_exists(python, command: str) -> None:
    result = subprocess.run(["make", "-n", *shlex.split(command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for overrides in re.findall(r"ARGS=(\"[^\"]*\"|'[^']*'|\S+)", command):
        algo = [] if re.search(r"(^|\s)algo=", overrides.strip("\"'")) else ["algo=sapo"]
        run = python("-m", "posttrain.run", *algo, *shlex.split(shlex.split(overrides)[0]), "--cfg", "job", cwd=ROOT)
        assert (run.returncode, run.stderr) == (0, "")
