"""What a constraint is: a function of a text and checked parameters, which holds or does not.

Parameters come from data, so a mistake in them is a mistake in the data and raises ValueError with what was expected; an answer,
whatever it looks like, raises nothing. The constraints themselves live in `constraints`, `constraints_format` and
`constraints_code`. Left out on purpose: constraints that need a model to judge, and relations between constraints.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NewType

from posttrain.errors import nearest
from posttrain.rewards.language import LANGUAGES

Check = Callable[..., bool]
"""check(text, **parameters): whether the constraint holds. Its parameters are keyword-only and annotated."""

Count = Callable[..., int | None]
"""count(text, **parameters): how many; None where there is nothing to count in."""

LanguageCode = NewType("LanguageCode", str)
"""A parameter that is a key of `language.LANGUAGES`."""


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


# A parameter's annotation, what it accepts, and how that is said.
_ACCEPTED: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (lambda value: _is_integer(value) and value >= 0, "a whole number from 0"),
    str: (_is_text, "a text that is not empty"),
    LanguageCode: (lambda value: _is_text(value) and value in LANGUAGES, f"one of {', '.join(sorted(LANGUAGES))}"),
    list[str]: (lambda value: isinstance(value, list) and bool(value) and all(map(_is_text, value)), "a list of texts that is not empty"),
}


def bounded(count: Count) -> Check:
    """A constraint out of a counting function: it holds when min <= count <= max; either bound may be left out, not both.

    The constraint takes `min` and `max` besides the function's own parameters. A count of None is within no bounds.
    """

    # The names are the data's; that they hide the builtins matters to these two lines alone.
    def check(text: str, *, min: int = 0, max: float = math.inf, **parameters: Any) -> bool:
        number = count(text, **parameters)
        return number is not None and min <= number <= max

    own = inspect.signature(count).parameters.values()
    bounds = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=int) for name in ("min", "max")]
    check.__doc__ = count.__doc__
    check.__signature__ = inspect.Signature([*own, *bounds])  # type: ignore[attr-defined]
    return check


def check_parameters(name: str, check: Check, parameters: Mapping[str, Any]) -> None:
    """Raises ValueError unless `check` can be called with these parameters.

    That is: none unknown, none missing, each of its annotated kind, and bounds, where the constraint has them, in order and at
    least one given.
    """
    signature = inspect.signature(check)
    takes = {key: parameter for key, parameter in signature.parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    for key, value in parameters.items():
        if key not in takes:
            raise ValueError(f"constraint {name} has no parameter {key!r}; {nearest(str(key), takes) if takes else 'it takes none'}")
        accepts, expected = _ACCEPTED[takes[key].annotation]
        if not accepts(value):
            raise ValueError(f"constraint {name}: {key} is {value!r}, expected {expected}")
    missing = [key for key, parameter in takes.items() if parameter.default is parameter.empty and key not in parameters]
    if missing:
        raise ValueError(f"constraint {name} lacks {', '.join(missing)}")
    if "min" not in takes:
        return
    if not {"min", "max"} & set(parameters):
        raise ValueError(f"constraint {name} has neither min nor max, so every text satisfies it")
    if parameters.get("min", 0) > parameters.get("max", math.inf):
        raise ValueError(f"constraint {name}: min {parameters['min']} is more than max {parameters['max']}, so no text satisfies it")
