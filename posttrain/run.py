"""`python -m posttrain.run`: argv -> config -> the algorithm's run.

Hydra composes the configuration and owns the options (`--cfg job`, `-m`, `--config-dir`, ...). What is added here: the
schema, a `--help` that says what each key means, and one line with exit code 2 for a user's mistake. Nothing heavy is
imported before the configuration is known to be good; the algorithm imports the rest in its own `run`.

Exit codes: 0 done, 1 the run failed, 2 a mistake in the command or its files, 130 interrupted.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.conf import HydraConf, RunDir, SweepDir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from posttrain import plugins
from posttrain.config import AlgoConfig, Config, validate
from posttrain.errors import RunError, UserError, tell
from posttrain.help import help_text
from posttrain.mistakes import explain
from posttrain.processor import fast_dtype

ALGORITHMS = "posttrain.algorithms"


def main() -> int:
    """Runs the command line; returns the exit code."""
    try:
        _dispatch(sys.argv[1:])
    except (UserError, RunError) as error:
        return tell(error)
    except KeyboardInterrupt:
        print("posttrain: interrupted", file=sys.stderr)
        return 130
    return 0


def known_algorithms() -> dict[str, type[AlgoConfig]]:
    """The configuration class of every installed algorithm, by name.

    Raises UserError: an entry point that is not a subclass of AlgoConfig.
    """
    known: dict[str, type[AlgoConfig]] = {}
    for name in plugins.names(ALGORITHMS):
        loaded = plugins.load(ALGORITHMS, name)
        if not (isinstance(loaded, type) and issubclass(loaded, AlgoConfig)):
            raise UserError(f"algorithm {name}: the entry point holds {loaded!r}, expected a subclass of posttrain.config.AlgoConfig")
        known[name] = loaded
    return known


def to_config(composed: DictConfig, algorithms: dict[str, type[AlgoConfig]]) -> Config:
    """The dataclasses behind a composed configuration, checked, with the dtype that `auto` is here.

    Merged into the schema once more because Hydra lets `+key=value` and a user's own YAML add keys that no dataclass has.

    Raises UserError: a missing or unknown key, or a value that `validate` refuses.
    """
    kind = None if OmegaConf.is_missing(composed, "algo") else OmegaConf.get_type(composed, "algo")
    if not (isinstance(kind, type) and issubclass(kind, AlgoConfig)):
        raise UserError(f"algo=... is required; known: {', '.join(algorithms)} (a YAML file of algo/ starts from one: defaults: [<name>])")
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config(algo=kind())), OmegaConf.to_container(composed)))
    except OmegaConfBaseException as error:
        raise UserError(explain(error, algorithms, overrides=())) from error
    assert isinstance(config, Config)
    validate(config)
    if config.model.dtype == "auto":
        config.model.dtype = fast_dtype(has_gpu=bool(config.cluster.engine_gpus or config.cluster.learner_gpus))
    return config


def _dispatch(argv: list[str]) -> None:
    options, given = _read_options(argv)
    algorithms = known_algorithms()
    if options.help:
        print(help_text(algorithms, options.config_dir))
        return
    if any(override.startswith("pipeline=") for override in given):
        _run_pipeline(given, options)
        return
    overrides = [part for override in given for part in _spread_tasks(override)]
    sys.argv[1:] = [*overrides, *(word for word in argv if word not in given)]
    started: list[str] = []

    def job(composed: DictConfig) -> None:
        started.append("job")
        try:
            config = to_config(composed, algorithms)
            for complaint in unused(config, overrides).values():
                raise UserError(complaint)
            config.algo.run(config)
        except (UserError, RunError) as error:
            # Hydra would put a line of its own before an Exception; SystemExit passes through it.
            sys.exit(tell(error))

    # Hydra then raises what went wrong instead of printing it.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        _register(algorithms, scratch)
        try:
            hydra.main(version_base="1.3", config_path="pkg://posttrain.configs", config_name="config")(job)()
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
            if started:
                raise
            raise UserError(explain(error, algorithms, overrides)) from error


def unused(config: Config, overrides: Sequence[str]) -> dict[str, str]:
    """The overrides of keys that mean nothing to the algorithm, each with a line that says so."""
    keys = {override: override.lstrip("+~").partition("=")[0] for override in overrides}
    name = config.algo.name
    return {override: f"{key}: algo={name} does not use it; leave it out" for override, key in keys.items() if not config.algo.uses(key)}


def _read_options(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Hydra's own options, read ahead of it so that a wrong one is one line, and the overrides, which may stand anywhere among them."""
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        options, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; --help lists the options") from error
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        raise UserError(f"unknown option {unknown[0]}; --help lists the options, and a key is set as <key>=<value>")
    return options, [*options.overrides, *rest]


