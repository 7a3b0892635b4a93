"""What a pipeline is: a YAML file and a command line -> stages, each a command with its overrides; all checked before any runs.

    common: [model=tiny]                 # for every stage of posttrain.run
    stages:
      - name: sums
        run: [algo=sapo, task=arithmetic]
      - name: check
        run: [algo=evaluate, "model.path=${stage.sums.checkpoint}"]

A stage is one process, `python -m posttrain.<command> <overrides>`, of a command in COMMANDS (`posttrain.pipeline_commands`). Of two
overrides of one key the later one counts, in the order: common, the stage's own, the command line's for all (`train.steps=2`),
the command line's for one (`sums.train.steps=2`). What is for all stages is left out of one whose algorithm does not use it.

Left out on purpose: running (`posttrain.pipeline_run`), stages side by side, loops and conditions.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from posttrain.config import Config
from posttrain.errors import UserError, nearest
from posttrain.fingerprint import check_inputs
from posttrain.pipeline_commands import COMMANDS, TO_BE_MADE, Settings

CONFIGS = Path(__file__).parent / "configs"
PRODUCTS = ("checkpoint", "dataset")
SECTIONS = tuple(section.name for section in fields(Config))
OF_THE_PIPELINE = ("run.dir", "run.resume")
"""Keys that the pipeline takes from the command line for itself."""
TAKES = {"model.path": "checkpoint", "task.path": "dataset", "input": "dataset"}
"""The product that a key takes, where it takes one kind only."""

_REFERENCE = re.compile(r"\$\{stage\.([^.}]*)\.([^}]*)\}")


Compose = Callable[[str, Sequence[str]], Settings]
"""Takes a command and its overrides; raises UserError for whatever is wrong with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One command of a pipeline; its overrides may hold references such as ${stage.sums.checkpoint}. shared: those for all stages."""

    number: int
    name: str
    command: str
    overrides: tuple[str, ...]
    shared: frozenset[str] = frozenset()

    @property
    def references(self) -> list[tuple[str, str]]:
        """(stage, product) of each reference."""
        return [(name, product) for override in self.overrides for name, product in _REFERENCE.findall(override)]

    def fill(self, products: Mapping[tuple[str, str], Path]) -> list[str]:
        """The overrides with each reference replaced by its path."""
        quote = COMMANDS[self.command].quote
        return [_REFERENCE.sub(lambda match: quote(products[match[1], match[2]]), override) for override in self.overrides]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A pipeline as asked for. folder: None chooses one by date."""

    name: str
    file: Path
    stages: tuple[Stage, ...]
    folder: Path | None
    is_resumed: bool


def read_pipeline(choice: str, arguments: Sequence[str], config_dir: str | None) -> Pipeline:
    """Reads `pipeline=<choice>`, a name or a path; `arguments` are the command line's other overrides.

    Raises UserError: no such pipeline; a file that is not one; overrides or references that mean nothing.
    """
    file = _find(choice, config_dir)
    common, listed = _read(file)
    names = [name for name, _, _ in listed]
    everywhere, own, ours = _deal(arguments, names)
    stages = []
    for number, (name, command, overrides) in enumerate(listed, start=1):
        shared = (common, everywhere) if COMMANDS[command].is_run else ([], [])  # other commands have other keys
        merged = tuple(_merge([*shared[0], *overrides, *shared[1], *own[name]]))
        for_all = frozenset(shared[0] + shared[1])
        stage = Stage(number=number, name=name, command=command, overrides=merged, shared=for_all)
        _check_references(stage, names)
        stages.append(stage)
    resume = ours.get("run.resume", "false").lower()
    if resume not in ("true", "false"):
        raise UserError(f"run.resume={resume}: expected true or false")
    if resume == "true" and "run.dir" not in ours:
        raise UserError("run.resume=true: needs run.dir=<the pipeline to continue>")
    folder = Path(ours["run.dir"]) if "run.dir" in ours else None
    return Pipeline(name=file.stem, file=file, stages=tuple(stages), folder=folder, is_resumed=resume == "true")


def check(pipeline: Pipeline, compose: Compose) -> dict[str, Settings]:
    """Each stage's settings, with a path that does not exist yet where a reference stands.

    Raises UserError: with the stage's name; a stage's own mistake, or a reference to what the earlier stage does not make.
    """
    settings: dict[str, Settings] = {}
    for stage in pipeline.stages:
        for name, product in stage.references:
            if product not in settings[name].makes:
                raise UserError(f"stage {stage.name}: {name} is {settings[name].what}, which makes no {product} for other stages")
        _check_kinds(stage)
        try:
            found = compose(stage.command, stage.fill({key: TO_BE_MADE.joinpath(*key) for key in stage.references}))
            complaints = [complaint for override, complaint in found.unused.items() if override not in stage.shared]
            if complaints:
                raise UserError(complaints[0])
            check_inputs({key: value for key, value in found.values.items() if f"{TO_BE_MADE}{os.sep}" not in str(value)})
        except UserError as error:
            raise UserError(f"stage {stage.name}: {error}") from error
        settings[stage.name] = found
    return settings


