"""Which of a teacher's answers become rows, and why the others do not."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from posttrain.algorithms.distill_offpolicy import DistillOffpolicyConfig
from posttrain.algorithms.rollouts import Sampler
from posttrain.algorithms.teacher_answers import both_formats, collect, join, keep, sample
from posttrain.config import Config, ModelConfig, RewardsConfig, RunConfig, TaskConfig
from posttrain.data.conversations import load_conversations
from posttrain.errors import RunError, UserError
from posttrain.model import load_tokenizer
from posttrain.rollout.render import Renderer
from posttrain.stats import Timer
from posttrain.types import EncodedImage, Episode, Group, Prompt, Turn


def episode(text, outcome, status="complete"):
    turn = Turn(token_ids=np.ones(2, np.int64), logprobs=np.zeros(2, np.float32), text=text, stop_reason="stop", policy_version=0)
    return Episode(prompt_id="t/0", turns=[turn], status=status, outcome=outcome)


def test_the_best_different_finished_answers_are_kept_and_the_rest_is_counted(tmp_path):
    prompt = Prompt(id="t/0", task="t", messages=[{"role": "user", "content": "2 + 3 ="}], reference="5")
    episodes = [
        episode("five", 0.9),
        episode(" 5\n", 1.0),
        episode("5", 1.0),
        episode("so 5", 1.0),
        episode("6", 0.2),
        episode("5 5 5", 1.0, "truncated"),
        episode("", 1.0),
        episode("5!", 0.0, "failed"),
    ]
    algo = DistillOffpolicyConfig(min_reward=0.5, keep_per_prompt=2)
    rows, left_out = keep([Group(prompt=prompt, prompt_token_ids=np.ones(1, np.int64), episodes=episodes)], algo, {}, tmp_path)
    assert [row["messages"] for row in rows] == [[*prompt.messages, {"role": "assistant", "content": text}] for text in ("5", "so 5")]
    assert [(row["id"], row["answer"], row["reward"]) for row in rows] == [("t/0#1", "5", 1.0), ("t/0#3", "5", 1.0)]
    assert left_out == {"failed": 1, "unfinished": 2, "low_reward": 1, "same_answer": 1, "enough": 1}
    assert len(prompt.messages) == 1


THOUGHT, SAID = "<think>\n2 and 3\n</think>\n\n5", "5"


@pytest.mark.parametrize(
    ("asked", "kept"), [({"t/0": True}, [THOUGHT, "<think>\nit is\n</think>\n5"]), ({"t/0": False}, [SAID]), ({}, None)]
)
def test_an_answer_in_the_other_format_is_left_out(tmp_path, asked, kept):
    prompt = Prompt(id="t/0", task="t", messages=[{"role": "user", "content": "2 + 3 ="}], reference="5")
    episodes = [episode(text, 1.0) for text in (THOUGHT, SAID, "it is\n</think>\n5")]  # the third one's template opened the block
    groups = [Group(prompt=prompt, prompt_token_ids=np.ones(1, np.int64), episodes=episodes)]
    rows, left_out = keep(groups, DistillOffpolicyConfig(keep_per_prompt=3), asked, tmp_path)
    texts = [row["messages"][-1]["content"] for row in rows]
    assert texts == kept if asked else len(texts) == 3
    assert left_out["other_format"] == 3 - len(texts)
    assert all(row.get("thinking") == asked.get("t/0") for row in rows)


def test_an_episode_with_tools_is_one_row_with_what_they_showed(tmp_path):
    """Two ways to the same last answer are two answers; the row is read back as a conversation with its pictures."""
    file = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(file, "PNG")
    picture = EncodedImage(data=file.getvalue(), width=4, height=3)
    closer = {"role": "tool", "content": [{"type": "image"}, {"type": "text", "text": "closer"}]}
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit?"}]}
    tool = {"type": "function", "function": {"name": "zoom", "description": "", "parameters": {"type": "object"}}}
    prompt = Prompt(id="t/0", task="t", messages=[question], reference="7", images=[picture], tools=[tool])
    episodes = [episode("7", 1.0) for _ in range(3)]
    for one, text in zip(episodes, ("Left. <tool_call>...", "Right. <tool_call>...", "Left. <tool_call>...\n"), strict=True):
        one.turns.insert(0, replace(one.turns[0], text=text, observed=[closer], observation_images=[picture]))
    groups = [Group(prompt=prompt, prompt_token_ids=np.ones(1, np.int64), episodes=episodes)]
    rows, left_out = keep(groups, DistillOffpolicyConfig(keep_per_prompt=4), {}, tmp_path)
    assert [row["id"] for row in rows] == ["t/0#0", "t/0#1"] and left_out == {"same_answer": 1}
    dataset = tmp_path / "dataset.jsonl"
    dataset.write_text(json.dumps(rows[0]))
    ([row], problems) = load_conversations(TaskConfig(name="t", source="file", path=str(dataset)))
    assert not problems and row.tools == [tool] and row.images == [picture, picture]
    said = [(message["role"], message["content"]) for message in row.messages]
    assert said == [("user", question["content"]), ("assistant", "Left. <tool_call>..."), ("tool", closer["content"]), ("assistant", "7")]


SWITCH = "{%- if add_generation_prompt and enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"


def inputs_of(tiny_path, folder, share, template):
    tokenizer = load_tokenizer(tiny_path)
    tokenizer.chat_template += template
    tokenizer.save_pretrained(folder)
    prompts = [Prompt(id=f"t/{i}", task="t", messages=[{"role": "user", "content": f"{i}?"}], reference=i) for i in range(20)]
    rendered = [(prompt, Renderer(tokenizer).prompt(prompt.messages)) for prompt in prompts]
    task = SimpleNamespace(config=TaskConfig(name="t", thinking=share), train=rendered)
    return tokenizer, SimpleNamespace(model_path=str(folder), tasks={"t": task})


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_prompts_asks_for_thinking(tiny_path, tmp_path, share):
    tokenizer, inputs = inputs_of(tiny_path, tmp_path, share, SWITCH)
    prompts, formats = both_formats(inputs, "teacher")
    assert [prompt.id for prompt, _ in prompts] == [f"t/{i}" for i in range(20)]
    empty = [prompt.id for prompt, token_ids in prompts if tokenizer.decode(token_ids).endswith("assistant\n<think>\n\n</think>\n\n")]
    assert len(empty) == round(20 * (1 - share)) and (both_formats(inputs, "teacher")[1] == formats)
    assert sorted(empty) == sorted(name for name in formats if not formats[name]) and len(formats) == (20 if share < 1 else 0)


def test_a_template_without_the_two_formats_is_refused(tiny_path, tmp_path):
    _, inputs = inputs_of(tiny_path, tmp_path, 0.5, "")
    with pytest.raises(UserError, match=r"task t: thinking=0\.5 wants answers with and without thinking, but the chat template of teacher"):
        both_formats(inputs, "teacher")


@pytest.mark.parametrize(("key", "value"), [("group_size", 0), ("min_reward", float("nan")), ("keep_per_prompt", 0)])
def test_mistakes_name_the_key(key, value):
    with pytest.raises(UserError, match=rf"algo\.{key}={value}: expected"):
        DistillOffpolicyConfig(**{key: value}).validate()


def test_the_judge_of_the_configuration_is_the_runs(tmp_path):
    rewards = RewardsConfig(judge_model="builtin:nothing")
    config = Config(run=RunConfig(dir=str(tmp_path / "run")), model=ModelConfig(path="builtin:tiny"), rewards=rewards)
    with pytest.raises(UserError, match=r"rewards\.judge_model=builtin:nothing"):
        collect(config, DistillOffpolicyConfig())
    assert not (tmp_path / "run").exists()


class Engines:
    """Answers with the seed and the index, twice a prompt; remembers the seeds."""

    def __init__(self):
        self.seeds = []

    def sample(self, prompts, group_size, seed):
        self.seeds.append(seed)
        for index, (prompt, token_ids) in enumerate(prompts):
            episodes = [episode(f"{seed} {prompt.id} {k}", 1.0) for k in range(group_size)]
            yield index, Group(prompt=prompt, prompt_token_ids=token_ids, episodes=episodes)


def sampler_of(engines):
    rewards = SimpleNamespace(submit=lambda group: None, finish=lambda: None, take_counts=dict)
    inputs = SimpleNamespace(tasks={"t": SimpleNamespace(rewards=rewards)})
    console = SimpleNamespace(phase=lambda text: None, say=lambda text: None)
    return Sampler(config=Config(), inputs=inputs, engines=engines, console=console, timer=Timer())


def test_a_run_that_was_killed_goes_on_with_the_batch_that_is_missing(tmp_path):
    prompts = [(Prompt(id=f"t/{i}", task="t", messages=[{"role": "user", "content": str(i)}], reference=i), np.ones(1)) for i in range(5)]
    batches = [prompts[:2], prompts[2:4], prompts[4:]]
    algo = DistillOffpolicyConfig(group_size=2)
    first, second = Engines(), Engines()
    sample(sampler_of(first), algo, tmp_path, batches, {})
    path, num_rows = join(tmp_path, 3)
    whole, metrics = path.read_text(), (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert num_rows == 10 == len(whole.splitlines()) and len(first.seeds) == len(set(first.seeds)) == 3
    assert [json.loads(row)["distill/rows"] for row in metrics] == [4, 4, 2]
    (tmp_path / "rows" / "batch_000001.jsonl").unlink()
    sample(sampler_of(second), algo, tmp_path, batches, {})
    assert second.seeds == first.seeds[1:] and join(tmp_path, 3)[0].read_text() == whole
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_nothing_kept_is_an_error_that_says_where_to_look(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "batch_000000.jsonl").touch()
    with pytest.raises(RunError, match=r"no answer was kept; the counts are in .*metrics\.jsonl"):
        join(tmp_path, 1)
