"""Descriptions to be written down as JSON, for the reward `json_schema`: small random schemas, and the value that follows from the text.

The question names the fields and their kinds, or shows the schema; the answer has to be valid and to hold what was described. English
and Chinese. Left out on purpose: schemas with references, alternatives or patterns, and values that have to be worked out.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from posttrain.data.generated.base import LANGUAGES, Example, Family, some_of, whole

Json = dict[str, Any]
FORMS = ("fields", "schema")


@dataclass(frozen=True, slots=True)
class _Field:
    """A property: how a value is drawn, its schema, how it is said in each language ({} is the value), and what kind it is."""

    draw: Callable[[Random, str], Any]
    schema: Json
    said: tuple[str, str]
    kind: tuple[str, str]


_NAMES = {
    "en": ("Anna Berg", "Tom Reed", "Mia Stone", "Omar Haddad", "Lena Fox", "Ivan Petrov"),
    "zh": ("王芳", "李强", "张敏", "刘洋", "陈静"),
}
_CITIES = {"en": ("Oslo", "Lima", "Cairo", "Turin", "Quebec"), "zh": ("北京", "上海", "成都", "西安", "广州")}
_JOBS = {"en": ("nurse", "pilot", "baker", "lawyer", "farmer"), "zh": ("护士", "飞行员", "面包师", "律师", "农民")}
_SPEECHES = {"en": ("English", "Spanish", "Arabic", "Hindi", "French"), "zh": ("中文", "英语", "法语", "日语", "俄语")}
_THINGS = {"en": ("lamp", "chair", "kettle", "backpack", "blanket"), "zh": ("台灯", "椅子", "水壶", "背包", "毯子")}
_COLORS = {"en": ("red", "blue", "green", "black"), "zh": ("红色", "蓝色", "绿色", "黑色")}
_TEXT, _BOOLEAN = ("text", "文本"), ("true or false", "true 或 false")
_INTEGER, _NUMBER, _LIST = ("whole number", "整数"), ("number", "数字"), ("list of texts", "文本列表")
_STRING: Json = {"type": "string"}
_STRINGS: Json = {"type": "array", "items": {"type": "string"}}


def _one(words: Mapping[str, tuple[str, ...]]) -> Callable[[Random, str], str]:
    return lambda rng, language: rng.choice(words[language])


def _several(words: Mapping[str, tuple[str, ...]]) -> Callable[[Random, str], list[str]]:
    return lambda rng, language: rng.sample(words[language], rng.randint(2, 3))


def _number(low: int, high: int) -> Callable[[Random, str], int]:
    return lambda rng, language: rng.randint(low, high)


def _price(rng: Random, language: str) -> float:
    return rng.randint(100, 9900) / 100


def _truth(rng: Random, language: str) -> bool:
    return rng.random() < 0.5


_PLACE: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "number": {"type": "integer"}},
    "required": ["city", "number"],
    "additionalProperties": False,
}


def _address(rng: Random, language: str) -> Json:
    return {"city": rng.choice(_CITIES[language]), "number": rng.randint(1, 200)}


_ADDRESS = _Field(
    _address,
    _PLACE,
    ("The address is number {number} in {city}.", "地址是{city}{number}号。"),
    ("object with city and number", "含 city 和 number 的对象"),
)
_OBJECTS: Mapping[str, Mapping[str, _Field]] = {
    "person": {
        "name": _Field(_one(_NAMES), _STRING, ("The person is called {}.", "这个人叫{}。"), _TEXT),
        "age": _Field(_number(18, 90), {"type": "integer", "minimum": 0}, ("The age is {} years.", "年龄是{}岁。"), _INTEGER),
        "job": _Field(_one(_JOBS), _STRING, ("The job is {}.", "职业是{}。"), _TEXT),
        "languages": _Field(_several(_SPEECHES), _STRINGS, ("Languages spoken, in this order: {}.", "会说的语言依次是{}。"), _LIST),
        "married": _Field(_truth, {"type": "boolean"}, ("Married: {}.", "已婚：{}。"), _BOOLEAN),
        "height_m": _Field(
            lambda rng, _: rng.randint(150, 199) / 100, {"type": "number"}, ("The height is {} metres.", "身高{}米。"), _NUMBER
        ),
        "address": _ADDRESS,
    },
    "product": {
        "title": _Field(_one(_THINGS), _STRING, ("The article is a {}.", "商品是{}。"), _TEXT),
        "price": _Field(_price, {"type": "number", "exclusiveMinimum": 0}, ("It costs {}.", "价格是{}。"), _NUMBER),
        "stock": _Field(_number(0, 500), {"type": "integer", "minimum": 0}, ("There are {} in stock.", "库存{}件。"), _INTEGER),
        "colors": _Field(_several(_COLORS), _STRINGS, ("It comes in these colors, in this order: {}.", "颜色依次有{}。"), _LIST),
        "used": _Field(_truth, {"type": "boolean"}, ("Second-hand: {}.", "二手：{}。"), _BOOLEAN),
        "warehouse": _ADDRESS,
    },
    "meeting": {
        "host": _Field(_one(_NAMES), _STRING, ("The host is {}.", "主持人是{}。"), _TEXT),
        "city": _Field(_one(_CITIES), _STRING, ("It takes place in {}.", "地点在{}。"), _TEXT),
        "guests": _Field(_several(_NAMES), _STRINGS, ("The guests are, in this order: {}.", "来宾依次是{}。"), _LIST),
        "minutes": _Field(_number(10, 180), {"type": "integer"}, ("It takes {} minutes.", "时长{}分钟。"), _INTEGER),
        "online": _Field(_truth, {"type": "boolean"}, ("Online: {}.", "线上：{}。"), _BOOLEAN),
    },
}
_SENTENCES = {
    "en": {
        "ask": "Write this as one JSON object.",
        "fields": "Fields, all required: {}.",
        "schema": "It must be valid under this JSON Schema: {}",
    },
    "zh": {"ask": "请把以下内容写成一个 JSON 对象。", "fields": "必需的字段：{}。", "schema": "它必须符合以下 JSON Schema：{}"},
}
_WORDS = {"en": {True: "yes", False: "no", "joint": ", "}, "zh": {True: "是", False: "否", "joint": "、"}}


@dataclass(frozen=True, kw_only=True)
class JsonObjects(Family):
    """A described person, product or meeting, as a JSON object of a few fields; schemas are shown or told field by field."""

    languages: list[str] = field(default_factory=lambda: [*LANGUAGES], metadata=some_of(LANGUAGES))
    forms: list[str] = field(default_factory=lambda: [*FORMS], metadata=some_of(FORMS))
    min_fields: int = field(default=2, metadata=whole(1, 5))
    max_fields: int = field(default=5, metadata=whole(1, 5))

    def example(self, rng: Random) -> Example:
        """The reference is {"schema": ..., "value": ...}."""
        language, known = rng.choice(self.languages), _OBJECTS[rng.choice([*_OBJECTS])]
        names = rng.sample([*known], min(rng.randint(self.min_fields, self.max_fields), len(known)))
        value = {name: known[name].draw(rng, language) for name in names}
        schema = {
            "type": "object",
            "properties": {name: known[name].schema for name in names},
            "required": names,
            "additionalProperties": False,
        }
        place = LANGUAGES.index(language)
        told = [_said(known[name].said[place], value[name], language) for name in rng.sample(names, len(names))]
        kinds = (", " if language == "en" else "、").join(f"{name} ({known[name].kind[place]})" for name in names)
        form = rng.choice(self.forms)
        asked = _SENTENCES[language][form].format(kinds if form == "fields" else json.dumps(schema, ensure_ascii=False))
        question = f"{_SENTENCES[language]['ask']}\n{(' ' if language == 'en' else '').join(told)}\n{asked}"
        return Example(question=question, reference={"schema": schema, "value": value}, solution=json.dumps(value, ensure_ascii=False))


def _said(form: str, value: Any, language: str) -> str:
    if isinstance(value, dict):
        return form.format(**value)
    if isinstance(value, list):
        return form.format(_WORDS[language]["joint"].join(value))
    return form.format(_WORDS[language][value] if isinstance(value, bool) else value)
