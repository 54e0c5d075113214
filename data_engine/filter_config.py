"""Limits on every number that is known of a clip, and which scorer gives those that need one."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator


def _check_limit(limit: float | str) -> float | str:
    if isinstance(limit, str) and not re.fullmatch(r"p(\d{1,2}(\.\d+)?|100)", limit):
        raise ValueError("expected a number, a percentile such as p20, or null")
    return limit


Limit = Annotated[float | str, AfterValidator(_check_limit)]
"""A number, or a percentile of the score over the data set, such as `p20`."""

FRAME_SCORER_OF = {
    "brisque": "quality",
    "technical_quality": "quality",
    "aesthetic": "aesthetic",
    "learned_quality": "iqa",
    "text_area": "text",
    "text_area_edges": "text",
    "text_area_corners": "text",
    "watermark": "watermark",
    "nsfw": "nsfw",
    "consistency": "embedding",
}
"""Scores of kept frames: the entry of `scores.frame_scorers` that gives them."""

SIMILARITY_OF = {"conse_similarity": "conse", "clip_similarity": "open_clip"}
"""Scores of captions: the `scores.similarity` that gives them."""

DSG_SCORES = (
    *("dsg_video_i", "dsg_objects", "dsg_hallucinated_objects"),
    *("dsg_sentences", "dsg_hallucinated_sentences"),
)
"""Scores that `hallucination` gives."""


class FilterConfig(BaseModel):
    """`min_` and `max_` of every score, in the order in which they are applied. None turns one off."""

    # The docstrings of the fields are their descriptions in the launchpad of Dagster.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    min_duration_s: Limit | None = 1.0
    max_duration_s: Limit | None = None
    min_num_frames: Limit | None = None
    max_num_frames: Limit | None = None
    min_height_px: Limit | None = 128.0
    """Of the picture inside letterbox bars, as are the width and the aspect."""
    max_height_px: Limit | None = None
    min_width_px: Limit | None = None
    max_width_px: Limit | None = None
    min_aspect: Limit | None = None
    """Width over height: below 1 is portrait."""
    max_aspect: Limit | None = None
    min_fps: Limit | None = None
    """Frames a second, the mean over the clip."""
    max_fps: Limit | None = None
    min_hdr: Limit | None = None
    """1 if the source says that its range is high (PQ or HLG), else 0: `max_hdr=0` keeps none of them."""
    max_hdr: Limit | None = None
    min_motion: Limit | None = 0.003
    """Median optical flow in frame diagonals a second; below is a still picture."""
    max_motion: Limit | None = 1.0
    min_motion_p10: Limit | None = None
    """The 10th percentile of the optical flow over the clip; below is a clip that stands still for a while."""
    max_motion_p10: Limit | None = None
    min_motion_p90: Limit | None = None
    """The 90th percentile of the optical flow over the clip."""
    max_motion_p90: Limit | None = None
    min_foreground_motion: Limit | None = None
    """Motion that is not the camera's, in frame diagonals a second; below is a pan over things that stand still."""
    max_foreground_motion: Limit | None = None
    min_camera_motion: Limit | None = None
    """Shift, zoom and roll of the whole frame, in frame diagonals a second."""
    max_camera_motion: Limit | None = None
    min_camera_right: Limit | None = None
    """Median flow to the right in frame diagonals a second: positive if the camera pans left."""
    max_camera_right: Limit | None = None
    min_camera_down: Limit | None = None
    """Median flow downwards in frame diagonals a second: positive if the camera tilts up."""
    max_camera_down: Limit | None = None
    min_camera_outwards: Limit | None = None
    """Median flow away from the centre in frame diagonals a second: positive if the camera zooms in."""
    max_camera_outwards: Limit | None = None
    min_luminance: Limit | None = 0.06
    """Mean luma, 0 to 1."""
    max_luminance: Limit | None = 0.94
    min_black_share: Limit | None = None
    """Share of the kept times (`decode.frames_per_s`) whose frame is black, 0 to 1."""
    max_black_share: Limit | None = None
    min_sharpness: Limit | None = 8.0
    """Variance of the Laplacian of luma (0 to 255) at `decode.frame_long_side_px`; noise makes it large."""
    max_sharpness: Limit | None = None
    min_flicker: Limit | None = None
    """Mean distance of a frame's mean luma from that of its two neighbours, 0 to 1."""
    max_flicker: Limit | None = None
    min_brisque: Limit | None = None
    """BRISQUE, about 0 (pristine) to 100 (bad)."""
    max_brisque: Limit | None = 75.0
    min_technical_quality: Limit | None = None
    """0 to 1, embedded; not an aesthetic score."""
    max_technical_quality: Limit | None = None
    min_aesthetic: Limit | None = None
    """LAION aesthetic head over open_clip, about 1 to 10."""
    max_aesthetic: Limit | None = None
    min_learned_quality: Limit | None = None
    """Probability of the label that `scores.iqa` names, 0 to 1."""
    max_learned_quality: Limit | None = None
    min_text_area: Limit | None = None
    """Share of the frame that is covered by read text."""
    max_text_area: Limit | None = 0.02
    min_text_area_edges: Limit | None = None
    """The same of text in the upper and lower fifth alone, as subtitles are; corners are not counted."""
    max_text_area_edges: Limit | None = None
    min_text_area_corners: Limit | None = None
    """The same of text in the corners alone, as logos are."""
    max_text_area_corners: Limit | None = None
    min_watermark: Limit | None = None
    """Probability of the label that `scores.watermark` names, 0 to 1."""
    max_watermark: Limit | None = None
    min_nsfw: Limit | None = None
    """Probability of the label that `scores.nsfw` names, 0 to 1."""
    max_nsfw: Limit | None = None
    min_consistency: Limit | None = None
    """Least cosine between the features of the first, middle and last frame; a missed cut makes it small."""
    max_consistency: Limit | None = None
    min_conse_similarity: Limit | None = None
    """Caption against frames, cosine of the embedded ConSE backend."""
    max_conse_similarity: Limit | None = None
    min_clip_similarity: Limit | None = None
    """Caption against frames, cosine of an open_clip model."""
    max_clip_similarity: Limit | None = None
    min_dsg_video_i: Limit | None = None
    """Share of the objects of the caption that no frame shows; a caption without a judged object is not scored."""
    max_dsg_video_i: Limit | None = None
    min_dsg_objects: Limit | None = None
    """Objects of the caption that were judged."""
    max_dsg_objects: Limit | None = None
    min_dsg_hallucinated_objects: Limit | None = None
    """Those that no frame shows."""
    max_dsg_hallucinated_objects: Limit | None = None
    min_dsg_sentences: Limit | None = None
    """Sentences of the caption, as `hallucination.sentence` counts them."""
    max_dsg_sentences: Limit | None = None
    min_dsg_hallucinated_sentences: Limit | None = None
    """Those that name something that no frame shows."""
    max_dsg_hallucinated_sentences: Limit | None = None
    categories: tuple[str, ...] | None = None
    """Only clips of these categories are kept; None keeps those of every one."""
    no_categories: tuple[str, ...] = ()
    """Clips of these categories are not kept."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for field, limit in self.limits.items():
            other = self.limits.get(field.replace("min_", "max_", 1))
            if isinstance(limit, str) or isinstance(other, str) or other is None or other >= limit:
                continue
            name = field.removeprefix("min_")
            raise ValueError(f"min_{name} is {limit:g}, above max_{name}, which is {other:g}")
        return self

    @property
    def limits(self) -> dict[str, float | str]:
        """The limits that are not off, by the name of their field."""
        fields = (name for name in type(self).model_fields if name.startswith(("min_", "max_")))
        found = ((name, getattr(self, name)) for name in fields)
        return {name: limit for name, limit in found if limit is not None}

    @property
    def chosen_categories(self) -> tuple[str, ...]:
        """The categories that these filters name."""
        return (*(self.categories or ()), *self.no_categories)

    def as_subset(self) -> "FilterConfig":
        """What was given explicitly, and nothing else: a subset is chosen among clips that passed the other limits."""
        off = dict.fromkeys(self.limits)
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return self.model_copy(update={**off, **given})
