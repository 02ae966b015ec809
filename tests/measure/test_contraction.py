"""Writers written out a tile at a time give what they give written out together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuits import edge_attribution
from circuits.measure import contraction
from circuits.measure.contraction import tiles
from circuits.methods.edge_attribution import GRADIENTS
from tests.tiny_models import random_pairs, tiny


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_scores_do_not_depend_on_how_much_is_written_out_at_once(name, gradient, monkeypatch):
    model, pairs = tiny(name), random_pairs(n=2, length=6, prefix=1)

    def ask():
        return edge_attribution(model, pairs, gradient=gradient, positions="each", steps=2, check_sign=False)

    together = ask()
    largest = together.values.abs().max()
    monkeypatch.setattr(contraction, "STACK_BYTES", 1)
    monkeypatch.setattr(contraction, "FEWEST_POSITIONS", 2)
    tiled = ask()
    assert float((tiled.values - together.values).abs().max() / largest) < 1e-12
    assert float((tiled.by_position - together.by_position).abs().max() / largest) < 1e-12


@pytest.mark.parametrize("gradient", ["ig", "clean-corrupted"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_points_that_share_a_pass_give_what_they_give_one_by_one(name, gradient, monkeypatch):
    model, pairs = tiny(name), random_pairs(n=3, length=6, prefix=1)

    def ask():
        return edge_attribution(model, pairs, gradient=gradient, steps=3, check_sign=False).values

    passes, capture = [], contraction.capture_gradients
    monkeypatch.setattr(
        contraction, "capture_gradients", lambda *args, **more: passes.append(1) or capture(*args, **more)
    )
    together, shared = ask(), len(passes)
    monkeypatch.setattr(contraction, "PASS_TOKENS", 0)
    alone = ask()
    assert shared * len(contraction_points(gradient)) == len(passes) - shared
    assert float((together - alone).abs().max() / alone.abs().max()) < 1e-12


def contraction_points(gradient):
    return range(3) if gradient == "ig" else range(2)


@given(st.integers(1, 20), st.integers(1, 40), st.integers(1, 2**24))
def test_tiles_cover_every_place_once_and_fit_unless_they_are_as_small_as_may_be(n_prompts, n_positions, place_bytes):
    covered = torch.zeros(n_prompts, n_positions)
    for rows, positions in tiles(n_prompts, n_positions, place_bytes):
        part = covered[rows, positions]
        part += 1
        assert part.numel() * place_bytes <= contraction.STACK_BYTES or (
            part.shape[0] == 1 and part.shape[1] <= contraction.FEWEST_POSITIONS
        )
    assert bool((covered == 1).all())
