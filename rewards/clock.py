"""The reward `clock`: the answer is the time that an analogue clock shows.

Times are 3:45, 03:45 pm, 3:45:20 (seconds are dropped), 3 o'clock, 3 pm, quarter past nine, half past three, twenty to four,
3点45分, 三点半, 三点一刻. Left out on purpose: morning and afternoon (a face with 12 hours shows neither), seconds, "three
forty-five", 3.45, 3h45, 差五分四点, noon and midnight.
"""

import re
import unicodedata

from posttrain.rewards.base import Reward, Score, answer_text
from posttrain.rewards.counting import with_digits
from posttrain.types import Episode, Prompt

FACE_MINUTES = 720
_TIME = re.compile(
    r"(?<!\d)(?<!\d:)(?P<hour>\d{1,2}) ?: ?(?P<minute>\d\d)(?::\d\d)?(?!:?\d)"
    r"|(?<!\d)(?P<offset>\d{1,2}|quarter|half)(?: min(?:ute)?s?)?[ -](?P<side>past|after|to|till|before) (?P<of>\d{1,2})(?!\d)"
    r"|(?<!\d)(?P<point>\d{1,2}) ?[点點时時](?: ?(?P<half>半)| ?(?P<over>\d{1,2})(?!\d) ?(?P<quarters>刻)?)?"
    r"|(?<!\d)(?P<sharp>\d{1,2}) ?(?:o'? ?clock|[ap]\.?m(?![a-z]))",
    re.IGNORECASE,
)
_OFFSETS = {"quarter": 15, "half": 30}


class Clock(Reward):
    """How near the last time of the answer is to the reference, on a face with 12 hours."""

    def score(self, prompt: Prompt, episode: Episode) -> Score:
        """1 - min(d, 720 - d) / 360, where d is the difference in minutes on the face, 0 <= d < 720; in [0, 1].

        1.0 for the same reading alone, so 15:45 is 3:45; six hours off is 0.0, as is an answer without a time. The details
        hold minutes_off, min(d, 720 - d), where there is a time. Raises ValueError: the reference is not a text with exactly
        one time in it.
        """
        reference = times(prompt.reference) if isinstance(prompt.reference, str) else []
        if len(reference) != 1:
            raise ValueError(f"the reference is {prompt.reference!r}, expected one time, such as '3:45'")
        answered = times(answer_text(episode))
        if not answered:
            return Score(0.0)
        difference = abs(answered[-1] - reference[0])
        minutes_off = min(difference, FACE_MINUTES - difference)
        return Score(1 - minutes_off / (FACE_MINUTES // 2), {"minutes_off": minutes_off})


def times(text: str) -> list[int]:
    """The times that `text` states, in its order, as minutes after twelve on the face, 0..719.

    What no clock shows (25:10, 3:75) is left out; a text without a time is an empty list.
    """
    plain = unicodedata.normalize("NFKC", text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    plain = " ".join(with_digits(plain).split())
    return [minutes for match in _TIME.finditer(plain) if (minutes := _minutes(match)) is not None]


def _minutes(match: re.Match[str]) -> int | None:
    hour = int(match["hour"] or match["of"] or match["point"] or match["sharp"])
    minute = _offset(match)
    if hour >= 24 or minute >= 60:
        return None
    is_before = (match["side"] or "").lower() in ("to", "till", "before")
    return (hour * 60 + (-minute if is_before else minute)) % FACE_MINUTES


def _offset(match: re.Match[str]) -> int:
    """Minutes before or after the full hour; 0 where none are stated."""
    if match["half"]:
        return 30
    word = (match["offset"] or "").lower()
    if word in _OFFSETS:
        return _OFFSETS[word]
    return int(match["minute"] or word or match["over"] or 0) * (15 if match["quarters"] else 1)
