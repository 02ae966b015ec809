"""Random pairs with spans, and random circuits over them."""

import itertools

import torch

import circuits
from circuits import Circuit
from circuits.graph.places import Places, over
from tests.tiny_models import random_pairs

CUTS = (0, 2, 3, 5)
NAMES = ("start", "S", "S+", "end")


def placed_pairs(n=3, length=7, prefix=0, seed=0):
    """Random pairs with four spans, which begin elsewhere in every second pair."""
    pairs = random_pairs(n=n, length=length, seed=seed, prefix=prefix)
    roles = [dict(zip(NAMES, _ranges(i, length), strict=True)) for i in range(n)]
    return circuits.PromptPairs.from_tokens(
        pairs.clean, pairs.corrupted, pairs.answers, pairs.distractors, roles=roles, positions=[length - 1] * n
    )


def _ranges(i, length):
    cuts = [cut + (i % 2 if cut else 0) for cut in CUTS] + [length]
    return list(itertools.pairwise(cuts))


def spans_of(pairs, i):
    starts = pairs.span_starts(i)
    return [pairs.spans[sum(start <= t for start in starts) - 1] for t in range(len(pairs.clean[i]))]


def random_placed(model, pairs, share, destinations, seed=0):
    graph = over(model.graph, Places(pairs.spans, destinations, ("end",)))
    drawn = torch.rand(graph.edge_mask.shape, generator=torch.Generator().manual_seed(seed)) < share
    return Circuit(graph, drawn & graph.edge_mask)
