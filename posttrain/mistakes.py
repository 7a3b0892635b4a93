"""One line for what is wrong with a command line or a YAML file.

Hydra and OmegaConf say what they could not do; here that becomes the key, what was got, what was expected and the nearest
names. Their exceptions' fields are used; their text only where there is nothing else.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException, ValidationError

from posttrain.config import AlgoConfig
from posttrain.errors import nearest
from posttrain.help import Key, keys_of, known_keys

_EXPECTED = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


def explain(error: Exception, algorithms: Mapping[str, type[AlgoConfig]], overrides: Sequence[str]) -> str:
    """The line for what Hydra or OmegaConf raised while composing `overrides`."""
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: expected <key>=<value>, the value in its own quotes if it holds spaces or commas"
    if isinstance(error, MissingConfigException):
        return _missing_file(error)
    required = re.match(r"You must specify '(.+?)'", str(error))
    if required:
        _, _, *choices = str(error).splitlines()
        return f"{required[1]}=... is required; known: {', '.join(choice.strip() for choice in choices)}"
    located = next((cause for cause in _causes(error) if isinstance(cause, OmegaConfBaseException) and cause.full_key), None)
    if located is None:
        return str(error)
    # The tasks of a mixture have the keys of `task`.
    key, chosen = re.sub(r"^mixture\.[^.]+\.", "task.", located.full_key or ""), located.object_type
    kinds = [chosen] if isinstance(chosen, type) and issubclass(chosen, AlgoConfig) else list(algorithms.values())
    keys = known_keys(kinds)
    holder = next((name for name, known in keys.items() if chosen in get_args(known.type)), None)
    if isinstance(chosen, type) and holder:
        # OmegaConf names a key inside a list's element alone.
        key = f"{holder}.{key}"
        keys = {known.name: known for known in keys_of(chosen, holder)}
    if isinstance(located, MissingMandatoryValue):
        return f"{key} is required: give {key}=<value>"
    if isinstance(located, ValidationError):
        got = "null" if located.value is None else located.value
        return f"{key}={got}: expected {_expected(key, keys)}"
    if str(located).startswith("Cannot merge"):
        return f"{key} is given a list, expected {_expected(key, keys)}"
    if isinstance(located, (ConfigAttributeError, ConfigKeyError)):
        return _unknown_key(_as_typed(key, overrides), keys)
    return f"{key}: {str(located).splitlines()[0]}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _missing_file(error: MissingConfigException) -> str:
    name = error.missing_cfg_file or ""
    group, _, choice = name.rpartition("/")
    if not group or not error.options:
        return str(error).splitlines()[0]
    return f"unknown choice {group}={choice}: {nearest(choice, error.options)}"


def _as_typed(full_key: str, overrides: Sequence[str]) -> str:
    """The whole key the user wrote: OmegaConf stops at the first part that it does not know."""
    typed = (override.lstrip("+~").partition("=")[0] for override in overrides)
    return next((key for key in typed if key.startswith(f"{full_key}.")), full_key)


def _expected(full_key: str, keys: Mapping[str, Key]) -> str:
    if full_key in keys:
        return type_name(keys[full_key].type)
    # One element of a list (train.betas[0]) or of a mapping (task.rewards.numeric).
    container = full_key.partition("[")[0] if "[" in full_key else full_key.rpartition(".")[0]
    if container in keys:
        return type_name(get_args(keys[container].type)[-1])
    return f"a section, set key by key: {full_key}.<key>=<value>"


def type_name(kind: Any) -> str:
    """What is expected of a key of that type, in words."""
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if is_dataclass(kind):
        return f"a mapping with {', '.join(field.name for field in fields(kind))}"
    *parts, last = get_args(kind)
    if last is type(None):
        return f"{type_name(parts[0])} or null"
    return "a mapping of names to values" if parts else f"a list, each {type_name(last)}"


def _unknown_key(key: str, keys: Mapping[str, Key]) -> str:
    section, _, leaf = key.rpartition(".")
    if section in keys:
        return f"{section} has no {leaf} yet: +{key}=<value> adds it"
    siblings = [name.rpartition(".")[2] for name in keys if name.startswith(f"{section}.")]
    close = [f"{section}.{name}" for name in difflib.get_close_matches(leaf, siblings)]
    close = close or [name for name in keys if name.endswith(f".{leaf}")]
    sections = sorted({name.partition(".")[0] for name in keys})
    close = close or difflib.get_close_matches(key, [*keys, *sections], cutoff=0.75)
    if close:
        return f"unknown key {key}: did you mean {' or '.join(close)}?"
    return f"unknown key {key}: known{f' in {section}' if siblings else ''}: {', '.join(siblings or sections)}"
