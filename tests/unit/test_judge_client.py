"""The judge's client against a real HTTP server: retries, deadlines, the cache, exact counts, and a key that shows nowhere."""

import json
import logging
import runpy
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from posttrain.errors import UserError
from posttrain.rewards.judge_client import AnswerCache, JudgeClient, JudgeCounters, JudgeFailure, JudgeSettings, settings_from_environment

fake = runpy.run_path(str(Path(__file__).with_name("judge_server.py")))
Reply, says = fake["Reply"], fake["says"]

KEY = "sk-very-secret-4711"
SCHEMA = {"type": "object", "properties": {"correct": {"type": "boolean"}}, "required": ["correct"], "additionalProperties": False}


@pytest.fixture
def client_for(server, tmp_path):
    """client_for(**settings): asks the server, with short waits and a cache of this test's."""

    def make(**changes):
        settings = {"url": server.url, "model": "m", "key": KEY, "cache": tmp_path / "cache", "backoff_s": 0.001, "deadline_s": 20.0}
        return JudgeClient(JudgeSettings(**(settings | changes)))

    return make


@pytest.fixture
def environment(monkeypatch):
    """environment(JUDGE_URL=..., ...): these variables and no others."""

    def put(**values):
        for role in ("JUDGE", "GUARD"):
            for name in ("URL", "MODEL", "KEY", "CACHE", "DEADLINE"):
                monkeypatch.delenv(f"POSTTRAIN_{role}_{name}", raising=False)
        for name, value in values.items():
            monkeypatch.setenv(f"POSTTRAIN_{name}", value)

    return put


def question(text="Is it 5?"):
    return [{"role": "user", "content": text}]


def counts(client):
    counted = client.counters
    return (counted.num_requests, counted.num_cache_hits, counted.num_retries, counted.num_errors)


def cache_files(client):
    return [path for path in client.cache.folder.rglob("*") if path.is_file()]


# The environment


def test_settings_come_from_the_environment(environment, tmp_path):
    environment(JUDGE_URL="http://h:1/v1", JUDGE_MODEL="m", JUDGE_KEY=f" {KEY}\n", JUDGE_CACHE=str(tmp_path), JUDGE_DEADLINE="7.5")
    assert settings_from_environment("JUDGE") == JudgeSettings(url="http://h:1/v1", model="m", key=KEY, cache=tmp_path, deadline_s=7.5)
    environment(JUDGE_URL="https://h/v1", JUDGE_MODEL="m")
    assert settings_from_environment("JUDGE") == JudgeSettings(url="https://h/v1", model="m")
    assert Path("~/.cache/posttrain/judge") == JudgeSettings(url="", model="").cache


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "POSTTRAIN_JUDGE_URL is not set"),
        ({"JUDGE_URL": " ", "JUDGE_MODEL": "m"}, "POSTTRAIN_JUDGE_URL is not set"),
        ({"JUDGE_URL": "http://h/v1"}, "POSTTRAIN_JUDGE_MODEL is not set"),
        ({"JUDGE_URL": f"http://me:{KEY}@h/v1", "JUDGE_MODEL": "m"}, "POSTTRAIN_JUDGE_URL is no http"),
        ({"JUDGE_URL": f"http://h/v1?key={KEY}", "JUDGE_MODEL": "m"}, "POSTTRAIN_JUDGE_URL is no http"),
        ({"JUDGE_URL": f"{KEY}", "JUDGE_MODEL": "m"}, "POSTTRAIN_JUDGE_URL is no http"),
        ({"JUDGE_URL": "http://h", "JUDGE_MODEL": "m", "JUDGE_KEY": f"{KEY}\N{EM DASH}"}, "POSTTRAIN_JUDGE_KEY has characters"),
        ({"JUDGE_URL": "http://h", "JUDGE_MODEL": "m", "JUDGE_KEY": f"{KEY}\nX: y"}, "POSTTRAIN_JUDGE_KEY has characters"),
        ({"JUDGE_URL": "http://h", "JUDGE_MODEL": "m", "JUDGE_DEADLINE": "soon"}, "POSTTRAIN_JUDGE_DEADLINE is 'soon'"),
        ({"JUDGE_URL": "http://h", "JUDGE_MODEL": "m", "JUDGE_DEADLINE": "0"}, "POSTTRAIN_JUDGE_DEADLINE is '0'"),
    ],
)
def test_what_is_wrong_in_the_environment_is_told_in_one_line_without_the_key(environment, values, line):
    environment(**values)
    with pytest.raises(UserError) as raised:
        settings_from_environment("JUDGE")
    assert str(raised.value).startswith(line) and "\n" not in str(raised.value) and KEY not in str(raised.value)


