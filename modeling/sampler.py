"""Noise to data by integrating the guided prediction from t=0 to t=1 (STIV sections 2.1 and 2.3)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeling.conditioning import Conditions, TextFeatures, replace_frames
from modeling.config import Contract, GuidanceConfig, SamplerConfig
from modeling.diffusion import denoise_step
from modeling.flow import shift_timesteps
from modeling.guided import Model, guided_prediction
from modeling.solvers import Derivative, solver_step

StepCallback = Callable[[int, int], None]
"""Called after each step with (steps done, steps in all)."""


@dataclass(frozen=True)
class SamplingTask:
    """One clip for each row of `conditions`, and how to get from its noise to it."""

    model: Model
    conditions: Conditions
    null_text: TextFeatures
    """The encoded empty string, a batch of one; a negative prompt takes its place."""
    noise_BCFHW: Tensor
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    contract: Contract = field(default_factory=Contract)
    """As the model was trained: `STIVConfig.contract`."""


@dataclass(frozen=True, slots=True)
class SamplerState:
    """Where sampling is; enough to go on from, on the same device, to the same result bit for bit."""

    num_done: int
    x_t_BCFHW: Tensor
    generator_state: Tensor | None
    """Of the generator of the SDE."""


def sample(
    task: SamplingTask,
    generator: torch.Generator | None = None,
    on_step: StepCallback | None = None,
    resume: SamplerState | None = None,
) -> Tensor:
    """The latents of the task, by all its steps. Given latent frames come out bit for bit.

    Raises:
        ValueError: as `sampling_states`.
    """
    latents = task.noise_BCFHW if resume is None else resume.x_t_BCFHW
    for state in sampling_states(task, generator, resume):
        latents = state.x_t_BCFHW
        if on_step is not None:
            on_step(state.num_done, task.sampler.num_sampling_steps)
    return latents


@torch.no_grad()
def sampling_states(
    task: SamplingTask,
    generator: torch.Generator | None = None,
    resume: SamplerState | None = None,
) -> Iterator[SamplerState]:
    """The state after each step, from the start or from a state that was kept.

    The noise of the task is the only randomness of the ODE; the SDE draws more from `generator`, which must be
    on the device of the noise. Given frames are put back after every step; a model without frame replacement
    sees them noised to the time of the step, and they are put back after the last.

    Raises:
        ValueError: the solver does not know the contract of the model, or the SDE has no generator.
    """
    _check(task, generator)
    if resume is not None and resume.generator_state is not None and generator is not None:
        generator.set_state(resume.generator_state)
    guided = guided_prediction(
        task.model, task.conditions, task.null_text, task.noise_BCFHW, task.guidance, task.contract
    )
    x_t = task.noise_BCFHW if resume is None else resume.x_t_BCFHW
    if task.contract.frame_replacement:
        x_t = replace_frames(x_t, task.conditions)
    times = sampling_times(task.sampler)
    for step in range(0 if resume is None else resume.num_done, len(times) - 1):
        x_t = _step(task, guided, x_t, (times[step], times[step + 1]), generator)
        is_last = step == len(times) - 2
        if task.contract.frame_replacement or is_last:
            x_t = replace_frames(x_t, task.conditions)
        state = None if generator is None else generator.get_state()
        yield SamplerState(step + 1, x_t, state)


def sampling_times(sampler: SamplerConfig) -> list[float]:
    """From 0 to 1, one more than there are steps."""
    even = torch.arange(sampler.num_sampling_steps + 1, dtype=torch.float64)
    return shift_timesteps(even / sampler.num_sampling_steps, sampler.timestep_shift).tolist()


def _step(
    task: SamplingTask,
    guided: Derivative,
    x_t: Tensor,
    times: tuple[float, float],
    generator: torch.Generator | None,
) -> Tensor:
    if task.contract.prediction == "noise":
        return denoise_step(x_t, guided(x_t, times[0]), *times)

    def with_given_frames(x: Tensor, t: float) -> Tensor:
        replaced = replace_frames(x, task.conditions) if task.contract.frame_replacement else x
        return guided(replaced, t)

    return solver_step(task.sampler, with_given_frames, x_t, times, generator)


def _check(task: SamplingTask, generator: torch.Generator | None) -> None:
    sampler = task.sampler
    if task.contract.prediction == "noise" and (sampler.solver, sampler.process) != (
        "euler",
        "ode",
    ):
        raise ValueError(
            f"a model that predicts noise is sampled by solver 'euler' and process 'ode' (DDIM), found "
            f"{sampler.solver!r} and {sampler.process!r}"
        )
    if sampler.process == "sde" and generator is None:
        raise ValueError("the SDE draws noise at every step: give a torch.Generator")
