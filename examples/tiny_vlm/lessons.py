"""What the model is taught: pictures with the conversation that is right about them.

Two kinds of lesson with short answers come first (what a crop holds, where a digit stands), then whole episodes: look, call the tool,
read what it shows, answer. All pictures come from `posttrain.data.generated`, of the
training half alone, and crops from the tool itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from posttrain.data.generated.base import Example, Family
from posttrain.data.generated.digits import NUM_HANDS, PER_HAND, SIDE, digit
from posttrain.data.generated.find_and_read import MAX_DIGIT, MIN_DIGIT, CompareTwo, FindAndRead, hand_key
from posttrain.data.generated.pictures import COLOURS, SHAPES, Scene, places, window
from posttrain.data.images import decode
from posttrain.data.messages import digest_of, is_heldout
from posttrain.frames import FULL, RelativeBox, Size
from posttrain.rollout.tools.zoom import ZoomIn, zoomed

HELDOUT_FRACTION = 0.25
"""As `task.heldout_fraction` has it by default."""
STEP, WIDTH = 50, 100
"""The grid of the boxes that are taught, and their side, in thousandths of the picture."""
TOOLS = [ZoomIn.schema]
CONTENT, PLACE = "Which digit?", "Where is the digit?"
NUM_DIALOGUES = 1200
TRAIN_HANDS = [hand for hand in range(NUM_HANDS) if not is_heldout(digest_of(hand_key(hand)), HELDOUT_FRACTION)]


@dataclass(slots=True)
class Lesson:
    """A conversation, its pictures in order, and the tools it names; the assistant's turns before first_trained_turn are only read."""

    messages: list[dict[str, Any]]
    pictures: list[Image.Image]
    tools: list[dict[str, Any]] = field(default_factory=list)
    first_trained_turn: int = 0


def example_of(family: Family, rng: Random, *, heldout: bool) -> Example:
    """An example of one half."""
    while True:
        example = family.example(rng)
        if is_heldout(digest_of(example.split_by), HELDOUT_FRACTION) == heldout:
            return example


def picture_of(example: Example) -> Image.Image:
    """Its pixels, as a tool sees them."""
    return decode(example.images[0])


def asked(question: str) -> dict[str, Any]:
    """A user's message with a picture."""
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}


def said(text: str) -> dict[str, Any]:
    """An assistant's message."""
    return {"role": "assistant", "content": text}


def called(box: RelativeBox) -> dict[str, Any]:
    """An assistant's call of the tool."""
    arguments = {"bbox_2d": [int(number) for number in box.numbers], "label": "digit", "img_idx": 0}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": ZoomIn.schema["function"]["name"], "arguments": arguments}}],
    }


def shown() -> dict[str, Any]:
    """What the tool answers."""
    return {"role": "tool", "content": [{"type": "image"}]}


def windows(example: Example) -> list[RelativeBox]:
    """The boxes to look at, on the grid, in the order of the scene."""
    size = Size(example.images[0].width, example.images[0].height)
    boxes = [RelativeBox(*found["bbox_2d"]).in_original(size) for found in example.metadata["scene"]]
    return [window(box, size, width=WIDTH, step=STEP) for box in boxes]


def told(example: Example, num_looks: int, *, says_what_it_read: bool = False) -> Lesson:
    """The episode that looks at so many places of the scene in turn, then gives the right answer.

    says_what_it_read: before the answer, as a thought; comparing is then a matter of two words, not of two pictures.
    """
    picture, boxes = picture_of(example), windows(example)[:num_looks]
    turns = [message for box in boxes for message in (called(box), shown())]
    read = ", ".join(place["content"] for place in example.metadata["scene"][:num_looks])
    thought = f"<think>\n{read}\n</think>\n\n" if read and says_what_it_read else ""
    pictures = [picture, *(zoomed(picture, box) for box in boxes)]
    return Lesson([asked(example.question), *turns, said(f"{thought}{example.reference}")], pictures, TOOLS)


def episode(family: Family, rng: Random) -> Lesson:
    """Every place of the scene is looked at, then the answer."""
    example = example_of(family, rng, heldout=False)
    return told(example, len(example.metadata["scene"]))


def hasty(family: Family, rng: Random) -> Lesson:
    """As somebody in a hurry does it: any number of the places is looked at, none among them. What reinforcement learning has to mend."""
    example = example_of(family, rng, heldout=False)
    num_places = len(example.metadata["scene"])
    return told(example, rng.randint(0, num_places), says_what_it_read=num_places > 1)


