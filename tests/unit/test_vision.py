"""Images through packing and the learner's model, on a real tiny Qwen3-VL in float32, against transformers on one episode at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoImageProcessor, AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from posttrain.data.images import decode
from posttrain.errors import UserError
from posttrain.model import Reading, TokenScorer, load_model, stream_tensors
from posttrain.packing import empty_batch, pack, prompts_of, rewrite, sequence_batch
from posttrain.pixels import PixelReader, image_geometry
from posttrain.types import EncodedImage
from posttrain.vision import Piece, num_tokens, read

CPU = torch.device("cpu")
SHAPES = st.tuples(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([2, 370]))


@pytest.fixture(scope="module")
def model(tiny_vl_path):
    return load_model(tiny_vl_path, "float32").train()


@pytest.fixture(scope="module")
def pixels(tiny_vl_path):
    return PixelReader(tiny_vl_path)


@pytest.fixture(scope="module")
def reference(tiny_vl_path):
    """(model, image processor) of transformers alone."""
    model = AutoModelForImageTextToText.from_pretrained(tiny_vl_path, dtype=torch.float32, attn_implementation="sdpa").eval()
    return model, AutoImageProcessor.from_pretrained(tiny_vl_path)


def expected_logprobs(reference, geometry, group, episode):
    """Of what the policy wrote, by transformers' own forward pass, expansion by its image processor's grids, positions by its model."""
    model, processor = reference
    images = [*group.prompt.images, *(image for turn in episode.turns for image in turn.observation_images)]
    inputs = processor(images=[decode(image) for image in images], return_tensors="pt") if images else {}
    counts = iter((inputs["image_grid_thw"].prod(-1) // 4).tolist() if images else [])
    ids, written = [], []
    parts = [(group.prompt_token_ids, False)]
    parts += [part for turn in episode.turns for part in ((turn.token_ids, True), (turn.observation_token_ids, False))]
    for token_ids, is_written in parts:
        for token in token_ids.tolist():
            number = next(counts) if token == geometry.image_token_id else 1
            ids += [token] * number
            written += [is_written] * number
    ids = torch.tensor([ids])
    logits = model(input_ids=ids, mm_token_type_ids=(ids == geometry.image_token_id).int(), use_cache=False, **inputs).logits[0].float()
    logits[:, list(geometry.banned_token_ids)] = -torch.inf
    logprobs = torch.log_softmax(logits[:-1], -1).gather(1, ids[0, 1:, None])[:, 0]
    return logprobs[torch.tensor(written[1:])]


def by_episode(batches, scored):
    """Log-probabilities of each episode, under its written tokens and its advantage."""
    found = {}
    for batch, values in zip(batches, scored, strict=True):
        trained = np.flatnonzero(batch.loss_weights)
        for segment in dict.fromkeys(batch.segment_ids[trained].tolist()):
            own = batch.segment_ids[trained] == segment
            found[batch.token_ids[trained[own]].tobytes(), float(batch.advantages[trained[own][0]])] = values[torch.tensor(own)]
    return found


def score(model, batches, pixels, is_merged=True):
    reading = Reading(is_merged=is_merged)
    return [TokenScorer(model, 1.0)(stream_tensors(batch, CPU, "blocks", pixels, reading), 1.0)[0] for batch in batches]


def gradients(model, batches, pixels, is_merged=True):
    model.zero_grad()
    for batch, logprobs in zip(batches, score(model, batches, pixels, is_merged), strict=True):
        trained = batch.loss_weights != 0
        (torch.tensor((batch.loss_weights * batch.advantages)[trained]) * logprobs).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@given(st.integers(1, 6000), st.integers(1, 6000))
def test_images_have_the_size_that_the_models_own_processor_gives_them(geometry, width, height):
    image = EncodedImage(data=b"", width=width, height=height)
    side = geometry.patch_size * geometry.merge_size
    if max(width, height) / min(width, height) > 200:
        with pytest.raises(UserError, match=f"an image of {width} x {height} pixels"):
            geometry.tokens(image)
        return
    resized = smart_resize(height, width, side, geometry.min_pixels, geometry.max_pixels)
    assert tuple(number * side for number in geometry.tokens(image)) == resized


@settings(max_examples=12)
@given(SHAPES, st.sampled_from([1, 200, 10_000]), st.booleans())
def test_every_episodes_log_probabilities_are_those_of_transformers_on_it_alone(
    visual_groups, model, reference, geometry, pixels, shape, budget, shared_prefix
):
    groups = visual_groups(*shape)
    batches = pack(groups, normalization="sequence_mean", microbatch_tokens=budget, shared_prefix=shared_prefix, geometry=geometry)
    with torch.no_grad():
        found = by_episode(batches, score(model, batches, pixels))
        assert len(found) == sum(len(group.episodes) for group in groups)
        for group in groups:
            for episode in group.episodes:
                written = np.concatenate([turn.token_ids for turn in episode.turns])
                expected = expected_logprobs(reference, geometry, group, episode)
                torch.testing.assert_close(found[written.tobytes(), float(np.float32(episode.advantage))], expected, atol=1e-4, rtol=0)


@settings(max_examples=5)
@given(SHAPES)
def test_gradients_are_the_same_with_and_without_a_shared_prefix(visual_groups, model, geometry, pixels, shape):
    options = {"normalization": "sequence_mean", "geometry": geometry}
    groups = visual_groups(*shape)
    on = gradients(model, pack(groups, **options, microbatch_tokens=10_000), pixels)
    off = gradients(model, pack(groups, **options, microbatch_tokens=1, shared_prefix=False), pixels, is_merged=False)
    flat_on, flat_off = (torch.cat([gradient.flatten() for gradient in grads.values()]) for grads in (on, off))
    assert (flat_on - flat_off).norm() <= 1e-4 * flat_off.norm()
    if any(group.prompt.images for group in groups):
        visual_on, visual_off = (grads["model.visual.patch_embed.proj.weight"] for grads in (on, off))
        assert visual_off.norm() > 0
        assert (visual_on - visual_off).norm() <= 1e-4 * visual_off.norm()


@given(SHAPES, st.sampled_from([1, 200, 10_000]))
def test_positions_are_those_of_transformers_and_each_image_is_there_once(visual_groups, model, geometry, shape, budget):
    groups = visual_groups(*shape)
    for batch in pack(groups, normalization="token_mean", microbatch_tokens=budget, geometry=geometry):
        digests = [image.digest for image in batch.images]
        assert len(set(digests)) == len(digests) == len(set(batch.image_runs[:, 1].tolist()))
        for segment in np.unique(batch.segment_ids):
            own = batch.segment_ids == segment
            prefix = int(batch.prefix_ids[np.flatnonzero(own)[0]])
            seen = np.flatnonzero(own | (batch.segment_ids == prefix))
            shown = [batch.images[image] for at, image in batch.image_runs if at in seen]
            grids = torch.tensor([(1, *(2 * number for number in geometry.tokens(image))) for image in shown])
            ids = torch.tensor(batch.token_ids[seen])[None]
            kinds = (ids == geometry.image_token_id).int()
            expected, _ = model.base_model.get_rope_index(ids, kinds, image_grid_thw=grids if shown else None)
            assert (batch.position_ids[..., seen] == expected[:, 0].numpy()).all()


@given(SHAPES, st.sampled_from([1, 200, 10_000]))
def test_a_rewritten_batch_with_its_own_prompts_is_the_same(visual_groups, geometry, shape, budget):
    for batch in pack(visual_groups(*shape), normalization="token_mean", microbatch_tokens=budget, geometry=geometry):
        again = rewrite(batch, prompts_of(batch))
        for name in ("token_ids", "position_ids", "segment_ids", "predictor_ids", "loss_weights", "behavior_logprobs", "image_runs"):
            assert (getattr(again, name) == getattr(batch, name)).all()
        assert again.images == batch.images and again.banned_token_ids == batch.banned_token_ids


def test_what_does_not_fit_together_is_refused(visual_groups, picture, geometry):
    group = visual_groups(0, 1, 1, 1)[0]
    options = {"normalization": "token_mean", "microbatch_tokens": 100}
    group.prompt.images = [*group.prompt.images, picture(9)]
    with pytest.raises(
        UserError, match=rf"prompt 0: has {len(group.prompt.images) - 1} image placeholders for {len(group.prompt.images)} images"
    ):
        pack([group], **options, geometry=geometry)
    with pytest.raises(UserError, match="prompt 0: holds an image, and the model reads text only"):
        pack([group], **options)
    group.prompt.images.pop()
    group.episodes[0].turns[0].token_ids[-1] = geometry.banned_token_ids[1]
    with pytest.raises(ValueError, match="the policy wrote one of the image placeholders"):
        pack([group], **options, geometry=geometry)


def test_banned_tokens_have_no_probability_and_no_gradient(visual_groups, model, geometry, pixels):
    (batch,) = pack(visual_groups(3), normalization="token_mean", microbatch_tokens=10_000, geometry=geometry)
    (logprobs,), entropies = score(model, [batch], pixels), TokenScorer(model, 1.0)(stream_tensors(batch, CPU, "blocks", pixels), 1.0)[1]
    batch.banned_token_ids = ()
    (free,) = score(model, [batch], pixels)
    assert (logprobs > free).all()  # what the two had is shared out among the others
    assert entropies.isfinite().all() and (entropies > 0).all()
    head = TokenScorer(model, 1.0).head
    hidden = torch.randn(5, head.weight.shape[1], requires_grad=True)
    banned = torch.tensor(geometry.banned_token_ids)
    targets = torch.arange(5) + 20
    values, found = head(hidden, targets, 0.7, None, banned)
    logits = (hidden @ head.weight.T / 0.7).index_fill(1, banned, -torch.inf)
    expected = torch.log_softmax(logits, -1)[torch.arange(5), targets]
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(found, torch.distributions.Categorical(logits=logits.nan_to_num(neginf=-1e30)).entropy())
    mine, theirs = (torch.autograd.grad(total.sum(), [hidden, head.weight], retain_graph=True) for total in (values, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert not mine[1][banned].any()


def test_a_batch_without_images_still_reaches_the_vision_tower_with_a_gradient_of_zero(model, pixels, random_groups):
    (batch,) = pack(random_groups(0), normalization="token_mean", microbatch_tokens=10_000)
    grads = gradients(model, [batch, empty_batch()], pixels)
    assert all(gradient is not None for gradient in grads.values())
    assert not any(gradient.any() for name, gradient in grads.items() if ".visual." in name)


def test_a_sequence_with_an_image_scores_its_text_alone(picture, geometry):
    token_ids = np.array([20, 21, geometry.image_token_id, 22])
    batch = sequence_batch(token_ids, [picture(0, 64, 96)], geometry)
    assert batch.num_tokens == 3 + 6 == num_tokens(4, [picture(0, 64, 96)], geometry)
    assert np.flatnonzero(batch.loss_weights).tolist() == [1, 8]


def test_a_piece_moves_what_follows_by_its_larger_side(picture, geometry):
    piece, counts = read(np.array([20, geometry.image_token_id]), [picture(0, 64, 160)], geometry)
    assert (piece.extent, counts.tolist()) == (1 + 5, [1, 10])
    assert Piece(token_ids=np.arange(3)).extent == 3


@pytest.fixture(scope="module")
def families(tmp_path_factory, tiny_vl_path):
    """families(model type): a tiny random model of another family with the tiny model's tokenizer, as a folder."""
    from transformers import (
        AutoConfig,
        AutoModelForImageTextToText,
        AutoTokenizer,
        Qwen2_5_VLConfig,
        Qwen2VLImageProcessor,
        Qwen3VLMoeConfig,
    )

    from posttrain.builtin_vision import draw_weights

    own = AutoConfig.from_pretrained(tiny_vl_path)
    ids = {name: vars(own)[name] for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")}
    text = {key: value for key, value in own.text_config.to_dict().items() if key not in ("model_type", "rope_parameters")}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [6, 5, 5]}
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 1}
    towers = {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "out_hidden_size": 128}
    configs = {
        "qwen2_5_vl": lambda: Qwen2_5_VLConfig(
            text_config={**text, "head_dim": None, "rope_parameters": {**rope, "type": "mrope"}},
            vision_config={**towers, "fullatt_block_indexes": [1], "window_size": 112},
            **ids,
        ),
        "qwen3_vl_moe": lambda: Qwen3VLMoeConfig(
            text_config={**text, **moe, "rope_parameters": {**rope, "mrope_interleaved": True}},
            vision_config={**towers, "num_position_embeddings": 256, "deepstack_visual_indexes": [0]},
            **ids,
        ),
    }

    def make(model_type):
        folder = tmp_path_factory.mktemp(model_type)
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(configs[model_type]())
        draw_weights(model)
        model.save_pretrained(folder)
        patch_size = model.config.vision_config.patch_size
        sizes = {"shortest_edge": 4 * (2 * patch_size) ** 2, "longest_edge": 64 * (2 * patch_size) ** 2}
        Qwen2VLImageProcessor(size=sizes, patch_size=patch_size, merge_size=2).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_vl_path).save_pretrained(folder)
        return str(folder)

    return make


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl_moe"])
def test_the_other_families_are_scored_as_transformers_does(families, visual_groups, model_type):
    path = families(model_type)
    geometry, pixels = image_geometry(path), PixelReader(path)
    model = load_model(path, "float32").train()
    reference = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").eval()
    groups = visual_groups(5, 2, 2, 2)
    batches = pack(groups, normalization="token_mean", microbatch_tokens=10_000, geometry=geometry)
    assert batches[0].images
    with torch.no_grad():
        found = by_episode(batches, score(model, batches, pixels))
        for group in groups:
            for episode in group.episodes:
                written = np.concatenate([turn.token_ids for turn in episode.turns])
                expected = expected_logprobs((reference, AutoImageProcessor.from_pretrained(path)), geometry, group, episode)
                torch.testing.assert_close(found[written.tobytes(), float(np.float32(episode.advantage))], expected, atol=1e-4, rtol=0)
