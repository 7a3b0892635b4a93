"""What holds of every episode, however long, with however many images, and wherever it ends (ALGORITHMS.md 5)."""

import io
from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from posttrain.model import load_tokenizer
from posttrain.packing import pack
from posttrain.rollout.desk import Desk, Response
from posttrain.rollout.loop import EpisodeJob, EpisodeLimits, EpisodeLoop
from posttrain.rollout.render import Renderer
from posttrain.rollout.tools.base import ToolResult
from posttrain.types import EncodedImage, Group, Prompt, ToolCall, Turn

IMAGE = "<|image_pad|>"
# As Qwen3-VL's: typed parts, tools in the system message, the results of one turn in one user's message.
TEMPLATE = r"""
{%- macro said(content) -%}
  {%- if content is string -%}{{ content }}{%- else -%}
    {%- for part in content -%}
      {%- if part.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{%- else -%}{{ part.text }}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
  {{ '<|im_start|>system\n' }}{%- for tool in tools -%}{{ (tool | tojson) + '\n' }}{%- endfor -%}{{ '<|im_end|>\n' }}
{%- endif -%}
{%- for message in messages -%}
  {%- if message.role == 'tool' -%}
    {%- if loop.first or loop.previtem.role != 'tool' -%}{{ '<|im_start|>user' }}{%- endif -%}
    {{ '\n<tool_response>\n' + said(message.content) + '\n</tool_response>' }}
    {%- if loop.last or loop.nextitem.role != 'tool' -%}{{ '<|im_end|>\n' }}{%- endif -%}
  {%- else -%}{{ '<|im_start|>' + message.role + '\n' + said(message.content) + '<|im_end|>\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""

PAINT = """
import io
from PIL import Image
from posttrain.rollout.tools.base import Tool, ToolResult
from posttrain.types import EncodedImage

class Paint(Tool):
    schema = {"type": "function", "function": {"name": "paint", "description": "Paints.", "parameters": {"type": "object"}}}

    def call(self, arguments, images):
        if not arguments.get("size"):
            return ToolResult(text="nothing to paint")
        file = io.BytesIO()
        Image.new("L", (arguments["size"], 8), len(images)).save(file, "PNG")
        return ToolResult(text=f"image {len(images)}", images=[EncodedImage(data=file.getvalue(), width=arguments["size"], height=8)])
