"""`stiv encode`: clip shards to latent shards on Ray Data, so that training decodes and encodes nothing.

Every tar is written under a key of its clips and of what encodes them: what is there already is left alone, so a killed
job goes on, and after more clips were added only those are encoded.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray
import ray.data
import torch

from data_engine.schema import ShardManifest
from training.checkpoint import file_sha256
from training.config import TrainConfig
from training.encoders import FITTED_AUTOENCODERS, fit_autoencoder, load_encoders
from training.encoding import EncodeResult, read_receipt, receipt_path, tar_path, write_latents
from training.errors import TrainError, WorkerError
from training.latent_sets import AUTOENCODER_NAME, Encoding, adopt_encoders, claim, read_encoding
from training.randomness import derive_seed
from training.streaming.buckets import Bucket, choose_buckets
from training.streaming.index import SampleIndex
from training.streaming.reading import SampleReader
from training.streaming.shards import LATENTS_MANIFEST_NAME, dataset_names
from training.streaming.storage import write_whole

CLIPS_PER_SHARD = 128
CPUS_PER_PROCESS = 0.9
"""Less than a whole one, of which something must be left for Ray's own tasks on a small machine."""
_VERSION = "latents-v2"

ProgressCallback = Callable[[int, int], None]
"""Called with (clips done, clips in all)."""


@dataclass(frozen=True, slots=True)
class _Part:
    """The clips of one latent shard, as rows of the index and numbers of their sizes."""

    key: str
    rows: list[int]
    sizes: list[int]


def encode_for_stages(
    config: TrainConfig,
    datasets: Sequence[str | Path],
    out: Path,
    *,
    autoencoder: Path | None = None,
    num_gpus: float = 0.0,
    on_progress: ProgressCallback = lambda _done, _total: None,
) -> list[EncodeResult]:
    """`encode` at the size of every stage: into `out` itself, or where sizes differ, into folders of it.

    An autoencoder is fitted once, for the first folder, or taken from the latents in the folder `autoencoder`.

    Raises:
        DataError, TrainError, WorkerError: see `encode`.
    """
    results: list[EncodeResult] = []
    for folder, stage in latent_folders(config, out).items():
        result = encode(
            config,
            datasets,
            folder,
            stage=stage,
            autoencoder=results[0].out if results else autoencoder,
            num_gpus=num_gpus,
            on_progress=on_progress,
        )
        results.append(result)
    return results


def latent_folders(config: TrainConfig, out: Path) -> dict[Path, str]:
    """Where the latents of each size lie, and the first stage of that size."""
    stages: dict[tuple[tuple[int, int], ...], str] = {}
    for name in config.stages:
        stages.setdefault(config.data_of(name).sizes, name)
    if len(stages) == 1:
        return {out: next(iter(stages.values()))}
    names = {"_".join(f"{h}x{w}" for h, w in sizes): stage for sizes, stage in stages.items()}
    return {out / name: stage for name, stage in names.items()}


