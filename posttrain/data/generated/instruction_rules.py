"""The rules of generated writing tasks: what each asks for, and how a text comes to keep it.

A rule belongs to a slot, of which a text has one rule at most, and may clash with other slots or rules. They are applied in the
order of `RULES`: sentences first, then layout, then what stands around the text, then case.
"""

import re
from random import Random

from posttrain.data.generated.drafts import Draft, Rule


def other_language(draft: Draft, rng: Random) -> None:
    """The text is in its own language, not in the question's."""
    draft.keep({"type": "language_is", "language": draft.language}, "Answer in Chinese.", "请用英语回答。")


# Words


def all_keywords(draft: Draft, rng: Random) -> None:
    """Some words have to occur."""
    words = rng.sample(draft.bank.spare, rng.randint(1, 3))
    draft.sentences += _about(draft, words)
    listed = _listed(draft, words)
    draft.keep({"type": "keywords_present", "keywords": words}, f"Use each of these words: {listed}.", f"使用以下每个词：{listed}。")


def ordered_keywords(draft: Draft, rng: Random) -> None:
    """Some words have to occur in an order."""
    words = rng.sample(draft.bank.spare, rng.randint(2, 3))
    draft.sentences += _about(draft, words)
    listed = _listed(draft, words)
    draft.keep(
        {"type": "keywords_in_order", "keywords": words}, f"Use these words in this order: {listed}.", f"按此顺序使用以下词：{listed}。"
    )


def frequent_keyword(draft: Draft, rng: Random) -> None:
    """A word has to occur so many times."""
    word, times = rng.choice(draft.bank.spare), rng.randint(2, 3)
    draft.sentences += _about(draft, [word] * times)
    wish = {"type": "keyword", "keyword": word, "min": times}
    draft.keep(wish, f'Use the word "{word}" at least {times} times.', f"至少使用{times}次“{word}”这个词。")


def absent_keywords(draft: Draft, rng: Random) -> None:
    """Some words must not occur."""
    words = rng.sample(draft.bank.spare, rng.randint(1, 3))
    listed = _listed(draft, words)
    draft.keep({"type": "keywords_absent", "keywords": words}, f"Do not use any of these words: {listed}.", f"不要使用这些词：{listed}。")


def _listed(draft: Draft, words: list[str]) -> str:
    return {"en": ", ", "zh": "、"}[draft.wording].join(words)


def _about(draft: Draft, words: list[str]) -> list[str]:
    forms = {"en": "People there often talk about the {}", "zh": "那里的人常常谈起{}"}
    return [forms[draft.language].format(word) for word in words]


# Marks


def no_commas(draft: Draft, rng: Random) -> None:
    """The texts have none anyway."""
    draft.keep({"type": "no_commas"}, "Do not use any commas.", "不要使用逗号和顿号。")


def no_digits(draft: Draft, rng: Random) -> None:
    """The texts have none anyway."""
    draft.keep({"type": "no_digits"}, "Do not use any digits.", "不要使用阿拉伯数字。")


def no_exclamations(draft: Draft, rng: Random) -> None:
    """The texts have none unless a rule asks for them."""
    draft.keep({"type": "exclamations", "max": 0}, "Do not use exclamation marks.", "不要使用感叹号。")


def excited(draft: Draft, rng: Random) -> None:
    """Each sentence ends with an exclamation mark."""
    draft.stop = {"en": "!", "zh": "！"}[draft.language]
    wish = {"type": "sentences_end_with", "marks": ["!", "！"]}
    draft.keep(wish, "End every sentence with an exclamation mark.", "每句话都以感叹号结尾。")


def a_question(draft: Draft, rng: Random) -> None:
    """At least one sentence is a question."""
    draft.sentences.insert(1, {"en": "Who would not like that?", "zh": "谁不喜欢这样呢？"}[draft.language])
    draft.keep({"type": "questions", "min": 1}, "Ask at least one question.", "至少提出一个问题。")


# Layout


def num_sentences(draft: Draft, rng: Random) -> None:
    """So many sentences; no layout and nothing around the text."""
    number = len(draft.sentences)
    draft.keep({"type": "sentences", "min": number, "max": number}, f"Write exactly {number} sentences.", f"正好写{number}句话。")


