"""The reward `looked_at`: the policy looked where the answer is, and its answer is what is to be read there.

It stands for the vision judge of multi-turn reasoning where the scene is known (generated pictures): did the tool show what the question is
about, large enough to be read, and does the answer follow from it? An answer that is right without having looked is a guess.
Left out on purpose: what the policy says between its calls, and tools other than `image_zoom_in_tool`.
"""

from collections.abc import Iterator
from typing import Any

from posttrain.frames import FULL, RelativeBox
from posttrain.rewards.base import Reward, Score, answer_text
from posttrain.rewards.boxes import reference_boxes
from posttrain.rewards.texts import words
from posttrain.types import Episode, Prompt, ToolCall

ZOOM = "image_zoom_in_tool"
COVERED = 0.8
"""The share of a place that a crop has to show."""
WHOLE = RelativeBox(0, 0, FULL, FULL)


class LookedAt(Reward):
    """Half for the places that were looked at, half for an answer that follows from them."""

    def score(self, prompt: Prompt, episode: Episode) -> Score:
        """0.5 * (places seen / places) + 0.5 * (all were seen and the answer ends in `metadata.solution`), in [0, 1].

        A place of `metadata.scene`, each {"bbox_2d": [x1, y1, x2, y2] in 0..1000 of the first image, "content": text}, is seen where a
        crop whose longer side is at most `metadata.legible_within` shows 0.8 of its area. Crops of crops count for what they show.
        The details hold both halves. Raises ValueError: the metadata lack one of the three.
        """
        places, legible_within, solution = _known(prompt)
        crops = [box for box in looks(prompt, episode) if max(box.x2 - box.x1, box.y2 - box.y1) <= legible_within + 1e-6]
        seen = sum(any(covered(place, crop) >= COVERED for crop in crops) for place in places) / len(places)
        answer = [word.casefold() for word in words(answer_text(episode))]
        wanted = [word.casefold() for word in words(solution)]
        follows = seen == 1 and answer[-len(wanted) :] == wanted
        return Score(0.5 * seen + 0.5 * follows, {"seen": seen, "follows": follows})


def looks(prompt: Prompt, episode: Episode) -> Iterator[RelativeBox]:
    """What each answered zoom showed of the first image, in its frame."""
    frames: list[RelativeBox | None] = [WHOLE if number == 0 else None for number in range(len(prompt.images))]
    for turn in episode.turns:
        answered = [call for call in turn.tool_calls if call.status == "answered"]
        num_images = len(turn.observation_images)
        # An image a call; where a tool of another kind answered with none or several, whose is whose cannot be told.
        for call in answered if len(answered) == num_images else [None] * num_images:
            frames.append(_shown(call, frames) if call else None)
    yield from (box for box in frames[len(prompt.images) :] if box is not None)


def covered(place: RelativeBox, crop: RelativeBox) -> float:
    """The share of the place's area inside the crop, in [0, 1]."""
    width = min(place.x2, crop.x2) - max(place.x1, crop.x1)
    height = min(place.y2, crop.y2) - max(place.y1, crop.y1)
    return max(width, 0.0) * max(height, 0.0) / ((place.x2 - place.x1) * (place.y2 - place.y1))


def _shown(call: ToolCall, frames: list[RelativeBox | None]) -> RelativeBox | None:
    """The region of the first image that a call showed; None where it is none, or another tool's."""
    if call.name != ZOOM:
        return None
    frame = frames[int(call.arguments["img_idx"])]
    if frame is None:
        return None
    x1, y1, x2, y2 = (min(max(float(number), 0.0), FULL) / FULL for number in call.arguments["bbox_2d"])
    width, height = frame.x2 - frame.x1, frame.y2 - frame.y1
    return RelativeBox(frame.x1 + x1 * width, frame.y1 + y1 * height, frame.x1 + x2 * width, frame.y1 + y2 * height)


def _known(prompt: Prompt) -> tuple[list[RelativeBox], float, str]:
    scene, legible_within, solution = (prompt.metadata.get(name) for name in ("scene", "legible_within", "solution"))
    if not (isinstance(scene, list) and scene and isinstance(legible_within, int | float) and isinstance(solution, str) and solution):
        got: dict[str, Any] = {"scene": scene, "legible_within": legible_within, "solution": solution}
        raise ValueError(f"the metadata hold {got}, expected a scene with at least one place, a number and a text")
    return (
        [RelativeBox(*shape.numbers) for shape in reference_boxes([{"bbox_2d": place["bbox_2d"]} for place in scene])],
        legible_within,
        solution,
    )
