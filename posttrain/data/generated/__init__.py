"""Problems that are made up as they are needed, each with a reference that a rule, a sandbox or a judge checks: `task.source=generated`."""

from dataclasses import fields
from typing import Any

from posttrain.data.generated.base import Example, Family, examples
from posttrain.data.generated.clock_reading import ClockReading
from posttrain.data.generated.code_problems import CodeProblems
from posttrain.data.generated.crowds import AttributeAtPlace, CountingInCrowd, GroundingInCrowd
from posttrain.data.generated.find_and_read import CompareTwo, FindAndRead
from posttrain.data.generated.instructions import Instructions
from posttrain.data.generated.json_objects import JsonObjects
from posttrain.data.generated.language_mixing import LanguageMixing
from posttrain.data.generated.long_lists import LongLists
from posttrain.data.generated.mazes import Mazes
from posttrain.data.generated.number_questions import NumberQuestions
from posttrain.data.generated.open_questions import OpenQuestions
from posttrain.data.generated.tricky_counts import TrickyCounts
from posttrain.errors import UserError, nearest

__all__ = ["FAMILIES", "Example", "draw"]

FAMILIES: dict[str, type[Family]] = {
    "attribute_at_place": AttributeAtPlace,
    "clock_reading": ClockReading,
    "code_problems": CodeProblems,
    "compare_two": CompareTwo,
    "counting_in_crowd": CountingInCrowd,
    "find_and_read": FindAndRead,
    "grounding_in_crowd": GroundingInCrowd,
    "instructions": Instructions,
    "json_objects": JsonObjects,
    "language_mixing": LanguageMixing,
    "long_lists": LongLists,
    "mazes": Mazes,
    "number_questions": NumberQuestions,
    "open_questions": OpenQuestions,
    "tricky_counts": TrickyCounts,
}


def draw(name: str, params: dict[str, Any], num_examples: int) -> list[Example]:
    """The first `num_examples` examples of a family.

    Raises UserError: there is no such family or parameter, or a parameter has a wrong value.
    """
    if name not in FAMILIES:
        raise UserError(f"task.family={name}: no such family is generated; {nearest(name, FAMILIES)}")
    kind = FAMILIES[name]
    known = [parameter.name for parameter in fields(kind)]
    for param in params:
        if param not in known:
            raise UserError(f"task.params.{param}: {name} has no such parameter; {nearest(param, known)}")
    try:
        family = kind(**params)
    except ValueError as error:
        raise UserError(f"task.params.{error}") from error
    return [*examples(name, family, num_examples)]
