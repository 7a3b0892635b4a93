"""The wheel: whole without the links, and usable for training from a folder that has a `rewards/` of its own."""

import configparser
import json
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("posttrain", "rewards", "rollout", "algorithms", "configs")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy without the links, so that nothing is written into the clone and nothing depends on them."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", *(PACKAGES[1:] if name == "posttrain" else ()))
        shutil.copytree(root / name, source / name, ignore=ignored)
    for name in FILES:
        if (root / name).exists():
            shutil.copy(root / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(source / "out"), str(source)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    [built] = (source / "out").glob("*.whl")
    return built


def in_wheel(source_file: Path) -> str:
    return str(source_file if source_file.parts[0] == "posttrain" else Path("posttrain", source_file))


def test_wheel_holds_every_module_yaml_and_the_digits_and_nothing_else(wheel: Path, sources, root: Path) -> None:
    expected = {in_wheel(source.path) for source in sources if source.module}
    expected |= {in_wheel(file.relative_to(root)) for file in (root / "configs").rglob("*.yaml")}
    expected.add("posttrain/data/generated/digits.png")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected


def test_wheel_registers_the_entry_points(wheel: Path, root: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        held = configparser.ConfigParser()
        held.read_string(archive.read(name).decode())
    for group, lines in setup["options.entry_points"].items():
        assert dict(held[group]) == dict(line.split(" = ") for line in lines.split("\n") if line)


def test_wheel_trains_beside_a_folder_named_rewards_with_a_third_partys_reward(wheel: Path, root: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    python = str(tmp_path / "env" / "bin" / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, capture_output=True, check=True)
    [site_packages] = (tmp_path / "env" / "lib").glob("python*/site-packages")
    # The dependencies, from where the tests run; a .pth in there (the editable install) is not read.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (tmp_path / "user" / "rewards").mkdir(parents=True)
    (tmp_path / "user" / "rewards" / "__init__.py").write_text("mine = True\n")
    code = "import json, rewards, posttrain.rewards.numeric as n; print(json.dumps([rewards.mine, n.__file__]))"
    result = subprocess.run([python, "-c", code], cwd=tmp_path / "user", capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == [True, str(site_packages / "posttrain" / "rewards" / "numeric.py")]
    subprocess.run([python, "-m", "posttrain.torchvision_cpu"], cwd=tmp_path / "user", check=True)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(tmp_path / "source")]
    shutil.copytree(root / "examples" / "custom_reward", tmp_path / "source")
    subprocess.run(build, capture_output=True, check=True)
    [third_party] = tmp_path.glob("*.whl")
    subprocess.run([*install[:-1], str(third_party)], capture_output=True, check=True)
    command = [python, "-m", "posttrain.run", "algo=sapo", "model=tiny", "train.steps=2", "run.dir=out", "eval.num_prompts=4"]
    command += ["+task.rewards.vowel_pairs=1.0"]
    result = subprocess.run(command, cwd=tmp_path / "user", capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(row) for row in (tmp_path / "user" / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(0 < row["reward/vowel_pairs"] < 1 for row in rows)
    assert (tmp_path / "user" / "out" / "checkpoints" / "step_2" / "hf" / "model.safetensors").exists()
