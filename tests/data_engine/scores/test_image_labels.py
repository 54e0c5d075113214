import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from numpy.typing import NDArray

from data_engine.config import DataEngineConfig, FilterConfig, LabelConfig, ScoreConfig
from data_engine.errors import JobError
from data_engine.scores.image_labels import LabelScorer, label_backend
from data_engine.scoring import FrameScorers, check_scorers, scorer_versions
from tests.data_engine.scores.tiny_classifiers import write_classifier

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("models") / "tiny", ["plain", "marked", "bad"])


@pytest.fixture
def images(photos: dict[str, Image]) -> list[Image]:
    return [photos[name] for name in ("cat", "coffee", "rocket")]


def config_for(scorer: str, model: Path | str, label: str = "marked") -> ScoreConfig:
    chosen: dict[str, Any] = {scorer: {"model": str(model), "label": label}}
    return ScoreConfig.model_validate({"frame_scorers": (scorer,), **chosen})


def test_probabilities_of_all_labels_add_up(classifier: Path, images: list[Image]) -> None:
    by_label = [
        LabelScorer(str(classifier), None, label).probabilities(images)
        for label in ("plain", "marked", "bad")
    ]
    assert np.sum(by_label, axis=0) == pytest.approx(np.ones(3), abs=1e-5)


def test_pictures_of_a_clip_are_scored_alike_together_and_alone(
    classifier: Path, images: list[Image]
) -> None:
    scorer = LabelScorer(str(classifier), None, "marked")
    together = scorer.probabilities(images)
    alone = [scorer.probabilities([image])[0] for image in images]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len(set(np.round(together, 3))) == 3


@pytest.mark.parametrize(
    ("scorer", "score", "is_mean"),
    [("nsfw", "nsfw", False), ("watermark", "watermark", False), ("iqa", "learned_quality", True)],
)
def test_a_clip_has_the_worst_of_its_frames_or_their_mean(
    classifier: Path, images: list[Image], scorer: str, score: str, *, is_mean: bool
) -> None:
    config = config_for(scorer, classifier)
    check_scorers(config)
    found = FrameScorers(config).score(scorer, [images])[0].scores
    each = LabelScorer(str(classifier), None, "marked").probabilities(images)
    assert list(found) == [score]
    assert found[score].value == pytest.approx(each.mean() if is_mean else each.max(), abs=1e-5)
    assert found[score].backend == scorer_versions(config)[scorer]


def test_labels_that_exclude_nothing_have_probabilities_of_their_own(
    tmp_path: Path, images: list[Image]
) -> None:
    several = write_classifier(
        tmp_path / "a", ["logo", "text"], problem_type="multi_label_classification"
    )
    sums = sum(
        LabelScorer(str(several), None, name).probabilities(images) for name in ("logo", "text")
    )
    assert np.abs(sums - np.ones(3)).max() > 0.01
    single = write_classifier(tmp_path / "b", ["logo"])
    assert (LabelScorer(str(single), None, "logo").probabilities(images) < 1).all()


def test_a_model_is_named_by_its_folder_its_bytes_and_its_label(
    classifier: Path, tmp_path: Path
) -> None:
    name = label_backend(str(classifier), None, "marked")
    assert name.startswith("file:transformers/tiny/")
    assert name.endswith(":marked")
    assert str(classifier.parent) not in name
    moved = Path(shutil.copytree(classifier, tmp_path / "elsewhere" / "tiny"))
    assert label_backend(str(moved), None, "marked") == name
    assert label_backend(str(moved), None, "bad") != name
    write_classifier(moved, ["plain", "marked", "bad"], seed=1)
    assert label_backend(str(moved), None, "marked") != name
    assert label_backend("a/b", "v1", "bad") == "hub:transformers/a/b@v1:bad"


@pytest.mark.parametrize("scorer", ["nsfw", "watermark", "iqa"])
def test_a_scorer_without_a_model_or_a_label_names_the_field(scorer: str) -> None:
    with pytest.raises(ValueError, match=rf"set scores\.{scorer}\.model"):
        ScoreConfig.model_validate({"frame_scorers": (scorer,)})
    with pytest.raises(ValueError, match=rf"set scores\.{scorer}\.label"):
        ScoreConfig.model_validate({"frame_scorers": (scorer,), scorer: {"model": "a/b"}})
    unused = ScoreConfig.model_validate({scorer: {"model": "a/b"}})
    assert unused.label_scorers == {}


def test_a_label_that_the_model_does_not_know_lists_those_it_has(classifier: Path) -> None:
    with pytest.raises(JobError, match=r"no label 'nsfw'; its labels are plain, marked, bad$"):
        check_scorers(config_for("nsfw", classifier, label="nsfw"))


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="neither a folder nor a repository") as failed:
        check_scorers(config_for("watermark", tmp_path / "missing"))
    assert "\n" not in str(failed.value)


def test_pickled_weights_are_refused(classifier: Path, tmp_path: Path) -> None:
    pickled = Path(shutil.copytree(classifier, tmp_path / "tiny"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(JobError, match="no safetensors weights"):
        check_scorers(config_for("iqa", pickled))


def test_what_classifies_no_pictures_is_refused(classifier: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(classifier, tmp_path / "tiny"))
    transformers.BertConfig().save_pretrained(other)
    with pytest.raises(JobError, match="is a bert, which does not classify pictures"):
        check_scorers(config_for("nsfw", other))
    number = write_classifier(tmp_path / "number", ["mos"], problem_type="regression")
    with pytest.raises(JobError, match="not the probability of a label"):
        check_scorers(config_for("iqa", number, label="mos"))


def test_the_choice_survives_a_stored_configuration(classifier: Path) -> None:
    config = DataEngineConfig(
        scores=config_for("nsfw", classifier),
        filters=FilterConfig(max_brisque=None, max_text_area=None, max_nsfw=0.5),
    )
    again = DataEngineConfig.model_validate_json(config.model_dump_json())
    assert again.scores.label_scorers == {
        "nsfw": LabelConfig(model=str(classifier), label="marked")
    }


def test_the_frames_of_several_clips_go_through_the_classifier_together(
    classifier: Path, images: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    probabilities = LabelScorer.probabilities

    def counted(scorer: LabelScorer, pictures: Sequence[Image]) -> NDArray[np.float32]:
        seen.append(len(pictures))
        return probabilities(scorer, pictures)

    monkeypatch.setattr(LabelScorer, "probabilities", counted)
    scorers = FrameScorers(config_for("nsfw", classifier))
    clips = [images[:1], images[1:]]
    together = scorers.score("nsfw", clips)
    assert seen == [3]
    alone = [scorers.score("nsfw", [clip])[0] for clip in clips]
    for one, other in zip(together, alone, strict=True):
        assert one.scores["nsfw"].value == pytest.approx(other.scores["nsfw"].value, abs=1e-5)
