"""What all tests share: one thread a worker, since the operations are small and the workers are two."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
