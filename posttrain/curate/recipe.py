"""A recipe: a YAML file that names what is read, the steps, and where the result goes; and what can be wrong with one.

    input: rows.jsonl
    output: curated
    steps:
      - normalise
      - exact_duplicates: {by: question}

Steps are found by entry points (`posttrain.curation`), the toolkit's own as well as a third party's. A step that stands twice is
called by its name and then by name_2, name_3. Relative paths are relative to the recipe's folder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from posttrain import plugins
from posttrain.curate.base import ENTRY_POINTS, Bench, Step
from posttrain.errors import UserError, nearest


@dataclass
class Keys:
    """A recipe's keys beside its steps."""

    input: list[str] = field(default_factory=list)  # .jsonl or .parquet files of rows; a single one may stand without brackets
    output: str = "curated"  # folder of the rows that are kept and dropped, the report and intermediate results
    seed: int = 0  # whatever is drawn or sampled follows from it
    format: str = "jsonl"  # of the rows that are kept: jsonl or parquet
    bad_rows: str = "refuse"  # rows that cannot be read: refuse ends the curation, drop lists them with the dropped rows


@dataclass(frozen=True, slots=True)
class Named:
    """A step under the name that it has in this recipe. kind: the name that it is installed under."""

    label: str
    kind: str
    step: Step

    @property
    def settings(self) -> dict[str, Any]:
        """As plain data, defaults included."""
        return asdict(self.step)

    def depends_on(self, bench: Bench) -> dict[str, str]:
        """What the step's result follows from beside rows, settings and seed.

        Raises UserError: with the step's name; a file that it lacks, or a judge.
        """
        try:
            return self.step.depends_on(bench)
        except UserError as error:
            raise UserError(f"{self.label}: {error}") from error


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe whose names and values have been checked. base: the folder that relative paths start from."""

    keys: Keys
    steps: list[Named]
    base: Path

    @property
    def inputs(self) -> dict[str, Path]:
        """The files by what they are called in rows: the file's name, or the whole path where two have the same name."""
        paths = [self.base / Path(name).expanduser() for name in self.keys.input]
        names = [path.name for path in paths]
        return dict(zip(names if len(set(names)) == len(names) else self.keys.input, paths, strict=True))

    def resolved(self) -> dict[str, Any]:
        """As a recipe with every default; what is read and written by file names alone."""
        keys = {**asdict(self.keys), "input": [*self.inputs], "output": Path(self.keys.output).name}
        return {**keys, "steps": [{named.kind: named.settings} for named in self.steps]}


def load_step(name: str) -> type[Step]:
    """The class of an installed step.

    Raises UserError: there is none of that name, or it is no step.
    """
    if name not in plugins.names(ENTRY_POINTS):
        raise UserError(f"unknown step {name!r}; {nearest(name, plugins.names(ENTRY_POINTS))}")
    found = plugins.load(ENTRY_POINTS, name)
    if not (isinstance(found, type) and issubclass(found, Step)):
        raise UserError(f"{plugins.describe(ENTRY_POINTS, name)} is not a subclass of posttrain.curate.base.Step")
    return found


def from_arguments(arguments: Sequence[str]) -> Recipe:
    """The recipe of a command line: `recipe=<file.yaml>` and overrides.

    Raises UserError: as `load`; there is no recipe, or more than one.
    """
    paths = [word.partition("=")[2] for word in arguments if word.startswith("recipe=")]
    if len(paths) != 1 or not paths[0]:
        raise UserError("expected one recipe=<file.yaml>; --help shows what is in one")
    return load(Path(paths[0]), [word for word in arguments if not word.startswith("recipe=")])


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe. overrides: key=value, or step.setting=value with a step's name in this recipe.

    Raises UserError: whatever is unknown, missing or of another type.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe={path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"recipe={path}: not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"recipe={path}: expected keys such as input, output and steps")
    entries = _entries(raw.pop("steps", None))
    for override in overrides:
        _override(raw, entries, override)
    if isinstance(raw.get("input"), str):
        raw["input"] = [raw["input"]]
    keys = settings(Keys, raw, "")
    _check(keys)
    return Recipe(keys, [_named(label, kind, given) for label, (kind, given) in entries.items()], path.parent)


def settings(kind: type[Any], given: Mapping[Any, Any], where: str) -> Any:
    """An object of the dataclass `kind` with these fields; `where` is put before a key in messages.

    Raises UserError: a key is unknown or required, or a value is of another type.
    """
    from posttrain.mistakes import type_name  # with Hydra behind it

    known = [one.name for one in fields(kind)]
    config = OmegaConf.structured(kind)
    for key, value in given.items():
        if key not in known:
            known_too = ["steps"] if kind is Keys else []
            raise UserError(f"unknown key {where}{key}; {nearest(str(key), [*known, *known_too]) if known else 'it has no settings'}")
        try:
            config[key] = value
        except OmegaConfBaseException as error:
            got = "null" if value is None else value
            raise UserError(f"{where}{key}={got}: expected {type_name(get_type_hints(kind)[key])}") from error
    missing = next((key for key in known if OmegaConf.is_missing(config, key)), None)
    if missing:
        raise UserError(f"{where}{missing} is required")
    return OmegaConf.to_object(config)


def _entries(steps: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Steps and their settings by the name that each has in the recipe."""
    if not isinstance(steps, list) or not steps:
        raise UserError(f"steps: expected a list of steps; known: {', '.join(plugins.names(ENTRY_POINTS))}")
    entries: dict[str, tuple[str, dict[str, Any]]] = {}
    for number, entry in enumerate(steps, start=1):
        named = {entry: None} if isinstance(entry, str) else entry
        if not isinstance(named, dict) or len(named) != 1 or not isinstance(next(iter(named.values())), dict | None):
            raise UserError(f"steps: the {number}th is {entry!r}, expected a name, or a name and its settings: `- name: {{key: value}}`")
        [(kind, given)] = named.items()
        times = 1 + sum(kind == other for other, _ in entries.values())
        entries[kind if times == 1 else f"{kind}_{times}"] = (str(kind), given or {})
    return entries


def _named(label: str, kind: str, given: dict[str, Any]) -> Named:
    step: Step = settings(load_step(kind), given, f"{label}.")
    try:
        step.validate()
    except UserError as error:
        raise UserError(f"{label}: {error}") from error
    return Named(label, kind, step)


def _override(raw: dict[str, Any], entries: dict[str, tuple[str, dict[str, Any]]], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"cannot read {override!r}: expected <key>=<value> or <step>.<setting>=<value>")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"cannot read {override!r}: {error}") from error
    label, dot, setting = name.partition(".")
    if not dot:
        raw[name] = _from_here(value) if name in ("input", "output") else value
    elif label not in entries:
        raise UserError(f"{override}: the recipe has no step {label}; {nearest(label, entries)}")
    else:
        entries[label][1][setting] = value


def _from_here(value: Any) -> Any:
    """A path of the command line, which is relative to where that was typed."""
    return [_from_here(one) for one in value] if isinstance(value, list) else str(Path(str(value)).expanduser().absolute())


def _check(keys: Keys) -> None:
    if not keys.input:
        raise UserError("input is required: one or more .jsonl or .parquet files")
    if len(set(keys.input)) < len(keys.input):
        raise UserError("input: a file stands twice")
    for name, got, known in (("format", keys.format, ("jsonl", "parquet")), ("bad_rows", keys.bad_rows, ("refuse", "drop"))):
        if got not in known:
            raise UserError(f"{name}={got}: expected {' or '.join(known)}")