def num_paragraphs(draft: Draft, rng: Random) -> None:
    """A paragraph a sentence."""
    number = len(draft.sentences)
    draft.join = "\n\n".join
    wish = {"type": "paragraphs", "min": number, "max": number}
    draft.keep(wish, f"Write exactly {number} paragraphs with a blank line between them.", f"正好写{number}段，段与段之间空一行。")


def num_bullets(draft: Draft, rng: Random) -> None:
    """A bullet a sentence."""
    number, mark = len(draft.sentences), rng.choice("-*")
    draft.join = lambda sentences: "\n".join(f"{mark} {one}" for one in sentences)
    wish = {"type": "bullets", "min": number, "max": number}
    draft.keep(
        wish,
        f"Write a list of exactly {number} bullets, each a line that begins with - or *.",
        f"写一个正好有{number}项的列表，每行以 - 或 * 开头。",
    )


def num_items(draft: Draft, rng: Random) -> None:
    """A number a sentence."""
    number = len(draft.sentences)
    draft.join = lambda sentences: "\n".join(f"{i}. {one}" for i, one in enumerate(sentences, 1))
    wish = {"type": "numbered_items", "min": number, "max": number}
    draft.keep(wish, f"Write a numbered list (1. 2. ...) of exactly {number} items.", f"写一个正好有{number}项的编号列表（1. 2. ……）。")


def num_headings(draft: Draft, rng: Random) -> None:
    """A heading a sentence."""
    number = len(draft.sentences)
    titles = rng.sample(draft.bank.topics, number)
    draft.join = lambda sentences: "\n\n".join(f"## {title}\n{one}" for title, one in zip(titles, sentences, strict=True))
    wish = {"type": "headings", "min": number, "max": number}
    draft.keep(wish, f"Use exactly {number} Markdown headings (## ...).", f"正好使用{number}个 Markdown 标题（## ……）。")


def num_sections(draft: Draft, rng: Random) -> None:
    """A section a sentence."""
    number, marker = len(draft.sentences), rng.choice(("SECTION", "Part", "Chapter"))
    draft.join = lambda sentences: "\n".join(f"{marker} {i}\n{one}" for i, one in enumerate(sentences, 1))
    wish = {"type": "sections", "marker": marker, "min": number, "max": number}
    draft.keep(
        wish,
        f'Divide the text into {number} sections; each begins with a line "{marker} 1", "{marker} 2" and so on.',
        f"把文章分成{number}节，每节以单独一行“{marker} 1”、“{marker} 2”等开头。",
    )


def separated(draft: Draft, rng: Random) -> None:
    """Lines of marks between sentences."""
    mark = rng.choice(("***", "---", "===", "====="))
    draft.join = f"\n{mark}\n".join
    wish = {"type": "paragraphs_separated_by", "separator": mark}
    draft.keep(wish, f"Separate the paragraphs by a line that holds {mark} alone.", f"用单独一行 {mark} 分隔各段。")


def two_answers(draft: Draft, rng: Random) -> None:
    """Two different answers with asterisks between them."""
    draft.join = lambda sentences: draft.bank.blank.join(sentences[:1]) + "\n******\n" + draft.bank.blank.join(sentences[1:])
    draft.keep(
        {"type": "two_responses"}, "Give two different answers with ****** between them.", "给出两个不同的回答，中间用 ****** 隔开。"
    )


def as_json(draft: Draft, rng: Random) -> None:
    """All of it as JSON."""
    draft.join = lambda sentences: '{"text": "' + draft.bank.blank.join(sentences) + '"}'
    draft.keep({"type": "json_only"}, "Answer with one JSON object and nothing else.", "只输出一个 JSON 对象，不要输出其他内容。")


# Extras


def highlights(draft: Draft, rng: Random) -> None:
    """Spans in asterisks."""
    number = rng.randint(1, 2)
    draft.sentences[:number] = [f"**{one}**" for one in draft.sentences[:number]]
    wish = {"type": "highlights", "min": number}
    draft.keep(wish, f"Highlight at least {number} part(s) of the text **like this**.", f"至少用 **这种方式** 强调{number}处文字。")


