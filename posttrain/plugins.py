"""Plug-ins: finding what installed distributions register under an entry-point group, and loading it.

Groups in use: `posttrain.rewards` (a `Reward` subclass) and `posttrain.algorithms` (an `AlgoConfig` subclass). The toolkit's
own rewards and algorithms are found in the same way, so that nothing of theirs is out of reach for a plug-in.

Left out on purpose: importing anything but the one name that is asked for (listing is part of `--help`), and skipping what
cannot be imported. A plug-in that is installed and broken stops the run.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from posttrain.errors import UserError, nearest


def names(group: str) -> list[str]:
    """All names registered under `group`, sorted; nothing is imported."""
    return sorted({entry_point.name for entry_point in entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """Imports what `name` stands for.

    Raises UserError: nothing or more than one distribution registers the name, or its import fails.
    """
    entry_point = _find(group, name)
    try:
        return entry_point.load()
    except Exception as error:  # importing somebody else's module can raise anything, and all of it is theirs to mend
        text = " ".join(str(error).split())
        raise UserError(f"{_describe(entry_point)} cannot be imported: {type(error).__name__}: {text}") from error


def describe(group: str, name: str) -> str:
    """Names a plug-in in an error line: `posttrain.rewards: half = pkg.rewards:Half (from half-rewards 1.0)`.

    Raises UserError: nothing or more than one distribution registers the name.
    """
    return _describe(_find(group, name))


def _find(group: str, name: str) -> EntryPoint:
    # One distribution found twice (lib64 linked to lib, an egg-info beside an editable install) is listed once by the
    # standard library: the one that comes first on sys.path, which is also the one that an import would find.
    found = {(_origin(entry_point), entry_point.value): entry_point for entry_point in entry_points(group=group, name=name)}
    if not found:
        raise UserError(f"unknown name {name!r} in {group}; {nearest(name, names(group))}")
    if len(found) > 1:
        raise UserError(
            f"{group}: {name} is registered more than once: {', '.join(sorted(f'{value} (from {origin})' for origin, value in found))}; "
            "uninstall all but one"
        )
    return next(iter(found.values()))


def _describe(entry_point: EntryPoint) -> str:
    return f"{entry_point.group}: {entry_point.name} = {entry_point.value} (from {_origin(entry_point)})"


def _origin(entry_point: EntryPoint) -> str:
    distribution = entry_point.dist
    return f"{distribution.name} {distribution.version}" if distribution else "no distribution"
