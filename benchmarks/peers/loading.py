"""The loaders that `benchmarks/loading.py` is measured beside; runs in the environment of one of them.

    python -m benchmarks.peers.loading SIDE TASK FOLDER OUT

Each side yields batches of (key, numbers): a list of keys, and for latents the stacked float16 tensor, the tokens and
the pooled features of each sample and its facts; for clips the stacked frames. SIDE's own format is made from the tars.
"""

import argparse
import hashlib
import io
import itertools
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors

from benchmarks.process_tree import total_cpu_s, tree_of

Sample = dict[str, Any]
BATCH_SIZE = 32
SIZE_PX = 256
LATENTS, TEXT = "latents.npy", "text.safetensors"
_ENDINGS = {"latents": (LATENTS, TEXT, "json"), "clips": ("mp4", "json")}


def load_npy(data: bytes) -> np.ndarray:
    """Without a copy: the header is read, the numbers stay where they are."""
    file = io.BytesIO(data)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape)


def frames_of(mp4: bytes, key: str, plan: dict[str, list[int]]) -> np.ndarray:
    """The usual decord idiom: the frames that our loader drew, resized to cover and cut at the centre."""
    import av
    import decord

    with av.open(io.BytesIO(mp4)) as container:
        height, width = container.streams.video[0].height, container.streams.video[0].width
    scale = SIZE_PX / min(height, width)
    size = [max(SIZE_PX, round(side * scale)) for side in (height, width)]
    reader = decord.VideoReader(io.BytesIO(mp4), width=size[1], height=size[0], num_threads=1)
    frames = reader.get_batch(plan[key]).asnumpy()
    top, left = (size[0] - SIZE_PX) // 2, (size[1] - SIZE_PX) // 2
    return np.ascontiguousarray(frames[:, top : top + SIZE_PX, left : left + SIZE_PX])


def unpacked(task: str, plan: dict[str, list[int]]) -> Callable[[Sample], Sample]:
    """Raw members of a sample to numbers."""

    def latents(raw: Sample) -> Sample:
        text = load_safetensors(raw[TEXT])
        found = {"key": raw["__key__"], "latents": load_npy(raw[LATENTS])}
        texts = {"tokens": text["0.tokens"], "pooled": text["0.pooled"]}
        return {**found, **texts, "facts": json.loads(raw["json"])}

    def clips(raw: Sample) -> Sample:
        frames = frames_of(raw["mp4"], raw["__key__"], plan)
        return {"key": raw["__key__"], "frames": frames, "facts": json.loads(raw["json"])}

    return latents if task == "latents" else clips


def collate(samples: list[Sample]) -> Sample:
    """Arrays of one shape become a tensor; tokens differ in length and stay a list."""
    batch: Sample = {name: [sample[name] for sample in samples] for name in samples[0]}
    for name in ("latents", "frames"):
        if name in batch:
            batch[name] = torch.from_numpy(np.stack(batch[name]))
    for name in ("tokens", "pooled"):
        if name in batch:
            batch[name] = [torch.as_tensor(value) for value in batch[name]]
    return batch


def in_batches(samples: Iterable[Sample]) -> Iterator[Sample]:
    source = iter(samples)
    while chunk := list(itertools.islice(source, BATCH_SIZE)):
        yield collate(chunk)


def raw_samples(folder: Path, task: str) -> Iterator[Sample]:
    """Every sample of the tars, with the standard library."""
    for path in sorted(folder.glob("*.tar")):
        samples: dict[str, Sample] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                if ending in _ENDINGS[task]:
                    file = tar.extractfile(member)
                    assert file is not None
                    samples.setdefault(key, {"__key__": key})[ending] = file.read()
        yield from samples.values()


# Each of the following makes a function that gives one pass over the data.


def webdataset_decode(folder: Path, task: str, unpack: Callable[[Sample], Sample]) -> Any:
    import webdataset as wds

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]

    def with_text(parts: tuple[Any, ...]) -> Sample:
        key, latents, text, facts = parts
        found = load_safetensors(text)
        texts = {"tokens": found["0.tokens"], "pooled": found["0.pooled"]}
        return {"key": key, "latents": latents, **texts, "facts": facts}

    assert task == "latents"
    data = wds.WebDataset(urls, shardshuffle=False).decode()
    data = data.to_tuple("__key__", LATENTS, TEXT, "json").map(with_text)
    return lambda: data.batched(BATCH_SIZE, collation_fn=collate)


