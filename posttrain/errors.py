"""The errors that end a run, told apart by who has to act.

A `UserError` is printed as one line, and one for each thing that it names, with exit code 2: the user asked for
something that cannot be done. A `RunError` is printed with what is known about the failure and exit code 1: something
broke while the run was under way. Everything else is a bug of ours and keeps its traceback.
"""

import difflib
import sys
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """A mistake in the command, the configuration or the data: one line, exit code 2.

    named: what it is about where that is many things, such as rows of a file; each is printed in a line of its own.
    """

    def __init__(self, message: str, named: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.named = tuple(named)


class RunError(Exception):
    """Something failed while the run was under way: exit code 1."""


class ActorFailure(RunError):
    """A Ray actor died, raised, or stayed silent past `cluster.deadline_s`."""


class WeightSyncError(RunError):
    """The engine's weights are not the learner's after a publish."""


def tell(error: UserError | RunError, program: str = "posttrain") -> int:
    """Prints the error as its kind is printed, each line of a UserError on one, and returns the exit code."""
    if isinstance(error, RunError):
        print(error, file=sys.stderr)
        return 1
    first, *named = (" ".join(line.split()) for line in (str(error), *error.named))
    print(f"{program}: {first}", *named, sep="\n  ", file=sys.stderr)
    return 2


def nearest(name: str, choices: Iterable[str]) -> str:
    """The ending of an error line about an unknown name: the closest choices, or all of them when none is close.

    >>> nearest("tau_ng", ["tau_pos", "tau_neg", "name"])
    'did you mean tau_neg or tau_pos?'
    """
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