def test_a_guard_takes_from_the_judge_what_it_lacks_but_never_the_key_to_another_address(environment):
    judge = {"JUDGE_URL": "http://judge", "JUDGE_MODEL": "j", "JUDGE_KEY": KEY}

    def settings(**guard):
        environment(**judge, **guard)
        found = settings_from_environment("GUARD", "JUDGE")
        return found.url, found.model, found.key

    assert settings() == ("http://judge", "j", KEY)
    assert settings(GUARD_MODEL="g") == ("http://judge", "g", KEY)
    assert settings(GUARD_URL="http://guard", GUARD_MODEL="g") == ("http://guard", "g", "")
    assert settings(GUARD_URL="http://guard", GUARD_MODEL="g", GUARD_KEY="other") == ("http://guard", "g", "other")
    with pytest.raises(UserError, match="POSTTRAIN_GUARD_MODEL is not set"):
        settings(GUARD_URL="http://guard")


# One question


def test_a_question_is_asked_at_temperature_0_with_the_schema_and_the_key(server, client_for):
    client = client_for()
    assert json.loads(client.ask(question(), SCHEMA)) == {"reason": "", "correct": True}
    assert server.bodies == [
        {
            "model": "m",
            "messages": question(),
            "temperature": 0,
            "response_format": {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA}},
        }
    ]
    assert (server.headers[0]["path"], server.headers[0]["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    latency_s = client.counters.latency_s
    assert 0 < latency_s < 20
    assert client.counters == JudgeCounters(num_requests=1, num_prompt_tokens=7, num_completion_tokens=3, latency_s=latency_s)


def test_what_the_environment_holds_for_another_server_stays_there(server, client_for, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "for-openai-only")
    client_for(key="").ask(question(), SCHEMA)
    assert "for-openai-only" not in str(server.headers)


@pytest.mark.parametrize(("content", "text"), [("", ""), (None, ""), ("I had rather not", "I had rather not")])
def test_whatever_a_completion_says_is_handed_on(server, client_for, content, text):
    server.replies = [says(content)]
    assert client_for().ask(question(), SCHEMA) == text


def test_a_server_that_counts_no_tokens_is_believed_without(server, client_for):
    server.replies = [Reply(body=json.dumps({"choices": [{"message": {"content": "yes"}}]}))]
    client = client_for()
    assert client.ask(question(), SCHEMA) == "yes"
    assert (client.counters.num_prompt_tokens, client.counters.num_completion_tokens) == (0, 0)


# Outages


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_an_outage_is_sat_out(server, client_for, status):
    server.replies = [Reply(status, "try later"), Reply(status, "try later")]
    client = client_for()
    assert json.loads(client.ask(question(), SCHEMA))["correct"] is True
    assert counts(client) == (3, 0, 2, 0)
    assert all("response_format" in body for body in server.bodies)


@pytest.mark.parametrize("body", ["<html>Bad gateway</html>", "{}", '{"choices": []}', '{"choices": [{"message": {"content": 5}}]}', "[1]"])
def test_a_reply_that_is_no_completion_is_an_outage_too(server, client_for, body):
    server.replies = [Reply(200, body)]
    client = client_for()
    assert json.loads(client.ask(question(), SCHEMA))["correct"] is True
    assert counts(client) == (2, 0, 1, 0)


def test_a_long_outage_is_a_failure_and_nothing_is_remembered(server, client_for):
    server.respond = lambda body: Reply(503, "model  is\nloading")
    client = client_for(max_retries=3)
    with pytest.raises(JudgeFailure) as raised:
        client.ask(question(), SCHEMA)
    assert str(raised.value) == f"the judge m at {server.url[7:-3]}: 503 after 3 retries: model is loading"
    assert counts(client) == (4, 0, 3, 1)
    assert cache_files(client) == []


def test_a_server_that_is_not_there_is_a_failure(server, client_for):
    server.close()
    client = client_for(max_retries=2)
    with pytest.raises(JudgeFailure, match="no reply after 2 retries: Connection error"):
        client.ask(question(), SCHEMA)
    assert counts(client) == (3, 0, 2, 1)


def test_what_repeating_cannot_mend_is_not_repeated(server, client_for):
    server.respond = lambda body: Reply(403, "flagged")
    client = client_for()
    with pytest.raises(JudgeFailure, match="403 after 0 retries: flagged"):
        client.ask(question(), SCHEMA)
    assert counts(client) == (1, 0, 0, 1)


@pytest.mark.parametrize(("status", "what"), [(401, "key"), (404, "address and model")])
def test_a_wrong_setting_is_the_users_to_mend_and_a_late_refusal_is_a_failure(server, client_for, status, what):
    server.replies = [Reply(status, "no"), says("yes"), Reply(status, "no")]
    client = client_for()
    with pytest.raises(UserError, match=f"{status} after 0 retries: no; check the POSTTRAIN_ variables of its {what}"):
        client.ask(question(), SCHEMA)
    client.ask(question(), SCHEMA)
    with pytest.raises(JudgeFailure):
        client.ask(question("another"), SCHEMA)


@pytest.mark.parametrize("drips", [False, True])
@pytest.mark.timeout(20)
def test_the_deadline_ends_slow_answers_and_trickling_ones(server, client_for, drips):
    server.respond = lambda body: says("late", delay_s=0.1 if drips else 3.0, drips=drips)
    client = client_for(deadline_s=0.5)
    started = time.monotonic()
    with pytest.raises(JudgeFailure, match=r"gave no answer within 0\.5 s|no reply after 0 retries: Request timed out"):
        client.ask(question(), SCHEMA)
    assert 0.4 < time.monotonic() - started < 2.5
    assert counts(client) == (1, 0, 0, 1)
    assert 0.4 < client.counters.latency_s < 2.5


def test_the_server_says_when_to_come_back(server, client_for):
    server.replies = [Reply(429, "", {"retry-after": "1"})]
    started = time.monotonic()
    client_for().ask(question(), SCHEMA)
    assert time.monotonic() - started >= 1.0


@pytest.mark.timeout(20)
def test_coming_back_after_the_deadline_is_not_waited_for(server, client_for):
    server.replies = [Reply(429, "quota", {"retry-after": "3600"})]
    client = client_for(deadline_s=60.0)
    with pytest.raises(JudgeFailure, match="429 after 0 retries: quota"):
        client.ask(question(), SCHEMA)
    assert len(server.raw) == 1


# Servers without constrained decoding


@pytest.mark.parametrize("status", [400, 422])
def test_a_refused_response_format_is_left_out_and_that_is_remembered(server, client_for, status):
    server.respond = lambda body: Reply(status, "unknown field") if "response_format" in body else says("yes")
    client = client_for()
    assert [client.ask(question(text), SCHEMA) for text in "abc"] == ["yes"] * 3
    assert ["response_format" in body for body in server.bodies] == [True, False, False, False]
    assert counts(client) == (4, 0, 0, 0)


def test_a_request_that_is_refused_either_way_says_nothing_about_the_format(server, client_for):
    server.respond = lambda body: Reply(400, "too long") if "long" in body["messages"][0]["content"] else says("yes")
    client = client_for()
    with pytest.raises(JudgeFailure, match="400 after 0 retries: too long"):
        client.ask(question("long"), SCHEMA)
    client.ask(question("short"), SCHEMA)
    assert ["response_format" in body for body in server.bodies] == [True, False, True]
    assert counts(client) == (3, 0, 0, 1)


# The cache


def test_the_same_question_is_asked_once(server, client_for):
    first = client_for()
    answers = {first.ask(question(), SCHEMA) for _ in range(3)}
    second = client_for(key="another key")
    answers.add(second.ask(question(), SCHEMA))
    assert (len(server.raw), len(answers)) == (1, 1)
    assert (counts(first), counts(second)) == ((1, 2, 0, 0), (0, 1, 0, 0))
    assert second.counters == JudgeCounters(num_cache_hits=1)


def test_another_model_message_or_schema_is_another_question(server, client_for):
    client, other = client_for(), client_for(model="n")
    backwards = SCHEMA | {"properties": {"b": {}, "a": {}}}
    forwards = SCHEMA | {"properties": {"a": {}, "b": {}}}
    for asked, text, schema in [(client, "q", SCHEMA), (other, "q", SCHEMA), (client, "r", SCHEMA), (client, "q", forwards)]:
        asked.ask(question(text), schema)
    client.ask(question("q"), backwards)
    assert (len(server.raw), client.counters.num_cache_hits, other.counters.num_cache_hits) == (5, 0, 0)


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"answer": 5}', "\xff"])
def test_a_damaged_file_is_asked_for_again(server, client_for, damage):
    client = client_for()
    answer = client.ask(question(), SCHEMA)
    [path] = cache_files(client)
    path.write_bytes(damage.encode("latin-1"))
    assert client.ask(question(), SCHEMA) == client.ask(question(), SCHEMA) == answer
    assert counts(client) == (2, 1, 0, 0)


def test_a_cache_that_cannot_be_is_the_users_to_mend(client_for, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"POSTTRAIN_JUDGE_CACHE: .*file/cache cannot be made a folder"):
        client_for(cache=tmp_path / "file" / "cache")


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    cache = AnswerCache(tmp_path)
    path = cache.path("m", question(), SCHEMA)
    path.mkdir(parents=True)
    with pytest.raises(OSError):
        cache.put(path, "answer")
    assert [*path.parent.iterdir()] == [path]


WRITER = """
import sys
from pathlib import Path
from posttrain.rewards.judge_client import AnswerCache

cache = AnswerCache(Path(sys.argv[1]))
paths = [cache.path("m", [{"role": "user", "content": str(number)}], {}) for number in range(3)]
for turn in range(150):
    cache.put(paths[turn % 3], sys.argv[2] * 50_000)
"""


def test_processes_that_share_a_cache_never_read_half_an_answer(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), letter]) for letter in "ab"]
    cache = AnswerCache(tmp_path)
    paths = [cache.path("m", question(str(number)), {}) for number in range(3)]
    whole = {"a" * 50_000, "b" * 50_000}
    num_read = 0
    while any(writer.poll() is None for writer in writers):
        for path in paths:
            # Damaged files read as None, so a half-written one would not show there.
            text = path.read_text() if path.exists() else None
            assert text is None or json.loads(text)["answer"] in whole
            num_read += text is not None
    assert [writer.returncode for writer in writers] == [0, 0] and num_read
    assert len([*tmp_path.rglob("*.json")]) == 3 and not [*tmp_path.rglob("*.partial")]


