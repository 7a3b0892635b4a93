"""What a run needs of its teachers, checked before anything is started: their vocabulary, their length, their chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posttrain.builtin_models import resolve
from posttrain.config import Config
from posttrain.errors import UserError
from posttrain.inputs import Inputs
from posttrain.model import load_tokenizer, max_context_tokens, num_output_rows
from posttrain.rollout.render import Renderer
from posttrain.types import IntArray, Prompt

KEY = "algo.teacher"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherInputs:
    """A teacher, and the training prompts of its tasks by prompt id, as its own chat template renders them.

    output_rows: the student's, to which the teacher's padding is cut.
    """

    name: str
    path: str
    output_rows: int
    prompts: dict[str, IntArray]


def prepare_teachers(config: Config, inputs: Inputs, paths: Mapping[str, str]) -> list[TeacherInputs]:
    """Loads the tokenizers of all teachers; `paths` has one for each task. Tasks with one path share a teacher.

    Raises:
        UserError: a teacher cannot be loaded, has another vocabulary, or cannot take a prompt.
    """
    vocabulary: dict[str, int] = load_tokenizer(inputs.model_path).get_vocab()
    rows = num_output_rows(inputs.model_path)
    teachers = []
    for index, named in enumerate(dict.fromkeys(paths.values())):
        path = resolve(named, KEY)
        tokenizer = load_tokenizer(path, KEY)
        difference = vocabulary_difference(tokenizer.get_vocab(), vocabulary)
        if num_output_rows(path, KEY) < rows:
            difference = difference or f"its output layer has {num_output_rows(path, KEY)} rows, the student's {rows}"
        if difference:
            raise UserError(f"{KEY}={named}: expected the vocabulary of model.path={config.model.path}, but {difference}")
        prompts = [prompt for task in paths if paths[task] == named for prompt, _ in inputs.tasks[task].train]
        rendered = _render(prompts, Renderer(tokenizer), max_context_tokens(path, KEY) - config.rollout.max_completion_tokens, named)
        teachers.append(TeacherInputs(name=f"teacher_{index}", path=path, output_rows=rows, prompts=rendered))
    return teachers


def vocabulary_difference(teacher: Mapping[str, int], student: Mapping[str, int]) -> str | None:
    """In what two tokenizers differ, None where they map the same tokens to the same ids."""
    if teacher == student:
        return None
    if len(teacher) != len(student):
        return f"it has {len(teacher)} tokens, the student {len(student)}"
    token = min((token for token in student if teacher.get(token) != student[token]), key=student.__getitem__)
    return f"token {token!r} is {student[token]} to the student and {teacher.get(token, 'unknown')} to it"


def _render(prompts: Sequence[Prompt], renderer: Renderer, room: int, teacher: str) -> dict[str, IntArray]:
    rendered = {prompt.id: renderer.prompt(prompt.messages) for prompt in prompts}
    longest = max(rendered, key=lambda name: len(rendered[name]))
    if len(rendered[longest]) > room:
        raise UserError(f"{KEY}={teacher}: prompt {longest} has {len(rendered[longest])} tokens in its template, expected at most {room}")
    return rendered
