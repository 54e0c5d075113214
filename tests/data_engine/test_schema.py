import json
import subprocess
import sys
from dataclasses import fields

import pytest

from data_engine.schema import (
    SCHEMA_VERSION,
    ClipRecord,
    ClipStatus,
    Crop,
    Orientation,
    Rejection,
    SchemaError,
    ShardEntry,
    ShardManifest,
    ShardMember,
    ShardSample,
    clip_id,
)
from tests.factories import caption, clip_record, scores


def test_a_record_survives_json() -> None:
    record = clip_record(
        scores=scores(motion=0.25),
        captions=(caption("Ein Häschen."),),
        rejected_by=Rejection.TOO_DARK,
    )
    assert ClipRecord.from_json(record.to_json()) == record


def test_a_record_of_another_version_is_refused_with_advice() -> None:
    data = json.loads(clip_record().to_json()) | {"schema_version": SCHEMA_VERSION + 1}
    with pytest.raises(SchemaError, match=r"schema_version 4.*reads 3.*run the step"):
        ClipRecord.from_dict(data)


def test_unknown_and_missing_fields_are_named() -> None:
    data = json.loads(clip_record().to_json())
    data["colour"] = data.pop("fps")
    with pytest.raises(
        SchemaError, match=r"missing fields \['fps'\] and unknown fields \['colour'\]"
    ):
        ClipRecord.from_dict(data)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, ClipStatus.KEPT),
        ({"rejected_by": Rejection.TOO_SHORT}, ClipStatus.REJECTED),
        ({"error": "gone"}, ClipStatus.FAILED),
        ({"error": "gone", "rejected_by": Rejection.TOO_SHORT}, ClipStatus.FAILED),
    ],
)
def test_a_clip_is_in_exactly_one_state(changes: dict[str, object], status: ClipStatus) -> None:
    assert clip_record(**changes).status is status


def test_a_missing_score_is_not_a_number() -> None:
    assert clip_record().score("motion") is None


@pytest.mark.parametrize(
    ("height_px", "width_px", "orientation"),
    [
        (360, 640, Orientation.LANDSCAPE),
        (640, 360, Orientation.PORTRAIT),
        (480, 480, Orientation.SQUARE),
        (1076, 1080, Orientation.SQUARE),
        (480, 640, Orientation.LANDSCAPE),
    ],
)
def test_the_orientation_is_that_of_the_picture_inside_bars(
    height_px: int, width_px: int, orientation: Orientation
) -> None:
    assert clip_record(height_px=height_px, width_px=width_px).orientation is orientation
    crop = Crop(left_px=20, top_px=0, height_px=height_px, width_px=width_px)
    barred = clip_record(height_px=1080, width_px=1920, crop=crop)
    assert barred.orientation is orientation
    assert json.loads(barred.to_json())["orientation"] == orientation
    assert ClipRecord.from_json(barred.to_json()) == barred


def test_clip_ids_are_stable_distinct_and_fit_for_webdataset() -> None:
    spans = [("a", 0.0, 1.0), ("a", 0.0, 1.5), ("a", 0.5, 1.0), ("b", 0.0, 1.0)]
    ids = [clip_id(*span) for span in spans]
    assert len(set(ids)) == len(ids)
    assert ids == [clip_id(*span) for span in spans]
    assert not any("." in name for name in ids)


def test_a_manifest_survives_json() -> None:
    sample = ShardSample(clip_id="abc", members={"mp4": ShardMember(offset=512, size_bytes=9)})
    entry = ShardEntry(
        name="shard-000000.tar", bucket="16x9", sha256="00", size_bytes=2048, samples=(sample,)
    )
    manifest = ShardManifest(shards=(entry,), config={"shards": {"crf": 18}})
    assert ShardManifest.from_json(manifest.to_json()) == manifest
    written = json.loads(manifest.to_json())
    assert (written["num_clips"], written["shards"][0]["num_clips"]) == (1, 1)


def test_the_public_fields_change_only_together_with_the_version() -> None:
    names = ",".join(f.name for f in fields(ClipRecord))
    assert (SCHEMA_VERSION, names) == (
        3,
        "clip_id,source_id,source_uri,start_s,end_s,fps,num_frames,shot_index,height_px,width_px,"
        "scores,captions,crop,category,subsets,duplicate_of,rejected_by,error,attribution,metadata,schema_version",
    )


def test_the_schema_loads_without_any_dependency() -> None:
    heavy = "{'numpy', 'torch', 'ray', 'cv2', 'pyarrow', 'pydantic'}"
    code = f"import sys, data_engine.schema; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