def encode(  # noqa: PLR0913  (what to encode, where, and how)
    config: TrainConfig,
    datasets: Sequence[str | Path],
    out: Path,
    *,
    stage: str | None = None,
    autoencoder: Path | None = None,
    num_gpus: float = 0.0,
    on_progress: ProgressCallback = lambda _done, _total: None,
) -> EncodeResult:
    """Encode every clip that has a caption with the encoders of a run. Ray must be initialised by the caller.

    `stage`: the one whose sizes the latents have; needed where stages of the run differ in that. `autoencoder`: a
    folder of latents whose fitted autoencoder is taken over, so that a run may train on both. `num_gpus`: the share of
    a GPU that each process holds; with 0 they run on the CPU.

    Raises:
        DataError: the shards are broken, or the folder `autoencoder` holds no latents.
        TrainError: the folder holds latents of other encoders, or the cluster has no GPU.
        WorkerError: processes died; what they had encoded stays.
    """
    if not ray.is_initialized():
        raise TrainError("Ray is not running in this process; call ray.init() before encode()")
    if num_gpus and ray.cluster_resources().get("GPU", 0) < num_gpus:
        raise TrainError(
            f"--num-gpus is {num_gpus:g}, but the Ray cluster has no GPU; leave it out"
        )
    started_s = time.perf_counter()
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    names = dataset_names(datasets)
    index = SampleIndex.open(names, out / "index")
    config = _at_sizes_of(config, stage)
    if autoencoder is not None:
        read_encoding(autoencoder)
        adopt_encoders(config, [str(autoencoder)], out / AUTOENCODER_NAME)
    encoding = _prepare(config, index, out)
    parts, num_without_caption = _plan(index, encoding)
    missing = [part for part in parts if read_receipt(out, part.key) is None]
    num_clips = sum(len(part.rows) for part in parts)
    done = num_clips - sum(len(part.rows) for part in missing)
    on_progress(done, num_clips)
    if missing:
        for row in _run(config, names, out, missing, num_gpus):
            done += row["num_clips"]
            on_progress(done, num_clips)
    receipts = [read_receipt(out, part.key) for part in parts]
    whole = [receipt for receipt in receipts if receipt is not None]
    if len(whole) < len(parts):
        raise WorkerError(
            f"{len(parts) - len(whole)} of {len(parts)} shards were not encoded because their process died; "
            "run this again, with more memory or fewer processes"
        )
    # An empty tar has nothing to train on.
    entries = tuple(receipt.entry for receipt in whole if receipt.entry.samples)
    manifest = ShardManifest(shards=entries, config=encoding.model_dump(mode="json"))
    write_whole(out / LATENTS_MANIFEST_NAME, manifest.to_json().encode())
    _remove_others(out, {part.key for part in parts})
    failures = [f"{clip}: {reason}" for receipt in whole for clip, reason in receipt.failed.items()]
    return EncodeResult(
        out=out,
        num_encoded=sum(len(entry.samples) for entry in entries),
        num_failed=len(failures),
        num_without_caption=num_without_caption,
        num_shards=len(entries),
        num_bytes=sum(entry.size_bytes for entry in entries),
        num_shards_written=len(missing),
        seconds=time.perf_counter() - started_s,
        failures=tuple(failures[:10]),
    )


def _at_sizes_of(config: TrainConfig, stage: str | None) -> TrainConfig:
    """The config with the sizes of a stage for all."""
    if stage is not None and stage not in config.stages:
        raise TrainError(f"there is no stage {stage}; the run has {', '.join(config.stages)}")
    sizes = {config.data_of(name).sizes: name for name in reversed(config.stages)}
    if stage is None and len(sizes) > 1:
        raise TrainError(
            f"the stages of {config.name} train at {len(sizes)} different sizes; encode for each, with --stage "
            + " or ".join(reversed(sizes.values()))
        )
    data = config.data_of(stage or next(iter(config.stages)))
    return config.model_copy(update={"data": data})


def _prepare(config: TrainConfig, index: SampleIndex, out: Path) -> Encoding:
    """See what encodes the clips, and fit the autoencoder if it is one that is fitted on them."""
    autoencoder = out / AUTOENCODER_NAME
    is_fitted = config.encoders.autoencoder in FITTED_AUTOENCODERS
    if is_fitted and not autoencoder.exists():
        reader = SampleReader(index, _without_cache(config).data, out)
        fit_autoencoder(config, index, reader, autoencoder)
    encoding = Encoding(
        encoders=config.encoders,
        latent_channels=config.model.latent_channels,
        sizes_px=config.data.sizes,
        autoencoder_sha256=file_sha256(autoencoder) if is_fitted else None,
    )
    claim(out, encoding)
    return encoding


