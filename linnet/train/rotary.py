"""Rotary positions (Su et al. 2021): the table of angles, for every way of scaling it, and the rotation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from linnet.formats.arch.rope import derived_divisors
from linnet.formats.parts import LLAMA3_DIVISORS, LONG_DIVISORS, SHORT_DIVISORS
from linnet.types import ModelFacts, RopeScaling


def rotary_table(facts: ModelFacts, *, local: bool = False, long: bool = False) -> Tensor:
    """Cosines, and sines with the sign of the rotation, [2, max_seq_len, 1, rotated].

    Element i is turned together with element i + rotated / 2 (the Hugging Face order). ``local`` is the
    table of layers with a window where they have their own, ``long`` that of texts longer than the model
    was first trained with, where the scaling tells the two apart.
    """
    theta = facts.rope_theta_local if local else facts.rope_theta
    exponents = -torch.arange(0, facts.rotated, 2, dtype=torch.float64) / facts.rotated
    frequencies, magnitude = theta**exponents, 1.0
    scaling = facts.rope_scaling
    if scaling is not None and not local:
        frequencies = _scaled(frequencies, facts, scaling, long)
        magnitude = _magnitude(scaling)
    angles = torch.outer(torch.arange(facts.max_seq_len, dtype=torch.float64), frequencies)
    cos, sin = angles.cos() * magnitude, angles.sin() * magnitude
    table = torch.stack([torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)])
    return table.float().unsqueeze(2)


def _scaled(frequencies: Tensor, facts: ModelFacts, scaling: RopeScaling, long: bool) -> Tensor:
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "yarn":
        return _yarn(frequencies, facts, scaling)
    name = LLAMA3_DIVISORS if scaling.kind == "llama3" else LONG_DIVISORS if long else SHORT_DIVISORS
    return frequencies / torch.from_numpy(derived_divisors(facts)[name]).double()


def _yarn(frequencies: Tensor, facts: ModelFacts, scaling: RopeScaling) -> Tensor:
    """Pairs that turn often in the trained length stay, those that turn little are slowed down, with a
    ramp over the pairs between (Peng et al. 2023)."""

    def pair_of(turns: float) -> float:
        return (
            facts.rotated
            * math.log(scaling.original_len / (turns * 2 * math.pi))
            / (2 * math.log(facts.rope_theta))
        )

    low = max(math.floor(pair_of(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_of(scaling.beta_slow)), facts.rotated - 1)
    pairs = torch.arange(len(frequencies), dtype=torch.float64)
    slowed = ((pairs - low) / max(high - low, 1e-3)).clamp(0, 1)
    return frequencies * (1 - slowed + slowed / scaling.factor)


def _magnitude(scaling: RopeScaling) -> float:
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 1 + 0.1 * math.log(max(scaling.factor, 1.0)) if scaling.kind == "yarn" else 1.0


def rotate(heads: Tensor, rotary: Tensor) -> Tensor:
    """Turns the first elements of ``heads`` [rows, length, n, head_dim] by the angles of their positions."""
    n_turned = rotary.shape[-1]
    turned, rest = heads[..., :n_turned], heads[..., n_turned:]
    first, second = turned.chunk(2, dim=-1)
    cos, sin = rotary.to(heads.dtype)
    turned = turned * cos + torch.cat([second, first], dim=-1) * sin
    return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned
