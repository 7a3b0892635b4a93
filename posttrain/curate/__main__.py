"""`python -m posttrain.curate recipe=<file.yaml> [key=value ...]`, `list`, `show STEP`, `--help`.

Exit codes: 0 done, 1 a step failed on the way (the same command goes on from there), 2 a mistake in the command, the recipe or
the rows, 130 interrupted.
"""

import inspect
import sys
from collections.abc import Sequence

from posttrain import plugins
from posttrain.curate.base import ENTRY_POINTS
from posttrain.curate.recipe import Keys, from_arguments, load_step
from posttrain.errors import RunError, UserError, nearest, tell
from posttrain.help import keys_of

USAGE = """\
usage: python -m posttrain.curate recipe=<file.yaml> [<key>=<value> ...] [<step>.<setting>=<value> ...]
       python -m posttrain.curate list | show <step>

Takes rows through the steps of a recipe. Each row that goes has a step and a reason; the report shows what was done. The same command
goes on after a kill, and repeats nothing whose rows and settings are as they were.

    # recipe.yaml
    input: rows.jsonl
    output: curated
    steps:
      - normalise
      - exact_duplicates: {by: question}
      - pass_rate: {model: builtin:smollm2, rewards: {numeric: 1}}
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    try:
        _dispatch(list(arguments))
    except (UserError, RunError) as error:
        return tell(error, "posttrain.curate")
    except KeyboardInterrupt:
        print("posttrain.curate: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _dispatch(arguments: list[str]) -> None:
    if not arguments or {"--help", "-h"} & set(arguments):
        print(help_text())
    elif arguments == ["list"]:
        for name in plugins.names(ENTRY_POINTS):
            print(plugins.describe(ENTRY_POINTS, name).removeprefix(f"{ENTRY_POINTS}: "))
    elif arguments[0] == "show" and len(arguments) == 2:
        print(step_text(arguments[1]))
    else:
        _run(arguments)


def _run(arguments: list[str]) -> None:
    from posttrain.curate.runner import curate

    wrong = next((word for word in arguments if "=" not in word or word.startswith("-")), None)
    if wrong is not None:
        raise UserError(f"cannot read {wrong!r}; {nearest(wrong, ['list', 'show <step>', '--help', 'recipe=<file.yaml>'])}")
    done = curate(from_arguments(arguments), lambda text: print(text, flush=True))
    if not done.kept:
        emptied = next(step.label for step in done.steps if not step.num_out)
        raise UserError(f"no row is left: {emptied} took the last of {len(done.given)}; {done.folder / 'report.md'} says why")
    print(f"{len(done.kept)} of {len(done.given)} rows are in {done.rows_path}; {done.folder / 'report.md'} says what was done")


def help_text() -> str:
    """All of `--help`: the recipe's keys, then every installed step with its settings."""
    lines = [USAGE, "Keys of a recipe, their defaults and what they mean", *_key_lines(Keys), "  steps"]
    for name in plugins.names(ENTRY_POINTS):
        step = load_step(name)
        lines += ["", f"{name}: {inspect.cleandoc(step.__doc__ or '').splitlines()[0]}", *_key_lines(step)]
    return "\n".join(lines)


def step_text(name: str) -> str:
    """A step's settings and all that its module says of it."""
    step = load_step(name)
    module = inspect.getmodule(step)
    head = plugins.describe(ENTRY_POINTS, name).removeprefix(f"{ENTRY_POINTS}: ")
    said = [inspect.getdoc(step), "\n".join(_key_lines(step)), inspect.getdoc(module) if module else None, inspect.getdoc(step.apply)]
    return "\n\n".join([head, *(text for text in said if text)])


def _key_lines(kind: type) -> list[str]:
    return [f"  {key.name.partition('.')[2]:<22}{key.default:<24} {key.comment}" for key in keys_of(kind, "")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