def placeholders(draft: Draft, rng: Random) -> None:
    """Square brackets to fill in."""
    number = rng.randint(1, 3)
    forms = {"en": "This happened to {}", "zh": "这件事发生在{}身上"}
    names = ("[name]", "[address]", "[date]")[:number]
    draft.sentences += [forms[draft.language].format(name) for name in names]
    wish = {"type": "placeholders", "min": number}
    draft.keep(
        wish, f"Use at least {number} placeholder(s) in square brackets, such as [name].", f"至少使用{number}个方括号占位符，例如 [name]。"
    )


def emojis(draft: Draft, rng: Random) -> None:
    """Pictures in the text."""
    number = rng.randint(1, 3)
    draft.sentences[0] = f"{draft.sentences[0]} {''.join(rng.sample('🌊🌲🍞🎻🌙', number))}"
    draft.keep({"type": "emojis", "min": number}, f"Use at least {number} emoji(s).", f"至少使用{number}个表情符号。")


# Around the text


def starts_with(draft: Draft, rng: Random) -> None:
    """A first phrase."""
    prefix = rng.choice(
        {"en": ("Dear reader", "Here is my view", "Well then"), "zh": ("亲爱的读者", "我的看法如下", "大家好")}[draft.language]
    )
    draft.around = (f"{prefix}{draft.stop or draft.bank.stop}{draft.bank.blank}", draft.around[1])
    draft.keep({"type": "starts_with", "prefix": prefix}, f'Start with the words "{prefix}".', f"以“{prefix}”开头。")


def ends_with(draft: Draft, rng: Random) -> None:
    """A last sentence."""
    last = rng.choice(
        {"en": ("That is all.", "Thank you for reading.", "The end."), "zh": ("就是这样。", "谢谢阅读。", "完。")}[draft.language]
    )
    draft.around = (draft.around[0], f"{draft.bank.blank}{last}")
    draft.keep({"type": "ends_with", "suffix": last}, f'End with exactly this: "{last}"', f"以这句话结尾：“{last}”")


def last_word(draft: Draft, rng: Random) -> None:
    """A last word."""
    word = rng.choice(draft.bank.spare)
    draft.around = (draft.around[0], f"{draft.bank.blank}{draft.bank.subjects[0]} {word}{draft.bank.stop}")
    draft.keep({"type": "last_word", "word": word}, f'The last word of your answer is "{word}".', f"回答的最后一个词是“{word}”。")


def first_word(draft: Draft, rng: Random) -> None:
    """A first word."""
    word = rng.choice(draft.bank.spare)
    draft.around = (f"{word} {draft.bank.subjects[0]}{draft.bank.stop}{draft.bank.blank}", draft.around[1])
    draft.keep({"type": "first_word", "word": word}, f'The first word of your answer is "{word}".', f"回答的第一个词是“{word}”。")


def quoted(draft: Draft, rng: Random) -> None:
    """Quotation marks around everything."""
    draft.around = ('"', '"') if draft.language == "en" else ("“", "”")
    draft.keep({"type": "quoted"}, "Put your whole answer in double quotation marks.", "把整个回答放在双引号里。")


def postscript(draft: Draft, rng: Random) -> None:
    """A paragraph behind the end."""
    last = {"en": "P.S. Take good care of yourself.", "zh": "P.S. 请多保重。"}[draft.language]
    draft.around = (draft.around[0], f"\n\n{last}")
    draft.keep(
        {"type": "postscript", "marker": "P.S."}, "At the end, add a postscript that starts with P.S.", "在结尾加上以 P.S. 开头的附言。"
    )


def titled(draft: Draft, rng: Random) -> None:
    """A title in double angle brackets."""
    title = rng.choice(draft.bank.topics)
    draft.around = (f"<<{title}>>\n", draft.around[1])
    draft.keep(
        {"type": "title"},
        "Begin with a title in double angle brackets, such as <<my title>>.",
        "开头写一个用双尖括号括起来的标题，例如 <<标题>>。",
    )


# Case


