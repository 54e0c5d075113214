import torch
from torch import Tensor, nn

from modeling.conditioning import Conditions, MicroConditions, TextFeatures
from modeling.flow import stratified_timesteps
from modeling.masking import KeptPositions
from tests.training.builders import tiny_config, tiny_stage
from training.config import StageConfig
from training.step import (
    BatchSlice,
    StepDraws,
    StepLoss,
    TrainBatch,
    draw_step,
    stage_loss,
)

SHAPE = torch.Size((4, 3, 4, 6))
KEY = (0, "stiv")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(size: int, *, given: bool) -> TrainBatch:
    latents = torch.randn(size, *SHAPE, generator=generator())
    given_BF = torch.zeros(size, SHAPE[1], dtype=torch.bool)
    given_BF[:, 0] = given
    text = TextFeatures(
        torch.ones(size, 2, 8), torch.ones(size, 2, dtype=torch.bool), torch.ones(size, 8)
    )
    micro = MicroConditions(
        torch.ones(size, 2), torch.zeros(size, 2), torch.ones(size), torch.ones(size)
    )
    return TrainBatch(latents, Conditions(text, micro, given_BF, latents))


def null_text() -> TextFeatures:
    return TextFeatures(torch.zeros(1, 1, 8), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 8))


class Oracle(nn.Module):
    """Knows data and noise, so its velocity is exact; records the conditions it was given."""

    def __init__(self, batch: TrainBatch, draws: StepDraws) -> None:
        super().__init__()
        self.answer = batch.latents_BCFHW - draws.noise_BCFHW
        self.seen: Conditions | None = None

    def forward(
        self, x_t: Tensor, t_B: Tensor, conditions: Conditions, *, kept: KeptPositions | None = None
    ) -> Tensor:
        self.seen = conditions
        wrong_where_given = torch.where(conditions.given_BF[:, None, :, None, None], 99.0, 0.0)
        return self.answer + wrong_where_given


def draws_for(stage: StageConfig, positions: range) -> StepDraws:
    """`positions` count over the global batches of the stage."""
    step, start = divmod(positions.start, stage.batch_size)
    slice_ = BatchSlice(step, stage.batch_size, range(start, start + len(positions)))
    return draw_step(stage, KEY, slice_, SHAPE, (2, 2, 3))


def loss_of(stage: StageConfig, oracle: nn.Module, batch: TrainBatch, draws: StepDraws) -> StepLoss:
    return stage_loss(oracle, (tiny_config().model, stage), batch, draws, null_text())


def test_an_oracle_has_no_loss_whatever_it_says_of_given_frames() -> None:
    stage = tiny_stage("stiv", batch_size=4, image_dropout_prob=0.0)
    batch, draws = batch_of(4, given=True), draws_for(stage, range(4))
    loss = loss_of(stage, Oracle(batch, draws), batch, draws)
    assert float(loss.loss) < 1e-12


def test_dropped_conditions_reach_the_network() -> None:
    stage = tiny_stage("stiv", batch_size=4, image_dropout_prob=1.0, text_dropout_prob=1.0)
    batch, draws = batch_of(4, given=True), draws_for(stage, range(4))
    oracle = Oracle(batch, draws)
    loss_of(stage, oracle, batch, draws)

    assert oracle.seen is not None
    assert not oracle.seen.given_BF.any()
    assert not oracle.seen.text.pooled_BD.any()


def test_masking_draws_positions_and_limits_the_loss_to_them() -> None:
    stage = tiny_stage("t2v", batch_size=2, mask_ratio=0.5)
    batch, draws = batch_of(2, given=False), draws_for(stage, range(2))
    assert draws.kept is not None
    assert len(draws.kept.spatial_S) == 3

    oracle = Oracle(batch, draws)
    rows, columns = draws.kept.spatial_S // 3, draws.kept.spatial_S % 3
    kept = torch.zeros(2, 3, dtype=torch.bool)
    kept[rows, columns] = True
    wrong_HW = ~kept.repeat_interleave(2, 0).repeat_interleave(2, 1)
    oracle.answer = oracle.answer + 5.0 * wrong_HW
    assert float(loss_of(stage, oracle, batch, draws).loss) < 1e-12


def test_the_draws_of_two_workers_are_those_of_one() -> None:
    stage = tiny_stage("stiv", batch_size=6, mask_ratio=0.3)
    whole = draws_for(stage, range(12, 18))
    parts = [draws_for(stage, range(12, 15)), draws_for(stage, range(15, 18))]

    for name in ("t_B", "noise_BCFHW", "drop_text_B", "drop_image_B"):
        together = torch.cat([getattr(part, name) for part in parts])
        assert together.equal(getattr(whole, name)), name
    assert parts[0].kept is not None
    assert parts[1].kept is not None
    assert parts[0].kept.spatial_S.equal(parts[1].kept.spatial_S)


def test_another_step_draws_other_numbers() -> None:
    stage = tiny_stage("stiv", batch_size=6)
    first, second = draws_for(stage, range(6)), draws_for(stage, range(6, 12))
    assert not first.t_B.equal(second.t_B)
    assert not first.noise_BCFHW.equal(second.noise_BCFHW)


def test_stratified_timesteps_put_one_in_each_stratum() -> None:
    t_B = stratified_timesteps(16, "uniform", generator())
    assert (t_B * 16).long().sort().values.tolist() == list(range(16))

    logit_normal = stratified_timesteps(16, "logit_normal", generator())
    quantiles = torch.special.ndtr(torch.logit(logit_normal.double()))
    assert (quantiles * 16).long().sort().values.tolist() == list(range(16))


def test_stratified_timesteps_have_the_distribution_one_by_one() -> None:
    # The first of each batch is an unconditional draw: its logit is standard normal.
    draws = [stratified_timesteps(4, "logit_normal", generator(seed))[0] for seed in range(2000)]
    logits = torch.logit(torch.stack(draws).double())
    assert abs(float(logits.mean())) < 0.08
    assert abs(float(logits.std()) - 1.0) < 0.06
