"""Plain sentences in English and Chinese, which generated answers are put together from: no commas, digits, quotation marks or names.

Left out on purpose: good style. These texts prove that a request can be met; nobody is to learn to write from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Bank:
    """Pieces of one language. A sentence is `form` with one of each; none of the words of `spare` stands in any of them.

    blank parts words and sentences, and stop ends a sentence.
    """

    form: str
    openings: tuple[str, ...]
    subjects: tuple[str, ...]
    verbs: tuple[str, ...]
    places: tuple[str, ...]
    spare: tuple[str, ...]
    topics: tuple[str, ...]
    blank: str
    stop: str


BANKS: Mapping[str, Bank] = {
    "en": Bank(
        form="{opening} {subject} {verb} {place}",
        openings=("Every morning", "In autumn", "Before sunset", "On quiet days", "After the rain", "During the holidays", "At night"),
        subjects=(
            "a young baker",
            "the old teacher",
            "our neighbour",
            "a careful gardener",
            "the village doctor",
            "my sister",
            "a small child",
        ),
        verbs=("walks slowly", "looks for new ideas", "meets good friends", "works with patience", "finds fresh bread", "listens to music"),
        places=("near the harbour", "in the green valley", "behind the station", "along the river", "under tall trees", "at the market"),
        spare=("bridge", "winter", "lamp", "silver", "kitchen", "letter", "mountain", "violin", "garden", "paper", "storm", "coffee"),
        topics=(
            *("a day at the sea", "learning to cook", "an old bicycle", "a school trip", "moving to a new city", "a walk in the forest"),
            *("keeping a diary", "a lost umbrella", "the first snow", "a long train ride", "growing tomatoes", "a broken clock"),
            *("a family dinner", "reading before sleep", "a small shop", "helping a neighbour", "the night sky", "a weekly market"),
        ),
        blank=" ",
        stop=".",
    ),
    "zh": Bank(
        form="{opening}{subject}在{place}{verb}",
        openings=("每天早上", "在秋天里", "日落之前", "安静的日子里", "下雨之后", "放假的时候", "到了晚上"),
        subjects=("年轻的面包师", "老教师", "我们的邻居", "细心的园丁", "村里的医生", "我的姐姐", "小小的孩子"),
        verbs=("慢慢地散步", "寻找新的想法", "会见要好的朋友", "耐心地工作", "买到新鲜的面包", "静静地听音乐"),
        places=("靠近港口的地方", "绿色的山谷里", "车站的后面", "河的旁边", "高大的树下", "热闹的市场里"),
        spare=("大桥", "冬天", "台灯", "银色", "厨房", "信件", "高山", "提琴", "花园", "纸张", "风暴", "咖啡"),
        topics=(
            *("海边的一天", "学习做饭", "一辆旧自行车", "学校的旅行", "搬到新的城市", "森林里的散步", "写日记", "丢失的雨伞"),
            *("第一场雪", "长途火车旅行", "种番茄", "坏掉的钟", "家庭晚餐", "睡前阅读", "一家小店", "帮助邻居", "夜空", "周末的市场"),
        ),
        blank="",
        stop="。",
    ),
}


def plain_sentences(language: str, rng: Random, count: int) -> list[str]:
    """`count` sentences without their full stops; of the first 42, no two say that the same person does the same."""
    bank = BANKS[language]
    acts = [(subject, verb) for subject in bank.subjects for verb in bank.verbs]
    chosen = rng.sample(acts, min(count, len(acts))) + rng.choices(acts, k=max(0, count - len(acts)))
    return [bank.form.format(opening=rng.choice(bank.openings), subject=s, verb=v, place=rng.choice(bank.places)) for s, v in chosen]
