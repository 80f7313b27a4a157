"""Part (c) of credit_assignment.py: a mirror of thin films, designed through a black box.

Light meets a stack of layers on glass at right angles. Each layer has one of four materials (a discrete choice)
and has a thickness (a number); the cost is what passes through, in per cent, averaged over a band of green light. It is
computed by the transfer-matrix method in NumPy, so that no gradient passes through it.

Both choices are made random. A categorical variable chooses the materials; given these, a normal one chooses the
thicknesses. ``vaekit.expectation`` differentiates the expected transmittance: the materials by the score function with
leave-one-out, the thicknesses by the same or by measure-valued derivatives. The spread of the thicknesses, and a reward
for undecided materials, shrink along the descent; many descents from random starts run in parallel, as the batch.

What they find is compared with an enumeration of all sequences of materials, each with the thicknesses that scipy's
L-BFGS-B finds from its best random starts.

A mirror is what this search finds. An antireflection coating it did not find: with the reflectance as the cost, three
layers and the same settings, 2 of 24 descents (score function) and 1 (measure-valued) chose the best sequence of
materials, and none came near its 0.02 per cent: the best ended at 0.16 and 0.11. There the sequences differ by a tenth
of a per cent, less than the spread of the thicknesses costs while the materials are being chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.distributions import Independent, Normal, OneHotCategorical
from tqdm.auto import tqdm

import vaekit
from vaekit.estimators import Estimator, LeaveOneOut, MeasureValued, ScoreFunction

MATERIALS = {"MgF2": 1.38, "SiO2": 1.46, "Al2O3": 1.77, "TiO2": 2.40}  # refractive indices, taken as constant
GLASS = 1.52
THINNEST, THICKEST = 10.0, 200.0  # nm
WAVELENGTHS = np.linspace(500.0, 600.0, 11)  # nm
SPREAD = 0.05, 0.005  # of the thicknesses at the start and at the end, as a fraction of what is allowed
GUESSES = 2000  # random thicknesses of a sequence, of which scipy starts from the best

# The estimator of the thicknesses, and the number of joint samples (None: 8 materials, each with its own rows).
THICKNESS: dict[str, tuple[Callable[[], Estimator], int | None]] = {
    "score function, leave-one-out": (lambda: ScoreFunction(baseline=LeaveOneOut()), 32),
    "measure-valued": (MeasureValued, None),
}


class Design(NamedTuple):
    """Materials from the air to the glass, thicknesses in nm, transmittance in per cent."""

    materials: tuple[str, ...]
    thickness: list[float]
    transmittance: float


def transmittance(index: np.ndarray, thickness: np.ndarray) -> np.ndarray:
    r"""Return the mean transmittance in per cent, ``[...]``, of layers ``[..., layers]`` from the air to the glass.

    A layer of index n and thickness d has the characteristic matrix ``[[cos p, i sin p / n], [i n sin p, cos p]]`` with
    ``p = 2 pi n d / wavelength``. Of the product of all with ``[1, glass]``, ``[B, C]``, comes the reflectance in air,
    ``|(B - C) / (B + C)|^2``; the rest passes. Born and Wolf (1999), Principles of Optics, section 1.6.
    """
    electric = np.ones((*index.shape[:-1], len(WAVELENGTHS)), dtype=complex)
    magnetic = np.full_like(electric, GLASS)
    for layer in reversed(range(index.shape[-1])):
        n = index[..., layer, None]
        phase = 2 * np.pi * n * thickness[..., layer, None] / WAVELENGTHS
        cosine, sine = np.cos(phase), 1j * np.sin(phase)
        electric, magnetic = cosine * electric + sine / n * magnetic, n * sine * electric + cosine * magnetic
    amplitude = (electric - magnetic) / (electric + magnetic)
    return 100 - 100 * (np.abs(amplitude) ** 2).mean(-1)


def enumerate_designs(layers: int, starts: int, progress: bool = True) -> list[Design]:
    """Return the best design of every sequence of materials, the best first."""
    guesses = np.random.default_rng(0).uniform(THINNEST, THICKEST, (GUESSES, layers))
    designs = []
    for sequence in tqdm(list(itertools.product(MATERIALS, repeat=layers)), desc="enumeration", disable=not progress):
        index = np.array([MATERIALS[material] for material in sequence])
        order = transmittance(np.broadcast_to(index, guesses.shape), guesses).argsort()
        found = [
            minimize(
                lambda x, index=index: float(transmittance(index, x)),
                guess,
                method="L-BFGS-B",
                bounds=[(THINNEST, THICKEST)] * layers,
            )
            for guess in guesses[order[:starts]]
        ]
        best = min(found, key=lambda result: result.fun)
        designs.append(Design(sequence, best.x.tolist(), float(best.fun)))
    return sorted(designs, key=lambda design: design.transmittance)


def descend(
    estimator: str, layers: int, steps: int, descents: int, seed: int = 0, progress: bool = True
) -> tuple[list[Design], np.ndarray]:
    """Return the designs that the descents end at, the best first, and the expected cost, ``[steps, descents]``."""
    torch.manual_seed(seed)
    indices, span = np.array(list(MATERIALS.values())), THICKEST - THINNEST
    logits = torch.zeros(descents, layers, len(MATERIALS), requires_grad=True)
    share = torch.rand(descents, layers, len(MATERIALS)).requires_grad_()  # a thickness for each material of a layer
    optimizer = torch.optim.Adam([{"params": [logits], "lr": 0.03}, {"params": [share], "lr": 0.01}])
    make, num_samples = THICKNESS[estimator]
    estimators = {"materials": ScoreFunction(8, baseline=LeaveOneOut()), "thickness": make()}
    path = []

    def cost(materials: Tensor, thickness: Tensor) -> np.ndarray:
        nm = THINNEST + span * thickness.clamp(0, 1).detach().numpy()
        return transmittance(materials.numpy() @ indices, nm)

    for step in tqdm(range(steps), desc=estimator, disable=not progress):
        done = step / steps
        spread = SPREAD[0] * (SPREAD[1] / SPREAD[0]) ** done
        materials = OneHotCategorical(logits=logits)
        q = {
            "materials": Independent(materials, 1),
            "thickness": lambda materials, spread=spread: Independent(Normal((materials * share).sum(-1), spread), 1),
        }
        total = vaekit.expectation(cost, q, estimators, num_samples=num_samples)
        undecided = max(0.0, 1 - 2 * done) * materials.entropy().sum()
        optimizer.zero_grad()
        (total.sum() - undecided).backward()
        optimizer.step()
        path.append(total.detach().numpy())
    return sorted(_designs(logits, share), key=lambda design: design.transmittance), np.array(path)


def _designs(logits: Tensor, share: Tensor) -> list[Design]:
    """Return the design that each descent thinks most probable."""
    names, indices = list(MATERIALS), np.array(list(MATERIALS.values()))
    chosen = logits.argmax(-1)
    shares = share.detach().gather(-1, chosen[..., None])[..., 0].clamp(0, 1).double().numpy()
    thickness = THINNEST + (THICKEST - THINNEST) * shares
    values = transmittance(indices[chosen.numpy()], thickness)
    return [
        Design(tuple(names[i] for i in row), widths.tolist(), float(value))
        for row, widths, value in zip(chosen.tolist(), thickness, values, strict=True)
    ]
