"""Questions in one language about a sentence in another: prompts at which a policy slips out of the language it was asked in.

The question is in English or Chinese, the quotation in another language. The reference asks for words that a right answer holds
and for some length, so that neither silence nor a word-for-word copy pays. Rewards: `language` and `instructions`. Left out on
purpose: questions that ask for a translation into a third language, which `language` would punish.
"""

from dataclasses import dataclass, field
from random import Random

from posttrain.data.generated.base import LANGUAGES, Example, Family, some_of, whole

QUOTED = ("en", "zh", "de", "es", "fr", "ru")
# Each row says one thing in all languages: English, Chinese, German, Spanish, French, Russian.
_WHO = (
    ("the dog", "狗", "der Hund", "el perro", "le chien", "собака"),
    ("the cat", "猫", "die Katze", "el gato", "le chat", "кошка"),
    ("the teacher", "老师", "der Lehrer", "el profesor", "le professeur", "учитель"),
    ("the girl", "女孩", "das Mädchen", "la niña", "la fille", "девочка"),
    ("the doctor", "医生", "der Arzt", "el médico", "le médecin", "врач"),
    ("the king", "国王", "der König", "el rey", "le roi", "король"),
    ("the bird", "鸟", "der Vogel", "el pájaro", "l'oiseau", "птица"),
)
_DOES = (
    ("sleeps", "睡觉", "schläft", "duerme", "dort", "спит"),
    ("sings", "唱歌", "singt", "canta", "chante", "поёт"),
    ("works", "工作", "arbeitet", "trabaja", "travaille", "работает"),
    ("eats", "吃东西", "isst", "come", "mange", "ест"),
    ("waits", "等待", "wartet", "espera", "attend", "ждёт"),
)
_WHERE = (
    ("in the garden", "花园", "im Garten", "en el jardín", "dans le jardin", "в саду"),
    ("at the school", "学校", "in der Schule", "en la escuela", "à l'école", "в школе"),
    ("on the bridge", "桥", "auf der Brücke", "en el puente", "sur le pont", "на мосту"),
    ("in the kitchen", "厨房", "in der Küche", "en la cocina", "dans la cuisine", "на кухне"),
    ("at the market", "市场", "auf dem Markt", "en el mercado", "au marché", "на рынке"),
    ("by the river", "河", "am Fluss", "junto al río", "près de la rivière", "у реки"),
)
_WHEN = (
    ("today", "今天", "heute", "hoy", "aujourd'hui", "сегодня"),
    ("every evening", "每天晚上", "jeden Abend", "cada noche", "chaque soir", "каждый вечер"),
    ("again", "又一次", "wieder", "otra vez", "encore", "опять"),
)
_ASKS = {
    "en": (
        "What does this sentence mean: {quote} Say in at least {words} words who does what, and where.",
        "A friend sent me this message and I cannot read it: {quote} Please explain to me in at least {words} words what it says.",
        "My textbook has the sentence {quote} Explain in at least {words} words what happens in it and which word names the place.",
    ),
    "zh": (
        "这句话是什么意思：{quote}请用至少{words}个字说明谁在哪里做什么。",
        "朋友给我发来了这条消息，我看不懂：{quote}请用至少{words}个字向我解释它说了什么。",
        "我的课本里有这样一句话：{quote}请用至少{words}个字解释句子里发生了什么，以及哪个词表示地点。",
    ),
}
_FILLER = {
    "en": (
        "It is a plain statement about something that happens in daily life",
        "The first part names who is acting and the last part tells us about the place",
        "Nothing else is said about the reason or about other people",
        "You could use this sentence as a simple example when you learn the language",
    ),
    "zh": (
        "这是一个关于日常生活的简单陈述",
        "句子的前面说的是谁在行动，后面告诉我们地点在哪里",
        "句子没有提到原因，也没有提到其他的人",
        "学习这门语言的时候，可以把它当作一个简单的例子",
    ),
}


@dataclass(frozen=True, kw_only=True)
class LanguageMixing(Family):
    """Explain a quoted sentence of another language in the language of the question."""

    languages: list[str] = field(default_factory=lambda: [*LANGUAGES], metadata=some_of(LANGUAGES))
    quoted: list[str] = field(default_factory=lambda: [*QUOTED], metadata=some_of(QUOTED))
    min_words: int = field(default=15, metadata=whole(5, 40))
    max_words: int = field(default=30, metadata=whole(5, 40))

    def __post_init__(self) -> None:
        """Raises ValueError: a question in the only quoted language."""
        super().__post_init__()
        if len(self.quoted) == 1 and self.quoted[0] in self.languages:
            raise ValueError(f"quoted={self.quoted}: expected a language that is not among languages={self.languages}")

    def example(self, rng: Random) -> Example:
        """The reference is {"constraints": [...]}: the length, who, where, and the language."""
        language = rng.choice(self.languages)
        other = rng.choice([one for one in self.quoted if one != language])
        who, does, where, when = (rng.choice(rows) for rows in (_WHO, _DOES, _WHERE, _WHEN))
        words = rng.randint(self.min_words, self.max_words)
        quote = _sentence(other, *(row[QUOTED.index(other)] for row in (who, does, where, when)))
        marks = "“{}”" if language == "zh" else '"{}"'
        own = [row[QUOTED.index(language)] for row in (who, does, where, when)]
        constraints = [
            {"type": "words", "min": words},
            {"type": "keywords_present", "keywords": [own[0].removeprefix("the "), own[2].rpartition(" ")[2]]},
            {"type": "language_is", "language": language},
        ]
        meaning = _sentence(language, *own)
        stop = {"en": ". ", "zh": "。"}[language]
        opening = {"en": "It says this. ", "zh": "它的意思是，"}[language]
        solution = f"{opening}{meaning}{stop[1:]}{stop.join(_FILLER[language])}{stop.strip()}"
        return Example(
            question=rng.choice(_ASKS[language]).format(quote=marks.format(quote), words=words),
            reference={"constraints": constraints},
            solution=solution,
        )


def _sentence(language: str, who: str, does: str, where: str, when: str) -> str:
    if language == "zh":
        return f"{who}{when}在{where}那里{does}。"
    text = f"{who} {does} {when} {where}"
    return f"{text[0].upper()}{text[1:]}."
