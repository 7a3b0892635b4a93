"""Tools and environments in processes of their own: what hangs, dies or lies costs one answer, and the policy can read of it."""

import json
import random
import time

import psutil
import pytest

from posttrain.errors import UserError
from posttrain.rollout.desk import Desk, Utterance
from posttrain.types import Prompt

WILD = """
import io, os, signal
from PIL import Image
from posttrain.errors import UserError
from posttrain.rollout.env import Environment, Observation
from posttrain.rollout.tools.base import Tool, ToolError, ToolResult
from posttrain.types import EncodedImage

def picture(shade):
    file = io.BytesIO()
    Image.new("L", (8, 8), shade).save(file, "PNG")
    return file.getvalue()

def schema(name):
    return {"type": "function", "function": {"name": name, "description": "", "parameters": {"type": "object", "properties": {}}}}

class Wild(Tool):
    schema = schema("wild")

    def call(self, arguments, images):
        kind = arguments["kind"]
        while kind == "hang":
            pass
        if kind == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "refuse":
            raise ToolError("not like this")
        if kind == "mend":
            raise UserError("no key for the service")
        if kind == "long":
            return ToolResult(text="x" * 100_000_000)
        if kind == "wrong":
            return "text"
        if kind == "odd":
            return ToolResult(images=[open])
        if kind == "broken":
            return ToolResult(images=[EncodedImage(data=b"no picture", width=8, height=8)])
        if kind == "mislabelled":
            return ToolResult(images=[EncodedImage(data=picture(0), width=8, height=9)])
        if kind == "paint":
            return ToolResult(text="here", images=[EncodedImage(data=picture(len(images)), width=8, height=8)])
        return ToolResult(text=f"{len(images)} images, {kind}")

class Misnamed(Wild):
    pass

class Countdown(Environment):
    def reset(self, prompt):
        self.left = prompt.reference

    def step(self, text):
        while text == "hang":
            pass
        if text == "raise":
            raise OSError("gone")
        self.left -= 1
        return Observation(text=f"{text}: {self.left}", score=0.25, is_over=not self.left)
"""
SCHEMA = {"type": "function", "function": {"name": "wild", "description": "", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def desk(install):
    """A desk with the tools wild and calculator and the environment countdown."""
    install("wild-tools", {"wild": "wild_tools:Wild", "misnamed": "wild_tools:Misnamed"}, group="posttrain.tools", wild_tools=WILD)
    install("wild-games", {"countdown": "wild_tools:Countdown"}, group="posttrain.environments")
    with_tools = Desk(["wild", "calculator"], ["countdown"], timeout_s=1.0)
    yield with_tools
    with_tools.close()


def tagged(*calls):
    return "".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)


def call(kind, name="wild"):
    return {"name": name, "arguments": {"kind": kind}}


def said(text, prompt=None, images=(), state=None):
    schemas = [SCHEMA, {"type": "function", "function": {"name": "calculator"}}]
    prompt = prompt or Prompt(id="p", task="t", messages=[], reference=3, tools=schemas)
    return Utterance(prompt=prompt, text=text, raw_text=text, images=[*images], state=state)


def ask(desk, *calls):
    response = desk.submit(said(tagged(*calls))).result(30)
    return [(done.status, result.text) for done, result in zip(response.calls, response.results, strict=True)]


def test_schemas_come_from_the_process(desk):
    schemas = desk.schemas()
    assert schemas["wild"] == SCHEMA and schemas["calculator"]["function"]["parameters"]["required"] == ["expression"]


def test_every_call_is_answered_by_a_text(desk):
    kinds = ("plain", "refuse", "wrong", "odd", "crash", "hang", "after")
    assert ask(desk, *map(call, kinds)) == [
        ("answered", "0 images, plain"),
        ("refused", "Error: not like this"),
        ("failed", "Error: the tool wild failed: TypeError: the tool returned str, expected a ToolResult"),
        ("failed", "Error: the tool wild failed: TypeError: an image is builtin_function_or_method, expected an EncodedImage"),
        ("failed", "Error: the tool wild failed: its process died with SIGSEGV"),
        ("failed", "Error: the tool wild failed: no answer within 1 s"),
        ("answered", "0 images, after"),
    ]
    (broken, mislabelled) = ask(desk, call("broken"), call("mislabelled"))
    assert broken[0] == mislabelled[0] == "failed"
    assert "cannot identify image file" in broken[1] and "(8, 8) pixels large, expected (8, 9)" in mislabelled[1]
    ((status, text),) = ask(desk, call("long"))
    assert status == "answered" and len(text) < 20_100 and text.endswith("(99980000 more characters were cut off)")
    assert ask(desk, call("x", name="wlid"))[0] == ("invalid", "Error: there is no tool 'wlid'; did you mean wild?")
    assert ask(desk, {"name": "wild", "arguments": {}})[0][1] == "Error: the tool wild failed: KeyError: 'kind'"


def test_later_calls_of_a_turn_see_earlier_ones_images(desk):
    response = desk.submit(said(tagged(call("paint"), call("plain"), call("paint")))).result(30)
    assert [result.text for result in response.results] == ["here", "1 images, plain", "here"]
    painted = [image.data for result in response.results for image in result.images]
    assert len(painted) == len(set(painted)) == 2


def test_what_only_the_user_can_mend_ends_the_run(desk):
    with pytest.raises(UserError, match="no key for the service"):
        desk.submit(said(tagged(call("mend")))).result(30)


def test_calls_in_a_thought_are_not_made_and_a_turn_without_calls_ends_the_episode(desk):
    response = desk.submit(said(f"<think>{tagged(call('hang'))}</think>42")).result(30)
    assert (response.is_over, response.calls) == (True, [])


def test_an_environment_is_asked_when_no_tool_is_called_and_keeps_its_state(desk):
    prompt = Prompt(id="p", task="t", messages=[], reference=2, environment="countdown")
    first = desk.submit(said("<think>hm</think> go ", prompt)).result(30)
    assert (first.results[0].text, first.score, first.is_over, first.calls) == ("go: 1", 0.25, False, [])
    for text, reason in (("raise", "OSError: gone"), ("hang", "no answer within 1 s")):
        assert desk.submit(said(text, prompt, state=first.state)).result(30).failure == f"environment countdown: {reason}"
    again = [desk.submit(said("go", prompt, state=first.state)).result(30) for _ in range(2)]
    assert [(one.results[0].text, one.is_over) for one in again] == [("go: 0", True)] * 2


def test_processes_end_with_the_desk(desk):
    ask(desk, call("plain"))
    family = psutil.Process().children(recursive=True)
    assert any("posttrain.rollout.process" in process.cmdline() for process in family)
    desk.close()
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE and "posttrain.rollout.process" in p.cmdline()]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("misnamed", "misnamed = wild_tools:Misnamed .* has the schema .*'wild'.* expected .*'misnamed'"),
        ("wlid", "unknown name 'wlid' in posttrain.tools; did you mean wild?"),
    ],
)
def test_a_tool_that_cannot_be_used_is_named(desk, name, message):
    broken = Desk([name], [], timeout_s=1.0)
    with pytest.raises(UserError, match=message):
        broken.schemas()
    broken.close()


