"""Requests that tempt a policy to repeat itself: many items of one kind, a story with a refrain, the same thing said for everyone.

The reference asks for the number of items and their length; the reward `repetition` takes off what stands twice. English and
Chinese. Left out on purpose: requests that ask for repetition itself, such as "say it ten times".
"""

from dataclasses import dataclass, field
from random import Random

from posttrain.data.generated.base import LANGUAGES, Example, Family, some_of, whole
from posttrain.data.generated.writing import BANKS

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
# No character begins two pastimes of a language, or ends two: so no four words of a list stand in it twice.
_PEOPLE = {
    "en": (
        *("Teachers", "Doctors", "Farmers", "Drivers", "Painters", "Singers", "Fishermen", "Carpenters", "Nurses", "Officers"),
        *("Students", "Clerks", "Postmen", "Tailors", "Guides", "Poets", "Captains", "Neighbours", "Children", "Grandmothers"),
    ),
    "zh": (
        *("教师", "医生", "农民", "司机", "画家", "歌手", "渔夫", "木匠", "护士", "军官"),
        *("学者", "店员", "邮差", "裁缝", "导游", "诗人", "船长", "队友", "孩童", "祖母"),
    ),
}
_PASTIMES = {
    "en": (
        *("swimming", "singing", "running", "gardening", "fishing", "reading", "climbing", "cooking", "painting", "chess"),
        *("riding", "writing", "knitting", "sailing", "dancing", "hiking", "skating", "travelling", "baking", "cycling"),
    ),
    "zh": (
        *("游泳", "唱歌", "跑步", "种花", "钓鱼", "看书", "爬山", "做饭", "画画", "下棋"),
        *("骑马", "写信", "喝茶", "听雨", "跳舞", "拍照", "养猫", "划船", "旅行", "品酒"),
    ),
}
_ITEMS = {"en": "{number}. {who} enjoy {likes} but fear {fears}.", "zh": "{number}. {who}喜欢{likes}却怕{fears}。"}
_ITEM_WORDS = {"en": (4, 7), "zh": (6, 11)}  # the most is what an item of ours has, its number included


@dataclass(frozen=True, kw_only=True)
class LongLists(Family):
    """Numbered lists that are long enough to run out of ideas."""

    languages: list[str] = field(default_factory=lambda: [*LANGUAGES], metadata=some_of(LANGUAGES))
    min_items: int = field(default=5, metadata=whole(3, 20))
    max_items: int = field(default=12, metadata=whole(3, 20))

    def example(self, rng: Random) -> Example:
        """The reference is {"constraints": [...]}: the items and the words, or characters in Chinese."""
        language, items = rng.choice(self.languages), rng.randint(self.min_items, self.max_items)
        words = items * rng.randint(*_ITEM_WORDS[language])
        question = rng.choice(_ASKS[language]).format(items=items, words=words, topic=rng.choice(BANKS[language].topics))
        constraints = [{"type": "numbered_items", "min": items, "max": items}, {"type": "words", "min": words}]
        people, likes = rng.sample(_PEOPLE[language], items), rng.sample(_PASTIMES[language], items)
        rows = zip(range(1, items + 1), people, likes, likes[1:] + likes[:1], strict=True)
        solution = "\n".join(_ITEMS[language].format(number=n, who=who, likes=one, fears=other) for n, who, one, other in rows)
        return Example(question=question, reference={"constraints": constraints}, solution=solution)