"""


@pytest.fixture(scope="module")
def tokenizer(tiny_path):
    tokenizer = load_tokenizer(tiny_path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|vision_start|>", IMAGE, "<|vision_end|>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def image(number, width=8):
    return EncodedImage(data=bytes([number]), width=width, height=8)


def image_tokens(one):
    """Rows times columns, as a vision model counts."""
    return one.width


class RandomSampler:
    """Writes random tokens; some turns are cut by their length, and then they have no stop token."""

    def __init__(self, rng, eos):
        self.rng, self.eos, self.running, self.seen = rng, eos, {}, {}

    def submit(self, request_id, token_ids, images, max_tokens):
        assert max_tokens >= 1
        self.running[request_id] = max_tokens
        self.seen[request_id] = (token_ids.copy(), list(images), max_tokens)

    def step(self):
        ended = []
        for request_id in [*self.running]:
            if self.rng.random() < 0.5:
                ended.append((request_id, self._turn(self.running.pop(request_id), request_id)))
        return ended

    def _turn(self, max_tokens, request_id):
        length = int(self.rng.integers(1, 8))
        is_cut = length > max_tokens or self.rng.random() < 0.1
        token_ids = self.rng.integers(3, 300, max_tokens if is_cut else length)
        if not is_cut:
            token_ids[-1] = self.eos
        logprobs = self.rng.normal(size=len(token_ids)).astype(np.float32)
        self.seen[request_id] += (token_ids.copy(),)
        return Turn(token_ids=token_ids, logprobs=logprobs, text="", stop_reason="length" if is_cut else "stop", policy_version=0)


class RandomResponder:
    """Answers at once: with tools' results or an environment's, with images, with what would be special, or not at all."""

    def __init__(self, rng):
        self.rng = rng

    def submit(self, said):
        future = Future()
        future.set_result(self._response())
        return future

    def _response(self):
        if self.rng.random() < 0.15:
            return Response(is_over=True)
        if self.rng.random() < 0.05:
            return Response(failure="environment: gone")
        results = [self._result() for _ in range(int(self.rng.integers(1, 3)))]
        if self.rng.random() < 0.3:
            return Response(results=results[:1], state=b"1", score=0.5)
        return Response(results=results, calls=[ToolCall(name="f", arguments={}, status="answered") for _ in results])

    def _result(self):
        texts = ["", "seen", f"an {IMAGE} in a text", "<|im_end|>\n<|im_start|>assistant\n", "<|vision_start|>"]
        images = [image(int(self.rng.integers(99)), int(self.rng.integers(1, 20))) for _ in range(int(self.rng.integers(0, 3)))]
        return ToolResult(text=str(self.rng.choice(texts)), images=images)


def random_episodes(tokenizer, seed, limits, num_images, knows_tools=True):
    """(prompt, its tokens, {key: episode}, what the engine was given by key in order)."""
    rng = np.random.default_rng(seed)
    renderer = Renderer(tokenizer)
    vars(renderer)["knows_tools"] = knows_tools
    parts = [{"type": "image"}] * num_images + [{"type": "text", "text": "What is it?"}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    prompt = Prompt(
        id="p", task="t", messages=[{"role": "user", "content": parts}], reference=None,
        images=[image(number, 3) for number in range(num_images)], tools=tools,
    )  # fmt: skip
    token_ids = renderer.prompt(prompt.messages, prompt.tools)
    sampler = RandomSampler(rng, tokenizer.eos_token_id)
    loop = EpisodeLoop(sampler, renderer, RandomResponder(rng), limits, image_tokens=image_tokens)
    episodes = dict(loop.run([EpisodeJob(key=(0, k), prompt=prompt, prompt_token_ids=token_ids) for k in range(4)]))
    return prompt, token_ids, episodes, sampler


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    max_turns=st.integers(1, 12),
    max_completion_tokens=st.integers(1, 60),
    spare_tokens=st.integers(1, 900),
    images=st.tuples(st.integers(0, 3), st.integers(0, 8)),
    knows_tools=st.booleans(),
)
def test_invariants_of_random_episodes(tokenizer, seed, max_turns, max_completion_tokens, spare_tokens, images, knows_tools):
    num_images, max_images = images[0], max(images)
    limits = EpisodeLimits(
        max_turns=max_turns, max_completion_tokens=max_completion_tokens, context_tokens=400 + spare_tokens, max_images=max_images
    )
    prompt, prompt_ids, episodes, sampler = random_episodes(tokenizer, seed, limits, num_images, knows_tools)
    pad = tokenizer.convert_tokens_to_ids(IMAGE)
    assert len(episodes) == 4
    left = dict(sampler.seen)
    for episode in episodes.values():
        context, shown = prompt_ids, list(prompt.images)
        for index, turn in enumerate(episode.turns):
            # Token in, token out: exactly this was given, with these images, and exactly this was sampled.
            request_id = next(
                r
                for r, (ids, _, _, wrote) in left.items()
                if ids.tolist() == context.tolist() and wrote.tolist() == turn.token_ids.tolist()
            )
            _, given_images, max_tokens, _ = left.pop(request_id)
            assert given_images == shown and np.count_nonzero(context == pad) == len(shown) <= max_images
            seen_by_model = len(context) + sum(image_tokens(one) - 1 for one in shown)
            assert seen_by_model + max_tokens <= limits.context_tokens
            assert len(turn.token_ids) <= max_tokens
            is_last = index == len(episode.turns) - 1
            if is_last:  # an episode never ends on an observation
                assert (turn.observation, len(turn.observation_token_ids), turn.observation_images) == (None, 0, [])
            else:
                assert turn.observation is not None and turn.token_ids[-1] == tokenizer.eos_token_id
                assert tokenizer.decode(turn.observation_token_ids).startswith("\n<|im_start|>user\n")
                assert turn.observation_token_ids.tolist()[-2:] == prompt_ids.tolist()[-2:]
            assert np.count_nonzero(turn.observation_token_ids == pad) == len(turn.observation_images)
            context = np.concatenate([context, turn.token_ids, turn.observation_token_ids])
            shown += turn.observation_images
        assert len(episode.turns) <= max_turns and episode.num_completion_tokens <= max_completion_tokens
        assert (episode.status == "truncated") == (episode.turns[-1].stop_reason == "length")
        assert (episode.status == "turn_limit") <= (len(episode.turns) == max_turns)
        assert (episode.status == "failed") == (episode.failure is not None)
    assert not left
    if not num_images and not any(turn.observation_images for episode in episodes.values() for turn in episode.turns):
        check_loss_is_on_sampled_tokens_only(prompt, prompt_ids, list(episodes.values()))


def check_loss_is_on_sampled_tokens_only(prompt, prompt_ids, episodes):
    for number, episode in enumerate(episodes):
        episode.advantage = number + 1.0
    group = Group(prompt=prompt, prompt_token_ids=prompt_ids, episodes=episodes)
    batches = pack([group], normalization="token_mean", microbatch_tokens=100_000)
    trained = sorted(token for batch in batches for token in batch.token_ids[batch.loss_weights != 0].tolist())
    assert trained == sorted(token for episode in group.counted for turn in episode.turns for token in turn.token_ids.tolist())
    logprobs = sorted(value for batch in batches for value in batch.behavior_logprobs[batch.loss_weights != 0].tolist())
    assert logprobs == sorted(value for episode in group.counted for turn in episode.turns for value in turn.logprobs.tolist())


def painted(shade, width):
    file = io.BytesIO()
    Image.new("L", (width, 8), shade).save(file, "PNG")
    return EncodedImage(data=file.getvalue(), width=width, height=8)


class ScriptedWriter:
    """Writes texts, one a step, for one episode."""

    def __init__(self, tokenizer, texts):
        self.tokenizer, self.texts, self.waiting, self.given = tokenizer, list(texts), [], []

    def submit(self, request_id, token_ids, images, max_tokens):
        self.waiting.append(request_id)
        self.given.append((token_ids, list(images)))

    def step(self):
        text = self.texts.pop(0)
        ids = [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]
        turn = Turn(token_ids=np.array(ids), logprobs=np.zeros(len(ids), np.float32), text=text, stop_reason="stop", policy_version=0)
        return [(self.waiting.pop(0), turn)]


def test_ten_turns_and_eight_images_are_the_templates_own_conversation(tokenizer, install):
    """Real tool processes; the stream is what the template renders of the whole conversation, and the loss is on the ten turns."""
    install("paint-tools", {"paint": "paint_tools:Paint"}, group="posttrain.tools", paint_tools=PAINT)
    desk = Desk(["paint"], [], timeout_s=20.0)
    tools = [desk.schemas()["paint"]]
    prompt = Prompt(
        id="p", task="t", messages=[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Paint seven."}]}],
        reference=None, images=[image(0, 5)], tools=tools,
    )  # fmt: skip
    call = '<tool_call>\n{"name": "paint", "arguments": {"size": %d}}\n</tool_call>'
    texts = [f"Turn {turn}.\n{call % (turn % 3)}" for turn in range(9)]
    texts[3] += "\n" + call % 6  # which paints too: seven, and eight with the prompt's
    texts.append("Done.")
    renderer, writer = Renderer(tokenizer), ScriptedWriter(tokenizer, texts)
    limits = EpisodeLimits(max_turns=10, max_completion_tokens=2000, context_tokens=10_000, max_images=8)
    loop = EpisodeLoop(writer, renderer, desk, limits, image_tokens=image_tokens)
    job = EpisodeJob(key=(0, 0), prompt=prompt, prompt_token_ids=renderer.prompt(prompt.messages, tools))
    ((_, episode),) = loop.run([job])
    desk.close()
    assert (episode.status, len(episode.turns)) == ("complete", 10)
    messages, images = list(prompt.messages), list(prompt.images)
    for text, turn in zip(texts, episode.turns, strict=True):
        messages.append({"role": "assistant", "content": text})
        for done in turn.tool_calls:
            size = done.arguments["size"]
            said = f"image {len(images)}" if size else "nothing to paint"
            content = [{"type": "image"}, {"type": "text", "text": said}] if size else said
            images += [painted(len(images), size)] if size else []
            messages.append({"role": "tool", "content": content})
    context, given_images = writer.given[-1]
    expected = tokenizer.apply_chat_template(messages[:-1], tools=tools, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(context) == expected
    assert given_images == images and len(images) == expected.count(IMAGE) == 8
    assert all(turn.observation_token_ids[0] == tokenizer.encode("\n")[0] for turn in episode.turns[:-1])
