"""What changes while a stage trains: weights, optimizer and average; where they start, how they are kept."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from modeling.stiv import STIV
from training.checkpoint import Snapshot, StoredCheckpoint
from training.config import TrainConfig
from training.distribute import Worker, shard
from training.ema import WeightAverage
from training.errors import CheckpointError
from training.initialise import initialise
from training.optimizers import empty_state, make_optimizer
from training.planning.check import check_fits
from training.run_directory import RunDirectory
from training.spikes import AdaptiveClip

CLIP_KEY = "adaptive_clip/state"
"""Where the optimizer's tensors hold the state of adaptive clipping."""


@dataclass(frozen=True)
class TrainState:
    model: STIV
    optimizer: Optimizer
    average: WeightAverage
    clip: AdaptiveClip | None

    def take_step(self, learning_rate: float, grad_norm: float) -> None:
        """Apply the gradients, which are clipped already, and clear them."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update()
        if self.clip is not None:
            self.clip.take_in(grad_norm)

    def snapshot(self, step: int, seconds: float) -> Snapshot:
        """References to the tensors of this moment, to be saved before the next step."""
        optimizer = {
            f"{name}/{slot}": tensor
            for name, parameter in self.model.named_parameters()
            for slot, tensor in self.optimizer.state.get(parameter, {}).items()
        }
        if self.clip is not None:
            optimizer[CLIP_KEY] = self.clip.state_3
        return Snapshot(
            step=step,
            seconds=seconds,
            kinds={
                "weights": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": optimizer,
            },
        )

    def restore(self, stored: StoredCheckpoint) -> None:
        """Take over a checkpoint, of whatever number of workers.

        Raises:
            CheckpointError: it is damaged, or of another network.
        """
        stored.load_into("weights", self.model.state_dict())
        stored.load_into("average", self.average.state_dict())
        parameters = dict(self.model.named_parameters())
        slots: dict[str, Tensor] = {}
        for key in stored.names("optimizer"):
            if key == CLIP_KEY:
                assert self.clip is not None, "checkpoints are only loaded under equal settings"
                slots[key] = self.clip.state_3
                continue
            name, slot = key.rsplit("/", 1)
            state = self.optimizer.state[parameters[name]]
            if not state:
                state.update(empty_state(self.optimizer, parameters[name]))
            if slot in state:
                slots[key] = state[slot]
            elif slot != "momentum":
                raise CheckpointError(
                    f"{stored.path} holds {key} of an optimizer, this one keeps {', '.join(state)}; it was made with "
                    "other optimizer settings"
                )
            # Older versions kept a momentum for beta1 = 0 too, which is nothing but the last update.
        stored.load_into("optimizer", slots)


def start_state(
    config: TrainConfig, stage_name: str, run: RunDirectory, worker: Worker
) -> TrainState:
    """The state before the first step: fresh weights, or the average of the stages that it starts from.

    Raises:
        TrainError: one of them is not finished, or the stage cannot fit on the GPU.
        CheckpointError: its checkpoint cannot be read.
        WeightFlowError: its weights do not fit.
    """
    if worker.device.type == "cuda":
        properties = torch.cuda.get_device_properties(worker.device)
        check_fits(config, stage_name, worker.world_size, properties.total_memory)
    # Without content until it is divided: no worker ever holds more than its part.
    with torch.device("meta"):
        model = STIV(config.model_of(stage_name), recompute=config.recompute)
    shard(model, config, worker)
    model.to_empty(device=worker.device)
    initialise(model, config, stage_name, run)
    optimizer = make_optimizer(model, config.stages[stage_name].optimizer)
    decay = config.stages[stage_name].ema_decay
    deviations = config.stages[stage_name].optimizer.clip_deviations
    return TrainState(
        model,
        optimizer,
        WeightAverage(model, decay, on_cpu=config.average_on_cpu),
        None if deviations is None else AdaptiveClip(deviations),
    )
