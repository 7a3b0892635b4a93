"""Checkpoints are whole or not there; metrics keep each step once; run folders are not overwritten."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from posttrain.algorithms.sapo import SapoConfig
from posttrain.checkpoint import CheckpointStore
from posttrain.config import Config, ModelConfig, TaskConfig
from posttrain.errors import RunError, UserError
from posttrain.metrics import MetricsWriter, read_rows
from posttrain.rundir import run_folder, write_config


def fill(text):
    def save(folder):
        (tmp := __import__("pathlib").Path(folder) / "weights").write_text(text)
        assert tmp.exists()

    return save


def test_the_newest_whole_checkpoint_is_found_and_old_ones_go(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    assert store.latest() is None
    for step in (2, 4, 10):
        store.write(step, {"step": step}, fill(str(step)))
    path, state = store.latest()
    assert state == {"step": 10} and (path / "weights").read_text() == "10"
    assert store.steps() == [4, 10]


def test_a_checkpoint_cut_short_is_not_seen_and_does_not_hinder(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    store.write(1, {"step": 1}, fill("one"))

    def dies(folder):
        fill("half")(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write(2, {"step": 2}, dies)
    assert store.latest()[1] == {"step": 1}
    store.write(2, {"step": 2}, fill("two"))
    assert (store.latest()[0] / "weights").read_text() == "two"


def test_an_unreadable_state_names_the_folder(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    (store.write(1, {"step": 1}, fill("x")) / "state.json").write_text("{")
    with pytest.raises(RunError, match="step_1"):
        store.latest()


def test_metrics_resume_without_losing_or_repeating_a_step(tmp_path):
    with MetricsWriter(tmp_path, resumed_step=0) as metrics:
        for step in (1, 2, 3):
            metrics.write({"step": step, "reward/mean": step / 7})
    before = (tmp_path / "metrics.jsonl").read_text().splitlines()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')  # a kill in the middle of a write
    with MetricsWriter(tmp_path, resumed_step=2) as metrics:
        metrics.write({"step": 3, "reward/mean": 3 / 7})
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == before
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("reward/mean")
    assert [event.step for event in events] == [1, 2, 3]


@pytest.fixture
def config(tmp_path):
    made = Config(model=ModelConfig(path="builtin:tiny"), task=TaskConfig(name="t", rewards={"exact": 1.0}), algo=SapoConfig())
    made.run.dir = str(tmp_path / "run")
    return made


def test_a_run_folder_is_not_overwritten_and_not_resumed_with_other_settings(config, tmp_path):
    folder = run_folder(config)
    assert not folder.exists()
    write_config(folder, config)
    assert "torch" in json.loads((folder / "versions.json").read_text())
    with pytest.raises(UserError, match=r"run\.resume=true"):
        run_folder(config)
    config.run.resume = True
    config.train.steps += 5
    assert run_folder(config) == folder
    config.algo.tau_neg = 2.0
    with pytest.raises(UserError, match=r"algo\.tau_neg is 2\.0.*1\.05"):
        run_folder(config)


def test_resuming_needs_a_run(config):
    config.run.resume = True
    with pytest.raises(UserError, match="holds no run"):
        run_folder(config)


def test_the_default_folder_names_algorithm_and_model(config):
    config.run.dir = None
    assert run_folder(config).name.endswith("-sapo-tiny")


def test_the_best_checkpoint_stays_and_is_named(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2), (5, 2)):
        store.write(step, {"step": step}, fill(str(step)), best=best)
    assert store.steps() == [2, 4, 5]
    assert (tmp_path / "checkpoints/best/weights").read_text() == "2"
    assert (tmp_path / "checkpoints/best").readlink().name == "step_2"
    store.write(6, {"step": 6}, fill("6"), best=6)
    assert store.steps() == [5, 6] and (tmp_path / "checkpoints/best/weights").read_text() == "6"
