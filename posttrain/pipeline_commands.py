"""The commands that a stage of a pipeline can be: how each is told its folder, and what its overrides come to.

Left out on purpose: stages and references (`posttrain.pipeline`), running them (`posttrain.pipeline_run`).
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from posttrain.config import Config
from posttrain.curate.base import Bench
from posttrain.curate.recipe import from_arguments
from posttrain.rundir import flat

TO_BE_MADE = Path("from-stage")
"""Where the products of stages are taken to be before there are any."""
_PLAIN = re.compile(r"[\w./~-]+")


def hydra_quoted(path: Path) -> str:
    """A path as the value of an override of posttrain.run."""
    return text if _PLAIN.fullmatch(text := str(path)) else "'" + text.replace("'", "\\'") + "'"


def yaml_quoted(path: Path) -> str:
    """A path as the value of an override of posttrain.curate: YAML, which takes JSON's strings.

    Absolute, because a relative one in a step's settings is relative to the recipe's folder.
    """
    return text if _PLAIN.fullmatch(text := str(path.absolute())) else json.dumps(text, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """posttrain.<name>; its exit codes are those of posttrain.run.

    folder_key: tells it its folder; begun: a file or folder that is there once it has begun; resume: overrides that make it go on;
    is_run: overrides for all stages, and options of the command line, are for it; quote: a path as the value of an override.
    """

    folder_key: str
    begun: str
    resume: tuple[str, ...]
    is_run: bool
    quote: Callable[[Path], str]


COMMANDS = {
    "run": Command(folder_key="run.dir", begun="config.yaml", resume=("run.resume=true",), is_run=True, quote=hydra_quoted),
    "curate": Command(folder_key="output", begun="work", resume=(), is_run=False, quote=yaml_quoted),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a command's overrides come to.

    what: in words; values: every value that its result may depend on, by full key; makes: what a later stage can take from it;
    unused: overrides that mean nothing to it, and why.
    """

    what: str
    values: Mapping[str, Any]
    makes: tuple[str, ...]
    unused: Mapping[str, str] = field(default_factory=dict)


def settings_of_run(config: Config, unused: Mapping[str, str]) -> Settings:
    """What is to be known of a stage of posttrain.run."""
    algo = config.algo
    values = {key: value for key, value in flat(asdict(config)).items() if algo.uses(key)}
    tasks = " and ".join(task.name for task in config.tasks)
    return Settings(what=f"{algo.name} on {tasks}", values=values, makes=algo.makes, unused=unused)


def settings_of_curation(overrides: Sequence[str]) -> Settings:
    """What is to be known of a stage of posttrain.curate.

    Raises UserError: the recipe cannot be read, one of its keys, steps or settings is wrong, or something lacks that a step needs.
    """
    recipe = from_arguments(overrides)
    keys = {**asdict(recipe.keys), "input": [str(path) for path in recipe.inputs.values()]}
    keys.pop("output")
    labels = [named.label for named in recipe.steps]
    settings = flat({named.label: named.settings for named in recipe.steps})
    base = recipe.base.absolute()
    values = {**keys, "steps": labels, **{key: _placed(value, base) for key, value in settings.items()}}
    bench = Bench(seed=recipe.keys.seed, folder=base, base=recipe.base)
    for named in recipe.steps:
        if f"{TO_BE_MADE}{os.sep}" not in str(named.settings):
            values |= {f"{named.label} depends on {what}": found for what, found in named.depends_on(bench).items()}
    return Settings(what=f"curate: {', '.join(labels)}", values=values, makes=("dataset",))


def _placed(value: Any, base: Path) -> Any:
    """A setting with the whole path in place of one that is relative to the recipe's folder."""
    if isinstance(value, list):
        return [_placed(one, base) for one in value]
    if not isinstance(value, str) or not value:
        return value
    path = os.path.join(base, os.path.expanduser(value))
    return path if os.path.exists(path) else value
