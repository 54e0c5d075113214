"""What a plan chooses, and what it says where nothing fits."""

from dataclasses import replace

import pytest
import torch

from modeling.flops import forward_flops, token_grid
from tests.training.planning.steps import config_of
from training.config import TrainConfig
from training.errors import PlanError
from training.planning.gpus import GPUS, Gpu, gpu_of, peak_of_device
from training.planning.needs import largest_shape, optimizer_bytes, stage_work
from training.planning.plan import Request, layouts, plan_run
from training.recipes import RECIPES, demo_tiny
from training.work import peak_tflops


def request(memory_gib: float, num_gpus: int = 1) -> Request:
    gpu = Gpu("tried", memory_gib, 100.0, "made up")
    return Request(gpu=gpu, num_gpus=num_gpus, mfu=0.4, num_text_tokens=16, reserve_gib=0.0)


def needed_gib(config: TrainConfig) -> float:
    """With all the memory it wants."""
    return plan_run(config, request(1000.0)).stages[0].chosen.memory.total / 2**30


def test_with_enough_memory_nothing_is_computed_again_or_divided() -> None:
    plan = plan_run(config_of(num_workers=2), request(1000.0, num_gpus=2))
    assert (plan.layout.recompute, plan.layout.sharding) == ("none", "none")
    assert plan.stages[0].chosen.micro_batch == plan.stages[0].clips_per_gpu == 2


@pytest.mark.parametrize("share", [0.6])
def test_what_is_proposed_fits(share: float) -> None:
    config = config_of()
    asked = request(share * needed_gib(config))
    stage = plan_run(config, asked).stages[0]
    assert stage.chosen.micro_batch >= 1
    assert stage.chosen.memory.total <= asked.usable_bytes(config)


def test_what_does_not_fit_is_said_in_one_line_with_what_is_missing() -> None:
    with pytest.raises(PlanError, match=r"stage classes does not fit.*GiB are missing; ") as caught:
        plan_run(config_of(), request(0.01))
    assert "\n" not in str(caught.value)


def test_more_gpus_are_advised_where_they_would_do() -> None:
    with pytest.raises(PlanError, match=r"; \d+ of them would do$"):
        plan_run(config_of(), request(0.05))


@pytest.mark.slow
def test_a_run_has_the_layout_of_its_most_demanding_stage() -> None:
    config = RECIPES["stiv_tiny_96"]().model_copy(update={"num_workers": 1})
    plan = plan_run(config, request(1000.0), ["t2i_64", "t2v_64"])
    assert [stage.name for stage in plan.stages] == ["t2i_64", "t2v_64"]
    assert plan.days == pytest.approx(sum(stage.days for stage in plan.stages))


def test_settings_make_a_config() -> None:
    config = config_of(num_workers=2)
    plan = plan_run(config, request(1000.0, num_gpus=2))
    assert "num_workers=2" in plan.settings()
    assert "stages.classes.micro_batch_size=2" in plan.settings()


def test_layouts_go_from_least_work_to_least_memory() -> None:
    found = [(x.recompute, x.average_on_cpu, x.sharding, x.num_shards) for x in layouts(16)]
    assert found[:4] == [
        ("none", False, "none", 1),
        ("none", False, "hybrid", 8),
        ("none", False, "full", 16),
        ("none", True, "none", 1),
    ]
    assert found[-1] == ("full", True, "full", 16)


def test_an_average_in_host_memory_is_chosen_before_anything_is_computed_again() -> None:
    config = config_of()
    average_gib = plan_run(config, request(1000.0)).stages[0].chosen.memory.average / 2**30
    plan = plan_run(config, request(needed_gib(config) - 0.9 * average_gib))
    assert (plan.layout.average_on_cpu, plan.layout.recompute) == (True, "none")
    assert plan.stages[0].chosen.memory.average == 0
    assert "average_on_cpu=true" in plan.settings()