def _find(choice: str, config_dir: str | None) -> Path:
    if choice.endswith((".yaml", ".yml")) or "/" in choice:
        if not Path(choice).is_file():
            raise UserError(f"pipeline={choice}: there is no such file")
        return Path(choice)
    folders = [*([Path(config_dir)] if config_dir else []), CONFIGS]
    known = {file.stem: file for folder in reversed(folders) for file in folder.glob("pipeline/*.yaml")}
    if choice not in known:
        raise UserError(f"unknown choice pipeline={choice}: {nearest(choice, known)}, or a path that ends in .yaml")
    return known[choice]


def _read(file: Path) -> tuple[list[str], list[tuple[str, str, list[str]]]]:
    """The overrides for all, and (name, command, overrides) of each stage."""
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("stages"), list) or not content["stages"]:
        raise UserError(f"{file}: expected a mapping with `stages`, a list of stages, and perhaps `common`, a list of overrides")
    _check_keys(str(file), content, ("common", "stages"))
    common = _overrides(f"{file}: common", content.get("common", []))
    stages: list[tuple[str, str, list[str]]] = []
    for number, stage in enumerate(content["stages"], start=1):
        where = f"{file}: stage {number}"
        if not isinstance(stage, dict):
            raise UserError(f"{where} is {stage!r}, expected name: <name> and {' or '.join(COMMANDS)}: [<overrides>]")
        name = _stage_name(where, stage, [name for name, _, _ in stages])
        where = f"{file}: stage {name}"
        _check_keys(where, stage, ("name", *COMMANDS))
        commands = [command for command in COMMANDS if command in stage]
        if len(commands) != 1:
            raise UserError(f"{where} has {' and '.join(commands) or 'no command'}, expected one of {', '.join(COMMANDS)}: [<overrides>]")
        stages.append((name, commands[0], _overrides(where, stage[commands[0]])))
    return common, stages


def _check_keys(where: str, got: Mapping[Any, Any], known: Sequence[str]) -> None:
    unknown = next((key for key in got if key not in known), None)
    if unknown is not None:
        raise UserError(f"{where}: unknown key {unknown}; {nearest(str(unknown), known)}")


def _stage_name(where: str, stage: Mapping[str, Any], taken: Sequence[str]) -> str:
    name = stage.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{where}: name is {name!r}, expected small letters, digits and _")
    if name in taken:
        raise UserError(f"{where}: the name {name} is taken by stage {taken.index(name) + 1}")
    if name in SECTIONS:
        raise UserError(f"{where}: {name} is a section of keys, so {name}.<key>=<value> could mean either; expected another name")
    return name


def _overrides(where: str, listed: object) -> list[str]:
    if not isinstance(listed, list) or not all(isinstance(override, str) for override in listed):
        raise UserError(f"{where}: got {listed!r}, expected a list of overrides as on the command line: [algo=sapo, train.steps=2]")
    set_here = {*OF_THE_PIPELINE, "pipeline", *(command.folder_key for command in COMMANDS.values())}
    for override in listed:
        if _key(override) in set_here:
            raise UserError(f"{where}: {override} cannot stand here; each stage has a folder in run.dir=<folder> of the whole pipeline")
    return listed


def _deal(arguments: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, list[str]], dict[str, str]]:
    """The command line's overrides: for all stages, for each stage, and for the pipeline itself."""
    everywhere: list[str] = []
    own: dict[str, list[str]] = {name: [] for name in names}
    ours: dict[str, str] = {}
    for argument in arguments:
        key = _key(argument)
        head, _, rest = key.partition(".")
        if key in OF_THE_PIPELINE:
            ours[key] = argument.partition("=")[2].strip("'\"")
        elif key == "algo":
            raise UserError(f"{argument}: a pipeline's stages have each their own; {names[0]}.{argument} changes that of {names[0]}")
        elif head in own and rest:
            own[head] += _overrides(argument, [argument.replace(f"{head}.", "", 1)])
        elif head.partition("@")[0] in SECTIONS:
            everywhere.append(argument)
        else:
            raise UserError(f"{argument}: neither a stage nor a section of keys is called {head}; {nearest(head, [*names, *SECTIONS])}")
    return everywhere, own, ours


def _merge(overrides: Iterable[str]) -> list[str]:
    """The last override of each key, in the order of those last ones; Hydra takes some keys only once."""
    last: dict[str, str] = {}
    for override in overrides:
        last.pop(_key(override), None)
        last[_key(override)] = override
    return list(last.values())


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _check_references(stage: Stage, names: Sequence[str]) -> None:
    earlier = names[: stage.number - 1]
    broken = next((override for override in stage.overrides if "${stage" in _REFERENCE.sub("", override)), None)
    if broken is not None:
        raise UserError(f"stage {stage.name}: cannot read {broken!r}: a reference is ${{stage.<name>.{'|'.join(PRODUCTS)}}}")
    for name, product in stage.references:
        where = f"stage {stage.name}: ${{stage.{name}.{product}}}"
        if name not in earlier:
            hint = nearest(name, earlier) if earlier else "this is the first one"
            raise UserError(f"{where}: {name} is no earlier stage; {hint}")
        if product not in PRODUCTS:
            raise UserError(f"{where}: no stage makes that; {nearest(product, PRODUCTS)}")


def _check_kinds(stage: Stage) -> None:
    for override in stage.overrides:
        wanted = TAKES.get(_key(override))
        given = next((product for _, product in _REFERENCE.findall(override) if wanted and product != wanted), None)
        if given is not None:
            raise UserError(f"stage {stage.name}: {override}: a {given}, but {_key(override)} takes a {wanted}")