def conclusion(family: Family, rng: Random) -> Lesson:
    """Every place of the scene was looked at: what it showed and what follows, and nothing else, is learned here."""
    example = example_of(family, rng, heldout=False)
    num_places = len(example.metadata["scene"])
    lesson = told(example, num_places, says_what_it_read=True)
    lesson.first_trained_turn = num_places
    return lesson


def guess(family: Family, rng: Random) -> Lesson:
    """The same question where there is no tool: answered from the view alone."""
    example = example_of(family, rng, heldout=False)
    return Lesson([asked(example.question), said(example.reference)], [picture_of(example)])


def content(rng: Random) -> Lesson:
    """A picture like a crop: which digit?"""
    size = Size(160, 160)
    side = rng.uniform(MIN_DIGIT, MAX_DIGIT) * FULL / WIDTH * size.width
    scene, label, hand = Scene(size), rng.randrange(10), rng.choice(TRAIN_HANDS)
    boxes = places(rng, size, [side, *rng.choice(([], [], [side / 2]))])  # sometimes with something beside it
    for box in boxes[1:]:
        scene.shape(box, rng.choice(SHAPES), rng.choice([*COLOURS]))
    scene.handwriting(boxes[0], varied(digit(hand, label, rng.randrange(PER_HAND)), rng))
    picture = zoomed(decode(scene.encoded()), RelativeBox(0, 0, FULL, FULL))
    return Lesson([asked(CONTENT), said(str(label))], [picture])


def varied(ink: NDArray[np.uint8], rng: Random) -> NDArray[np.uint8]:
    """Ink (8, 8) as the same hand might have written it another time: turned by up to 15 degrees, fainter or stronger."""
    fine = Image.fromarray(ink).resize((4 * SIDE, 4 * SIDE), Image.Resampling.BICUBIC)
    turned = fine.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC).resize((SIDE, SIDE), Image.Resampling.BOX)
    return (np.asarray(turned) * rng.uniform(0.8, 1.3)).clip(0, 240).astype(np.uint8)


def place(rng: Random) -> Lesson:
    """Where the digit stands: the box on the grid."""
    example = example_of(FindAndRead(min_size=1024, max_size=1024), rng, heldout=False)
    box = windows(example)[0]
    return Lesson([asked(PLACE), said(str([int(number) for number in box.numbers]))], [picture_of(example)])


def greater(rng: Random) -> Lesson:
    """What follows from the thought of a comparison: a table of ninety answers, which pictures alone would teach at length.

    Nothing but the thought tells the digits, so that the answer has to be found there, as in an episode.
    """
    left, right = rng.sample(range(10), 2)
    thought = f"<think>\n{left}, {right}\n</think>\n\n"
    return Lesson([{"role": "user", "content": COMPARE_QUESTION}, said(f"{thought}{'left' if left > right else 'right'}")], [])


FIND, COMPARE = FindAndRead(min_size=1024, max_size=1024), CompareTwo(min_size=1024, max_size=1024)
FIND_QUESTION, COMPARE_QUESTION = (family.example(Random(0)).question for family in (FIND, COMPARE))  # the same for all pictures
MAKERS: dict[str, Callable[[Random], Lesson]] = {
    "content": content,
    "greater": greater,
    "place": place,
    "find": lambda rng: episode(FIND, rng),
    "compare": lambda rng: episode(COMPARE, rng),
    "hasty": lambda rng: hasty(FIND, rng),
    "hasty compare": lambda rng: hasty(COMPARE, rng),
    "conclusion": lambda rng: conclusion(COMPARE, rng),
    "guess": lambda rng: guess(rng.choice((FIND, COMPARE)), rng),
}


def dialogues(rng: Random) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Messages and tools such as the lessons have, without pictures: what the tokenizer is made for."""
    for number in range(NUM_DIALOGUES):
        box = RelativeBox(*(STEP * rng.randrange(int(FULL) // STEP + 1) for _ in range(4)))
        yield [asked(rng.choice((FIND_QUESTION, COMPARE_QUESTION))), called(box), shown(), said(str(number % 10))], TOOLS
        yield [asked(CONTENT), said(rng.choice(("left", "right")))], []
        yield [asked(PLACE), said(str([int(edge) for edge in box.numbers]))], []
