"""Pictures through a whole run: vLLM, DeepSpeed and publishing with the tiny model that reads images."""

import base64
import json

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor


@pytest.fixture
def rows(tmp_path, picture):
    """24 questions about a picture each, of several sizes."""
    path = tmp_path / "rows.jsonl"
    lines = []
    for number in range(24):
        data = base64.b64encode(picture(number, 40 + 5 * number, 160 - 4 * number).data).decode()
        shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        question = {"role": "user", "content": [shown, {"type": "text", "text": "What is it?"}]}
        lines.append({"messages": [question], "answer": str(number)})
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_a_policy_that_reads_images_is_sampled_trained_and_published(launch, tmp_path, rows):
    overrides = [
        *("algo=sapo", "model=tiny_vl", "train.lr=1e-3", "train.steps=2", "train.prompts_per_step=4", "algo.group_size=4"),
        *("task.name=pictures", "task.source=file", f"task.path={rows}", "~task.rewards.numeric", "+task.rewards.vowels=1.0"),
        *("eval.num_prompts=2", "eval.samples_per_prompt=2", "rollout.max_completion_tokens=12", "checks.every=2"),
    ]
    running = launch(tmp_path / "run", overrides, tmp_path / "run_log", base=())
    result = running.finish()
    assert result.code == 0, result.err
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps] == [1, 2]
    for row in steps:
        assert 0 < row["mismatch/logprob_abs_max"] < 1e-3
        assert 0 < row["sync/canary_abs_max"] < 1e-3
        assert row["rollout/failed_fraction"] == 0
        assert row["checks/blind_abs_max"] > 1e-3
        assert row["loss/grad_norm"] > 0
    folder = tmp_path / "run" / "checkpoints" / "step_2" / "hf"
    trained = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.image_processor.size["longest_edge"] == 1024 * 32 * 32 and processor.chat_template
    assert trained.config.image_token_id == processor.image_token_id
