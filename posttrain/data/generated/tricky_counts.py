"""Counting where the obvious number is wrong, for the reward `counting`: claims that mislead, spelling mistakes, worlds that differ.

A claim is right in one of four problems, so that disbelief is no answer either. English and Chinese. Left out on purpose:
riddles that turn on one known text, which a model learns by heart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from posttrain.data.generated.base import LANGUAGES, Example, Family, some_of, whole

_WORDS = (
    *("strawberry", "committee", "bookkeeper", "mississippi", "parallel", "embarrass", "accommodate", "millennium", "raspberry"),
    *("cinnamon", "balloon", "tomorrow", "assessment", "mammal", "occurrence", "possession", "necessary", "recommend", "successful"),
)
_ANIMALS = (("dog", "狗", 4), ("cat", "猫", 4), ("hen", "母鸡", 2), ("spider", "蜘蛛", 8), ("beetle", "甲虫", 6))
_PEOPLE = (("Anna", "安娜"), ("Maria", "玛丽"), ("Ella", "小丽"), ("Nora", "小红"))

# Question in English, in Chinese, and the count.
Asked = tuple[str, str, int]


def letters(rng: Random) -> Asked:
    """A letter of a word, often misspelt, after somebody's claim."""
    word = rng.choice(_WORDS)
    if rng.random() < 0.5:
        place = rng.randrange(len(word))
        word = word[:place] + word[place] * rng.randint(1, 2) + word[place:]
    letter = rng.choice(word)
    count = word.count(letter)
    claim = count if rng.random() < 0.25 else max(0, count + rng.choice((-1, 1, 2)))
    return (
        f'Somebody claims that "{word}", as it is spelt here, has the letter {letter} {claim} time(s). '
        f"How many times does {letter} stand in it?",
        f"有人说“{word}”这个拼写里有{claim}个字母 {letter}。其中到底有几个 {letter}？",
        count,
    )


def all_but(rng: Random) -> Asked:
    """All but some are gone."""
    total, left = rng.randint(10, 60), rng.randint(2, 9)
    return (
        f"A farmer has {total} sheep. All but {left} run away. How many sheep does the farmer still have?",
        f"农夫有{total}只羊，除了{left}只以外全都跑了。农夫还剩几只羊？",
        left,
    )


def legs(rng: Random) -> Asked:
    """Animals of another world."""
    english, chinese, usual = rng.choice(_ANIMALS)
    each, number = usual + rng.choice((-1, 1, 2)), rng.randint(2, 9)
    return (
        f"In a story every {english} has {each} legs instead of {usual}. How many legs do {number} animals of this kind have there?",
        f"在一个故事里，每只{chinese}不是{usual}条腿，而是{each}条腿。那里{number}只{chinese}一共有几条腿？",
        each * number,
    )


def siblings(rng: Random) -> Asked:
    """The girl is one of her brothers' sisters."""
    (english, chinese), brothers, sisters = rng.choice(_PEOPLE), rng.randint(2, 6), rng.randint(2, 6)
    return (
        f"The girl {english} has {brothers} brothers, and each of these brothers has {sisters} sisters. They all have the same parents. "
        f"How many sisters does {english} have?",
        f"女孩{chinese}有{brothers}个兄弟，每个兄弟都有{sisters}个姐妹，他们父母相同。{chinese}有几个姐妹？",
        sisters - 1,
    )


def posts(rng: Random) -> Asked:
    """One post more than gaps, or as many in a ring."""
    gap, number = rng.randint(2, 9), rng.randint(3, 12)
    if rng.random() < 0.5:
        return (
            f"A straight fence is {gap * number} metres long and has a post every {gap} metres, at both ends too. "
            "How many posts are there?",
            f"一条直的栅栏长{gap * number}米，每隔{gap}米有一根柱子，两端也有。一共有几根柱子？",
            number + 1,
        )
    return (
        f"A fence around a round pond is {gap * number} metres long and has a post every {gap} metres. How many posts are there?",
        f"围绕圆形池塘的栅栏长{gap * number}米，每隔{gap}米有一根柱子。一共有几根柱子？",
        number,
    )


def cuts(rng: Random) -> Asked:
    """One cut fewer than pieces."""
    pieces, minutes = rng.randint(3, 12), rng.randint(2, 6)
    return (
        f"A log is sawn into {pieces} pieces, one cut after another; a cut takes {minutes} minutes. How many minutes does the sawing take?",
        f"一根木头要一刀一刀锯成{pieces}段，每锯一刀需要{minutes}分钟。一共需要几分钟？",
        (pieces - 1) * minutes,
    )


def days(rng: Random) -> Asked:
    """Both ends count."""
    first = rng.randint(1, 14)
    last = first + rng.randint(2, 14)
    return (
        f"A shop is closed from the {first}. to the {last}. of May, both days included. On how many days is it closed?",
        f"一家商店从五月{first}日到五月{last}日关门，首尾两天都算。一共关门几天？",
        last - first + 1,
    )


def overtaking(rng: Random) -> Asked:
    """Whoever passes the third is third."""
    place, runners = rng.randint(2, 9), rng.randint(12, 30)
    return (
        f"In a race of {runners} runners you overtake the one in place {place}. Which place are you in now? Give the number.",
        f"在{runners}人的赛跑中，你超过了第 {place} 名的人。你现在排第几？请给出数字。",
        place,
    )


KINDS: Mapping[str, Callable[[Random], Asked]] = {
    kind.__name__: kind for kind in (letters, all_but, legs, siblings, posts, cuts, days, overtaking)
}


@dataclass(frozen=True, kw_only=True)
class TrickyCounts(Family):
    """Questions for a count whose obvious answer is wrong; half of them about letters by default."""

    kinds: list[str] = field(default_factory=lambda: [*KINDS], metadata=some_of([*KINDS]))
    languages: list[str] = field(default_factory=lambda: [*LANGUAGES], metadata=some_of(LANGUAGES))
    letters_percent: int = field(default=40, metadata=whole(0, 100))  # of the problems, where letters is one of the kinds

    def example(self, rng: Random) -> Example:
        """The reference is the count."""
        others = [kind for kind in self.kinds if kind != "letters"]
        is_letters = "letters" in self.kinds and (not others or rng.randrange(100) < self.letters_percent)
        *asked, count = KINDS["letters" if is_letters else rng.choice(others)](rng)
        return Example(question=str(asked[LANGUAGES.index(rng.choice(self.languages))]), reference=count, solution=f"\\boxed{{{count}}}")
