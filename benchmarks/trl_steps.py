"""TRL's side of the comparison: `python benchmarks/trl_steps.py PROMPTS.json SETTINGS.json` prints one JSON line a step.

GRPOTrainer with loss_type="sapo" on the CPU, as its documentation sets it up: bf16 where the processor has it, no KL
penalty, its own defaults otherwise. It samples with transformers' generate, because its vLLM modes want a GPU.
"""

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class StepTimes(TrainerCallback):
    """Wall seconds from the end of one optimizer step to the end of the next: sampling, scoring, learning, logging."""

    def on_train_begin(self, *_, **__):
        """Starts the clock."""
        self.since = time.monotonic()

    def on_step_end(self, arguments, state, control, **_):
        """Prints the step."""
        now = time.monotonic()
        print(json.dumps({"step": state.global_step, "step_s": now - self.since}), flush=True)
        self.since = now


def right(completions, answer, **_):
    """1 where the answer stands in the completion."""
    return [float(expected in completion[0]["content"]) for completion, expected in zip(completions, answer, strict=True)]


def main(prompts: list[dict], settings: dict) -> None:
    """Trains settings["steps"] optimizer steps."""
    torch.set_num_threads(settings["threads"])
    rows = [{"prompt": row["messages"], "answer": str(row["answer"])} for row in prompts]
    batch = settings["prompts_per_step"] * settings["group_size"]
    config = GRPOConfig(
        output_dir=settings["folder"],
        loss_type="sapo",
        use_cpu=True,
        bf16=settings["dtype"] == "bfloat16",
        beta=0.0,
        learning_rate=2e-5,
        num_generations=settings["group_size"],
        per_device_train_batch_size=settings["per_device_batch"],
        gradient_accumulation_steps=batch // settings["per_device_batch"],
        max_completion_length=settings["max_completion_tokens"],
        temperature=1.0,
        max_steps=settings["steps"],
        seed=settings["seed"],
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        gradient_checkpointing=settings["gradient_checkpointing"],
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=settings["dtype"])
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=right,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(settings["model"]),
        callbacks=[StepTimes()],
    )
    trainer.train()


if __name__ == "__main__":
    main(*(json.loads(Path(name).read_text()) for name in sys.argv[1:3]))
