import csv
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_engine.errors import SourceError
from data_engine.sources import SourceFile
from data_engine.sources.listing import SourceListing, list_sources
from data_engine.sources.storage import content_id

Row = dict[str, Any]


def uris(listing: SourceListing) -> list[str]:
    return [file.uri for file in listing.files]


def reasons(listing: SourceListing) -> dict[str, str]:
    return {row.uri: row.reason for row in listing.unusable}


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_a_folder_gives_its_videos_by_their_names_below_it(tmp_path: Path) -> None:
    put(tmp_path, "b c.MP4", "a.v1.mkv", "sub/Фильм.webm", "notes.txt", "[1] 100%#?.mp4")
    listing = list_sources(str(tmp_path))
    assert uris(listing) == ["[1] 100%#?.mp4", "a.v1.mkv", "b c.MP4", "sub/Фильм.webm"]
    assert [Path(file.location).is_absolute() for file in listing.files] == [True] * 4
    assert not listing.unusable


def test_a_name_is_the_same_wherever_the_folder_lies(tmp_path: Path) -> None:
    for home in ("here", "over/there"):
        put(tmp_path / home, "x/a.mp4", "b.mp4")
    here, there = (list_sources(str(tmp_path / home)) for home in ("here", "over/there"))
    assert uris(here) == uris(there) == ["b.mp4", "x/a.mp4"]


def test_a_glob_and_a_file(tmp_path: Path) -> None:
    put(tmp_path, "one/a.mp4", "two/b.mp4", "two/deep/d.mp4", "c.bin")
    assert uris(list_sources(str(tmp_path / "*" / "*.mp4"))) == ["one/a.mp4", "two/b.mp4"]
    assert uris(list_sources(str(tmp_path / "two" / "**" / "*.mp4"))) == ["b.mp4", "deep/d.mp4"]
    assert uris(list_sources(str(tmp_path / "c.bin"))) == ["c.bin"]


def test_the_endings_of_cameras_and_discs_are_videos_and_the_rest_is_counted(
    tmp_path: Path,
) -> None:
    videos = ("00001.MTS", "a.3GP", "b.m2ts", "c.VOB", "d.ogv")
    put(tmp_path, *videos, "notes.txt", "more.TXT", "sub/LICENCE", "attributions.json")
    (tmp_path / "attributions.json").write_text("{}")
    listing = list_sources(str(tmp_path))
    assert uris(listing) == list(videos)
    assert listing.skipped == {".txt": 2, "no suffix": 1}
    put(tmp_path / "none", "a.pdf")
    with pytest.raises(SourceError, match=r"found 1 x .pdf"):
        list_sources(str(tmp_path / "none"))


def test_what_was_made_of_videos_is_not_taken_for_more_of_them(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "mine/b.mp4", "encoded/c.mp4")
    for dataset in (tmp_path / "mine", tmp_path):
        put(dataset, "config.json", ".lock", "encoded/00/clip.mp4", "shards/shard.tar")
    assert uris(list_sources(str(tmp_path))) == ["a.mp4", "mine/b.mp4"]
    assert uris(list_sources(str(tmp_path / "**" / "*.mp4"))) == ["a.mp4", "mine/b.mp4"]
    (tmp_path / ".lock").unlink()
    assert "encoded/c.mp4" in uris(list_sources(str(tmp_path)))
    assert list_sources(str(tmp_path)).skipped == {".json": 1}


def test_links_are_followed_and_never_in_circles(tmp_path: Path) -> None:
    put(tmp_path, "videos/a.mp4", "elsewhere/b.mp4")
    (tmp_path / "videos" / "loop").symlink_to(tmp_path / "videos")
    (tmp_path / "videos" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "videos")
    assert uris(list_sources(str(tmp_path / "videos"))) == ["a.mp4", "more/b.mp4"]


def test_two_names_of_one_file_are_one_source(tmp_path: Path) -> None:
    put(tmp_path, "b.mp4")
    (tmp_path / "a.mp4").symlink_to(tmp_path / "b.mp4")
    (file,) = list_sources(str(tmp_path)).files
    assert (file.uri, file.other_uris) == ("a.mp4", ("b.mp4",))
    assert file.location == str(tmp_path / "b.mp4")


