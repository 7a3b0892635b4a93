"""Requests that tempt a policy to repeat itself: many items of one kind, a story with a refrain, the same thing said for everyone.

The reference asks for the number of items and their length; the reward `repetition` takes off what stands twice. English and
Chinese. Left out on purpose: requests that ask for repetition itself, such as "say it ten times".
"""

from dataclasses import dataclass, field
from random import Random

from posttrain.data.generated.base import LANGUAGES, Example, Family, some_of, whole
from posttrain.data.generated.writing import BANKS, plain_sentences

_ASKS = {
    "en": (
        "Write a numbered list of {items} reasons to like {topic}. Use at least {words} words in all, and say nothing twice.",
        "Tell {items} people about {topic}: a numbered list with one sentence each, every one different, {words} words or more.",
        "Make {items} different sentences about {topic}, as a numbered list of at least {words} words.",
        "A parrot repeats all it hears about {topic}. Write {items} things it could hear, numbered, at least {words} words, no two alike.",
    ),
    "zh": (
        "请用编号列表写出喜欢“{topic}”的{items}个理由，总共至少{words}个字，不要重复。",
        "请依次向{items}个人介绍“{topic}”：用编号列表，每人一句，每句都不同，至少{words}个字。",
        "请造{items}个关于“{topic}”的不同句子，写成编号列表，至少{words}个字。",
        "一只鹦鹉会重复它听到的关于“{topic}”的话。请编号写出它可能听到的{items}句话，至少{words}个字，句句不同。",
    ),
}


@dataclass(frozen=True, kw_only=True)
class LongLists(Family):
    """Numbered lists that are long enough to run out of ideas."""

    languages: list[str] = field(default_factory=lambda: [*LANGUAGES], metadata=some_of(LANGUAGES))
    min_items: int = field(default=5, metadata=whole(3, 30))
    max_items: int = field(default=12, metadata=whole(3, 30))

    def example(self, rng: Random) -> Example:
        """The reference is {"constraints": [...]}: the items and the words, or characters in Chinese."""
        language, items = rng.choice(self.languages), rng.randint(self.min_items, self.max_items)
        words = items * rng.randint(4, 7)
        question = rng.choice(_ASKS[language]).format(items=items, words=words, topic=rng.choice(BANKS[language].topics))
        constraints = [{"type": "numbered_items", "min": items, "max": items}, {"type": "words", "min": words}]
        stop = BANKS[language].stop
        solution = "\n".join(f"{number}. {one}{stop}" for number, one in enumerate(plain_sentences(language, rng, items), 1))
        return Example(question=question, reference={"constraints": constraints}, solution=solution)
