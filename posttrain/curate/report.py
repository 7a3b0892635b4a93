"""The report of a curation as Markdown: what each step did, what the rows are like before and after, and what was dropped.

It follows from the rows, the recipe and the installed versions alone: no times, no paths, so that two curations can be compared by it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise

import yaml

from posttrain.curate.results import Curated
from posttrain.curate.rows import Row
from posttrain.rewards.texts import words
from posttrain.rundir import versions

SAMPLES = 3
"""Dropped rows that are shown for each step and reason."""
MAX_SHOWN = 160
BAR_WIDTH = 30
LENGTHS = (0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
EIGHTHS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"


def report(curated: Curated) -> str:
    """The whole text."""
    given, kept = curated.given, curated.kept
    parts = [
        f"# Curation of {', '.join(curated.recipe.inputs)}",
        f"{len(given)} rows in, {len(kept)} out ({len(kept) / len(given):.0%}).",
        "## Steps",
        _steps(curated),
        *_counts(curated),
        *_tasks(given, kept),
        "## Lengths, before and after, in words",
        _lengths("question", given, kept, lambda row: row.question_text),
        _lengths("response", given, kept, lambda row: row.response),
        *_pass_rates(curated),
        "## Dropped rows",
        *_samples(curated),
        "## Recipe",
        _fenced(yaml.safe_dump(curated.recipe.resolved(), sort_keys=False, allow_unicode=True), "yaml"),
        "Versions: " + ", ".join(f"{name} {number}" for name, number in versions().items() if number) + ".",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], body: Iterable[Sequence[object]]) -> str:
    """A Markdown table; columns of numbers stand to the right."""
    lines = [*body]
    are_numbers = [all(isinstance(cell, int | float) for cell in column) for column in zip(*lines, strict=True)]
    rule = ["---:" if is_number else ":---" for is_number in are_numbers]
    return "\n".join(f"| {' | '.join(_cell(str(cell)) for cell in line)} |" for line in (head, rule, *lines))


def histogram(counts: Mapping[str, tuple[int, int]]) -> str:
    """Bars of two counts a line, before and after, all to one scale."""
    largest = max((max(pair) for pair in counts.values()), default=0)
    width = max(map(len, counts), default=0)
    lines = []
    for label, pair in counts.items():
        bars = (f"{_bar(count, largest):<{BAR_WIDTH}} {count:>6}" for count in pair)
        lines.append(f"{label:>{width}}  {'   '.join(bars)}")
    return _fenced("\n".join(lines))


def _bar(count: int, largest: int) -> str:
    eighths = round(count / largest * BAR_WIDTH * 8) if largest else 0
    # Something is never drawn as nothing.
    eighths = max(eighths, min(1, count))
    return "\u2588" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


def _steps(curated: Curated) -> str:
    body = []
    for done in curated.steps:
        reasons = ", ".join(f"{count} {reason}" for reason, count in done.reasons.items())
        body.append((done.label, done.num_in, done.num_out, len(done.dropped), reasons))
    return table(("step", "in", "out", "dropped", "reasons"), body)


def _counts(curated: Curated) -> Iterator[str]:
    counted = [(done.label, name, value) for done in curated.steps for name, value in done.counts.items()]
    if counted:
        yield "What else the steps counted:"
        yield table(("step", "what", "number"), counted)


def _tasks(given: Sequence[Row], kept: Sequence[Row]) -> Iterator[str]:
    before, after = Counter(row.task for row in given), Counter(row.task for row in kept)
    if len(before) > 1:
        yield "## Tasks"
        yield table(("task", "before", "after"), [(name or "(none)", before[name], after[name]) for name in sorted(before)])


def _lengths(what: str, given: Sequence[Row], kept: Sequence[Row], text: Callable[[Row], str | None]) -> str:
    labels = [f"{low}-{high - 1}" for low, high in pairwise(LENGTHS)] + [f"{LENGTHS[-1]}+"]
    sides = []
    for rows in (given, kept):
        texts = [found for row in rows if (found := text(row)) is not None]
        lengths = [len(words(found)) for found in texts]
        sides.append(Counter(labels[sum(length >= low for low in LENGTHS) - 1] for length in lengths))
    used = [index for index, label in enumerate(labels) if sides[0][label] or sides[1][label]]
    if not used:
        return ""
    shown = labels[used[0] : used[-1] + 1]
    return f"{what}:\n\n{histogram({label: (sides[0][label], sides[1][label]) for label in shown})}"


def _pass_rates(curated: Curated) -> Iterator[str]:
    """Of each step that measured rates: the rows that it measured, and those of them that it kept, whatever became of them then."""
    for number, done in enumerate(curated.steps):
        save_as = _save_as(curated, done.label)
        if save_as is None:
            continue
        later = [row for step in curated.steps[number + 1 :] for row, _ in step.dropped]
        kept = _rates([*curated.kept, *later], save_as)
        measured = kept + _rates([row for row, _ in done.dropped], save_as)
        if measured:
            yield f"## Pass rates of {done.label}, measured and kept"
            yield histogram({label: (measured.count(label), kept.count(label)) for label in _RATE_LABELS})


_RATE_LABELS = ["0", *(f"{low / 10:.1f}-{(low + 1) / 10:.1f}" for low in range(10)), "1"]


def _rates(rows: Sequence[Row], save_as: str) -> list[str]:
    rates = [row.data[save_as]["rate"] for row in rows if row.data.get(save_as)]
    return [_RATE_LABELS[0] if rate == 0 else _RATE_LABELS[-1] if rate == 1 else _RATE_LABELS[1 + int(rate * 10)] for rate in rates]


def _save_as(curated: Curated, label: str) -> str | None:
    step = next((named.step for named in curated.recipe.steps if named.label == label), None)
    return vars(step).get("save_as") if step else None


def _samples(curated: Curated) -> Iterator[str]:
    if not any(done.dropped for done in curated.steps):
        yield "None."
        return
    yield f"The first {SAMPLES} of each reason; all of them are in dropped.jsonl."
    for done in curated.steps:
        for reason in done.reasons:
            of_reason = ((row, drop) for row, drop in done.dropped if drop.reason == reason)
            lines = [
                f"- {row.where}{f' ({_inline(drop.detail)})' if drop.detail else ''}: {_shown(row)}"
                for row, drop in islice(of_reason, SAMPLES)
            ]
            yield f"**{done.label}: {reason}**\n\n" + "\n".join(lines)


def _shown(row: Row) -> str:
    if not {"messages", "prompt"} & row.data.keys():
        return _inline(str(row.data.get("line", row.data)))
    response = "" if row.response is None else f" \u2192 {_inline(row.response)}"
    return _inline(row.question_text) + response


def _inline(text: str) -> str:
    """A text as code on one line, cut in its middle."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(text.split())).replace("`", "'")
    if len(text) > MAX_SHOWN:
        text = f"{text[: MAX_SHOWN // 2]} ... {text[-MAX_SHOWN // 2 :]}"
    return f"`{text}`" if text else "(nothing)"


def _fenced(text: str, label: str = "text") -> str:
    return f"```{label}\n{text.rstrip()}\n```"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
