"""The long pieces of work that assets hand to Ray, by name: in the process of the run, or in a Ray job on a cluster.

Arguments and results are plain values, so that both ways are the same call. Every piece sees what is done already, so
that a job which is started again goes on where the last one was.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class WorkProgress:
    """How far one step has come, in its own unit; in training with the loss."""

    step: str
    done: float
    total: float
    unit: str
    loss: float | None = None


OnWorkProgress = Callable[[WorkProgress], None]
Result = Mapping[str, Any] | None


def do_work(name: str, arguments: Mapping[str, Any], on_progress: OnWorkProgress) -> Result:
    """One piece of work. Ray must be initialised.

    Raises:
        KeyError: there is no such work.
        Exception: what it raises; `orchestration.errors.USER_ERRORS` are mistakes of the user.
    """
    return WORK[name](on_progress, **arguments)


def _probe_sources(
    on_progress: OnWorkProgress, config: Mapping[str, Any], source: str, dataset: str
) -> None:
    from data_engine.config import DataEngineConfig
    from data_engine.pipeline import probe_sources
    from data_engine.tables import DatasetPaths

    engine = DataEngineConfig.model_validate(config)
    probe_sources(engine, source, DatasetPaths(Path(dataset)), lambda p: on_progress(_same(p)))


def _engine_step(name: str) -> Callable[..., None]:
    def run(on_progress: OnWorkProgress, config: Mapping[str, Any], dataset: str) -> None:
        from data_engine import pipeline
        from data_engine.config import DataEngineConfig
        from data_engine.tables import DatasetPaths

        engine = DataEngineConfig.model_validate(config)

        def show(progress: Any) -> None:
            on_progress(_same(progress))

        getattr(pipeline, name)(engine, DatasetPaths(Path(dataset)), show)

    return run


def _encode(
    on_progress: OnWorkProgress, config: Mapping[str, Any], datasets: list[str], out: str
) -> Result:
    from training.config import TrainConfig
    from training.encode import encode_for_stages

    def show(done: int, total: int) -> None:
        on_progress(WorkProgress("encode", done, total, "clips"))

    train = TrainConfig.model_validate(config)
    results = encode_for_stages(train, datasets, Path(out), on_progress=show)
    return {"sizes": [{**asdict(result), "out": str(result.out)} for result in results]}


def _train(
    on_progress: OnWorkProgress,
    config: Mapping[str, Any],
    datasets: list[str],
    run: str,
    stage: str,
) -> None:
    from training.config import TrainConfig
    from training.launch import fit

    def show(stage: str, step: int, num_steps: int, loss: float) -> None:
        on_progress(WorkProgress(stage, step, num_steps, "steps", loss))

    train = TrainConfig.model_validate(config)
    fit(train, datasets, Path(run), stages=[stage], resume=True, on_progress=show)


def _sample(
    on_progress: OnWorkProgress,
    run: str,
    stage: str,
    datasets: list[str],
    prompts: list[str],
    first_frame: str,
) -> Result:
    from training.generate import GenerateRequest, generate
    from training.previews import sample_stage
    from training.run_directory import RunDirectory

    samples: list[dict[str, Any]] = [
        {"prompt": prompt, "sheet": str(sheet), "psnr_db": None}
        for prompt, sheet in sample_stage(Path(run), stage, datasets, prompts)
    ]
    on_progress(WorkProgress("sample", len(samples), len(prompts), "prompts"))
    if RunDirectory(Path(run)).load_config().stages[stage].task == "stiv":
        out = Path(run) / stage / "previews" / "with_first_frame.mp4"
        asked = GenerateRequest(
            prompt=prompts[0], image=Path(first_frame), stage=stage, cut_prompt=True
        )
        made = generate(Path(run), asked, out)
        samples.append(
            {
                "prompt": prompts[0],
                "sheet": str(made.contact_sheet),
                "psnr_db": made.given_psnr_db,
            }
        )
    return {"samples": samples}


def _evaluate(
    on_progress: OnWorkProgress,
    run: str,
    stage: str,
    datasets: list[str],
    plans: list[Mapping[str, Any]],
) -> Result:
    """Judge a stage by each plan; the folder of a plan is named after its task."""
    from orchestration.judges import open_judges
    from training.evaluation.evaluate import EvaluationPlan, evaluate_run
    from training.evaluation.generation import Sampling

    judges = open_judges(["embedded"], None)
    results: list[dict[str, Any]] = []
    for plan in plans:
        values: dict[str, Any] = {**plan, "sampling": Sampling(stage=stage, **plan["sampling"])}
        out = Path(run) / stage / "evaluation" / plan["task"]

        def show(done: int, total: int, task: str = plan["task"]) -> None:
            on_progress(WorkProgress(f"evaluate {task}", done, total, "videos"))

        result = evaluate_run(Path(run), datasets, out, EvaluationPlan(**values), judges, show)
        results.append({"folder": str(out), **asdict(result)})
    return {"results": results}


def _same(progress: Any) -> WorkProgress:
    return WorkProgress(progress.step, progress.done, progress.total, progress.unit)


WORK: dict[str, Callable[..., Result]] = {
    "probe_sources": _probe_sources,
    "score_clips": _engine_step("score_clips"),
    "caption_clips": _engine_step("caption_clips"),
    "write_shards": _engine_step("write_shards"),
    "encode": _encode,
    "train": _train,
    "sample": _sample,
    "evaluate": _evaluate,
}
