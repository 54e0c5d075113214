"""Forward and backward of the network by itself: seconds, operations a second, memory, for each size and policy.

    python benchmarks/model.py --preset XL XXL M --device cuda --px 256 --frames 20 --batch 8
    python benchmarks/model.py --preset tiny small --device cpu --px 128 --frames 8 --batch 1

Operations are those of `modeling/flops.py`: recomputed activations and masked tokens do not count. The share of the peak is
against `--peak-tflops`, or on the CPU against the matrix product of torch, measured in the same run.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import get_args

import torch

from modeling.conditioning import Conditions, MicroConditions, TextFeatures
from modeling.config import PRESETS, preset
from modeling.flops import ClipShape, forward_flops, token_grid
from modeling.masking import KeptPositions, draw_kept_positions
from modeling.settings import RecomputePolicy
from modeling.stiv import STIV

CHANNELS, TEXT_WIDTH, TEXT_TOKENS = 8, 1280, 77


def main() -> None:
    arguments = _arguments()
    device = torch.device(arguments.device)
    dtype = torch.bfloat16 if arguments.bfloat16 else torch.float32
    peak = arguments.peak_tflops or _matmul_tflops(device, dtype)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, {dtype}")
    print(
        f"peak {peak:.2f} TFLOP/s, {'given' if arguments.peak_tflops else 'measured by 2048^3 products'}"
    )
    print("| size | recompute | compiled | s a step | TFLOP/s | % of peak | peak GiB |")
    print("|---|---|---|---|---|---|---|")
    for size in arguments.preset:
        for policy in arguments.recompute:
            for compiled in arguments.compile:
                with _out_of_memory_is_a_row(size, policy):
                    seconds, flops, gib = _measure(arguments, size, policy, compiled)
                    rate = flops / seconds / 1e12
                    memory = "" if gib is None else f"{gib:.1f}"
                    print(
                        f"| {size} | {policy} | {'yes' if compiled else 'no'} | {seconds:.3f} | {rate:.2f} | "
                        f"{rate / peak:.0%} | {memory} |",
                        flush=True,
                    )


def _measure(
    arguments: argparse.Namespace, size: str, policy: RecomputePolicy, compiled: bool
) -> tuple[float, int, float | None]:
    device = torch.device(arguments.device)
    config = preset(
        size, latent_channels=CHANNELS, text_width=TEXT_WIDTH, pooled_text_width=TEXT_WIDTH
    )
    with device:
        model = STIV(config, recompute=policy)
    if arguments.bfloat16 and device.type == "cuda":
        # One card: bfloat16 weights, as a rank of a sharded run holds them for the pass.
        model.bfloat16()
    if compiled:
        for block in [*model.blocks, *model.unmasked_blocks]:
            block.compile()
    side = arguments.px // 8
    shape = ClipShape(arguments.frames, side, side, TEXT_TOKENS)
    grid = token_grid(config, shape, arguments.mask_ratio)
    step = _step(model, arguments, shape, grid.num_spatial)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(arguments.warmup):
        step()
    times = [_timed(step, device) for _ in range(arguments.steps)]
    gib = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    flops = arguments.batch * forward_flops(config, shape, grid).train
    return statistics.median(times), flops, gib


def _step(
    model: STIV, arguments: argparse.Namespace, shape: ClipShape, num_spatial: int
) -> Callable[[], None]:
    device, batch = torch.device(arguments.device), arguments.batch
    generator = torch.Generator().manual_seed(0)
    size = (batch, CHANNELS, shape.num_latent_frames, shape.height, shape.width)
    x = torch.randn(size, generator=generator).to(device)
    text = TextFeatures(
        torch.randn(batch, TEXT_TOKENS, TEXT_WIDTH, generator=generator),
        torch.ones(batch, TEXT_TOKENS, dtype=torch.bool),
        torch.randn(batch, TEXT_WIDTH, generator=generator),
    )
    micro = MicroConditions(
        torch.full((batch, 2), 720.0),
        torch.zeros(batch, 2),
        torch.full((batch,), 3.0),
        torch.full((batch,), float(shape.num_latent_frames)),
    )
    given = torch.zeros(batch, shape.num_latent_frames, dtype=torch.bool)
    known = Conditions(text, micro, given, torch.zeros(size)).to(device)
    t_B = torch.rand(batch, generator=generator).to(device)
    kept = None
    if arguments.mask_ratio > 0:
        kept = KeptPositions(draw_kept_positions(num_spatial, arguments.mask_ratio, generator))
        kept = kept.to(device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bfloat16):
            predicted = model(x, t_B, known, kept=kept)
        predicted.float().square().mean().backward()
        model.zero_grad(set_to_none=True)

    return step


def _timed(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started_s = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def _matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.randn(2048, 2048, device=device, dtype=dtype) for _ in range(2))
    best_s = min(_timed(lambda: torch.mm(a, b), device) for _ in range(10))
    return 2 * 2048**3 / best_s / 1e12


@contextmanager
def _out_of_memory_is_a_row(size: str, policy: str) -> Generator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        print(f"| {size} | {policy} | | out of memory | | | |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", nargs="+", choices=list(PRESETS), default=["tiny"])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--px", type=int, default=256)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--mask-ratio", type=float, default=0.0)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument(
        "--recompute", nargs="+", choices=get_args(RecomputePolicy), default=["none"]
    )
    parser.add_argument("--compile", nargs="+", type=int, choices=(0, 1), default=[0])
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
