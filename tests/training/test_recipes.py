"""The recipes against the facts of the paper, each with the place where it stands there."""

import pytest
from pydantic import ValidationError

from tests.training.builders import tiny_config, tiny_stage
from training.config import TrainConfig
from training.errors import TrainError
from training.planning.check import check_fits, layout_of
from training.planning.needs import reserved_bytes, state_memory
from training.recipes import RECIPES
from training.recipes.scales import scales

PAPER = ("xl", "xxl", "m")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_survives_json(name: str) -> None:
    config = RECIPES[name]()
    assert config.name == name
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_every_kind_of_run_is_there_at_every_scale() -> None:
    assert len(RECIPES) == 1 + 9 * len(scales())


@pytest.mark.parametrize(
    ("size", "depth", "width", "heads"),
    [("xl", 28, 1152, 18), ("xxl", 38, 1536, 24), ("m", 46, 3072, 48)],
)
def test_table_1_sizes(size: str, depth: int, width: int, heads: int) -> None:
    model = RECIPES[f"stiv_{size}_256"]().model
    assert (model.depth, model.hidden_size, model.num_heads) == (depth, width, heads)
    assert (model.temporal_patch, model.num_unmasked_blocks, model.modulation) == (2, 2, "shared")


@pytest.mark.parametrize("size", PAPER)
@pytest.mark.parametrize(
    ("stage", "num_steps", "batch_size", "num_frames", "mask_ratio"),
    [
        # Section 3.1; section 2.2 for the masking.
        ("t2i_256", 400_000, 4096, 1, 0.5),
        ("t2i_256_unmasked", 50_000, 4096, 1, 0.0),
        ("t2v_256", 400_000, 1024, 20, 0.5),
        ("stiv_256", 400_000, 1024, 20, 0.5),
        ("stiv_256_unmasked", 100_000, 1024, 20, 0.0),
    ],
)
def test_section_3_1_stages(  # one row of the table for each stage
    size: str, stage: str, num_steps: int, batch_size: int, num_frames: int, mask_ratio: float
) -> None:
    found = RECIPES[f"stiv_{size}_256"]().stages[stage]
    assert (found.num_steps, found.batch_size, found.num_frames) == (
        num_steps,
        batch_size,
        num_frames,
    )
    assert found.mask_ratio == mask_ratio


@pytest.mark.parametrize("size", PAPER)
def test_what_all_stages_share(size: str) -> None:
    config = RECIPES[f"sft_{size}_512"]()
    assert config.data.sampling_stride == 3  # appendix B
    assert (config.guidance.scheme, config.guidance.text_scale) == ("joint", 7.5)  # section 2.3.2
    assert config.guidance.renormalize  # appendix A
    for stage in config.stages.values():
        optimizer = stage.optimizer
        assert (optimizer.name, optimizer.beta1, optimizer.beta2) == ("adafactor", 0.9, 0.999)
        assert (optimizer.learning_rate, optimizer.warmup_steps) == (2e-4, 1000)
        assert (optimizer.max_grad_norm, stage.ema_decay) == (1.0, 0.9999)
        assert (stage.text_dropout_prob, stage.image_dropout_prob) == (0.1, 0.08)  # appendix B


def test_section_2_4_weight_flow() -> None:
    config = RECIPES["stiv_xl_512"]()
    flow = {name: config.starts_of(name) for name in config.stages}
    assert flow == {
        "t2i_256": (),
        "t2i_512": ("t2i_256",),
        "t2v_256": ("t2i_256",),
        "t2v_512": ("t2i_512", "t2v_256"),
        "stiv_512": ("t2v_512",),
        "stiv_512_unmasked": ("stiv_512",),
    }
    assert {name: config.data_of(name).sizes for name in ("t2i_256", "stiv_512")} == {
        "t2i_256": ((256, 256),),
        "stiv_512": ((512, 512),),
    }
    assert config.model.rotary_grid == (10, 16, 16)


def test_table_14_twice_the_frames_from_twice_the_stride() -> None:
    config = RECIPES["t2v_xl_256_40"]()
    few, many = config.stages["t2v_256_20"], config.stages["t2v_256_40"]
    assert (few.num_frames, config.data_of("t2v_256_20").sampling_stride) == (20, 6)
    assert (many.num_frames, config.data_of("t2v_256_40").sampling_stride) == (40, 3)