ASKER = """
import sys
from pathlib import Path
from posttrain.rewards.judge_client import JudgeClient, JudgeSettings

client = JudgeClient(JudgeSettings(url=sys.argv[1], model="m", cache=Path(sys.argv[2])))
print(client.ask([{"role": "user", "content": "Is it 5?"}], {}), client.counters.num_requests, client.counters.num_cache_hits)
"""


def test_one_process_finds_what_another_was_told(server, tmp_path):
    server.respond = lambda body: says("yes")
    command = [sys.executable, "-c", ASKER, server.url, str(tmp_path)]
    told = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    assert [run.stdout.split() for run in told] == [["yes", "1", "0"], ["yes", "0", "1"]]
    assert [run.stderr for run in told] == ["", ""]


# Many at once


def test_threads_share_a_client_its_cache_and_its_limit(server, client_for):
    server.respond = lambda body: says(body["messages"][0]["content"].upper(), delay_s=0.05)
    client = client_for(max_concurrent=4)
    texts = [f"question {number}" for number in range(24)]
    for _ in range(2):
        with ThreadPoolExecutor(12) as pool:
            assert [*pool.map(lambda text: client.ask(question(text), SCHEMA), texts)] == [text.upper() for text in texts]
    assert 2 <= server.most_at_once <= 4
    assert counts(client) == (24, 24, 0, 0)
    assert (client.counters.num_prompt_tokens, client.counters.num_completion_tokens) == (24 * 7, 24 * 3)
    assert client.counters.latency_s >= 24 * 0.05


