"""Requests to write a text that keeps several verifiable rules, for the reward `instructions`.

Each problem starts from a plain text on nothing in particular and random rules, of which each changes the text so that it is
kept, or is measured on it. So there is always a text that keeps all of them, and rules that cannot stand together (all
small letters, starts with "Dear") never meet. `instruction_rules` has the rules; English and Chinese alike, and sometimes the
question is in one and the answer asked for in the other. Left out on purpose: rules about code, which `code_problems` has.
"""

from dataclasses import dataclass, field
from random import Random

from posttrain.data.generated.base import LANGUAGES, Example, Family, some_of, whole
from posttrain.data.generated.drafts import Draft, Rule
from posttrain.data.generated.instruction_rules import OTHER_LANGUAGE, RULES, measured_rules
from posttrain.data.generated.writing import BANKS, plain_sentences

_REQUESTS = {
    "en": ("Write a short text about {topic}.", "Tell me something about {topic}.", "Describe this: {topic}."),
    "zh": ("请写一段关于“{topic}”的短文。", "请谈谈“{topic}”。", "请描述：{topic}。"),
}
_HEADS = {"en": "Keep to these rules:", "zh": "请遵守以下要求："}


@dataclass(frozen=True, kw_only=True)
class Instructions(Family):
    """Texts with several rules to keep, of different kinds: layout, words, marks, case, start and end, language, length."""

    languages: list[str] = field(default_factory=lambda: [*LANGUAGES], metadata=some_of(LANGUAGES))
    min_rules: int = field(default=1, metadata=whole(1, 6))
    max_rules: int = field(default=4, metadata=whole(1, 6))
    cross_percent: int = field(default=10, metadata=whole(0, 100))  # of the problems ask in one language for an answer in the other

    def example(self, rng: Random) -> Example:
        """The reference is {"constraints": [...]} with one constraint a rule."""
        language = rng.choice(self.languages)
        count = rng.randint(self.min_rules, self.max_rules)
        draft = Draft(language=language, wording=language, sentences=[])
        crossed = rng.randrange(100) < self.cross_percent
        if crossed:
            draft.language = next(other for other in LANGUAGES if other != language)
        draft.sentences = plain_sentences(draft.language, rng, rng.randint(2, 5))
        for rule in _compatible(draft, rng, count, [OTHER_LANGUAGE] if crossed else []):
            rule.apply(draft, rng)
        text = draft.text()
        if len(draft.constraints) < self.max_rules and (len(draft.constraints) < count or rng.random() < 0.3):
            measured_rules(draft, text, rng)
        lines = [rng.choice(_REQUESTS[language]).format(topic=rng.choice(BANKS[language].topics)), _HEADS[language]]
        order = rng.sample(range(len(draft.wishes)), len(draft.wishes))
        lines += [f"- {draft.wishes[place]}" for place in order]
        return Example(question="\n".join(lines), reference={"constraints": [draft.constraints[place] for place in order]}, solution=text)


def _compatible(draft: Draft, rng: Random, count: int, given: list[Rule]) -> list[Rule]:
    """`given` and others, `count` in all or fewer, for the draft's language and none that clash, in the order to apply them."""
    chosen = [*given]
    for rule in rng.sample(RULES, len(RULES)):
        fits = draft.language in rule.languages and not any(rule.conflicts_with(other) for other in chosen)
        if fits and len(chosen) < count:
            chosen.append(rule)
    return [*given, *sorted(chosen[len(given) :], key=RULES.index)]
