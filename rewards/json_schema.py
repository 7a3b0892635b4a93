r"""The reward `json_schema`: the answer is JSON, and valid under the reference's schema.

Left out on purpose: mending almost-JSON (comments, single quotes, trailing commas), fetching schemas that a `$ref` names by
address, and `format` as an assertion (as the specification has it by default).
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for
from jsonschema_specifications import REGISTRY

from posttrain.rewards.base import Reward, answer_text
from posttrain.strict_json import parse_json
from posttrain.types import Episode, Prompt

_FENCE = re.compile(r"```[ \t]{0,9}(?:json|JSON)?[ \t]{0,9}\n(?P<body>[^`]*(?:`(?!``)[^`]*)*)```")
_MISSING = object()


class JsonSchema(Reward):
    """1.0 when the answer is JSON that the schema allows (and that equals the value, if one is given), 0.0 otherwise."""

    def score(self, prompt: Prompt, episode: Episode) -> float:
        """Validates the whole answer, or the last of its ```json fences when it has any.

        reference: a JSON Schema, or {"schema": ..., "value": ...} for an answer that must also be equal to the value. Numbers are
        compared as JSON's: 1 equals 1.0, true does not equal 1. NaN, Infinity, keys that repeat and more than 50 levels are not
        JSON here.
        Raises jsonschema.SchemaError: the schema is invalid. ValueError: the reference is no schema, or its value is invalid under it.
        RecursionError, referencing.exceptions.Unresolvable: a `$ref` goes in circles, or to what the schema does not hold.
        """
        schema, expected = _reference(prompt.reference)
        is_valid = _validator(json.dumps(schema))
        if expected is not _MISSING and not is_valid(expected):
            raise ValueError(f"the reference's value is {expected!r}, which its own schema does not allow")
        try:
            value = parse_json(_body(answer_text(episode)))
        except (RecursionError, ValueError):
            return 0.0
        return float(_allows(is_valid, value) and (expected is _MISSING or _is_equal(value, expected)))


def _allows(is_valid: Callable[[Any], bool], value: Any) -> bool:
    try:
        return is_valid(value)
    except (OverflowError, RecursionError):  # an integer past any float under multipleOf; a deep value under a deep schema
        return False


def _body(answer: str) -> str:
    bodies = [match["body"] for match in _FENCE.finditer(answer)]
    return bodies[-1] if bodies else answer


def _is_equal(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_is_equal(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_is_equal, ours, theirs))
    return bool(ours == theirs)


def _reference(reference: Any) -> tuple[Any, Any]:
    """The schema and the value, or _MISSING where there is none. Neither "schema" nor "value" is a keyword of JSON Schema."""
    if not isinstance(reference, dict):
        raise ValueError(f"the reference is {reference!r}, expected a JSON Schema or {{'schema': ..., 'value': ...}}")
    if reference.keys() == {"schema", "value"}:
        return reference["schema"], reference["value"]
    if "schema" in reference or "value" in reference:
        raise ValueError(f"the reference has the keys {sorted(reference)}, expected those of a JSON Schema, or schema and value")
    return reference, _MISSING


@lru_cache(maxsize=64)
def _validator(schema: str) -> Callable[[Any], bool]:
    """The check of one schema, by the dialect that its `$schema` names (2020-12 when it names none)."""
    parsed = json.loads(schema)
    dialect = validator_for(parsed, default=Draft202012Validator)
    dialect.check_schema(parsed)
    # With this registry an unknown address is an error; without it, jsonschema would download it.
    is_valid: Callable[[Any], bool] = dialect(parsed, registry=REGISTRY).is_valid
    is_valid(None)  # raises for a reference in circles, which no answer is to blame for
    return is_valid
