"""What `--help` prints, made from the configuration's dataclasses and YAML files.

A key, its default and its meaning stand once, in the dataclass; here they are only read. `known_keys` also serves the
error lines of `posttrain.run`. What a group's choice changes is not repeated here: `--cfg job` shows the result.
"""

import io
import json
import textwrap
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from inspect import cleandoc, getsource
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from omegaconf import MISSING

from posttrain.config import AlgoConfig, Config

_WIDTH = 140
CONFIGS = Path(__file__).parent / "configs"

_USAGE = """\
usage: python -m posttrain.run algo=<name> [<group>=<choice> ...] [<key>=<value> ...] [options]
       python -m posttrain.run pipeline=<name or file> [<stage>.<key>=<value> ...] [<key>=<value> ...]

Trains or evaluates a model. One line composes the whole run: groups choose files of settings, keys change single ones.
A pipeline is a file of stages, each such a line; what is finished is skipped by run.resume=true.
"""
_OPTIONS = """\
Options (Hydra's)
  --cfg job                  print the composed configuration and stop
  -m, --multirun             one run for each combination of values such as train.lr=1e-5,2e-5
  --config-dir <folder>      more choices: <folder>/<group>/<choice>.yaml
  --config-name <name>       <name>.yaml instead of config.yaml
  --hydra-help               all the others
"""
_EXAMPLES = """\
Examples
  python -m posttrain.run algo=sapo
  python -m posttrain.run algo=sapo model=tiny train.steps=2 run.dir=runs/first
  python -m posttrain.run -m algo=sapo train.lr=1e-5,2e-5,4e-5
  python -m posttrain.run algo=evaluate model.path=runs/first/checkpoints/step_2/hf
  python -m posttrain.run pipeline=two_tasks model=tiny train.steps=2 run.dir=runs/chain
"""


@dataclass(frozen=True, slots=True)
class Key:
    """One configuration key: `train.steps`, its type, its default as YAML would show it, and the comment beside it."""

    name: str
    type: Any
    default: str
    comment: str


def known_keys(algorithms: Iterable[type[AlgoConfig]]) -> dict[str, Key]:
    """Every key by its full name; `algo.*` are those of `algorithms`."""
    keys: dict[str, Key] = {}
    for section, kinds in _sections(algorithms):
        for kind in kinds:
            keys.update({key.name: key for key in keys_of(kind, section)})
    return keys


def help_text(algorithms: Mapping[str, type[AlgoConfig]], config_dir: str | None) -> str:
    """The whole of `--help`; `config_dir` is the user's own folder of choices, if one was given."""
    return "\n".join([_USAGE, *_group_lines(algorithms, config_dir), "", *_key_lines(algorithms), _OPTIONS, _EXAMPLES])


def _sections(algorithms: Iterable[type[AlgoConfig]]) -> Iterator[tuple[str, list[type]]]:
    hints: dict[str, type] = get_type_hints(Config)
    for section in fields(Config):
        kind = hints[section.name]
        if section.name == "algo" or is_dataclass(kind):
            yield section.name, list(algorithms) if section.name == "algo" else [kind]


def keys_of(kind: type, section: str) -> list[Key]:
    """The keys of a dataclass of settings, named `<section>.<field>`, its base classes' included."""
    hints, comments = get_type_hints(kind), _comments(kind)
    return [Key(f"{section}.{f.name}", hints[f.name], _default(f), comments.get(f.name, "")) for f in fields(kind)]


def _comments(kind: type) -> dict[str, str]:
    """The comment at the end of each field's line, base classes included."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not is_dataclass(base):
            continue
        for token in tokenize.generate_tokens(io.StringIO(textwrap.dedent(getsource(base))).readline):
            if token.type == tokenize.COMMENT:
                found[token.line.partition(":")[0].strip()] = token.string.removeprefix("#").strip()
    return found


def _default(f: Field[Any]) -> str:
    value = f.default_factory() if callable(f.default_factory) else f.default
    if value == MISSING:
        return "(required)"
    return value if isinstance(value, str) else json.dumps(value)


def _group_lines(algorithms: Iterable[str], config_dir: str | None) -> list[str]:
    entries = yaml.safe_load((CONFIGS / "config.yaml").read_text())["defaults"]
    taken: dict[str, str | None] = {group: choice for entry in entries if isinstance(entry, dict) for group, choice in entry.items()}
    choices: dict[str, set[str]] = {group: set(algorithms) if group == "algo" else set() for group in taken}
    for folder in (CONFIGS, Path(config_dir)) if config_dir else (CONFIGS,):
        for file in folder.glob("*/*.yaml"):
            choices.setdefault(file.parent.name, set()).add(file.stem)
    lines = ["Groups (<group>=<choice>; task=[a,b] mixes tasks, and mixture.b.share=2 is then the second one's key task.share)"]
    notes = {"algo": "required", "pipeline": "or a .yaml file; in place of algo"}
    for group, names in choices.items():
        note = notes.get(group, f"default {taken.get(group, 'none, add with +') or 'none'}")
        listed = f"  {group:<12}{', '.join(sorted(names))} ({note})"
        lines += textwrap.wrap(listed, _WIDTH, subsequent_indent=" " * 14)
    return lines


def _key_lines(algorithms: Mapping[str, type[AlgoConfig]]) -> list[str]:
    lines = ["Keys (<key>=<value>), their defaults before a group's choice changes them, and what they mean"]
    names: dict[type, str] = {kind: name for name, kind in algorithms.items()}
    for section, kinds in _sections(algorithms.values()):
        # A class that several algorithms build on is listed once; an algorithm then lists what it adds or changes.
        bases = dict.fromkeys(base for kind in kinds for base in reversed(kind.__mro__) if is_dataclass(base))
        for kind in bases:
            title = f"{section}={names[kind]}" if kind in names else section
            above = names.get(kind.__mro__[1])
            doc = cleandoc(kind.__doc__ or "").splitlines()[0]
            shown = set(vars(kind)["__annotations__"]) - ({"name"} if kind in names else set())
            own = [key for key in keys_of(kind, section) if key.name.removeprefix(f"{section}.") in shown]
            lines += ["", f"{title}{f' (as {above}, but)' if above else ''}: {doc}"]
            lines += [f"  {key.name:<32}{key.default:<19} {key.comment}" for key in own]
    return [*lines, ""]
