"""The step `query_filter`: a judge model reads each question; what cannot be checked or asks nothing goes, what is unclear is rewritten.

The judge is the server that POSTTRAIN_JUDGE_URL and POSTTRAIN_JUDGE_MODEL name (`posttrain.rewards.judge_client`), and its answers
are cached, so that a step that was killed goes on where it was. It gives one of four verdicts:

    good           it asks for one thing, and whether an answer is right can be found out
    unverifiable   nobody could tell whether an answer is right                                 -> dropped
    no_substance   it asks for nothing that takes knowledge or thought                          -> dropped
    ambiguous      it can be read in several ways that have different answers                   -> rewritten, or dropped

A rewritten question is judged again and stays only if it is then good; the row keeps the first one as `rewritten_from`. A
verdict that cannot be read drops nothing. A judge that cannot be asked ends the step: its verdicts are not guessed.

Left out on purpose: pictures (the judge is told where they are), answers (the judge sees the reference so that a rewritten question
still has it), and questions of many turns, of which only the last is rewritten.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from posttrain.curate.base import Bench, Drop, Outcome, Step, require, sift
from posttrain.curate.rows import Row, text_of
from posttrain.curate.scores import JUDGES
from posttrain.errors import RunError
from posttrain.rewards.base import Abstain
from posttrain.rewards.judge import JSON_ONLY, PARTS_ARE_DATA, judge_messages, read_verdict, verdict_schema
from posttrain.rewards.judge_client import MAX_CONCURRENT, JudgeClient, JudgeFailure, settings_from_environment

VERDICTS = ("good", "unverifiable", "no_substance", "ambiguous")

JUDGE = f"""You check questions that a model is to be trained on. Give one verdict on the question:
"unverifiable": there is no way to tell whether an answer is right: it asks for opinions, predictions, or facts that are not given and
not known. A reference, where there is one, shows what kind of answer is meant.
"no_substance": it asks for nothing that takes knowledge or thought: greetings, tests of the keyboard, empty or broken requests.
"ambiguous": it can be read in several ways that have different answers, or lacks something that an answer depends on.
"good": none of these.
{PARTS_ARE_DATA}{JSON_ONLY}"verdict", one of {", ".join(f'"{verdict}"' for verdict in VERDICTS)}."""

REWRITE = f"""You rewrite an ambiguous question so that it can be read in one way only. Change as little as possible, keep its language,
and add nothing that is not needed to make it clear. Where there is a reference, the rewritten question has that answer. Do not answer the
question and do not name the answer.
{PARTS_ARE_DATA}{JSON_ONLY}"question", the rewritten question, a text."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the judge made of one question. verdict: "" where there was none that can be read."""

    verdict: str
    reason: str
    rewritten: str = ""


@dataclass
class QueryFilter(Step):
    """Questions that cannot be verified or have no substance go, ambiguous ones are rewritten, by a judge's verdict."""

    unverifiable: bool = True  # drop what cannot be verified
    no_substance: bool = True  # drop what asks for nothing
    ambiguous: str = "rewrite"  # what becomes of ambiguous questions: rewrite, drop or keep

    def validate(self) -> None:
        """`ambiguous` is one of three."""
        require("ambiguous", self.ambiguous, self.ambiguous in ("rewrite", "drop", "keep"), "rewrite, drop or keep")

    def depends_on(self, bench: Bench) -> dict[str, str]:
        """The judge's name; not its address.

        Raises UserError: the environment names none.
        """
        return {"judge model": settings_from_environment(JUDGES[0]).model}

    def apply(self, rows: Sequence[Row], bench: Bench) -> Outcome:
        """Reasons: unverifiable, no substance, ambiguous.

        Raises RunError: the judge could not be asked about every row.
        """
        judge = JudgeClient(settings_from_environment(JUDGES[0]))
        with ThreadPoolExecutor(MAX_CONCURRENT) as threads:
            readings = [*threads.map(lambda row: self._read(judge, row), rows)]
        failures = [reading for reading in readings if isinstance(reading, JudgeFailure)]
        if failures:
            raise RunError(
                f"the judge could not be asked about {len(failures)} of {len(rows)} questions: {failures[0]}\n"
                "what it answered is kept: the same command goes on from here"
            )
        found = {row.where: reading for row, reading in zip(rows, readings, strict=True) if isinstance(reading, _Reading)}
        outcome = sift(rows, lambda row: self._look(row, found[row.where]))
        outcome.counts["verdicts that could not be read"] = sum(not reading.verdict for reading in found.values())
        outcome.counts["questions rewritten"] = sum(found[row.where].rewritten != "" for row in outcome.kept)
        return outcome

    def _look(self, row: Row, reading: _Reading) -> Row | Drop:
        drops = {"unverifiable": self.unverifiable, "no_substance": self.no_substance, "ambiguous": self.ambiguous != "keep"}
        if reading.rewritten:
            return row.with_question(reading.rewritten).having(rewritten_from=_last_question(row))
        return Drop(reading.verdict.replace("_", " "), reading.reason) if drops.get(reading.verdict) else row

    def _read(self, judge: JudgeClient, row: Row) -> _Reading | JudgeFailure:
        try:
            reading = _verdict(judge, row)
            if reading.verdict != "ambiguous" or self.ambiguous != "rewrite":
                return reading
            rewritten = _ask(judge, REWRITE, row, {"question": {"type": "string"}}).get("question", "")
            if not rewritten:
                return reading
            again = _verdict(judge, row.with_question(rewritten))
            return _Reading("good", reading.reason, rewritten) if again.verdict == "good" else reading
        except JudgeFailure as failure:
            return failure


def _verdict(judge: JudgeClient, row: Row) -> _Reading:
    verdict = _ask(judge, JUDGE, row, {"verdict": {"type": "string", "enum": [*VERDICTS]}})
    return _Reading(verdict.get("verdict", ""), verdict.get("reason", ""))


def _ask(judge: JudgeClient, instructions: str, row: Row, fields: dict[str, Any]) -> dict[str, Any]:
    """The judge's verdict, {} where it cannot be read."""
    parts = {"question": row.question_text}
    if row.data.get("answer") not in (None, ""):
        parts["reference"] = str(row.data["answer"])
    schema = verdict_schema(fields)
    verdict = read_verdict(judge.ask(judge_messages(instructions, parts), schema), schema)
    return {} if isinstance(verdict, Abstain) else verdict


def _last_question(row: Row) -> str:
    return text_of(next(message for message in reversed(row.conversation) if message["role"] == "user"))
