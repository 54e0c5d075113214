"""What `stiv plan` says that a step takes, against what it takes on this GPU.

    python -m benchmarks.plan --recipe stiv_xl_512 --stage t2v_256 --micro-batch 1 4 --recompute none full

One GPU, whole micro-batches of random numbers, without the frozen encoders: the figures of torch's allocator. Not run
yet where a GPU is.
"""

import argparse
import statistics
import time

import torch

from modeling.settings import RecomputePolicy
from modeling.stiv import STIV
from training.config import TrainConfig
from training.ema import WeightAverage
from training.optimizers import make_optimizer
from training.planning.memory import PassCase, step_inputs, tensors_of
from training.planning.needs import Layout, largest_shape, memory, stage_work
from training.planning.plan import POLICIES, gib
from training.recipes import RECIPES
from training.state import TrainState
from training.step import stage_loss

NUM_TEXT_TOKENS, WARM_UP, STEPS = 77, 2, 5


def main() -> None:
    arguments = _arguments()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(
        "| stage | micro-batch | recompute | planned GiB | measured GiB | error | s a step | MFU |"
    )
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    for recompute in arguments.recompute:
        for micro_batch in arguments.micro_batch:
            config = _config(arguments, recompute, micro_batch)
            layout = Layout(1, "none", 1, recompute)
            shape = largest_shape(config, arguments.stage, NUM_TEXT_TOKENS)
            planned = memory(config, arguments.stage, layout, shape, micro_batch).total
            flops = stage_work(config, arguments.stage, NUM_TEXT_TOKENS).flops_per_step
            try:
                measured, seconds = _measured(config, arguments.stage, micro_batch)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                print(
                    f"| {arguments.stage} | {micro_batch} | {recompute} | {gib(planned):.2f} | out of memory | | | |"
                )
                continue
            mfu = flops / seconds / (arguments.peak_tflops * 1e12)
            print(
                f"| {arguments.stage} | {micro_batch} | {recompute} | {gib(planned):.2f} | {gib(measured):.2f} | "
                f"{planned / measured - 1:+.1%} | {seconds:.3f} | {mfu:.1%} |",
                flush=True,
            )


def _measured(config: TrainConfig, stage_name: str, micro_batch: int) -> tuple[int, float]:
    """Bytes at most, and seconds a step (median)."""
    device, stage, model = (
        torch.device("cuda"),
        config.stages[stage_name],
        config.model_of(stage_name),
    )
    with device:
        network = STIV(model, recompute=config.recompute)
        case = PassCase(
            model=model,
            stage=stage,
            clip=largest_shape(config, stage_name, NUM_TEXT_TOKENS),
            micro_batch=micro_batch,
            recompute=config.recompute,
            device="cuda",
            half=True,
            half_weights=False,
            keeps_gradients=True,
        )
        inputs = step_inputs(case)
    for tensor in tensors_of(inputs):
        if tensor.dtype == torch.bool:
            tensor.fill_(True)
        elif tensor.dtype == torch.long:
            tensor.copy_(torch.arange(tensor.numel()))
        else:
            tensor.normal_()
    state = TrainState(
        network,
        make_optimizer(network, stage.optimizer),
        WeightAverage(network, stage.ema_decay),
        None,
    )
    times: list[float] = []
    for number in range(WARM_UP + STEPS):
        if number == WARM_UP:
            torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        started_s = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = stage_loss(network, (model, stage), *inputs)
        loss.loss.backward()
        state.take_step(1e-4, 1.0)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started_s)
    return torch.cuda.max_memory_allocated(), statistics.median(times[WARM_UP:])


def _config(
    arguments: argparse.Namespace, recompute: RecomputePolicy, micro_batch: int
) -> TrainConfig:
    values = RECIPES[arguments.recipe]().model_dump()
    values |= {"recompute": recompute, "num_workers": 1, "precision": "bfloat16"}
    values["stages"][arguments.stage]["batch_size"] = micro_batch
    return TrainConfig.model_validate(values)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", choices=list(RECIPES), default="stiv_xl_512")
    parser.add_argument("--stage", default="t2v_256")
    parser.add_argument("--micro-batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--recompute", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--peak-tflops", type=float, default=989.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
