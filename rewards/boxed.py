r"""Finds `\boxed{...}` in an answer, for the rewards whose answers are written so. It is no reward itself."""

import re

_BRACE = re.compile(r"(?P<box>\\boxed\s{0,9}\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)


def boxed_contents(text: str) -> list[str]:
    r"""What stands in each `\boxed{}` of `text`, in order; of boxes inside each other only the innermost. One that never closes is none.

    Escaped braces do not count as braces. Linear in the text.
    """
    found: list[tuple[int, str]] = []
    opened: list[int] = []  # where the content of each open box starts, -1 for other braces
    for match in _BRACE.finditer(text):
        if match["box"]:
            opened.append(match.end())
        elif match["open"]:
            opened.append(-1)
        elif match["close"] and opened and (start := opened.pop()) > (found[-1][0] if found else -1):
            found.append((start, text[start : match.start()]))
    return [content for _, content in found]
