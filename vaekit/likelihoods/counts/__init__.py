"""Log-probabilities of sparse counts with their gradients, compiled for CPU and GPU."""