def _plan(index: SampleIndex, encoding: Encoding) -> tuple[list[_Part], int]:
    """The shards to be written, and how many samples have no caption."""
    has_caption = index.has_caption()
    shard_of = index.numbers("shard")
    is_whole = index.numbers("latent_height") == 0
    if not is_whole.all():
        raise TrainError(
            f"{', '.join(index.datasets)} hold latents already; give the clips they were made of"
        )
    rows = np.flatnonzero(has_caption)
    sizes = choose_buckets(index, rows, _buckets(encoding))
    parts: dict[str, _Part] = {}
    for shard, identity in enumerate(index.identities):
        mine = np.flatnonzero(shard_of[rows] == shard)
        for start in range(0, len(mine), CLIPS_PER_SHARD):
            chosen = mine[start : start + CLIPS_PER_SHARD]
            seed = derive_seed(_VERSION, encoding.key(), identity, start)
            # By key: a shard that two data sets share is encoded once.
            key = f"{seed:016x}"
            parts[key] = _Part(key, rows[chosen].tolist(), sizes[chosen].tolist())
    return list(parts.values()), int((~has_caption).sum())


def _buckets(encoding: Encoding) -> list[Bucket]:
    return [Bucket(1, height_px, width_px) for height_px, width_px in encoding.sizes_px]


def _without_cache(config: TrainConfig) -> TrainConfig:
    """Frames are decoded once here, so keeping them would only fill the disk."""
    data = config.data.model_copy(update={"cache_bytes": 0, "random_crop": False})
    return config.model_copy(update={"data": data})


def _run(
    config: TrainConfig, names: list[str], out: Path, parts: Sequence[_Part], num_gpus: float
) -> Any:
    """Each part through a process that holds the encoders; gives a row for each that came back."""
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = -1
    context.enable_progress_bars = False
    # A part may take longer than the half hour after which Ray would stop the job.
    context.execution_no_progress_timeout_s = -1
    unit = "GPU" if num_gpus else "CPU"
    share = num_gpus or CPUS_PER_PROCESS
    processes = max(1, min(len(parts), int(ray.cluster_resources().get(unit, 1) / share)))
    rows = [{"key": part.key, "rows": part.rows, "sizes": part.sizes} for part in parts]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    with warnings.catch_warnings():
        # Bounding restarts is deprecated in 2.60 although nothing replaces it yet.
        warnings.simplefilter("ignore", DeprecationWarning)
        encoded = dataset.map(
            cast("Any", _Encode),
            fn_constructor_args=(config.model_dump_json(), names, str(out)),
            compute=ray.data.ActorPoolStrategy(size=processes),
            num_cpus=CPUS_PER_PROCESS,
            num_gpus=num_gpus,
            # A clip that kills its process must not be tried for ever.
            max_restarts=2,
            max_task_retries=1,
        )
    return encoded.iter_rows()


class _Encode:
    """What runs in each process; takes plain values, since Ray serialises them."""

    def __init__(self, config: str, names: list[str], out: str) -> None:
        self._out = Path(out)
        train = _without_cache(TrainConfig.model_validate_json(config))
        torch.set_num_threads(train.threads_per_worker)
        self._index = SampleIndex.open(names, self._out / "index")
        self._reader = SampleReader(self._index, train.data, self._out)
        self._buckets = [Bucket(1, *size_px) for size_px in train.data.sizes]
        self._device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        self._encoders = load_encoders(train, self._out / AUTOENCODER_NAME, self._device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(row["rows"], row["sizes"], strict=True)
        clips = ((self._index.clip(int(r)), self._buckets[int(s)]) for r, s in pairs)
        write_latents(self._out, row["key"], clips, self._reader, self._encoders, self._device)
        return {"key": row["key"], "num_clips": len(row["rows"])}


def _remove_others(out: Path, keys: set[str]) -> None:
    """Latents of clips that are gone, so that a glob over the folder finds no clip that the manifest lacks."""
    for tar in out.glob("latents-*.tar"):
        key = tar.stem.removeprefix("latents-")
        if key not in keys:
            receipt_path(out, key).unlink(missing_ok=True)
            tar_path(out, key).unlink()
