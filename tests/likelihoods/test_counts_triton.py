"""The kernel of the count likelihoods without a GPU: in Triton's interpreter, and through its compiler."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vaekit.likelihoods.counts import sparse

NUMBER_OF_CASES = 30  # at least


@pytest.mark.exhaustive
def test_values_and_gradients_in_the_interpreter():
    """In a separate process, because Triton chooses its interpreter at import."""
    file = Path(__file__).with_name("interpreted_counts_triton.py")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", str(file)]
    found = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    passed = re.search(r"(\d+) passed", found.stdout)
    assert passed is not None
    assert int(passed[1]) >= NUMBER_OF_CASES


@pytest.mark.parametrize(
    ("device", "dtype", "taken"),
    [("cuda", torch.float32, True), ("cuda", torch.float64, False), ("cpu", torch.float32, False)],
)
def test_float32_on_a_gpu_takes_it(device, dtype, taken):
    logits: Any = SimpleNamespace(device=torch.device(device), dtype=dtype)  # the device need not exist
    assert sparse._supports_kernel(logits) is taken


@pytest.mark.parametrize("inflated", [False, True])
@pytest.mark.parametrize("capability", [80, 90])
def test_compiles_for_a_gpu_without_doubles(inflated, capability):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from vaekit.likelihoods.counts import counts_triton

    target, options = GPUTarget("cuda", capability, 32), {"num_warps": 4, "enable_fp_fusion": True}
    for kernel, own in (
        (counts_triton._forward, {"inflated": inflated, "needs_grad": True}),
        (counts_triton._softmax_backward, {}),
    ):
        constants = {**own, "block": counts_triton.BLOCK}
        kinds = {"cells": "i32", "genes": "i32", "theta_stride": "i32", **dict.fromkeys(constants, "constexpr")}
        signature = {name: kinds.get(name, "*fp32") for name in kernel.arg_names}
        made = compile(ASTSource(kernel, signature=signature, constexprs=constants), target=target, options=options)
        assert made.asm["cubin"]
        assert ".f64" not in made.asm["ptx"]