def test_waiting_for_ones_turn_is_not_the_servers_slowness(server, client_for):
    server.respond = lambda body: says("yes", delay_s=0.3)
    client = client_for(max_concurrent=1, deadline_s=1.0)
    client.ask(question("warm"), SCHEMA)
    with ThreadPoolExecutor(6) as pool:
        assert {*pool.map(lambda number: client.ask(question(str(number)), SCHEMA), range(6))} == {"yes"}


def test_a_long_outage_costs_one_deadline_for_all_and_ends_with_the_first_answer(server, client_for):
    server.respond = lambda body: Reply(status=503)
    client = client_for(max_retries=100, backoff_s=0.05, deadline_s=0.6)

    def fails(number):
        with pytest.raises(JudgeFailure) as failure:
            client.ask(question(str(number)), SCHEMA)
        return str(failure.value)

    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        told = [*pool.map(fails, range(60))]
    assert time.monotonic() - started < 4 * 0.6, "with 8 threads it would take 8 deadlines one after the other"
    assert sum("has answered nothing for" in text for text in told) >= 30
    server.respond = lambda body: says("yes")
    assert [client.ask(question(f"after {number}"), SCHEMA) for number in range(3)] == ["yes"] * 3
    with ThreadPoolExecutor(8) as pool:
        assert {*pool.map(lambda number: client.ask(question(f"then {number}"), SCHEMA), range(24))} == {"yes"}


