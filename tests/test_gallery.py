"""docs/gallery.md: what it shows is there and can be played, and one section can be made anew without the others."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.gallery import merged
from benchmarks.gallery_applications import film_of, given_line

# The scripts import what judges videos, which takes seconds.
pytestmark = pytest.mark.slow

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "gallery.md").read_text()
SHOWN = sorted(set(re.findall(r"pictures/gallery-[\w-]+\.\w+", PAGE)))
FILMS = [DOCS / name for name in SHOWN if name.endswith(".gif")]
MAX_FILM_BYTES = 300_000
MAX_FILMS_BYTES = 2_000_000


def test_every_picture_of_the_page_is_there_and_no_other() -> None:
    there = sorted(f"pictures/{path.name}" for path in (DOCS / "pictures").glob("gallery-*"))
    assert there == SHOWN


@pytest.mark.parametrize("film", FILMS, ids=lambda path: path.stem)
def test_a_film_of_the_page_plays_and_is_small(film: Path) -> None:
    with Image.open(film) as opened:
        assert getattr(opened, "n_frames", 1) >= 7
    assert film.stat().st_size < MAX_FILM_BYTES


def test_the_films_of_the_page_are_small_together() -> None:
    assert FILMS
    assert sum(film.stat().st_size for film in FILMS) < MAX_FILMS_BYTES


def test_a_section_that_is_made_anew_leaves_the_others() -> None:
    page = merged(
        "# Old\n\nhead\n\n## a\n\none\n\n## b, of x\n\ntwo\n", ["## b, of x\n\nnew\n", "## c\n"]
    )
    assert page.startswith("# Gallery\n")
    assert "head" not in page
    assert page.endswith("\n## a\n\none\n\n## b, of x\n\nnew\n\n## c\n")
    assert merged(page, []) == page


def test_videos_are_set_beside_and_below_each_other() -> None:
    videos = [np.full((2, 4, 6, 3), value, np.uint8) for value in range(4)]
    film = film_of([videos[:2], videos[2:]])
    assert film.shape == (2, 8, 12, 3)
    assert film[1, ::4, ::6, 0].tolist() == [[0, 1], [2, 3]]


def test_what_a_file_loses_of_the_given_frames_is_said() -> None:
    frames = np.full((1, 4, 6, 3), 100, np.uint8)
    assert given_line(100.0, frames + 1, frames) == (
        "Given frames equal the input to 100.0 dB behind the autoencoder, and to 48.1 dB in the file"
    )
