"""`stiv`: thin commands over the functions that the Dagster assets call as well.

Each command imports what it needs when it is called, so that `stiv --help` answers at once.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestration.cli_evaluate import register as register_evaluation
from orchestration.cli_generate import register as register_generation
from orchestration.cli_plan import register as register_plan
from orchestration.errors import USER_ERRORS
from orchestration.progress import progress_reporter
from orchestration.ray_session import LOCAL, ray_session

app = typer.Typer(
    help="From raw video to a training set, and from there to a text-and-image-to-video model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console(soft_wrap=True)
register_generation(app)
register_evaluation(app)
register_plan(app)

_DATASET_HELP = "Folder of the data set."
_RUN_HELP = "Folder of the training run."
DatasetOption = Annotated[Path, typer.Option("--dataset", help=_DATASET_HELP)]
RunOption = Annotated[Path, typer.Option("--run", help=_RUN_HELP)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Change one field; repeatable."),
]
PrintConfigOption = Annotated[
    bool, typer.Option("--print-config", help="Print the resolved configuration and stop.")
]
RayOption = Annotated[
    str,
    typer.Option("--ray-address", help="host:port of a Ray cluster; default: a Ray of our own."),
]


@app.command()
def samples(
    out: Annotated[Path, typer.Option("--out", help="Folder to put the videos into.")],
) -> None:
    """Fetch the sample videos: Big Buck Bunny and four short clips."""
    from data_engine.samples import SAMPLES, fetch_samples

    for path in fetch_samples(out, on_progress=console.print):
        console.print(str(path), highlight=False)
    for attribution in sorted({sample.attribution for sample in SAMPLES}):
        console.print(attribution, highlight=False)


@app.command()
def curate(
    source: Annotated[
        str | None,
        typer.Option(
            "--source", help="Videos: a file, folder, glob, manifest or tar; also s3://, gs://."
        ),
    ] = None,
    dataset: Annotated[Path | None, typer.Option("--dataset", help=_DATASET_HELP)] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="Named configuration.")] = "demo",
    overrides: SetOption = None,
    print_config: PrintConfigOption = False,
    ray_address: RayOption = LOCAL,
) -> None:
    """Turn source videos into captioned WebDataset shards."""
    from data_engine.recipes import RECIPES
    from orchestration.recipe import resolve

    config = resolve(RECIPES, recipe, overrides or [])
    if print_config:
        console.print_json(config.model_dump_json())
        return
    if source is None or dataset is None:
        raise typer.BadParameter("both --source and --dataset are needed")
    from data_engine.sources.listing import list_sources
    from orchestration.curation_summary import print_report

    # Before Ray starts, so that a typing error is answered at once.
    list_sources(source)
    dataset.mkdir(parents=True, exist_ok=True)
    with ray_session(ray_address), progress_reporter(console) as reporter:
        # Only now: the session says in the environment how Ray is to behave, and Ray reads it when imported.
        from data_engine.pipeline import curate as run
        from data_engine.ray_rows import Progress

        def show(progress: Progress) -> None:
            reporter.update(progress.step, progress.done, progress.total, progress.unit)

        report = run(config, source, dataset, show)
    print_report(console, report, dataset)


@app.command()
def stats(
    dataset: DatasetOption,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            "--what-if",
            metavar="filters.FIELD=VALUE",
            help="Show what another limit would keep, without touching a video; repeatable.",
        ),
    ] = None,
) -> None:
    """Print the funnel of a data set and write its report page."""
    from data_engine.config import DataEngineConfig
    from data_engine.report import summarize, write_report
    from data_engine.tables import DatasetPaths, read_config
    from orchestration.curation_summary import print_report

    paths = DatasetPaths(dataset)
    if what_if:
        from orchestration.curation_summary import print_what_if
        from orchestration.overrides import apply_overrides

        if others := [change for change in what_if if not change.startswith("filters.")]:
            raise typer.BadParameter(
                f"--what-if {others[0]}: only limits can be tried; give filters.FIELD=VALUE"
            )
        now = read_config(paths, DataEngineConfig)
        then = apply_overrides(now, what_if, option="--what-if")
        print_what_if(console, paths, now.filters, then.filters)
        return
    page = write_report(read_config(paths, DataEngineConfig), paths)
    print_report(console, summarize(paths), dataset)
    console.print(f"report: {page}", highlight=False)


@app.command()
def lineage(
    clip: Annotated[str, typer.Argument(help="Id of the clip, or how it begins.")],
    dataset: DatasetOption,
) -> None:
    """Show where a clip comes from, what was found of it, and in which shard it is."""
    from data_engine.lineage import lineage as find
    from data_engine.tables import DatasetPaths
    from orchestration.curation_summary import print_lineage

    print_lineage(console, find(DatasetPaths(dataset), clip))


@app.command()
def train(
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset",
            help="Data set, latents of `stiv encode`, or tars: a folder or URL; repeatable.",
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help=_RUN_HELP)] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="Named run.")] = "demo_tiny",
    overrides: SetOption = None,
    stage: Annotated[
        str | None,
        typer.Option("--stage", help="Train only this stage, after those that it starts from."),
    ] = None,
    progressive: Annotated[
        bool,
        typer.Option("--progressive", help="Train every stage in order; so does leaving it out."),
    ] = False,
    from_run: Annotated[
        Path | None,
        typer.Option(
            "--from-run", help="A run whose finished stages of the same settings are taken over."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    local: Annotated[
        bool,
        typer.Option(
            "--local", help="In this process, on one worker and without Ray: for a debugger."
        ),
    ] = False,
    print_config: PrintConfigOption = False,
    ray_address: RayOption = LOCAL,
) -> None:
    """Train STIV on shards: every stage of the recipe, one after the other, or one of them."""
    from orchestration.recipe import resolve
    from training.recipes import RECIPES

    config = resolve(RECIPES, recipe, overrides or [])
    if print_config:
        console.print_json(config.model_dump_json())
        return
    if not dataset or run is None:
        raise typer.BadParameter("both --dataset and --run are needed")
    if progressive and stage is not None:
        raise typer.BadParameter("--progressive trains every stage, --stage one: give one of them")
    if local and ray_address != LOCAL:
        raise typer.BadParameter(
            "--local trains without Ray, --ray-address on it: give one of them"
        )
    from orchestration.summary import print_training
    from training.streaming.shards import fingerprint_of

    # Before Ray starts, so that a typing error is answered at once.
    for name in dataset:
        fingerprint_of(name, memory=None)
    from training.chain import ChainOptions, stages_for

    session = nullcontext() if local else ray_session(ray_address)
    with session, progress_reporter(console) as reporter:

        def show(stage: str, step: int, num_steps: int, loss: float) -> None:
            reporter.update(stage, step, num_steps, f"steps, loss {loss:.4f}")

        def show_plan(stage: str, table: str) -> None:
            console.print(f"stage {stage}\n{table}\n", highlight=False, markup=False)

        options = ChainOptions(
            stages=None if stage is None else stages_for(config, stage),
            resume=resume,
            from_run=from_run,
            on_plan=show_plan,
            on_progress=show,
        )
        if local:
            from training.local import fit_locally

            result = fit_locally(config, dataset, run, **options)
        else:
            from training.launch import fit

            result = fit(config, dataset, run, **options)
    print_training(console, result)


@app.command()
def encode(
    dataset: Annotated[
        list[str], typer.Option("--dataset", help="Data set or tars: a folder or URL; repeatable.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the latent shards.")],
    recipe: Annotated[str, typer.Option("--recipe", help="Named training run.")] = "demo_tiny",
    overrides: SetOption = None,
    num_gpus: Annotated[
        float, typer.Option("--num-gpus", min=0, help="Share of a GPU that each process holds.")
    ] = 0.0,
    autoencoder: Annotated[
        Path | None,
        typer.Option(
            "--autoencoder",
            help="Latents whose fitted autoencoder is taken over, so that a run may train on both.",
        ),
    ] = None,
    ray_address: RayOption = LOCAL,
) -> None:
    """Encode clips or images once with the encoders of a training recipe; `stiv train --dataset OUT` then decodes nothing."""
    from orchestration.recipe import resolve
    from orchestration.summary import print_encoded
    from training.recipes import RECIPES
    from training.streaming.shards import find_shards

    config = resolve(RECIPES, recipe, overrides or [])
    for name in dataset:
        find_shards(name)
    with ray_session(ray_address), progress_reporter(console) as reporter:
        from training.encode import encode_for_stages

        def show(done: int, total: int) -> None:
            reporter.update("encode", done, total, "clips")

        results = encode_for_stages(
            config, dataset, out, autoencoder=autoencoder, num_gpus=num_gpus, on_progress=show
        )
    for result in results:
        print_encoded(console, result)


@app.command()
def export(
    run: RunOption,
    out: Annotated[Path, typer.Option("--out", help="Folder of the model.")],
    stage: Annotated[
        str | None, typer.Option("--stage", help="A finished stage; the last one by default.")
    ] = None,
    data_card: Annotated[
        list[Path] | None,
        typer.Option(
            "--data-card", help="DATA_CARD.md of a data set it was trained on; repeatable."
        ),
    ] = None,
) -> None:
    """Write the averaged weights of a stage as a folder that opens without the trainer, with a model card."""
    from training.export import export as write

    console.print(f"model: {write(run, out, stage, data_card or [])}", highlight=False)


@app.command()
def model(
    preset: Annotated[str, typer.Option("--preset", help="Named size, such as tiny or M.")],
    text_tokens: Annotated[int, typer.Option("--text-tokens", min=1)] = 77,
    mask_ratio: Annotated[float, typer.Option("--mask-ratio", min=0.0, max=0.99)] = 0.5,
    overrides: SetOption = None,
    print_config: PrintConfigOption = False,
) -> None:
    """Parameters, tokens and operations of a network at 256 and 512 px, 20 and 40 frames."""
    from modeling.config import named_presets
    from orchestration.recipe import resolve
    from orchestration.summary import print_model

    config = resolve(named_presets(), preset, overrides or [], option="--preset")
    if print_config:
        console.print_json(config.model_dump_json())
        return
    print_model(console, config, num_text_tokens=text_tokens, mask_ratio=mask_ratio)


@app.command()
def demo(
    home: Annotated[Path, typer.Option("--home", help="Folder for everything it makes.")] = Path(
        "demo"
    ),
) -> None:
    """The whole job on the sample film: shards, a tiny model in three stages, two sampled videos."""
    from orchestration.demo import run_demo

    run_demo(home, console)


def main() -> None:
    """The entry point: a mistake of the user costs one line, not a traceback."""
    try:
        app()
    except USER_ERRORS as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", highlight=False, markup=False)
        sys.exit(2)
