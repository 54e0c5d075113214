"""How to lay a run out on GPUs: the least work that fits, stated before anything is rented.

A layout is chosen for all stages of a plan at once, since sharding, recomputation and the place of the average are
settings of a run. They are tried from the cheapest on: first without computing anything again, on copies, then divided
within groups, then over all GPUs; then the same with the average in host memory; then all of it while more and more of
the blocks is computed again. The first one wins that lets every stage pass enough tokens through the network at once;
else the one that comes nearest.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from modeling.flops import ClipShape, token_grid
from modeling.settings import RecomputePolicy
from training.config import TrainConfig
from training.errors import PlanError
from training.planning.gpus import Gpu
from training.planning.needs import (
    Layout,
    MemoryBytes,
    StageWork,
    estimated_memory,
    largest_shape,
    memory,
    reserved_bytes,
    stage_work,
)
from training.streaming.buckets import batch_size_of

GPUS_PER_MACHINE = 8
MIN_TOKENS_AT_ONCE = 8192
"""Tokens in the main blocks below which a GPU is taken to be badly used. Ours; to be measured."""
RESERVE_SHARE = 0.1
"""Of the memory, at least: for CUDA, NCCL, the gaps of the allocator, and the frozen encoders."""
MAX_GPUS = 4096
POLICIES: tuple[RecomputePolicy, ...] = get_args(RecomputePolicy)
"""From the least work to the least memory."""
LAYOUT_FIELDS = ("sharding", "shard_group_size", "recompute", "average_on_cpu")
"""Of a run; a plan chooses them."""

StepCallback = Callable[[str, RecomputePolicy], None]
"""Called with the stage and the policy that is measured next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a plan is asked for."""

    gpu: Gpu
    num_gpus: int
    mfu: float
    """The share of the peak that all days are stated at."""
    num_text_tokens: int
    reserve_gib: float | None = None
    """Memory of each GPU to leave alone; `RESERVE_SHARE` of it or what the encoders and libraries take, if not set."""
    given: frozenset[str] = frozenset()
    """Those of `LAYOUT_FIELDS`, and `stages.NAME.micro_batch_size`, that are as the run has them and not chosen."""

    def usable_bytes(self, config: TrainConfig) -> int:
        """Of each GPU, for the network."""
        reserve = self.reserve_gib
        if reserve is None:
            reserve = max(RESERVE_SHARE * self.gpu.memory_gib, gib(reserved_bytes(config)))
        return int((self.gpu.memory_gib - reserve) * 2**30)


@dataclass(frozen=True, slots=True)
class Fit:
    """A stage in a layout."""

    micro_batch: int
    """The largest one that fits and divides the share of a GPU; 0 if a single clip does not fit."""
    memory: MemoryBytes
    """At that micro-batch, or of a single clip."""
    tokens_at_once: int
    """That the main blocks see."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    name: str
    work: StageWork
    clips_per_gpu: int
    chosen: Fit
    policies: dict[RecomputePolicy, Fit]
    """The same layout with each policy; memory within a few percent."""
    activations: dict[RecomputePolicy, int]
    """Bytes with each policy at the micro-batch that was chosen, within a few percent."""
    days: float


@dataclass(frozen=True, slots=True)
class RunPlan:
    request: Request
    usable_bytes: int
    """Of each GPU."""
    layout: Layout
    stages: tuple[StagePlan, ...]

    @property
    def days(self) -> float:
        return sum(stage.days for stage in self.stages)

    def settings(self) -> list[str]:
        """What to `--set` for `stiv train`."""
        layout, gpu = self.layout, self.request.gpu
        lines = ["device=cuda", f"num_workers={layout.num_gpus}", f"sharding={layout.sharding}"]
        if layout.sharding == "hybrid":
            lines.append(f"shard_group_size={layout.num_shards}")
        lines.append(f"average_on_cpu={str(layout.average_on_cpu).lower()}")
        lines += [f"recompute={layout.recompute}", f"peak_tflops={gpu.peak_tflops:g}"]
        return lines + [
            f"stages.{stage.name}.micro_batch_size={stage.chosen.micro_batch}"
            for stage in self.stages
        ]


