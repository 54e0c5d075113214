"""The memory of a plan against what real steps take, on the CPU."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from modeling.settings import RecomputePolicy
from modeling.stiv import STIV
from tests.training.planning.steps import NUM_TEXT_TOKENS, STAGE, config_of, measured_peak
from tests.training.processes import run_workers
from training.config import TrainConfig
from training.planning.memory import (
    AsOnGpu,
    LiveBytes,
    PassCase,
    estimated_pass_bytes,
    fill,
    pass_bytes,
    run_without_content,
    step_inputs,
    tensors_of,
)
from training.planning.needs import Layout, largest_shape, memory
from training.planning.plan import POLICIES
from training.step import stage_loss


def planned(config: TrainConfig) -> int:
    num_gpus, stage = config.num_workers, config.stages[STAGE]
    num_shards = num_gpus if config.sharding == "full" else 1
    layout = Layout(
        num_gpus,
        config.sharding,
        num_shards,
        config.recompute,
        average_on_cpu=config.average_on_cpu,
        device="cpu",
    )
    micro_batch = stage.micro_batch_size or stage.batch_size // num_gpus
    shape = largest_shape(config, STAGE, NUM_TEXT_TOKENS)
    return memory(config, STAGE, layout, shape, micro_batch).total


def measured(config: TrainConfig, folder: Path) -> int:
    if config.num_workers == 1:
        measured_peak(0, config.model_dump_json(), folder)
    else:
        run_workers(measured_peak, config.num_workers, folder, config.model_dump_json(), folder)
    found = [json.loads(path.read_bytes()) for path in folder.glob("[0-9].json")]
    assert len(found) == config.num_workers
    return max(found)


def case_of(config: TrainConfig, micro_batch: int, **changes: Any) -> PassCase:
    case = PassCase(
        model=config.model_of(STAGE),
        stage=config.stages[STAGE],
        clip=largest_shape(config, STAGE, NUM_TEXT_TOKENS),
        micro_batch=micro_batch,
        recompute="none",
        device="cuda",
        half=True,
        half_weights=False,
        keeps_gradients=True,
    )
    return replace(case, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"recompute": "full", "precision": "bfloat16"}, marks=pytest.mark.slow),
        pytest.param({"recompute": "keep_self_attention"}, marks=pytest.mark.slow),
        pytest.param(
            {"recompute": "selective", "stage": {"optimizer": {"momentum_dtype": "bfloat16"}}},
            marks=pytest.mark.slow,
        ),
        pytest.param({"stage": {"optimizer": {"name": "adamw"}}}, marks=pytest.mark.slow),
        pytest.param({"stage": {"micro_batch_size": 2}}, marks=pytest.mark.slow),
        {"num_workers": 2},
    ],
    ids=str,
)
def test_a_real_step_takes_what_was_planned(changes: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(**changes)
    # What a product of bfloat16 takes for itself depends on the instructions that the processor has.
    rel = 0.05 if config.precision == "bfloat16" else 0.01
    assert planned(config) == pytest.approx(measured(config, tmp_path), rel=rel)


@pytest.mark.parametrize(
    ("changes", "at_most"),
    [
        ({}, 1.1),
        # A block is a large part of so small a network, and so are the messages it is sent in.
        ({"recompute": "full"}, 1.25),
        ({"stage": {"micro_batch_size": 1}}, 1.1),
    ],
    ids=str,
)
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_sharded_steps_take_no_more_than_planned(
    changes: dict[str, Any], at_most: float, tmp_path: Path
) -> None:
    config = config_of(depth=12, num_workers=2, sharding="full", **changes)
    taken = measured(config, tmp_path)
    assert taken <= planned(config) <= at_most * taken


def test_each_policy_keeps_less_than_the_one_before() -> None:
    case = case_of(config_of(), 2)
    kept = [pass_bytes(replace(case, recompute=policy)).before for policy in POLICIES]
    assert kept == sorted(set(kept), reverse=True)


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_few_blocks_tell_what_many_need(recompute: RecomputePolicy) -> None:
    config = config_of(depth=5)
    case = case_of(config, 2, recompute=recompute)
    whole = run_without_content(case, config.model.depth)
    assert pass_bytes(case).peak == whole.peak


@pytest.mark.slow
def test_few_clips_tell_what_many_need() -> None:
    case = case_of(config_of(), 16)
    assert estimated_pass_bytes(case).peak == pytest.approx(pass_bytes(case).peak, rel=0.05)


@pytest.mark.skipif(torch.version.cuda is None, reason="torch was built without CUDA")
@pytest.mark.parametrize(
    ("recompute", "half_weights"),
    [("none", False), ("keep_self_attention", True), ("selective", True)],
)
def test_a_gpu_would_keep_the_same_after_the_forward_pass(
    recompute: RecomputePolicy, half_weights: bool
) -> None:
    case = case_of(config_of(), 2, recompute=recompute, half_weights=half_weights)
    there, here = live_after_forward(case, "cuda"), live_after_forward(case, "cpu")
    # A seed of the attention kernels of CUDA has some bytes.
    assert here == pytest.approx(there, abs=4096)


class AttentionOfCuda(TorchFunctionMode):
    """Without a driver torch does not choose the kernels that it would."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = (tensor.to(torch.bfloat16) for tensor in args)
        mask = (kwargs or {}).get("attn_mask")
        if mask is None:
            return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
        bias = mask.to(query.dtype).expand(*query.shape[:3], -1)
        return torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, True
        )[0]


@contextmanager
def forced_autocast(device: str) -> Generator[None]:
    """`torch.autocast` refuses CUDA without a driver."""
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, False)
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()


def live_after_forward(case: PassCase, device: Literal["cpu", "cuda"]) -> int:
    """With the autocast of the device itself on the one hand, and as planned on the other."""
    with torch.device("meta"):
        network = STIV(case.model.model_copy(update={"depth": 2}), recompute=case.recompute)
    mode = AsOnGpu(half=True) if device == "cpu" else AttentionOfCuda()
    with FakeTensorMode(), torch.device(device):
        fill(network, case)
        step = step_inputs(case)
        meter = LiveBytes([*network.parameters(), *tensors_of(step)])
        with meter, mode, forced_autocast(device):
            loss = stage_loss(network, (network.config, case.stage), *step)
            assert loss.loss.requires_grad
            return meter.live
