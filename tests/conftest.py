"""What all tests share: one thread a worker, since the operations are small and the workers are two."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # scanpy's loops set OpenMP's number for torch too

import torch

torch.set_num_threads(1)
