"""Numbers to be found by questions, for the environment `twenty_questions`.

The range stands in the question and moves, so that no two problems are the same and none can be known by heart.
"""

from dataclasses import dataclass, field
from random import Random

from posttrain.data.generated.base import Example, Family, whole

_ASK = (
    "I am thinking of a whole number from {low} to {high}. Find it with at most {questions} questions, one in each of your messages: "
    'such as "Is it greater than {middle}?", "Is it even?" or "Is it divisible by 3?". I answer yes or no. '
    'You win when you ask for the number itself, as in "Is it {middle}?".'
)


@dataclass(frozen=True, kw_only=True)
class NumberQuestions(Family):
    """One of `span` numbers, in as many questions."""

    span: int = field(default=8, metadata=whole(2, 1000))
    num_questions: int = field(default=5, metadata=whole(1, 100))

    def example(self, rng: Random) -> Example:
        """The reference is {"number", "num_questions"}."""
        low = rng.randint(1, 9000)
        high = low + self.span - 1
        question = _ASK.format(low=low, high=high, middle=(low + high) // 2, questions=self.num_questions)
        reference = {"number": rng.randint(low, high), "num_questions": self.num_questions}
        return Example(question=question, reference=reference, solution=None)