def webdataset_raw(folder: Path, task: str, unpack: Callable[[Sample], Sample]) -> Any:
    import webdataset as wds

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    data = wds.WebDataset(urls, shardshuffle=False).map(unpack)
    return lambda: data.batched(BATCH_SIZE, collation_fn=collate)


def streaming(folder: Path, task: str, unpack: Callable[[Sample], Sample]) -> Any:
    from streaming import MDSWriter, StreamingDataset

    out = folder / "mds"
    columns = {"key": "str", "json": "json"}
    if task == "latents":
        columns |= {"latents": "ndarray:float16", "tokens": "ndarray:float16"}
        columns |= {"pooled": "ndarray:float32"}
    else:
        columns |= {"mp4": "bytes"}
    if not out.exists():
        with MDSWriter(out=str(out), columns=columns) as writer:
            for raw in raw_samples(folder, task):
                writer.write(_own_format(raw, task, unpack, lambda tensor: tensor.numpy()))
    data = StreamingDataset(local=str(out), batch_size=BATCH_SIZE, shuffle=False)
    return lambda: in_batches(_from_own_format(data, task, unpack))


def litdata(folder: Path, task: str, unpack: Callable[[Sample], Sample]) -> Any:
    from litdata import StreamingDataset
    from litdata.streaming import Cache

    out = folder / "litdata"
    if not out.exists():
        cache = Cache(str(out), chunk_bytes="64MB")
        for number, raw in enumerate(raw_samples(folder, task)):
            cache[number] = _own_format(raw, task, unpack, lambda tensor: tensor)
        cache.done()
        cache.merge()
    data = StreamingDataset(str(out), shuffle=False)
    return lambda: in_batches(_from_own_format(data, task, unpack))


def _own_format(
    raw: Sample, task: str, unpack: Callable[[Sample], Sample], as_array: Callable[[Any], Any]
) -> Sample:
    if task == "clips":
        return {"key": raw["__key__"], "mp4": raw["mp4"], "json": json.loads(raw["json"])}
    found = unpack(raw)
    texts = {name: as_array(found[name]) for name in ("tokens", "pooled")}
    return {"key": found["key"], "json": found["facts"], "latents": found["latents"], **texts}


def _from_own_format(
    data: Iterable[Sample], task: str, unpack: Callable[[Sample], Sample]
) -> Iterator[Sample]:
    for row in data:
        if task == "latents":
            yield {**row, "facts": row["json"]}
        else:
            yield unpack(
                {"__key__": row["key"], "mp4": row["mp4"], "json": json.dumps(row["json"])}
            )