def test_section_5_applications() -> None:
    prediction = RECIPES["v2v_xxl_256"]().stages["v2v"]
    assert (prediction.given, prediction.num_steps) == (("first_four",), 400_000)
    upsampling = RECIPES["tup_xl_256"]()
    assert upsampling.stages["tup"].given == ("every_second",)
    assert upsampling.data_of("tup").sampling_stride == 1
    long = RECIPES["long_video_xl_256"]()
    assert long.data_of("key_frames").sampling_stride == 20
    assert long.stages["interpolation"].given == ("first_and_last",)
    views = RECIPES["multi_view_xl_320"]()
    stage = views.stages["views"]
    assert (stage.num_frames, stage.num_steps, stage.text_dropout_prob) == (7, 110_000, 1.0)
    assert views.data_of("views").sizes == ((320, 320),)
    assert (views.model.contract.null_image, views.guidance.text_scale) == ("zeros", 3.5)
    classes = RECIPES["class_to_video_xl_128"]()
    assert (len(classes.encoders.class_names), classes.stages["classes"].num_frames) == (101, 16)
    assert (classes.model.text_width, classes.model.pooled_text_width) == (102, 102)


def test_other_classes_need_other_widths() -> None:
    values = RECIPES["class_to_video_tiny_48"]().model_dump()
    values["encoders"]["class_names"] = ("run", "jump")
    with pytest.raises(ValueError, match=r"2 class names need model\.text_width 3"):
        TrainConfig.model_validate(values)
    values["model"] |= {"text_width": 3, "pooled_text_width": 3}
    assert TrainConfig.model_validate(values).model.text_width == 3


def test_a_stage_needs_what_its_weights_come_from() -> None:
    config = RECIPES["stiv_xl_512"]()
    assert config.needed_for("t2v_256") == ["t2i_256", "t2v_256"]
    assert config.needed_for("stiv_512") == ["t2i_256", "t2i_512", "t2v_256", "t2v_512", "stiv_512"]


def test_recipes_pass_as_many_clips_at_once_as_gpus_of_80_gib_hold() -> None:
    """By the planner's measure of the state; the activations of the largest stage are measured below."""
    found = RECIPES["sft_m_512"]()
    assert (found.sharding, found.recompute) == ("full", "keep_self_attention")
    at_once = {name: stage.micro_batch_size for name, stage in found.stages.items()}
    assert at_once == {
        "t2i_256": 64,
        "t2i_512": 16,
        "t2v_256": 8,
        "t2v_512": 2,
        "stiv_512": 2,
        "stiv_512_unmasked": 1,
        "sft_512": 1,
        "sft_512_unmasked": 1,
    }
    for size in PAPER:
        config = RECIPES[f"stiv_{size}_256"]()
        state = state_memory(config, "t2v_256", layout_of(config, config.num_workers))
        assert state.total < 20 * 2**30


@pytest.mark.slow
def test_the_largest_stage_of_the_largest_recipe_fits_a_gpu_of_80_gib() -> None:
    config = RECIPES["stiv_m_512"]()
    needed = check_fits(config, "stiv_512_unmasked", 64, 80 * 2**30)
    assert needed.total + reserved_bytes(config) < 0.9 * 80 * 2**30
    with pytest.raises(
        TrainError, match=r"stiv_512_unmasked needs .* GiB of each GPU with 1 clips"
    ):
        check_fits(config, "stiv_512_unmasked", 64, 20 * 2**30)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"init_from": "t2x"}, "init_from is 't2x'; before it come t2i"),
        ({"temporal_from": "t2i"}, "both must be video stages"),
        ({"sizes_px": ((32, 50),)}, "sizes_px names .32, 50.; sides are multiples of 8 px"),
        ({"sizes_px": ((32, 56),)}, "must be a multiple of 16 px"),
    ],
)
def test_a_start_that_cannot_be_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        tiny_config(stages={"t2i": tiny_stage("t2i"), "t2v": tiny_stage("t2v", **changes)})
