import pytest
import torch

from modeling.frames import psnr, to_uint8, to_unit


def test_psnr_of_a_known_error() -> None:
    black, grey = torch.zeros(4, dtype=torch.uint8), torch.full((4,), 51, dtype=torch.uint8)
    assert psnr(black, grey) == pytest.approx(20 * torch.log10(torch.tensor(5.0)).item())
    assert psnr(black, black) == float("inf")


def test_every_pixel_value_survives_the_way_to_unit_range_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(pixels)
    assert (unit.min(), unit.max()) == (-1, 1)
    assert torch.equal(to_uint8(unit), pixels)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
