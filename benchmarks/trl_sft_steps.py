"""TRL's side of the SFT comparison: `python benchmarks/trl_sft_steps.py ROWS.jsonl SETTINGS.json` prints one JSON line a step.

SFTTrainer on the CPU as its documentation sets it up for prompts and completions: loss on the completions, bf16 where
the processor has it, its own defaults otherwise, eight rows a device's batch among them. Its packing wants FlashAttention, so
rows are padded.
"""

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

ROWS_PER_DEVICE = 8


class CountingTrainer(SFTTrainer):
    """Counts the tokens that are no padding."""

    num_tokens = 0

    def compute_loss(self, model, inputs, *arguments, **options):
        """As it is."""
        self.num_tokens += int(inputs["attention_mask"].sum())
        return super().compute_loss(model, inputs, *arguments, **options)


class StepTimes(TrainerCallback):
    """Wall seconds from the end of one optimizer step to the end of the next, and the tokens between."""

    def on_train_begin(self, *_, **__):
        """Starts the clock."""
        self.since, self.num_before = time.monotonic(), 0

    def on_step_end(self, arguments, state, control, **_):
        """Prints the step."""
        now, num_tokens = time.monotonic(), self.trainer.num_tokens
        print(json.dumps({"step": state.global_step, "step_s": now - self.since, "tokens": num_tokens - self.num_before}), flush=True)
        self.since, self.num_before = now, num_tokens


def main(rows: Path, settings: dict) -> None:
    """Trains settings["steps"] optimizer steps."""
    torch.set_num_threads(settings["threads"])
    messages = [json.loads(line)["messages"] for line in rows.read_text().splitlines()]
    config = SFTConfig(
        output_dir=settings["folder"],
        use_cpu=True,
        bf16=settings["dtype"] == "bfloat16",
        learning_rate=2e-5,
        per_device_train_batch_size=ROWS_PER_DEVICE,
        gradient_accumulation_steps=settings["rows_per_step"] // ROWS_PER_DEVICE,
        max_length=settings["max_tokens"],
        max_steps=settings["steps"],
        seed=settings["seed"],
        logging_steps=1,
        gradient_checkpointing=settings["gradient_checkpointing"],
        disable_tqdm=True,
        report_to=[],
        save_strategy="no",
    )
    times = StepTimes()
    times.trainer = CountingTrainer(
        model=AutoModelForCausalLM.from_pretrained(settings["model"], dtype=settings["dtype"]),
        args=config,
        train_dataset=Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in messages]),
        processing_class=AutoTokenizer.from_pretrained(settings["model"]),
        callbacks=[times],
    )
    times.trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
