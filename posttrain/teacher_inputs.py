"""What a run needs of its teachers, checked before anything is started: their vocabulary, their length, their chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.builtin_models import resolve
from posttrain.config import Config
from posttrain.errors import RunError, UserError
from posttrain.inputs import Inputs
from posttrain.model import load_tokenizer, max_context_tokens, num_output_rows
from posttrain.pixels import image_geometry
from posttrain.rollout.render import Renderer
from posttrain.served_teacher import TeacherServer, is_url
from posttrain.types import Prompt
from posttrain.vision import ImageGeometry, Piece, read
from posttrain.weights import CANARY_TEXT

KEY = "algo.teacher"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherInputs:
    """A teacher, and the training prompts of its tasks by prompt id, as its own chat template renders them.

    What comes after the prompt it reads as it stands in the student's stream, what an environment answered included.
    output_rows: the student's, to which the teacher's padding is cut.
    """

    name: str
    path: str
    output_rows: int
    prompts: dict[str, Piece]

    @property
    def is_served(self) -> bool:
        """Whether the path is a server's address."""
        return is_url(self.path)


def prepare_teachers(config: Config, inputs: Inputs, paths: Mapping[str, str]) -> list[TeacherInputs]:
    """Loads the tokenizers of all teachers; `paths` has one for each task. Tasks with one path share a teacher.

    Raises:
        UserError: a teacher cannot be loaded, has another vocabulary, or cannot take a prompt.
    """
    student = load_tokenizer(inputs.model_path)
    rows = num_output_rows(inputs.model_path)
    teachers = []
    for index, named in enumerate(dict.fromkeys(paths.values())):
        prompts = [prompt for task in paths if paths[task] == named for prompt, _ in inputs.tasks[task].train]
        if is_url(named):
            path, rendered = named, _ask_server(config, named, student, prompts)
        else:
            path, rendered = _ask_folder(config, named, (student.get_vocab(), rows, inputs.geometry), prompts)
        teachers.append(TeacherInputs(name=f"teacher_{index}", path=path, output_rows=rows, prompts=rendered))
    return teachers


def _ask_folder(
    config: Config, named: str, student: tuple[Mapping[str, int], int, ImageGeometry | None], prompts: Sequence[Prompt]
) -> tuple[str, dict[str, Piece]]:
    """Where the model is, and its rendering of the prompts. student: its vocabulary, its output rows, and how it reads images."""
    path, (vocabulary, rows, geometry) = resolve(named, KEY), student
    tokenizer = load_tokenizer(path, KEY)
    difference = vocabulary_difference(tokenizer.get_vocab(), vocabulary)
    if num_output_rows(path, KEY) < rows:
        difference = difference or f"its output layer has {num_output_rows(path, KEY)} rows, the student's {rows}"
    if difference:
        raise UserError(f"{KEY}={named}: expected the vocabulary of model.path={config.model.path}, but {difference}")
    if any(prompt.images for prompt in prompts) and image_geometry(path) != geometry:
        raise UserError(f"{KEY}={named}: expected a model that cuts images as model.path={config.model.path} does, {geometry}")
    room = max_context_tokens(path, KEY) - config.rollout.max_completion_tokens
    renderer = Renderer(tokenizer)
    rendered = {prompt.id: read(renderer.prompt(prompt.messages, prompt.tools), prompt.images, geometry)[0] for prompt in prompts}
    longest = max(rendered, key=lambda name: len(rendered[name].token_ids))
    if (length := len(rendered[longest].token_ids)) > room:
        raise UserError(f"{KEY}={named}: prompt {longest} has {length} tokens in its template, expected at most {room}")
    return path, rendered


def _ask_server(config: Config, url: str, student: Any, prompts: Sequence[Prompt]) -> dict[str, Piece]:
    """The server's rendering of the prompts. All that can be asked of its vocabulary is how it reads a text, and the special tokens."""
    chosen = config.algo.distillation()
    if chosen.support == "full":
        raise UserError(f"{KEY}={url}: a server tells its most likely tokens only; expected algo.support=topk or sampled")
    if config.rollout.temperature != 1:
        raise UserError(f"{KEY}={url}: a server's log-probabilities are those at temperature 1; expected rollout.temperature=1")
    if shown := next((prompt.id for prompt in prompts if prompt.images), None):
        raise UserError(f"{KEY}={url}: prompt {shown} holds an image, which a served teacher is not asked about; expected a folder")
    if any(prompt.tools for prompt in prompts):
        raise UserError(f"{KEY}={url}: a server renders prompts without tools; expected a folder, or task.tools=[]")
    server = TeacherServer(url)
    for text in (CANARY_TEXT, *student.all_special_tokens):
        theirs, own = server.tokenize(text), student.encode(text, add_special_tokens=False)
        if theirs != own:
            raise UserError(
                f"{KEY}={url}: expected the vocabulary of model.path={config.model.path}, but {text[:20]!r} is {theirs[:5]} to it "
                f"and {own[:5]} to the student"
            )
    try:
        server.score(np.asarray(student.encode(CANARY_TEXT), np.int64), chosen.top_k if chosen.support == "topk" else 0)
    except RunError as error:
        raise UserError(f"{KEY}={url}: {error}") from error
    return {prompt.id: Piece(token_ids=server.render(prompt.messages)) for prompt in prompts}


def vocabulary_difference(teacher: Mapping[str, int], student: Mapping[str, int]) -> str | None:
    """In what two tokenizers differ, None where they map the same tokens to the same ids."""
    if teacher == student:
        return None
    if len(teacher) != len(student):
        return f"it has {len(teacher)} tokens, the student {len(student)}"
    token = min((token for token in student if teacher.get(token) != student[token]), key=student.__getitem__)
    return f"token {token!r} is {student[token]} to the student and {teacher.get(token, 'unknown')} to it"
