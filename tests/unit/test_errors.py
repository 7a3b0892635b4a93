"""How errors are told on the command line."""

import pytest

from posttrain.errors import RunError, UserError, tell


def test_a_mistake_is_a_line_and_one_for_each_thing_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(UserError("2 rows are\n  of no use", ["a.jsonl\nline 1", "line 2"]), "posttrain.curate") == 2
    assert capsys.readouterr().err == "posttrain.curate: 2 rows are of no use\n  a.jsonl line 1\n  line 2\n"


def test_a_failure_is_told_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(RunError("learner-0 died:\n  its last lines")) == 1
    assert capsys.readouterr().err == "learner-0 died:\n  its last lines\n"