def plan_run(
    config: TrainConfig,
    request: Request,
    stages: Sequence[str] | None = None,
    on_step: StepCallback = lambda _stage, _policy: None,
) -> RunPlan:
    """Lay out these stages, or all, of a run whose `num_workers` is the number of GPUs.

    Raises:
        PlanError: some stage does not fit however it is laid out; the message says what is missing.
    """
    assert config.num_workers == request.num_gpus, "the caller sets both"
    names = list(stages or config.stages)
    for name in names:
        if config.model_of(name).image_attention != "none":
            raise PlanError(
                f"stage {name} has image_attention {config.model.image_attention!r}, whose memory depends on the "
                "images; only 'none' can be planned"
            )
    planner = _Planner(config, request, names, on_step)
    layout, fits = planner.choose()
    plans: list[StagePlan] = []
    for name in names:
        work = stage_work(config, name, request.num_text_tokens)
        policies: dict[RecomputePolicy, Fit] = {
            policy: planner.fit(name, replace(layout, recompute=policy)) for policy in POLICIES
        }
        activations: dict[RecomputePolicy, int] = {
            policy: planner.activations(name, replace(layout, recompute=policy), fits[name])
            for policy in POLICIES
        }
        days = work.days(request.num_gpus, request.gpu.peak_tflops, request.mfu)
        clips = planner.clips_per_gpu(name)
        plans.append(StagePlan(name, work, clips, fits[name], policies, activations, days))
    return RunPlan(request, planner.usable_bytes, layout, tuple(plans))


