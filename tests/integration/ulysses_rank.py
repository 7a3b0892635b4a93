"""One rank of test_sequence_parallel.py: `python ulysses_rank.py <case.pkl> <rank> <ranks> <port>`; rank 0 writes <case.pkl>.<ranks>.

For each named case the loss and the gradient of a step, summed over ranks that share every stream; with 1 rank nothing is shared.
"""

import os
import pickle
import sys
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist

from posttrain import attention
from posttrain.algorithms.divergences import DistillationLoss, Divergence
from posttrain.algorithms.gspo import GspoConfig
from posttrain.algorithms.losses import LossTokens, bradley_terry, negative_logprob
from posttrain.model import AnswerScorer, Reading, TokenScorer, load_model, load_reward_model, stream_tensors
from posttrain.sequence_parallel import SharedStreams
from posttrain.teacher_head import TopTeaching

CPU = torch.device("cpu")
OBJECTIVES = {
    "documents": negative_logprob,
    "groups": GspoConfig().objective(),  # wants the whole of an episode
    "taught": DistillationLoss(weight=0.7, task=negative_logprob, task_weight=0.3),
    "pairs": bradley_terry,
}


def teaching_of(number):
    """A teacher's five most likely tokens at each of so many places."""
    generator = torch.Generator().manual_seed(number)
    log_p = torch.randn(number, 380, generator=generator).mul(2).log_softmax(-1)
    top, ids = log_p.topk(5)
    return TopTeaching(Divergence("forward"), ids, top, log_p[:, 7])


def step(scorer, sharing, batches, name, reading):
    """Loss and gradient as the learner's step makes them."""
    scorer.zero_grad()
    total = 0.0
    for batch in batches:
        trained = batch.loss_weights != 0
        teaching = teaching_of(int(trained.sum())) if name == "taught" else None
        if sharing is None:
            outputs = scorer(stream_tensors(batch, CPU, "blocks", reading=reading), 0.9, teaching)
        else:
            outputs = sharing.score(scorer, batch, (CPU, "blocks"), 0.9, teaching)
        behavior = torch.tensor(batch.behavior_logprobs[trained])
        tokens = LossTokens(
            policy_logprobs_N=outputs[0],
            old_logprobs_N=outputs[0].detach() - 0.01,
            behavior_logprobs_N=behavior,
            advantages_N=torch.tensor(batch.advantages[trained]),
            segments_N=torch.tensor(batch.segment_ids[trained]),
            divergences_N=outputs[2] if teaching else None,
        )
        loss = (torch.tensor(batch.loss_weights[trained]) * OBJECTIVES[name](tokens)).sum()
        loss.backward()
        total += loss.item()
    gradient = torch.cat([parameter.grad.flatten() for parameter in scorer.parameters()])
    if sharing is not None:
        dist.all_reduce(gradient)
    return total, gradient


def main(path, rank, ranks, port):
    """All cases."""
    model_path, cases = pickle.loads(Path(path).read_bytes())
    torch.set_num_threads(1)
    is_shared = ranks > 1
    if is_shared:
        os.environ.update(RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="gloo")
    found = {}
    for name, (batches, checkpointing) in cases.items():
        torch.manual_seed(0)  # the head that a reward model is given
        is_reward_model = name == "pairs"
        model = (load_reward_model if is_reward_model else load_model)(model_path, "float32").train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        reading = Reading(at_predictors=not is_reward_model)
        sharing = SharedStreams(ranks, reading) if is_shared else None
        if sharing is not None:
            attention.register(sharing.attention(model.config))
        found[name] = step(AnswerScorer(model) if is_reward_model else TokenScorer(model, 0.05), sharing, batches, name, reading)
    if rank == 0:
        torch.save(found, f"{path}.{ranks}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
