"""Open questions that only a judge can grade, for the reward `judge_rubric`: explaining, advising, comparing, inventing.

What is asked is put together at random, and each problem brings the aspects to grade it by. English and Chinese. Left out on
purpose: questions that have one right answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from posttrain.data.generated.base import LANGUAGES, Example, Family, some_of

_TOPICS = {
    "en": (
        *("why the sky is blue", "how a bicycle stays upright", "what inflation is", "how vaccines work", "why leaves fall in autumn"),
        *("how a bank earns money", "what a computer network is", "how bread rises", "why we sleep", "how tides come about"),
        *("what a prime number is", "how a refrigerator cools", "why ships float", "what a metaphor is", "how to read a map"),
    ),
    "zh": (
        *("天空为什么是蓝色的", "自行车为什么不会倒", "什么是通货膨胀", "疫苗是怎样起作用的", "秋天树叶为什么会落下", "银行怎样赚钱"),
        *(
            "什么是计算机网络",
            "面包为什么会发起来",
            "我们为什么要睡觉",
            "潮汐是怎样形成的",
            "什么是质数",
            "冰箱怎样制冷",
            "船为什么会浮起来",
        ),
    ),
}
_READERS = {
    "en": ("a child of eight", "a curious grandmother", "a student before an exam", "a busy manager", "somebody who learns English"),
    "zh": ("八岁的孩子", "好奇的老奶奶", "考试前的学生", "忙碌的经理", "正在学中文的人"),
}
_PROBLEMS = {
    "en": (
        *("keeps putting off homework", "has moved to a city without friends", "is afraid of speaking in public", "sleeps badly"),
        *("wants to spend less on food", "argues with a neighbour about noise", "has to choose between two jobs", "forgets names"),
    ),
    "zh": (
        "总是拖延作业",
        "搬到了一个没有朋友的城市",
        "害怕当众讲话",
        "睡眠不好",
        "想减少伙食开支",
        "因为噪音和邻居争吵",
        "要在两份工作中选择",
        "记不住名字",
    ),
}
_PAIRS = {
    "en": (
        *("trains and planes", "paper books and e-books", "renting and buying a flat", "cats and dogs as pets"),
        *("working at home and in an office", "team sports and running alone"),
    ),
    "zh": ("火车和飞机", "纸书和电子书", "租房和买房", "养猫和养狗", "在家办公和在办公室工作", "团队运动和独自跑步"),
}
_FORMS: Mapping[str, Mapping[str, str]] = {
    "explain": {"en": "Explain to {reader} {topic}, in {count} sentences.", "zh": "请用{count}句话向{reader}解释：{topic}。"},
    "advise": {"en": "A friend {problem}. Give {count} pieces of advice.", "zh": "一个朋友{problem}。请给出{count}条建议。"},
    "compare": {"en": "Compare {pair} for {reader}, with {count} points for each.", "zh": "请为{reader}比较{pair}，各说{count}点。"},
    "invent": {
        "en": "Invent a short scene of {count} sentences in which somebody who {problem} meets {reader}.",
        "zh": "请编一个{count}句话的小场景：一个人{problem}，他遇到了{reader}。",
    },
}
_ASPECTS: Mapping[str, Mapping[str, str]] = {
    "explain": {
        "correct": "What it says is true and leaves out nothing essential.",
        "fitting": "The named reader can follow it without help.",
    },
    "advise": {
        "useful": "Each piece of advice is different, can be acted on, and fits the problem.",
        "careful": "It does no harm and does not presume.",
    },
    "compare": {
        "balanced": "Both sides get the number of points asked for, and neither is favoured without reason.",
        "correct": "What it says is true.",
    },
    "invent": {"coherent": "It is a scene in which one thing leads to the next.", "original": "It is vivid and not made of stock phrases."},
}
_ALWAYS = {"complete": "It does what was asked, with the number asked for, in the language of the question, and nothing else."}


@dataclass(frozen=True, kw_only=True)
class OpenQuestions(Family):
    """Questions without one right answer, each with its rubric."""

    forms: list[str] = field(default_factory=lambda: [*_FORMS], metadata=some_of([*_FORMS]))
    languages: list[str] = field(default_factory=lambda: [*LANGUAGES], metadata=some_of(LANGUAGES))

    def example(self, rng: Random) -> Example:
        """There is no reference and no solution; the metadata hold `rubric`, from aspect to description."""
        language, form = rng.choice(self.languages), rng.choice(self.forms)
        pieces: dict[str, Mapping[str, Sequence[str]]] = {"reader": _READERS, "topic": _TOPICS, "problem": _PROBLEMS, "pair": _PAIRS}
        drawn = {name: rng.choice(choices[language]) for name, choices in pieces.items()}
        question = _FORMS[form][language].format(count=rng.randint(2, 5), **drawn)
        return Example(question=question, reference=None, solution=None, metadata={"rubric": {**_ALWAYS, **_ASPECTS[form]}})
