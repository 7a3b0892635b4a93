"""A teacher behind a server: what it says is what the same model says as an actor, and what is refused before a run."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.algorithms.distill_onpolicy import DistillOnpolicyConfig
from posttrain.config import Config, ModelConfig, RolloutConfig
from posttrain.errors import UserError
from posttrain.learner_spec import Distillation, TeacherSpec
from posttrain.packing import pack, rewrite
from posttrain.served_teacher import ServedTeacher
from posttrain.teacher import Teacher
from posttrain.teacher_inputs import prepare_teachers
from posttrain.types import Prompt
from posttrain.vision import Piece

MAX_LOGPROBS = 20


class Handler(BaseHTTPRequestHandler):
    """vLLM's server in so far as a teacher needs it; every fifth request finds it busy."""

    def do_GET(self):
        self.answer(200, {"data": [{"id": "served"}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.num_asked += 1
        if self.server.num_asked % 5 == 0:
            self.answer(503, {"error": "busy"})
        elif self.path == "/tokenize":
            self.answer(200, {"tokens": self.tokens(asked)})
        elif asked["prompt_logprobs"] > MAX_LOGPROBS:
            self.answer(400, {"error": f"Requested prompt logprobs of {asked['prompt_logprobs']}, max is {MAX_LOGPROBS}"})
        else:
            self.answer(200, {"choices": [{"prompt_logprobs": self.logprobs(asked["prompt"], asked["prompt_logprobs"])}]})

    def tokens(self, asked):
        if "prompt" in asked:
            return self.server.tokenizer.encode(asked["prompt"], add_special_tokens=False)
        text = self.server.tokenizer.apply_chat_template(asked["messages"], tokenize=False, add_generation_prompt=True)
        return self.server.tokenizer.encode(text, add_special_tokens=False)

    def logprobs(self, token_ids, k):
        with torch.no_grad():
            rows = self.server.model(input_ids=torch.tensor([token_ids])).logits[0].log_softmax(-1)
        named = [{*row.topk(k).indices.tolist(), token} for row, token in zip(rows, token_ids[1:], strict=False)]
        return [None, *({str(t): {"logprob": row[t].item(), "rank": 1} for t in ids} for row, ids in zip(rows, named, strict=False))]

    def answer(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        """Nothing."""


@pytest.fixture(scope="module")
def url(tiny_path):
    """The tiny model as a teacher with another chat template."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.num_asked, server.tokenizer = 0, AutoTokenizer.from_pretrained(tiny_path)
    server.tokenizer.chat_template = "<|im_start|>{{ messages[0]['content'] }}<|im_end|>"
    server.model = AutoModelForCausalLM.from_pretrained(tiny_path, dtype=torch.float32)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("support", ["topk", "sampled"])
def test_it_says_what_the_model_says(random_groups, tiny_path, url, support):
    groups = random_groups(0, num_groups=2, group_size=2, turns=2)
    (batch,) = pack(groups, normalization="token_mean", microbatch_tokens=10_000)
    batch = rewrite(batch, {group.prompt.id: Piece(token_ids=np.arange(10, 20)) for group in groups})
    rows = AutoTokenizer.from_pretrained(tiny_path).vocab_size
    scores = []
    for worker, path in ((ServedTeacher, url), (Teacher, tiny_path)):
        spec = TeacherSpec(
            model_path=path, dtype="float32", attention="auto", output_rows=rows, head_chunk_mb=1.0,
            temperature=1.0, distillation=Distillation(support=support, top_k=8), threads=2,
        )  # fmt: skip
        teacher = worker(spec)
        teacher.start()
        num_scored, said = teacher.score(batch)
        assert num_scored == np.count_nonzero(batch.loss_weights)
        scores.append(said)
    served, own = scores
    torch.testing.assert_close(served.logprobs.tensor(), own.logprobs.tensor(), rtol=1e-5, atol=2e-5)
    if support == "topk":
        torch.testing.assert_close(served.top_logprobs.tensor(), own.top_logprobs.tensor(), rtol=1e-5, atol=2e-5)
        assert (served.top_ids.tensor() == own.top_ids.tensor()).float().mean() > 0.99  # but for ties


def prepared(tiny_path, url, temperature=1.0, **keys):
    prompt = Prompt(id="t/0", task="t", messages=[{"role": "user", "content": "2 + 3 ="}], reference="5")
    inputs = SimpleNamespace(model_path=tiny_path, geometry=None, tasks={"t": SimpleNamespace(train=[(prompt, None)])})
    algo = DistillOnpolicyConfig(teacher=url, **{"support": "topk", "top_k": 8, **keys})
    config = Config(model=ModelConfig(path="builtin:tiny"), algo=algo, rollout=RolloutConfig(temperature=temperature))
    return prepare_teachers(config, inputs, {"t": url})


def test_its_own_template_renders_the_prompts(tiny_path, url):
    (teacher,) = prepared(tiny_path, url)
    assert teacher.is_served and teacher.path == url
    assert AutoTokenizer.from_pretrained(tiny_path).decode(teacher.prompts["t/0"].token_ids) == "<|im_start|>2 + 3 =<|im_end|>"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"support": "full"}, "a server tells its most likely tokens only; expected algo.support=topk or sampled"),
        ({"temperature": 0.5}, "expected rollout.temperature=1"),
        ({"top_k": 64}, "max is 20"),
    ],
)
def test_what_a_server_cannot_do_is_refused(tiny_path, url, change, said):
    with pytest.raises(UserError, match=r"algo\.teacher=http://127") as error:
        prepared(tiny_path, url, **change)
    assert said in str(error.value)


def test_another_vocabulary_and_no_server_are_refused(tiny_path, teacher_path, url, monkeypatch):
    with pytest.raises(UserError, match=r"expected an OpenAI-compatible server"):
        prepared(tiny_path, "http://127.0.0.1:9/v1")
    monkeypatch.setattr(Handler, "tokens", lambda self, asked: [1, 2, 3])
    with pytest.raises(UserError, match=r"expected the vocabulary of model\.path=builtin:tiny, but 'The quick brown fox ' is \[1, 2, 3\]"):
        prepared(tiny_path, url)
