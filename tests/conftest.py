"""Fixtures of all tests."""

# ruff: noqa: E402
import io
import os
import signal

# A job in the background ignores Ctrl-C, and so would every run that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything counts cores: tests that run beside each other have a core each, or their threads wait for one another.
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(WORKER.removeprefix("gw")) % len(cores)]})

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from posttrain.builtin_models import CHAT_TEMPLATE, resolve
from posttrain.types import EncodedImage, Episode, Group, Prompt, Turn

# A first call loads things, and the machine may be shared: how long an example takes says nothing.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def tiny_path():
    """The built-in tiny model as a Hugging Face folder."""
    return resolve("builtin:tiny")


@pytest.fixture(scope="session")
def tiny_vl_path():
    """The built-in tiny model that reads images, as a Hugging Face folder."""
    return resolve("builtin:tiny_vl")


@pytest.fixture(scope="session")
def picture():
    """picture(seed, width, height): a PNG of random pixels."""

    def draw(seed, width=64, height=64):
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG")
        return EncodedImage(data=file.getvalue(), width=width, height=height)

    return draw


@pytest.fixture(scope="session")
def teacher_path(tiny_path, tmp_path_factory):
    """A model of other width and depth with the tiny model's vocabulary, padded to more rows, and a chat template of its own."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("teacher")
    config = AutoConfig.from_pretrained(tiny_path)
    config.update({"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "vocab_size": config.vocab_size + 7})
    config.layer_types = config.layer_types[:2]
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_path)
    tokenizer.chat_template = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


def _random_turn(rng, words):
    length = int(rng.integers(1, 9))
    return Turn(
        token_ids=rng.integers(5, 5 + words, length),
        logprobs=(-6 + 0.1 * rng.normal(size=length)).astype(np.float32),
        text="",
        stop_reason="stop",
        policy_version=0,
    )


@pytest.fixture(scope="session")
def random_groups():
    """random_groups(seed, num_groups, group_size, turns): random tokens, lengths and advantages, observations between turns.

    words: tokens that there are; with a few of them prompts and answers begin alike.
    """

    def make(seed, num_groups=3, group_size=4, turns=1, words=385):
        rng = np.random.default_rng(seed)
        groups = []
        for index in range(num_groups):
            episodes = []
            for _ in range(group_size):
                written = [_random_turn(rng, words) for _ in range(turns)]
                for turn in written[:-1]:
                    turn.observation_token_ids = rng.integers(5, 5 + words, int(rng.integers(1, 5)))
                episodes.append(Episode(prompt_id=str(index), turns=written, status="complete", advantage=float(rng.normal())))
            prompt = Prompt(id=str(index), task="test", messages=[], reference=None)
            groups.append(Group(prompt=prompt, prompt_token_ids=rng.integers(5, 5 + words, int(rng.integers(2, 12))), episodes=episodes))
        return groups

    return make


@pytest.fixture(scope="session")
def geometry(tiny_vl_path):
    """How that model cuts images into tokens."""
    from posttrain.pixels import image_geometry

    return image_geometry(tiny_vl_path)


@pytest.fixture(scope="session")
def visual_groups(picture, geometry):
    """visual_groups(seed, num_groups, group_size, turns): up to two images in a prompt and in what follows a turn, some shown twice."""

    def make_groups(seed, num_groups=2, group_size=3, turns=2, words=370):
        rng = np.random.default_rng(seed)
        known = [picture([seed, k], *(int(side) for side in rng.integers(8, 200, 2))) for k in range(4)]
        start, pad, end = geometry.image_token_id - 2, geometry.image_token_id, geometry.image_token_id - 1

        def text(shortest=1):
            return rng.integers(20, 20 + words, int(rng.integers(shortest, 9))).tolist()

        def shown(most):
            images = [known[k] for k in rng.integers(0, len(known), int(rng.integers(0, most + 1)))]
            ids = text()
            for _ in images:
                ids += [start, pad, end, *text(0)]
            return np.array(ids), images

        def episode(group):
            written = []
            for turn in range(turns):
                ids = np.array(text())
                back, images = shown(2) if turn < turns - 1 else (np.zeros(0, np.int64), [])
                written.append(
                    Turn(
                        token_ids=ids,
                        logprobs=(-6 + 0.1 * rng.normal(size=len(ids))).astype(np.float32),
                        text="",
                        stop_reason="stop",
                        policy_version=0,
                        observation_token_ids=back,
                        observation_images=images,
                    )
                )
            return Episode(prompt_id=str(group), turns=written, status="complete", advantage=float(rng.normal()))

        groups = []
        for group in range(num_groups):
            ids, images = shown(2)
            prompt = Prompt(id=str(group), task="t", messages=[], reference=None, images=images)
            groups.append(Group(prompt=prompt, prompt_token_ids=ids, episodes=[episode(group) for _ in range(group_size)]))
        return groups

    return make_groups
