import torch
from torch import Tensor

from modeling.rope import Rotary, rotate, spatial_rotary, temporal_rotary
from tests.modeling.builders import randn

CPU = torch.device("cpu")
HEAD_WIDTH = 16


def _scores(query: Tensor, key: Tensor, positions: Rotary) -> Tensor:
    """Logits of one query and one key placed at every pair of positions."""
    count = len(positions.cos_LK)
    queries = rotate(query.expand(1, 1, count, HEAD_WIDTH), positions)
    keys = rotate(key.expand(1, 1, count, HEAD_WIDTH), positions)
    return (queries @ keys.mT)[0, 0]


def test_temporal_scores_depend_on_the_distance_alone() -> None:
    scores = _scores(
        randn(HEAD_WIDTH, seed=1), randn(HEAD_WIDTH, seed=2), temporal_rotary(12, HEAD_WIDTH, CPU)
    )
    torch.testing.assert_close(scores[3:, 3:], scores[:-3, :-3], rtol=1e-4, atol=1e-4)
    assert scores[0].std() > 0.1


def test_spatial_scores_depend_on_row_and_column_distance_alone() -> None:
    rows, columns = 4, 5
    scores = _scores(
        randn(HEAD_WIDTH, seed=1),
        randn(HEAD_WIDTH, seed=2),
        spatial_rotary(rows, columns, HEAD_WIDTH, CPU),
    )
    grid = scores.view(rows, columns, rows, columns)
    torch.testing.assert_close(grid[1:, :, 1:, :], grid[:-1, :, :-1, :], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grid[:, 1:, :, 1:], grid[:, :-1, :, :-1], rtol=1e-4, atol=1e-4)


def test_rows_and_columns_are_told_apart() -> None:
    positions = spatial_rotary(3, 3, HEAD_WIDTH, CPU)
    scores = _scores(randn(HEAD_WIDTH, seed=1), randn(HEAD_WIDTH, seed=2), positions)
    one_right, one_down = scores[0, 1], scores[0, 3]
    assert (one_right - one_down).abs() > 1e-2


def test_rotation_keeps_the_length_and_position_zero_the_vector() -> None:
    x = randn(1, 1, 6, HEAD_WIDTH)
    turned = rotate(x, temporal_rotary(6, HEAD_WIDTH, CPU))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    assert not torch.allclose(turned[:, :, 1], x[:, :, 1])


def test_a_subset_of_positions_keeps_its_angles() -> None:
    positions = spatial_rotary(2, 3, HEAD_WIDTH, CPU)
    subset = positions.at(torch.tensor([1, 4]))
    assert torch.equal(subset.cos_LK, positions.cos_LK[[1, 4]])
    assert torch.equal(subset.sin_LK, positions.sin_LK[[1, 4]])
