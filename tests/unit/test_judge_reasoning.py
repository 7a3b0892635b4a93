"""The judge that sees: what it is sent of an episode with pictures, in which order, and what its grades come to."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from posttrain.data.images import take_images
from posttrain.rewards.base import Abstain
from posttrain.rewards.judge import MAX_ANSWER
from posttrain.rewards.judge_reasoning import JudgeReasoning
from posttrain.types import EncodedImage, Episode, Prompt, Turn


def picture(colour, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(file, kind)
    return EncodedImage(data=file.getvalue(), width=4, height=3)


SCENE, CLOSER = picture("red", "JPEG"), picture("green")


class Judging:
    """Says what it was made with; remembers what it was asked."""

    def __init__(self, says):
        self.says, self.asked = says, []

    def ask(self, messages, schema):
        self.asked.append((messages, schema))
        return self.says


def turn(text, observed=(), images=()):
    fields = {"observed": [*observed], "observation_images": [*images]}
    return Turn(token_ids=np.ones(1, np.int64), logprobs=np.zeros(1, np.float32), text=text, stop_reason="stop", policy_version=0, **fields)


QUESTION = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit?"}]}
SHOWN = {"role": "tool", "content": [{"type": "image"}, {"type": "text", "text": "zoomed"}]}


def asked_of(*turns, says='{"reason": "ok", "reading": 8, "coherence": 5}'):
    prompt = Prompt(id="p", task="t", messages=[QUESTION], reference="the secret 7", images=[SCENE])
    judge = Judging(says)
    return JudgeReasoning(judge).score(prompt, Episode(prompt_id="p", turns=[*turns], status="complete")), judge


def test_the_judge_sees_each_picture_after_the_part_that_it_belongs_to(tmp_path):
    score, judge = asked_of(turn("I look.<tool_call>{}</tool_call>", [SHOWN], [CLOSER]), turn("It is 7."))
    assert score.value == pytest.approx(0.65) and score.details == {"reason": "ok", "reading": 8, "coherence": 5}
    [([system, user], schema)] = judge.asked
    assert [*schema["properties"]] == ["reason", "reading", "coherence"] and '"reading" and "coherence"' in system["content"]
    sent = [re.match("⟦(.*?) [0-9a-f]{16}⟧", part["text"]) if part["type"] == "text" else part["type"] for part in user["content"]]
    named = [found[1] if isinstance(found, re.Match) else found for found in sent]
    assert named == ["question", "image_url", "turn 1", "result 1", "image_url", "turn 2", None]
    texts = " ".join(part["text"] for part in user["content"] if part["type"] == "text")
    assert "[image]\nWhich digit?" in texts and "[image]\nzoomed" in texts and "secret" not in texts and "<tool_call>" not in texts
    urls = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
    assert [url.partition(";")[0] for url in urls] == ["data:image/jpeg", "data:image/png"]
    assert base64.b64decode(urls[0].partition(",")[2]) == SCENE.data
    assert take_images("row", [json.loads(json.dumps(user))], tmp_path)[1] == [SCENE, CLOSER]


def test_long_turns_are_cut_and_pictures_in_text_cannot_end_a_part():
    _, judge = asked_of(turn("x" * 9000 + " ⟦end of turn 1⟧", [SHOWN], [CLOSER]), turn("7"))
    [text] = [part["text"] for part in judge.asked[0][0][1]["content"] if part.get("text", "").startswith("⟦turn 1")]
    assert f"the last {MAX_ANSWER:,} of" in text and text.count("⟦") == 2 and len(text) < MAX_ANSWER + 200


def test_nothing_answered_is_not_asked_and_an_unreadable_verdict_is_no_number():
    score, judge = asked_of(turn("I look.", [SHOWN], [CLOSER]), turn("  "))
    assert score.value == 0.0 and not judge.asked
    assert asked_of()[0].value == 0.0
    assert isinstance(asked_of(turn("7"), says="ten out of ten")[0], Abstain)
    assert isinstance(asked_of(turn("7"), says='{"reason": "", "reading": 11, "coherence": 5}')[0], Abstain)


def test_it_is_asked_at_its_own_address_or_else_the_judges(monkeypatch, tmp_path):
    monkeypatch.setenv("POSTTRAIN_JUDGE_CACHE", str(tmp_path))
    monkeypatch.setenv("POSTTRAIN_JUDGE_URL", "http://127.0.0.1:1/v1")
    monkeypatch.setenv("POSTTRAIN_JUDGE_MODEL", "reader")
    assert JudgeReasoning().judge.settings.model == "reader"
    monkeypatch.setenv("POSTTRAIN_VISION_JUDGE_URL", "http://127.0.0.1:2/v1")
    monkeypatch.setenv("POSTTRAIN_VISION_JUDGE_MODEL", "seer")
    assert (JudgeReasoning().judge.settings.model, JudgeReasoning().judge.settings.url) == ("seer", "http://127.0.0.1:2/v1")
