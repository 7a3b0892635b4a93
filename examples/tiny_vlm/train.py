"""Builds the tiny vision-language model and trains it: first to see, then to speak, then to call the tool.

python examples/tiny_vlm/train.py runs/tiny_vlm

Meant to take at most 30 minutes on two cores; the same weights every time on the same machine with the same number of threads.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import lessons
import torch
from batches import Encoder, Sample, batch_of, drawn_moves, moved
from build import make_model, make_processor, plain_texts
from play import report
from sight import Heads, large, small

WARMUP_STEPS = 30
MAX_GRAD_NORM = 1.0
LOG_EVERY = 25
NUM_SIGHTS = {"large": 6000, "small": 3000}
SIGHT_BATCH = {"large": 48, "small": 12}


@dataclass(frozen=True)
class Course:
    """Lessons that are drawn, and what the steps hold: so many steps of each mixture, one after the other.

    moves_crops: by a few pixels, another way each time that one is shown, so that reading is learned and not the crops.
    """

    name: str
    lr: float
    num_lessons: dict[str, int]
    steps: list[tuple[int, dict[str, int]]]
    moves_crops: bool = False


FIRST = Course(
    "first words, then episodes",
    lr=1e-3,
    num_lessons={"content": 3000, "place": 1000, "find": 2400, "compare": 1200, "guess": 400},
    steps=[(150, {"content": 16, "place": 16, "find": 8}), (300, {"content": 8, "find": 16, "compare": 8, "guess": 4})],
)
SECOND = Course(
    "reading, and episodes of somebody in a hurry",
    lr=1e-3,
    num_lessons={"content": 8000, "hasty": 1200, "hasty compare": 1000, "guess": 200, "greater": 200, "conclusion": 1200},
    steps=[(600, {"content": 32, "hasty": 8, "hasty compare": 8, "guess": 2, "greater": 12, "conclusion": 8})],
    moves_crops=True,
)


def main() -> None:
    """Trains, measures, writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps and pictures: 0.01 tries whether it runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    trainer = Trainer(options.seed, options.scale)
    trainer.see(num_steps=1500, lr=2e-3)
    trainer.speak(FIRST)
    trainer.save(options.folder)
    trainer.rng = Random(f"{options.seed} {SECOND.name}")  # so that this course can be tried again on what the one before made
    trainer.speak(SECOND)
    trainer.save(options.folder)
    found = report(trainer.model, trainer.encoder, max(8, round(300 * options.scale)))
    (options.folder / "measured.json").write_text(json.dumps(found, indent=2) + "\n")
    trainer.say(json.dumps(found, indent=2))


class Trainer:
    """A model with what it learns from."""

    def __init__(self, seed: int, scale: float) -> None:
        self.started = time.monotonic()
        self.rng = Random(seed)
        self.scale = scale
        self.encoder = Encoder(make_processor(plain_texts(lessons.dialogues(Random(seed)))))
        self.model = make_model(self.encoder.tokenizer, seed)
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.say(f"{num_parameters:,} parameters, {len(self.encoder.tokenizer)} tokens")

    def say(self, text: str) -> None:
        """A line with the time since the start."""
        print(f"{time.monotonic() - self.started:6.0f} s  {text}", flush=True)

    def save(self, folder: Path) -> None:
        """As a Hugging Face folder."""
        self.model.save_pretrained(folder)
        self.encoder.processor.save_pretrained(folder)

    def see(self, num_steps: int, lr: float) -> None:
        """Trains the vision tower alone."""
        pools = {"large": large, "small": small}
        sights = {name: draw(self.encoder, self.rng, self._scaled(NUM_SIGHTS[name])) for name, draw in pools.items()}
        self.say("pictures to see are drawn")
        tower = self.model.model.visual
        heads = Heads(self.model.config.text_config.hidden_size)

        def losses() -> Iterable[tuple[str, torch.Tensor]]:
            for name, pool in sights.items():
                chosen = torch.tensor(self.rng.choices(range(len(pool)), k=SIGHT_BATCH[name]))
                sight = pool.chosen(chosen)
                yield name, heads.loss(tower, sight.moved(self.rng) if name == "large" else sight)

        self._train([*tower.parameters(), *heads.parameters()], losses, self._scaled(num_steps), lr)

    def speak(self, course: Course) -> None:
        """Trains all of the model on lessons."""
        pools: dict[str, list[Sample]] = {
            name: [self.encoder.sample(lessons.MAKERS[name](self.rng)) for _ in range(self._scaled(number))]
            for name, number in course.num_lessons.items()
        }
        self.say(f"{course.name}: lessons are drawn")
        pad = self.encoder.tokenizer.pad_token_id
        plan = [held for number, held in course.steps for _ in range(self._scaled(number))]
        steps = iter(plan)

        def losses() -> Iterable[tuple[str, torch.Tensor]]:
            for name, number in next(steps).items():
                samples = self.rng.choices(pools[name], k=number)
                if course.moves_crops:
                    samples = [self._moved(name, sample) for sample in samples]
                batch = batch_of(samples, self.encoder.image_id, pad)
                yield name, self.model(**batch).loss

        self._train([*self.model.parameters()], losses, len(plan), course.lr)

    def _train(self, parameters: list[Any], losses: Callable[[], Iterable[tuple[str, torch.Tensor]]], num_steps: int, lr: float) -> None:
        """AdamW; after the warm-up the learning rate falls to a tenth along a cosine. A step's losses are added up."""
        optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
        seen: dict[str, list[float]] = {}
        for step in range(num_steps):
            rate = lr * min(1.0, (step + 1) / WARMUP_STEPS) * (0.55 + 0.45 * math.cos(math.pi * step / num_steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            for name, loss in losses():
                loss.backward()
                seen.setdefault(name, []).append(loss.item())
            torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
            optimizer.step()
            if (step + 1) % LOG_EVERY == 0:
                self.say(f"step {step + 1}: " + ", ".join(f"{name} {sum(found) / len(found):.3f}" for name, found in seen.items()))
                seen = {}

    def _moved(self, name: str, sample: Sample) -> Sample:
        """The lesson with its crops moved. A whole picture, the first of an episode, stays: places in it are named."""
        num_views = 0 if name == "content" else 1
        if len(sample.patches) <= num_views:
            return sample
        crops = sample.patches[num_views:]
        patches = torch.cat([sample.patches[:num_views], moved(crops, drawn_moves(len(crops), self.rng))])
        return Sample(sample.ids, sample.labels, patches)

    def _scaled(self, number: int) -> int:
        return max(8, round(number * self.scale))


if __name__ == "__main__":
    main()
