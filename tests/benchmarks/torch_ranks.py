"""The VAE of torch_vae.py on several ranks, by PyTorch's DistributedDataParallel on gloo.

ranks.py runs one of these a rank, in an environment that has PyTorch, but not Chainer:

    RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 \\
        python torch_ranks.py DIGITS SECONDS BATCH [BATCH ...]

DIGITS is an .npy of them, (N, D) float32. Rank 0 prints the seconds of a step by batch size.
"""

import json
import os
import sys
import time

import numpy as np
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel
from torch_vae import VAE


def main(path, seconds, *batches):
    """Be one of the ranks."""
    rank, size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    train = torch.from_numpy(np.load(path))[rank::size]
    torch.manual_seed(rank)
    model = DistributedDataParallel(VAE(train.shape[1], 20, 500))
    adam = torch.optim.Adam(model.parameters(), fused=True)
    times = {}
    for batch in map(int, batches):
        def step(batch=batch):
            rows = torch.randint(len(train), (batch,))
            loss = model(train[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()

        times[batch] = measure(step, float(seconds))
    if rank == 0:
        print(json.dumps(times))
    torch.distributed.destroy_process_group()


def measure(step, seconds):
    """Return the seconds of a step, from taking it again and again for so long."""
    for _ in range(3):
        step()
    before = time.perf_counter()
    step()
    times = torch.tensor([max(1, int(seconds / (time.perf_counter() - before)))])
    torch.distributed.broadcast(times, 0)
    torch.distributed.barrier()
    before = time.perf_counter()
    for _ in range(int(times)):
        step()
    return (time.perf_counter() - before) / int(times)


if __name__ == '__main__':
    main(*sys.argv[1:])