@dataclass(frozen=True, slots=True)
class _Planner:
    config: TrainConfig
    request: Request
    names: Sequence[str]
    on_step: StepCallback

    @property
    def usable_bytes(self) -> int:
        return self.request.usable_bytes(self.config)

    def layouts(self, num_gpus: int) -> list[Layout]:
        """Those that have what is given.

        Raises:
            PlanError: there is none.
        """
        fields = [field for field in LAYOUT_FIELDS if field in self.request.given]
        given = {field: getattr(self.config, field) for field in fields}
        found = [
            layout
            for layout in layouts(num_gpus)
            if all(getattr(layout, field) == value for field, value in given.items())
        ]
        if not found:
            wanted = ", ".join(f"{field}={value}" for field, value in given.items())
            raise PlanError(f"{num_gpus} GPUs have no layout with {wanted}; leave one of these out")
        return found

    def choose(self) -> tuple[Layout, dict[str, Fit]]:
        best: tuple[int, Layout, dict[str, Fit]] | None = None
        for layout in self.layouts(self.request.num_gpus):
            fits = self._all_fit(layout)
            if fits is None:
                continue
            # How well the worst stage uses its GPU; with its whole share at once it cannot do better.
            use = min(
                MIN_TOKENS_AT_ONCE
                if fit.micro_batch == self.clips_per_gpu(name)
                else min(fit.tokens_at_once, MIN_TOKENS_AT_ONCE)
                for name, fit in fits.items()
            )
            if best is None or use > best[0]:
                best = (use, layout, fits)
            if use == MIN_TOKENS_AT_ONCE:
                break
        if best is None:
            raise PlanError(self._what_is_missing())
        return best[1], best[2]

    def _all_fit(self, layout: Layout) -> dict[str, Fit] | None:
        fits: dict[str, Fit] = {}
        for name in self.names:
            fits[name] = self._checked(name, layout, self.fit(name, layout))
            if fits[name].micro_batch == 0:
                return None
        return fits

    def fit(self, name: str, layout: Layout) -> Fit:
        """By estimate."""
        self.on_step(name, layout.recompute)
        shape = self._shape(name)
        for micro_batch in self._micro_batches(name):
            needed = estimated_memory(self.config, name, layout, shape, micro_batch)
            if needed.total <= self.usable_bytes:
                return Fit(micro_batch, needed, micro_batch * self._tokens(name, shape))
        needed = estimated_memory(self.config, name, layout, shape, 1)
        return Fit(0, needed, 0)

    def activations(self, name: str, layout: Layout, fit: Fit) -> int:
        """At the micro-batch of this fit, by estimate."""
        shape = self._shape(name)
        needed = estimated_memory(self.config, name, layout, shape, fit.micro_batch)
        return needed.activations

    def _checked(self, name: str, layout: Layout, fit: Fit) -> Fit:
        """The same, or a smaller micro-batch, where a pass of that size was measured and fits."""
        shape = self._shape(name)
        for micro_batch in self._micro_batches(name):
            if micro_batch <= fit.micro_batch:
                needed = memory(self.config, name, layout, shape, micro_batch)
                if needed.total <= self.usable_bytes:
                    return Fit(micro_batch, needed, micro_batch * self._tokens(name, shape))
        return replace(fit, micro_batch=0)

    def _micro_batches(self, name: str) -> list[int]:
        """Those to try, largest first."""
        clips, wanted = self.clips_per_gpu(name), self.config.stages[name].micro_batch_size
        if wanted is not None and f"stages.{name}.micro_batch_size" in self.request.given:
            return [min(wanted, clips)]
        return _divisors(clips)

    def clips_per_gpu(self, name: str) -> int:
        """Of the largest shape."""
        grid = token_grid(self.config.model_of(name), self._shape(name))
        stage = self.config.stages[name]
        return batch_size_of(stage, grid.num_represented) // self.request.num_gpus

    def _shape(self, name: str) -> ClipShape:
        return largest_shape(self.config, name, self.request.num_text_tokens)

    def _tokens(self, name: str, shape: ClipShape) -> int:
        stage, model = self.config.stages[name], self.config.model_of(name)
        return token_grid(model, shape, stage.mask_ratio, stage.temporal_mask_ratio).num_processed

    def _what_is_missing(self) -> str:
        """Of the layout that takes least memory, and how many GPUs would do."""
        usable, gpu = self.usable_bytes, self.request.gpu
        smallest = self.layouts(self.request.num_gpus)[-1]
        needs = {
            name: estimated_memory(self.config, name, smallest, self._shape(name), 1)
            for name in self.names
        }
        name = max(needs, key=lambda stage: needs[stage].total)
        needed = needs[name]
        num_gpus = 2 * self.request.num_gpus
        while num_gpus <= MAX_GPUS:
            more = self.layouts(num_gpus)[-1]
            if all(
                estimated_memory(self.config, each, more, self._shape(each), 1).total <= usable
                for each in self.names
            ):
                break
            num_gpus *= 2
        advice = f"{num_gpus} of them would do" if num_gpus <= MAX_GPUS else "more would not help"
        return (
            f"stage {name} does not fit on {self.request.num_gpus} x {gpu.name}: divided over {smallest.num_shards} of "
            f"them, recompute {smallest.recompute}, average on the {'CPU' if smallest.average_on_cpu else 'GPU'}, one "
            f"clip needs {gib(needed.total):.1f} GiB of each "
            f"(weights {gib(needed.weights):.1f}, gradients {gib(needed.gradients):.1f}, optimizer "
            f"{gib(needed.optimizer):.1f}, average {gib(needed.average):.1f}, activations "
            f"{gib(needed.activations):.1f}), {gib(usable):.1f} are usable: "
            f"{gib(needed.total - usable):.1f} GiB are missing; {advice}"
        )


def layouts(num_gpus: int) -> Iterator[Layout]:
    """From the cheapest to the one that takes least memory."""
    for policy in POLICIES:
        for on_cpu in (False, True):
            yield Layout(num_gpus, "none", 1, policy, on_cpu)
            group = GPUS_PER_MACHINE
            while group < num_gpus:
                if num_gpus % group == 0:
                    yield Layout(num_gpus, "hybrid", group, policy, on_cpu)
                group *= 2
            if num_gpus > 1:
                yield Layout(num_gpus, "full", num_gpus, policy, on_cpu)


def gib(num_bytes: int) -> float:
    return num_bytes / 2**30


def _divisors(number: int) -> list[int]:
    """Largest first."""
    return [divisor for divisor in range(number, 0, -1) if number % divisor == 0]