def test_what_is_given_is_not_chosen() -> None:
    config = config_of(recompute="selective", stage={"micro_batch_size": 2})
    given = frozenset({"recompute", "stages.classes.micro_batch_size", "model.depth"})
    plan = plan_run(config, replace(request(1000.0), given=given))
    assert plan.layout.recompute == "selective"
    assert plan.stages[0].chosen.micro_batch == 2
    divided, asked = (
        config_of(sharding="full"),
        replace(request(1000.0), given=frozenset(["sharding"])),
    )
    with pytest.raises(PlanError, match="1 GPUs have no layout with sharding=full"):
        plan_run(divided, asked)


def test_the_encoders_of_the_paper_are_left_room_for() -> None:
    config, small = RECIPES["stiv_xl_256"](), gpu_of("rtx4090")
    usable = Request(gpu=small, num_gpus=64, mfu=0.4, num_text_tokens=77).usable_bytes(config)
    # 695M parameters of ViT-bigG-14's text tower, 84M of the VAE, in float32, and 1 GiB.
    encoders = (small.memory_gib - 1) * 2**30 - usable
    assert encoders / 4 == pytest.approx(694.7e6 + 83.7e6, rel=0.01)
    large = Request(gpu=gpu_of("h200"), num_gpus=64, mfu=0.4, num_text_tokens=77)
    assert large.usable_bytes(config) == int(0.9 * gpu_of("h200").memory_gib * 2**30)


def test_days_are_operations_over_what_the_gpus_compute() -> None:
    config = config_of()
    stage, model = config.stages["classes"], config.model_of("classes")
    shape = largest_shape(config, "classes", 16)
    flops = forward_flops(model, shape, token_grid(model, shape, stage.mask_ratio)).train
    work = stage_work(config, "classes", 16)
    assert work.flops_per_step == stage.batch_size * flops
    seconds = stage.num_steps * stage.batch_size * flops / (4 * 100e12 * 0.5)
    assert work.days(4, 100.0, 0.5) == pytest.approx(seconds / 86_400)


def test_adafactor_takes_half_of_adamw_or_less() -> None:
    config = config_of()
    model, settings = config.model_of("classes"), config.stages["classes"].optimizer
    factored, _ = optimizer_bytes(model, settings, 1)
    full, _ = optimizer_bytes(model, settings.model_copy(update={"name": "adamw"}), 1)
    assert 0.5 < factored / full < 0.52
    half, _ = optimizer_bytes(model, settings.model_copy(update={"momentum_dtype": "bfloat16"}), 1)
    none, _ = optimizer_bytes(model, settings.model_copy(update={"beta1": 0.0}), 1)
    assert 0.25 < half / full < 0.27
    assert none / full < 0.02


def test_an_unknown_gpu_is_named_with_the_known_ones() -> None:
    assert gpu_of("h200").peak_tflops == 989
    with pytest.raises(PlanError, match=r"h20: no such GPU; valid: .*h200"):
        gpu_of("h20")
    assert all(gpu.memory_gib > 20 for gpu in GPUS.values())


def test_the_peak_of_a_gpu_follows_from_what_its_driver_calls_it() -> None:
    names = [name for gpu in GPUS.values() for name in gpu.device_names]
    assert len(names) == len(set(names)) >= len(GPUS)
    assert peak_of_device("NVIDIA H100 80GB HBM3") == 989
    # Another board with a lower clock.
    assert peak_of_device("NVIDIA H100 PCIe") is None


def test_a_stated_peak_counts_and_a_cpu_has_none() -> None:
    cpu = torch.device("cpu")
    assert peak_tflops(demo_tiny(), cpu) is None
    assert peak_tflops(demo_tiny().model_copy(update={"peak_tflops": 2.0}), cpu) == 2.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_known_gpu_gives_its_peak_in_bfloat16() -> None:
    device = torch.device("cuda")
    config = demo_tiny().model_copy(update={"device": "cuda", "precision": "bfloat16"})
    assert peak_tflops(config, device) == peak_of_device(torch.cuda.get_device_name(device))
    assert peak_tflops(config.model_copy(update={"precision": "float32"}), device) is None