def test_what_is_no_file_is_said_and_not_opened(tmp_path: Path) -> None:
    put(tmp_path, "good.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / os.fsdecode(b"bad\xff.mp4")).touch()
    listing = list_sources(str(tmp_path))
    assert uris(listing) == ["good.mp4"]
    assert reasons(listing) == {
        "gone.mp4": "missing",
        "pipe.mp4": "not_a_file",
        "bad\\udcff.mp4": "bad_name",
    }


def test_nothing_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no videos; expected files ending in"):
        list_sources(str(tmp_path))
    with pytest.raises(SourceError, match=r"expected a file, a folder or a glob"):
        list_sources(str(tmp_path / "missing" / "*.mp4"))


def test_attribution_comes_from_the_file_beside_the_videos(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "attributions.json").write_text(json.dumps({"a.mp4": "Jane Doe, CC BY 4.0"}))
    assert [f.attribution for f in list_sources(str(tmp_path)).files] == [
        "Jane Doe, CC BY 4.0",
        None,
    ]
    (tmp_path / "attributions.json").write_text("[]")
    with pytest.raises(SourceError, match=r"is no JSON object"):
        list_sources(str(tmp_path))


def test_a_file_that_changed_is_another_version(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4")
    before = list_sources(str(tmp_path))
    assert list_sources(str(tmp_path)) == before
    os.utime(tmp_path / "a.mp4", ns=(0, 0))
    assert list_sources(str(tmp_path)) != before


def test_the_hash_of_the_content_does_not_depend_on_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b.mp4").write_bytes(b"x" * 3_000_000)
    (tmp_path / "c.mp4").write_bytes(b"x" * 2_999_999 + b"y")
    ids = [content_id(str(tmp_path / f"{name}.mp4")) for name in "abc"]
    assert ids[0] == ids[1] != ids[2]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(
            {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows
        )


def write_jsonl(path: Path, rows: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


WRITERS = {".csv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}
manifests = pytest.mark.parametrize(("suffix", "write"), WRITERS.items())
Writer = Callable[[Path, Sequence[Row]], None]


@manifests
def test_a_manifest_names_files_and_what_is_known_of_them(
    tmp_path: Path, suffix: str, write: Writer
) -> None:
    put(tmp_path, "data/sub/a b.mp4", "data/c.mp4", "outside/x/d.mp4", "outside/y/e.mp4")
    rows: list[Row] = [
        {
            "uri": "sub/a b.mp4",
            "caption": "Ein Häschen.",
            "captions": ["One.", "Two."],
            "attribution": "Jane",
            "year": 2008,
            "place": "Köln",
        },
        {"uri": str(tmp_path / "data" / "c.mp4"), "caption": "", "year": 2009},
        {"uri": str(tmp_path / "outside" / "x" / "d.mp4")},
        {"uri": "file://" + str(tmp_path / "outside" / "y" / "e.mp4")},
    ]
    write(tmp_path / "data" / f"list{suffix}", rows)
    listing = list_sources(str(tmp_path / "data" / f"list{suffix}"))
    found = {file.uri: file for file in listing.files}
    # Absolute paths outside the folder of the manifest are named below the folder they share.
    assert set(found) == {"sub/a b.mp4", "c.mp4", "x/d.mp4", "y/e.mp4"}
    first = found["sub/a b.mp4"]
    assert first.captions == ("Ein Häschen.", "One.", "Two.")
    assert (first.attribution, first.metadata) == ("Jane", {"year": "2008", "place": "Köln"})
    assert (found["c.mp4"].captions, found["c.mp4"].metadata) == ((), {"year": "2009"})
    assert Path(found["y/e.mp4"].location).read_bytes() == b"outside/y/e.mp4"
    assert not listing.unusable


@manifests
def test_bad_rows_of_a_manifest_are_quarantined(tmp_path: Path, suffix: str, write: Writer) -> None:
    put(tmp_path, "a.mp4")
    rows = [
        {"uri": "a.mp4"},
        {"uri": "gone.mp4"},
        {"uri": " "},
        {"uri": "."},
        {"uri": "ftp://host/a.mp4"},
    ]
    write(tmp_path / f"list{suffix}", rows)
    listing = list_sources(str(tmp_path / f"list{suffix}"))
    assert uris(listing) == ["a.mp4"]
    assert sorted(row.reason for row in listing.unusable) == [
        "empty_uri",
        "missing",
        "not_a_file",
        "unsupported_url",
    ]


@manifests
def test_a_manifest_without_uris_names_its_columns(
    tmp_path: Path, suffix: str, write: Writer
) -> None:
    write(tmp_path / f"list{suffix}", [{"path": "a.mp4", "text": "A cat."}])
    with pytest.raises(SourceError, match=r"has no column 'uri'; its columns are: path, text"):
        list_sources(str(tmp_path / f"list{suffix}"))


def test_rows_that_cannot_be_parsed_cost_themselves_only(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "list.jsonl").write_text('{"uri": "a.mp4"}\n{"uri": \n\n[1]\n{"uri": "b.mp4"}\n')
    listing = list_sources(str(tmp_path / "list.jsonl"))
    assert uris(listing) == ["a.mp4", "b.mp4"]
    assert reasons(listing) == {"list.jsonl:2": "bad_row", "list.jsonl:4": "bad_row"}
    (tmp_path / "list.csv").write_text("uri,caption\na.mp4,A cat, a dog\nb.mp4\n")
    listing = list_sources(str(tmp_path / "list.csv"))
    assert (uris(listing), reasons(listing)) == (["b.mp4"], {"list.csv:2": "bad_row"})


def test_a_manifest_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").write_bytes(b"no parquet")
    with pytest.raises(SourceError, match=r"cannot read manifest list.parquet"):
        list_sources(str(tmp_path / "list.parquet"))
    (tmp_path / "list.csv").write_bytes(b"uri\nB\xe4r.mp4\n")
    with pytest.raises(SourceError, match=r"cannot read manifest list.csv: .*utf-8"):
        list_sources(str(tmp_path / "list.csv"))
    (tmp_path / "empty.csv").write_text("uri\n")
    with pytest.raises(SourceError, match=r"has no rows"):
        list_sources(str(tmp_path / "empty.csv"))


def test_rows_of_one_file_gather_their_captions(tmp_path: Path) -> None:
    put(tmp_path, "a.mp4")
    rows: list[Row] = [{"uri": u, "caption": c} for u, c in (("a.mp4", "1"), ("./a.mp4", "2"))]
    write_jsonl(tmp_path / "list.jsonl", rows)
    (file,) = list_sources(str(tmp_path / "list.jsonl")).files
    assert (file.uri, file.other_uris, file.captions) == ("a.mp4", (), ("1", "2"))


def test_two_files_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    put(tmp_path, "data/a.mp4", "outside/a.mp4")
    rows = [{"uri": "a.mp4"}, {"uri": str(tmp_path / "outside" / "a.mp4")}]
    write_jsonl(tmp_path / "data" / "list.jsonl", rows)
    listing = list_sources(str(tmp_path / "data" / "list.jsonl"))
    assert len(listing.files) == 1
    assert reasons(listing) == {"a.mp4 (another)": "ambiguous_name"}


def test_a_source_file_survives_json() -> None:
    file = SourceFile(
        uri="ä.mp4",
        location="/ä.mp4",
        other_uris=("b",),
        size_bytes=1,
        captions=("x",),
        metadata={"a": "b"},
    )
    assert SourceFile.from_json(file.to_json()) == file


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_bucket_without_its_package_names_the_extra(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None in sys.modules is how Python itself marks a package that cannot be imported.
    monkeypatch.setitem(sys.modules, {"s3": "s3fs", "gs": "gcsfs"}[scheme], None)
    with pytest.raises(SourceError, match=r"not installed; pip install 'stiv\[cloud\]'"):
        list_sources(f"{scheme}://bucket/a.mp4")


def test_other_addresses_are_refused() -> None:
    with pytest.raises(SourceError, match=r"http:// is none of s3://, gs://"):
        list_sources("http://127.0.0.1:9/a.mp4")