# The key


def everything_about(error):
    chain = []
    while error is not None:
        chain += [str(error), repr(error), str(vars(error)), str(error.args), type(error).__module__]
        chain += traceback.format_exception(error)
        error = error.__cause__ or error.__context__
    return "\n".join(chain)


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 200])
def test_the_key_is_in_no_error_even_when_the_server_quotes_it(server, client_for, caplog, status):
    caplog.set_level(logging.DEBUG)
    server.respond = lambda body: Reply(status, f"Incorrect API key provided: {KEY}.")
    client = client_for(max_retries=1)
    with pytest.raises((JudgeFailure, UserError)) as raised:
        client.ask(question(), SCHEMA)
    told = everything_about(raised.value)
    assert "Incorrect API key provided: [key]." in told
    assert KEY not in told and "openai" not in told
    assert KEY not in caplog.text and KEY not in repr(caplog.records)


def test_the_key_is_in_no_repr_log_answer_or_file(server, client_for, caplog):
    caplog.set_level(logging.DEBUG)
    server.replies = [says(f"your key is {KEY}"), says("yes")]
    client = client_for()
    assert client.ask(question(), SCHEMA) == "your key is [key]"
    client.ask(question("another"), SCHEMA)
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert len(cache_files(client)) == 2
    assert not any(KEY in path.read_text() or KEY in str(path) for path in cache_files(client))
    shown = [repr(client), str(client.settings), repr(client.settings), repr(client.counters), caplog.text, repr(caplog.records)]
    assert KEY not in str(shown)


def test_a_placeholder_is_no_secret_to_strike_out(server, client_for):
    server.replies = [says('{"correct": none}')]
    assert client_for(key="none").ask(question(), SCHEMA) == '{"correct": none}'


def test_rewards_with_judges_import_the_client_only_when_they_are_made():
    program = "import sys, posttrain.rewards.judge, posttrain.rewards.safety; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.split())
    assert not loaded & {"openai", "httpx", "httpx2", "torch", "vllm"}
