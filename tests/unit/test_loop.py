"""The episode loop and the renderer: turns, limits, failures; tokens are only ever appended."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.errors import UserError
from posttrain.model import load_tokenizer
from posttrain.rollout.loop import EpisodeJob, EpisodeLoop, RequestRefused
from posttrain.rollout.render import Renderer
from posttrain.types import Prompt, Turn


class ScriptedSampler:
    """Writes what it is told: one request an engine step, oldest first."""

    def __init__(self, tokenizer, texts, stop_reason="stop", refuse=()):
        self.tokenizer, self.texts, self.stop_reason, self.refuse = tokenizer, texts, stop_reason, refuse
        self.queue, self.seen = [], []

    def submit(self, request_id, token_ids, images, max_tokens):
        if len(self.seen) in self.refuse:
            self.seen.append(None)
            raise RequestRefused("too long")
        self.seen.append((token_ids, max_tokens))
        self.queue.append(request_id)

    def step(self):
        if not self.queue:
            return []
        text = self.texts.pop(0)
        ids = self.tokenizer.encode(text, add_special_tokens=False) + [self.tokenizer.eos_token_id] * (self.stop_reason == "stop")
        turn = Turn(
            token_ids=np.array(ids), logprobs=np.zeros(len(ids), np.float32), text=text, stop_reason=self.stop_reason, policy_version=3
        )
        return [(self.queue.pop(0), turn)]


class Echo:
    """Answers each turn with its own text, up to `times`."""

    def __init__(self, times, delay_s=0.0, fails=False):
        self.times, self.delay_s, self.fails = times, delay_s, fails

    def respond(self, prompt, turns):
        time.sleep(self.delay_s)
        if self.fails:
            raise OSError("tool is gone")
        return [{"role": "user", "content": f"you said {turns[-1].text}"}] if len(turns) <= self.times else None


@pytest.fixture(scope="module")
def tokenizer(tiny_path):
    return load_tokenizer(tiny_path)


def jobs(renderer, count=1):
    prompt = Prompt(id="p", task="t", messages=[{"role": "user", "content": "2 + 3 ="}], reference="5")
    return [EpisodeJob(key=(0, k), prompt=prompt, prompt_token_ids=renderer.prompt(prompt.messages)) for k in range(count)]


def run(tokenizer, sampler, environment, count=1, max_turns=4, max_completion_tokens=100):
    loop = EpisodeLoop(sampler, Renderer(tokenizer), environment, max_turns=max_turns, max_completion_tokens=max_completion_tokens)
    return dict(loop.run(jobs(loop.renderer, count)))


def test_two_turns_append_to_the_same_tokens(tokenizer):
    sampler = ScriptedSampler(tokenizer, ["call", "5"])
    (episode,) = run(tokenizer, sampler, Echo(1)).values()
    assert (episode.status, episode.text, len(episode.turns)) == ("complete", "5", 2)
    first, second = (context for context, _ in sampler.seen)
    turn = episode.turns[0]
    assert second.tolist() == [*first, *turn.token_ids, *turn.observation_token_ids]
    assert tokenizer.decode(turn.observation_token_ids) == "\n<|im_start|>user\nyou said call<|im_end|>\n<|im_start|>assistant\n"
    whole = [
        *jobs(Renderer(tokenizer))[0].prompt.messages,
        {"role": "assistant", "content": "call"},
        {"role": "user", "content": "you said call"},
    ]
    assert tokenizer.decode(second) == tokenizer.apply_chat_template(whole, tokenize=False, add_generation_prompt=True)
    budget = [max_tokens for _, max_tokens in sampler.seen]
    assert budget == [100, 100 - len(turn.token_ids)]


def test_statuses(tokenizer):
    (limited,) = run(tokenizer, ScriptedSampler(tokenizer, ["a", "b"]), Echo(9), max_turns=2).values()
    assert (limited.status, len(limited.turns)) == ("turn_limit", 2)
    (cut,) = run(tokenizer, ScriptedSampler(tokenizer, ["a"], stop_reason="length"), Echo(9)).values()
    assert (cut.status, len(cut.turns), len(cut.turns[0].observation_token_ids)) == ("truncated", 1, 0)


def test_a_failure_of_the_environment_or_the_engine_costs_one_episode(tokenizer):
    (broken,) = run(tokenizer, ScriptedSampler(tokenizer, ["a"]), Echo(1, fails=True)).values()
    assert (broken.status, broken.failure) == ("failed", "environment: OSError: tool is gone")
    episodes = run(tokenizer, ScriptedSampler(tokenizer, ["a", "b"], refuse={1}), Echo(0), count=3)
    assert [episodes[0, k].status for k in range(3)] == ["complete", "failed", "complete"]
    assert episodes[0, 1].failure == "engine: too long"


def test_a_slow_answer_holds_up_nobody_else(tokenizer):
    class SlowForOne(Echo):
        def respond(self, prompt, turns):
            if turns[-1].text == "slow":
                time.sleep(0.3)
            return None

    finished = list(run(tokenizer, ScriptedSampler(tokenizer, ["slow", *"abcd"]), SlowForOne(0), count=5))
    assert finished[-1] == (0, 0)


@given(st.text(max_size=40))
def test_rendered_prompts_are_the_templates_own_text(tiny_path, text):
    tokenizer = load_tokenizer(tiny_path)
    messages = [{"role": "user", "content": text}]
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert Renderer(tokenizer).prompt(messages).tolist() == tokenizer.encode(expected, add_special_tokens=False)


def test_a_template_that_rewrites_history_is_refused(tiny_path):
    tokenizer = load_tokenizer(tiny_path)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ message['content'] }}", "{{ message['content'] if loop.last else '(earlier)' }}"
    )
    with pytest.raises(UserError, match="does not append"):
        Renderer(tokenizer).observation([{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}])


def test_a_template_that_refuses_messages_is_named(tiny_path):
    tokenizer = load_tokenizer(tiny_path)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match="roles must alternate"):
        Renderer(tokenizer).prompt([{"role": "user", "content": "a"}])