def lowercase(draft: Draft, rng: Random) -> None:
    """No capital letter."""
    draft.recase = str.lower
    draft.keep({"type": "lowercase"}, "Write everything in small letters.", "全部使用小写字母。")


def uppercase(draft: Draft, rng: Random) -> None:
    """No small letter."""
    draft.recase = str.upper
    draft.keep({"type": "uppercase"}, "Write everything in capital letters.", "全部使用大写字母。")


def title_case(draft: Draft, rng: Random) -> None:
    """Each word with a capital."""
    draft.recase = lambda text: re.sub("[A-Za-z]+", lambda word: word[0].capitalize(), text)
    draft.keep({"type": "title_case"}, "Start Every Word With A Capital Letter Like This.", "每个单词的首字母都要大写。")


def measured_rules(draft: Draft, text: str, rng: Random) -> None:
    """A rule about the length of the finished text, with room to spare."""
    number = len(text.split()) if draft.language == "en" else sum("\u4e00" <= character <= "\u9fff" for character in text)
    fewest, most = number * rng.randint(50, 80) // 100, number * rng.randint(130, 200) // 100 + 3
    size = round(len(text) * rng.uniform(1.2, 2.0), -1) + 20
    kind = rng.choice(("min", "max", "both", "size"))
    if kind == "size":
        draft.keep({"type": "characters", "max": int(size)}, f"Use at most {size:.0f} characters.", f"不超过{size:.0f}个字符。")
        return
    bounds = {"min": {"min": fewest}, "max": {"max": most}, "both": {"min": fewest, "max": most}}[kind]
    english = {"min": f"at least {fewest}", "max": f"at most {most}", "both": f"{fewest} to {most}"}[kind]
    chinese = {"min": f"至少{fewest}", "max": f"最多{most}", "both": f"{fewest}到{most}"}[kind]
    unit = {"en": "个词" if draft.language == "en" else "个汉字", "zh": "个汉字"}[draft.language]
    draft.keep(
        {"type": "words", **bounds},
        f"Write {english} words{'' if draft.language == 'en' else ' (Chinese characters)'}.",
        f"写{chinese}{unit}。",
    )


# Quotation marks hide a text from who looks for its language, and languages are told by their usual letters.
OTHER_LANGUAGE = Rule(other_language, "language", frozenset({"as_json", "quoted", "case"}))

_NO_FRAME = frozenset({"frame"})
_LINES = ("num_headings", "num_sections", "titled")
RULES = [
    Rule(highlights, "extras", frozenset({"as_json"})),
    *(Rule(rule, "words") for rule in (all_keywords, ordered_keywords, frequent_keyword)),
    Rule(a_question, "marks"),
    Rule(
        excited,
        "marks",
        frozenset({*_LINES, "num_items", "ends_with", "last_word", "first_word", "postscript", "emojis", "placeholders", "as_json"}),
    ),
    Rule(placeholders, "extras"),
    Rule(emojis, "extras"),
    Rule(absent_keywords, "words", frozenset({"last_word", "first_word"})),
    Rule(no_commas, "marks"),
    Rule(no_digits, "marks", frozenset({"num_items", "num_sections"})),
    Rule(no_exclamations, "marks"),
    Rule(num_sentences, "layout", frozenset({"frame", "emojis"})),
    Rule(num_paragraphs, "layout", frozenset({"postscript", "titled"})),
    Rule(num_bullets, "layout", _NO_FRAME),
    Rule(num_items, "layout", _NO_FRAME),
    Rule(num_headings, "layout", _NO_FRAME),
    Rule(num_sections, "layout", frozenset({"frame", "case"})),
    Rule(separated, "layout", _NO_FRAME),
    Rule(two_answers, "layout", _NO_FRAME),
    Rule(as_json, "layout", frozenset({"frame", "case", "highlights"})),
    Rule(starts_with, "frame", frozenset({"case"})),
    Rule(ends_with, "frame", frozenset({"case"})),
    Rule(first_word, "frame"),
    Rule(last_word, "frame"),
    Rule(quoted, "frame"),
    Rule(postscript, "frame", frozenset({"case"})),
    Rule(titled, "frame"),
    *(Rule(rule, "case", languages=("en",)) for rule in (lowercase, uppercase, title_case)),
]
