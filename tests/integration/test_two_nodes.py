"""cluster=ray: an engine on one node and a learner on the other, with nothing else changed."""

import ray
from ray.cluster_utils import Cluster as RayCluster

from posttrain.metrics import read_rows


def test_engines_and_learners_on_two_nodes(start):
    nodes = RayCluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        nodes.add_node(num_cpus=2)
        running = start("run", "cluster=ray", f"cluster.address={nodes.address}", "train.steps=2")
        result = running.finish()
        assert result.code == 0, result.err
        assert len(read_rows(running.folder / "metrics.jsonl")) == 2
        homes = {line.split()[0]: line.split()[-1] for line in result.out.splitlines() if " is process " in line}
        assert homes["engine_0"] != homes["learner_0"]
    finally:
        ray.shutdown()
        nodes.shutdown()