def hostile_call(rng):
    """One of many ways to call a tool as nobody should."""
    values = [
        None, True, 0, -1, 1e308, 10**400, "", "x" * rng.choice([1, 1000, 200_000]), [], {}, [[[]]], {"a": {"b": None}}, float("nan"),
        float("inf"), "<tool_call>{}</tool_call>", "\x00", "\ud83d", "9**9**9**9", "(" * 300, "1/0", "__import__('os').system('x')",
    ]  # fmt: skip
    value = rng.choice([*values, "1+1", "7 * 6"])
    names = ["calculater", "python", "", "os.system", None, 3, ["calculator"], "calculator" * 50_000]
    name = "calculator" if rng.random() < 0.8 else rng.choice(names)
    arguments = rng.choice([{"expression": value}, {"expression": value, "more": value}, {"expresion": value}, value])
    call = {"name": name, "arguments": arguments}
    whole = call if rng.random() < 0.8 else rng.choice([{"name": name}, {"arguments": arguments}, value, [name, arguments]])
    body = json.dumps(whole)
    if rng.random() < 0.3:
        damaged = body[: rng.randrange(len(body) + 1)] + rng.choice(["", "}", "]", '"', "</tool_call>", "<tool_call>"])
        body = rng.choice([damaged, "".join(rng.choices(body, k=min(200, len(body))))])
    tagged = ["<tool_call>\n{}\n</tool_call>", "<tool_call>{}</tool_call>" * 3, "<tool_call>{}", "{}</tool_call>"]
    return rng.choices(tagged, [8, 2, 1, 1])[0].replace("{}", body)


def test_two_thousand_hostile_calls_are_each_answered_by_text_in_time(install):
    rng = random.Random(0)
    started = time.monotonic()
    desk = Desk(["calculator"], [], timeout_s=5.0)
    prompt = Prompt(id="p", task="t", messages=[], reference=None, tools=[desk.schemas()["calculator"]])
    answers = [desk.submit(said(hostile_call(rng), prompt)) for _ in range(2000)]
    statuses = {"over": 0}
    for future in answers:
        response = future.result(60)
        assert not response.failure and len(response.results) == len(response.calls)
        assert response.is_over == (not response.calls)
        statuses["over"] += response.is_over
        for done, result in zip(response.calls, response.results, strict=True):
            statuses[done.status] = statuses.get(done.status, 0) + 1
            assert result.text and len(result.text) < 1000 and done.seconds < 5.0
            assert result.text.startswith("Error: ") == (done.status != "answered")
    desk.close()
    assert min(statuses["over"], statuses["invalid"], statuses["refused"], statuses["answered"]) > 30 and "failed" not in statuses
    assert time.monotonic() - started < 60
