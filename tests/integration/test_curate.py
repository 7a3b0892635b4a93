"""Pass rates and necessity of pictures with real engines: counts in every row, and the same after a kill in the middle."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

SAMPLER = {
    **{"model": "builtin:tiny", "dtype": "float32", "num_samples": 4, "max_completion_tokens": 8, "context_tokens": 128},
    **{"rewards": {"vowels": 1.0}, "passing": 0.2, "chunk_prompts": 4},
}
ROWS = [{"prompt": f"What is {n} + {n}?", "answer": 2 * n} for n in range(9)]
SEEN = [
    {"messages": [{"role": "user", "content": [{"type": "image", "image": f"{n}.png"}, {"type": "text", "text": f"What is in {n}?"}]}]}
    for n in range(2)
]
LONG = {"prompt": "word " * 300, "answer": 1}


@pytest.fixture
def curate(tmp_path):
    """curate(*overrides): runs the recipe in tmp_path; returns its output."""

    def run(*overrides):
        command = [sys.executable, "-m", "posttrain.curate", f"recipe={tmp_path / 'recipe.yaml'}", *overrides]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(folder, rows, *steps):
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"input": "rows.jsonl", "output": "out", "steps": [*steps]}))


def test_pass_rates_and_the_same_after_a_kill(tmp_path, curate):
    write(tmp_path, [*ROWS, LONG, *SEEN], {"pass_rate": {**SAMPLER, "max_rate": 0.6, "pictures": "keep"}})
    assert "9 of 9 questions sampled" in curate()
    output = tmp_path / "out"
    rows, dropped = lines(output / "rows.jsonl"), lines(output / "dropped.jsonl")
    assert len(rows) + len(dropped) == 12
    measured = [row["pass_rate"] for row in [*rows, *(one["row"] for one in dropped)] if "pass_rate" in row]
    assert len(measured) == 9
    for one in measured:
        assert one["samples"] == one["scored"] == 4 and 0 <= one["truncated"] <= 4
        assert one["rate"] == one["passed"] / 4
        assert one["sampler"]["model"] == "builtin:tiny" and one["sampler"]["temperature"] == 1.0 and one["sampler"]["seed"] == 0
    # An untrained model's vowels: some texts pass and some do not.
    assert 0 < sum(one["passed"] for one in measured) < 36
    assert [row for row in rows if row.get("pass_rate", {"rate": 0.5})["rate"] in (0, 0.75, 1)] == []
    for one in dropped:
        rate = one["row"].get("pass_rate", {"rate": None})["rate"]
        assert one["reason"] == {None: "too long", 0: "all wrong", 0.75: "pass rate too high", 1: "pass rate too high"}[rate]
    assert sum("messages" in row for row in rows) == 2
    assert "## Pass rates of pass_rate, measured and kept" in (output / "report.md").read_text()

    # As a kill in the second chunk leaves it.
    before = {path.name: path.read_bytes() for path in output.glob("*.*")}
    [work] = (output / "work").glob("pass_rate-*")
    shutil.rmtree(work)
    cache = output / "work" / "cache"
    chunks = {path.name: path.read_text() for path in cache.iterdir()}
    assert sorted(name[:5] for name in chunks) == ["00000", "00001", "00002"]
    next(cache.glob("00001-*")).unlink()
    assert "starting 1 engine(s)" in curate()
    assert {path.name: path.read_text() for path in cache.iterdir()} == chunks
    assert {path.name: path.read_bytes() for path in output.glob("*.*")} == before

    # Other thresholds sort the same samples.
    said = curate("pass_rate.min_rate=-1", "pass_rate.max_rate=1")
    assert "starting" not in said and "12 -> 11      1 too long" in said


@pytest.mark.slow
def test_what_is_answered_blind_goes(tmp_path, curate):
    write(tmp_path, [*ROWS, *SEEN], {"needs_image": {**SAMPLER, "max_rate": 0.4}})
    curate()
    rows, dropped = lines(tmp_path / "out" / "rows.jsonl"), lines(tmp_path / "out" / "dropped.jsonl")
    assert sum("prompt" in row for row in rows) == len(ROWS)
    blind = [row["blind_pass_rate"]["rate"] for row in rows if "messages" in row]
    solved = [one["row"]["blind_pass_rate"]["rate"] for one in dropped]
    assert len(blind) + len(solved) == len(SEEN)
    assert all(rate <= 0.4 for rate in blind) and all(rate > 0.4 for rate in solved)
    assert {one["reason"] for one in dropped} <= {"solved without the image"}