def _run_pipeline(given: list[str], options: argparse.Namespace) -> None:
    """`--cfg job` shows every stage's configuration instead."""
    from posttrain.pipeline import check, read_pipeline
    from posttrain.pipeline_commands import Settings, settings_of_curation, settings_of_run
    from posttrain.pipeline_run import run_pipeline

    choice, *more = [override.partition("=")[2] for override in given if override.startswith("pipeline=")]
    if more:
        raise UserError(f"pipeline={more[0]}: one at a time; pipeline={choice} is given too")
    for option, value in vars(options).items():
        if value and option not in ("overrides", "cfg", "config_dir", "config_name"):
            raise UserError(f"pipeline={choice}: --{option.replace('_', '-')} is for single runs; leave it out")
    if options.config_dir and not Path(options.config_dir).is_dir():
        raise UserError(f"--config-dir {options.config_dir}: there is no such folder")
    algorithms = known_algorithms()

    def compose(command: str, overrides: Sequence[str]) -> Settings:
        if command == "curate":
            return settings_of_curation(overrides)
        config = make_config(overrides, algorithms, options.config_dir, options.config_name)
        return settings_of_run(config, unused(config, overrides))

    pipeline = read_pipeline(choice, [override for override in given if not override.startswith("pipeline=")], options.config_dir)
    if options.cfg:
        for stage, settings in check(pipeline, compose).items():
            print(f"# stage {stage}: {settings.what}", OmegaConf.to_yaml(dict(settings.values)), sep="\n")
        return
    passed_on = {"--config-dir": options.config_dir, "--config-name": options.config_name}
    run_pipeline(pipeline, compose, [word for option, value in passed_on.items() if value for word in (option, value)])


def make_config(
    overrides: Sequence[str], algorithms: dict[str, type[AlgoConfig]], config_dir: str | None, config_name: str | None
) -> Config:
    """The checked configuration that a command line of `overrides` would run with."""
    spread = [part for override in overrides for part in _spread_tasks(override)]
    search = [f"hydra.searchpath=[{Path(config_dir).absolute().as_uri()}]"] if config_dir else []
    try:
        with tempfile.TemporaryDirectory() as scratch, hydra.initialize_config_module("posttrain.configs", version_base="1.3"):
            _register(algorithms, scratch)
            composed = hydra.compose(config_name or "config", overrides=[*spread, *search])
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        raise UserError(explain(error, algorithms, spread)) from error
    return to_config(composed, algorithms)


def _spread_tasks(override: str) -> list[str]:
    """`task=[a,b]` becomes the task a and, in the mixture beside it, b; anything else stays as it is.

    Raises UserError: a name stands twice.
    """
    listed = re.fullmatch(r"task=\[(.*)\]", override)
    if listed is None:
        return [override]
    names = [name.strip() for name in listed[1].split(",")]
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"{override}: expected names of tasks, each once")
    return [f"task={names[0]}", *(f"+task@mixture.{name}={name}" for name in names[1:])]


def _register(algorithms: dict[str, type[AlgoConfig]], scratch: str) -> None:
    """Tells Hydra the schema, and to leave folders, files and logging alone; a sweep's own record goes to `scratch`."""
    settings = HydraConf(run=RunDir("."), sweep=SweepDir(scratch, "."), output_subdir=None)
    ours = {"output": None, "hydra_logging": "none", "job_logging": "none"}
    settings.defaults = [{group: ours.get(group, choice)} for entry in settings.defaults for group, choice in entry.items()]
    store = ConfigStore.instance()
    store.store(group="hydra", name="config", node=settings, provider="posttrain")
    store.store(name="config_schema", node=Config, provider="posttrain")
    for name, kind in algorithms.items():
        store.store(group="algo", name=name, node=kind, provider="posttrain")


if __name__ == "__main__":
    sys.exit(main())
