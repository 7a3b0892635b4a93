"""The learner over ranks and ZeRO stages: the same step everywhere, and a checkpoint that continues it."""

import pickle
import subprocess
import sys

import pytest
import ray

from posttrain.algorithms.sapo import SapoConfig
from posttrain.cluster import Cluster
from posttrain.config import ClusterConfig, TrainConfig
from posttrain.fleet import Learners
from posttrain.learner_spec import LearnerSpec
from posttrain.packing import pack


def learn(path, folder, packed, ranks, stage, dtype="float32", steps=2, **options):
    """Weights and statistics after `steps` steps on as many micro-batches each, and after one more from a saved and loaded checkpoint."""
    train = TrainConfig(zero_stage=stage, warmup_steps=0, lr=1e-3, **options)
    config = ClusterConfig(num_learners=ranks, num_engines=0, engine_cpus=1, learner_cpus=1)
    with Cluster(config, folder / "logs") as cluster:
        learners = Learners(cluster, lambda n: LearnerSpec(model_path=path, dtype=dtype, train=train, temperature=1.0, seed=0, threads=n))
        cluster.wait(learners.begin_start())
        before = learners.evaluate(packed[0], {"loss": SapoConfig().objective()})["loss"]
        stats = [learners.step(packed[step], SapoConfig().objective()) for step in range(steps)]
        weights = exported(learners)
        learners.save(str(folder / "checkpoint"))
        learners.step(packed[steps], SapoConfig().objective())
        onward = exported(learners)
        learners.load(str(folder / "checkpoint"))
        learners.step(packed[steps], SapoConfig().objective())
        again = exported(learners)
    assert before == pytest.approx(stats[0].sums["loss"], abs=1e-5 if dtype == "float32" else 1e-2)
    assert all((onward[name] == again[name]).all() for name in onward), "a loaded checkpoint does not continue exactly"
    return stats, weights


def exported(learners):
    ref, _ = learners.export()
    return {item.name: item.tensor().float() for item in ray.get(ref)}


def distance(a, b):
    """Largest relative distance of a tensor."""
    assert a.keys() == b.keys()
    return max(((a[name] - b[name]).norm() / b[name].norm()).item() for name in a)


@pytest.fixture(scope="module")
def packed(random_groups):
    """The micro-batches of three steps."""
    return [pack(random_groups(seed), normalization="sequence_mean", microbatch_tokens=64) for seed in range(3)]


@pytest.fixture(scope="module")
def one_rank(tiny_path, packed, tmp_path_factory):
    return learn(tiny_path, tmp_path_factory.mktemp("one"), packed, 1, 1)


@pytest.mark.parametrize(
    ("ranks", "stage", "sharing"),
    [(2, 1, 1), (2, 3, 1), (2, 0, 1), (2, 1, 2), pytest.param(4, 3, 2, marks=pytest.mark.slow)],
)
def test_several_ranks_make_the_same_update_as_one(tiny_path, packed, one_rank, tmp_path, ranks, stage, sharing):
    stats, weights = learn(tiny_path, tmp_path, packed, ranks, stage, sequence_parallel=sharing)
    for mine, reference in zip(stats, one_rank[0], strict=True):
        assert mine.sums["loss"] == pytest.approx(reference.sums["loss"], rel=1e-5)
        assert mine.episode_entropy == pytest.approx(reference.episode_entropy, rel=1e-5)
        assert mine.grad_norm == pytest.approx(reference.grad_norm, rel=1e-5)
        assert mine.sums["tokens"] == reference.sums["tokens"]
    assert distance(weights, one_rank[1]) < 1e-5


def test_bfloat16_with_gradient_checkpointing_stays_close(tiny_path, packed, one_rank, tmp_path):
    stats, weights = learn(tiny_path, tmp_path, packed, 1, 2, dtype="bfloat16", gradient_checkpointing=True)
    assert stats[0].grad_norm == pytest.approx(one_rank[0][0].grad_norm, rel=0.05)
    assert distance(weights, one_rank[1]) < 0.02


GRADIENTS = """
import pickle, sys
from posttrain.algorithms.sapo import SapoConfig
from posttrain.config import TrainConfig
from posttrain.learner import Learner
from posttrain.learner_spec import LearnerSpec

path, batches = pickle.load(open(sys.argv[1], "rb"))
learner = Learner(LearnerSpec(model_path=path, dtype="bfloat16", train=TrainConfig(max_grad_norm=1e9), temperature=1.0, seed=0, threads=1))
learner.start(0, 1, *learner.rendezvous())
found = []
inner = learner.engine.optimizer.optimizer
inner.register_step_pre_hook(lambda *_: found.extend(p.grad.clone() for group in inner.param_groups for p in group["params"]))
learner.step(batches, SapoConfig().objective())
seen = found[0][found[0] != 0]
print("rounded", (seen == seen.bfloat16()).float().mean().item())
"""


def test_gradients_of_several_micro_batches_reach_the_optimizer_in_float32(tiny_path, packed, tmp_path):
    """A bfloat16 model on one rank: were their sum rounded on the way, every element would be a bfloat16 number."""
    assert len(packed[0]) > 1
    (tmp_path / "packed.pkl").write_bytes(pickle.dumps((tiny_path, packed[0])))
    command = [sys.executable, "-c", GRADIENTS, str(tmp_path / "packed.pkl")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr[-3000:]
    rounded = next(line for line in result.stdout.splitlines() if line.startswith("rounded"))
    assert float(rounded.split()[1]) < 0.5


def test_a_rank_without_images_keeps_in_step_with_one_that_has_them(tiny_vl_path, visual_groups, geometry, tmp_path):
    """One micro-batch: the second rank has nothing to do, and the vision tower's gradients and parts are exchanged all the same."""
    options = {"normalization": "sequence_mean", "microbatch_tokens": 10_000, "geometry": geometry}
    packed = [pack(visual_groups(seed, 1, 2, 2), **options) for seed in (0, 2, 4)]
    assert all(len(batches) == 1 and batches[0].images for batches in packed)
    stats, weights = learn(tiny_vl_path, tmp_path / "one", packed, 1, 1)
    others, spread_weights = learn(tiny_vl_path, tmp_path / "two", packed, 2, 3)
    assert [one.grad_norm for one in others] == pytest.approx([one.grad_norm for one in stats], rel=1e-4)
    # A key's bias moves all scores of a row alike: its gradient is rounding alone, of which AdamW makes whole steps; so it does of
    # single elements elsewhere. Where gradients are not exchanged, all elements are whole steps of 1e-3 away.
    compared = [name for name in weights if not name.endswith("qkv.bias")]
    assert distance({name: spread_weights[name] for name in compared}, {name: weights[name] for name in compared}) < 1e-3