def ray_data(folder: Path, task: str, unpack: Callable[[Sample], Sample]) -> Any:
    import ray
    import ray.data

    # Blocks that fit into the object store of a small machine.
    ray.init(address="local", num_cpus=1, object_store_memory=2 * 2**30, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    data = ray.data.read_webdataset(
        [str(path) for path in sorted(folder.glob("*.tar"))], decoder=None, override_num_blocks=8
    )

    def rows() -> Iterator[Sample]:
        yield from data.iter_rows()

    return lambda: in_batches(map(unpack, rows()))


SIDES: dict[str, Callable[..., Any]] = {
    "webdataset .decode().to_tuple()": webdataset_decode,
    "webdataset raw": webdataset_raw,
    "streaming": streaming,
    "litdata": litdata,
    "ray": ray_data,
}


def digests(batch: Sample) -> dict[str, str]:
    """Key -> hash of all numbers of the sample in one number format."""
    found: dict[str, str] = {}
    for place, key in enumerate(batch["key"]):
        digest = hashlib.sha256()
        if "frames" in batch:
            digest.update(batch["frames"][place].numpy().tobytes())
        else:
            digest.update(batch["latents"][place].numpy().tobytes())
            for name in ("tokens", "pooled"):
                digest.update(batch[name][place].float().numpy().tobytes())
            facts = batch["facts"][place]
            caption = facts["captions"][0]["text"]
            digest.update(f"{caption} {facts['fps']} {facts['num_frames']}".encode())
        found[str(key)] = digest.hexdigest()
    return found


def resume_webdataset(folder: Path, start: int) -> dict[str, Any]:
    """There is no state: what was seen is read again. A part of it, scaled up."""
    import webdataset as wds

    part = min(start, 20_000)
    before_s = time.perf_counter()
    data = iter(wds.WebDataset([str(p) for p in sorted(folder.glob("*.tar"))], shardshuffle=False))
    next(itertools.islice(data, part, None))
    seconds = (time.perf_counter() - before_s) * start / part
    return {"seconds": seconds, "state_bytes": None, "note": f"scaled from {part} skipped samples"}


def _link_many(folder: Path, own: str, shards: str, name: Callable[[Sample], Sample]) -> Path:
    """The shards of `folder/own` as often as there are links to each tar of `folder`."""
    out = folder / own
    if out.exists():
        return out
    out.mkdir()
    source = next(folder.glob("*.tar")).resolve().parent / own
    index = json.loads((source / "index.json").read_text())
    times = len(list(folder.glob("*.tar"))) // len(list(source.parent.glob("*.tar")))
    found: list[Sample] = []
    for number, shard in itertools.product(range(times), index[shards]):
        copy = json.loads(json.dumps(shard))
        place = name(copy)
        key = "basename" if "basename" in place else "filename"
        old, place[key] = place[key], f"{number:04d}-{place[key]}"
        (out / place[key]).symlink_to(source / old)
        found.append(copy)
    (out / "index.json").write_text(json.dumps({**index, shards: found}))
    return out


def resume_streaming(folder: Path, start: int) -> dict[str, Any]:
    from streaming import StreamingDataset

    local = str(_link_many(folder, "mds", "shards", lambda shard: shard["raw_data"]))
    before_s = time.perf_counter()
    data = StreamingDataset(local=local, batch_size=BATCH_SIZE, shuffle=True)
    state = data.state_dict(start, True)
    data.load_state_dict(state)
    next(in_batches(data))
    seconds = time.perf_counter() - before_s
    return {"seconds": seconds, "state_bytes": len(json.dumps(state)), "note": "load_state_dict"}


def resume_litdata(folder: Path, start: int) -> dict[str, Any]:
    from litdata import StreamingDataset

    local = str(_link_many(folder, "litdata", "chunks", lambda chunk: chunk))
    probe = StreamingDataset(local, shuffle=True)
    probe.set_batch_size(BATCH_SIZE)
    iter(probe)
    state = probe.state_dict(num_samples_yielded=start, num_workers=1, batch_size=BATCH_SIZE)
    before_s = time.perf_counter()
    data = StreamingDataset(local, shuffle=True)
    data.set_batch_size(BATCH_SIZE)
    data.load_state_dict(state)
    next(in_batches(data))
    seconds = time.perf_counter() - before_s
    return {"seconds": seconds, "state_bytes": len(json.dumps(state)), "note": "load_state_dict"}


RESUMES = {
    "webdataset raw": resume_webdataset,
    "streaming": resume_streaming,
    "litdata": resume_litdata,
}


def measure(one_pass: Callable[[], Iterable[Sample]], seconds: float) -> dict[str, Any]:
    """Whole passes for at least so long, after one that is compared and not measured."""
    seen: dict[str, str] = {}
    for batch in one_pass():
        seen |= digests(batch)
    before_s, start_s = total_cpu_s(os.getpid(), tree_of(os.getpid())), time.perf_counter()
    num_samples = 0
    while time.perf_counter() - start_s < seconds:
        num_samples += sum(len(batch["key"]) for batch in one_pass())
    cpu_s = total_cpu_s(os.getpid(), tree_of(os.getpid())) - before_s
    wall_s = time.perf_counter() - start_s
    return {"samples": num_samples, "cpu_s": cpu_s, "wall_s": wall_s, "digests": seen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("task", choices=("latents", "clips", "resume"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--plan", type=Path, help="JSON: the frames of each clip")
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    # One core, also for whatever is started from here.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    if arguments.task == "resume":
        found = RESUMES[arguments.side](arguments.folder, 900_000)
        arguments.out.write_text(json.dumps(found))
        return
    plan = json.loads(arguments.plan.read_text()) if arguments.plan else {}
    unpack = unpacked(arguments.task, plan)
    one_pass = SIDES[arguments.side](arguments.folder, arguments.task, unpack)
    arguments.out.write_text(json.dumps(measure(one_pass, arguments.seconds)))


if __name__ == "__main__":
    main()
