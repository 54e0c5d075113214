"""A clip without encoding: the packets of the source, where they are exactly the frames of the clip."""

import io
from collections.abc import Iterator

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from data_engine.container import open_video
from data_engine.decode import has_times_of_decoding
from data_engine.errors import DecodeError
from data_engine.hdr import is_hdr
from data_engine.schema import ClipRecord


def copy_clip(record: ClipRecord, location: str, size_px: tuple[int, int]) -> bytes | None:
    """An MP4 with the frames of the clip, the first at time 0; None where only encoding gives that.

    `size_px` is the height and width that the clip is to have. The source must be H.264 as the encoder writes it (8 bits,
    4:2:0, square pixels, upright, no bars, no high dynamic range); the clip must begin with a key frame, and no frame within it may need one
    outside.

    Raises:
        DecodeError: the packets cannot be read.
        UnreadableSourceError: the source is gone, out of reach or no longer a video.
    """
    if record.crop is not None or size_px != (record.height_px, record.width_px):
        return None
    with open_video(location, 1) as (container, stream):
        try:
            packets = _packets_of(record, container, stream)
            return None if packets is None else _muxed(packets, stream)
        except FFmpegError as error:
            raise DecodeError(
                f"cannot read {record.start_s:.2f} to {record.end_s:.2f} s: {error}"
            ) from error


def _packets_of(
    record: ClipRecord, container: InputContainer, stream: VideoStream
) -> "list[Packet[VideoStream]] | None":
    context, tick_s = stream.codec_context, stream.time_base
    is_as_encoded = (context.name, context.pix_fmt) == ("h264", "yuv420p")
    if is_hdr(int(context.color_trc)) or has_times_of_decoding(container, stream):
        return None
    if not is_as_encoded or (stream.height, stream.width) != (record.height_px, record.width_px):
        return None
    assert tick_s is not None, "a stream that was probed has a time base"
    start, end = (round(time_s / tick_s) for time_s in (record.start_s, record.end_s))
    container.seek(start, stream=stream, backward=True)
    packets = [(p.pts, p) for p in _until(end, container, stream)]
    key = next((i for i, (pts, p) in enumerate(packets) if pts == start and p.is_keyframe), None)
    if key is None or not _is_upright(packets[key][1], stream):
        return None
    inside = [p for pts, p in packets[key:] if pts is not None and start <= pts < end]
    # In the order of decoding: what comes after them all is needed by none of them.
    comes_first = [p for _, p in packets[key : key + len(inside)]]
    return inside if inside == comes_first and len(inside) == record.num_frames else None


def _until(
    end: int, container: InputContainer, stream: VideoStream
) -> "Iterator[Packet[VideoStream]]":
    """Packets in the order of decoding, up to the last that may be shown before `end`."""
    for packet in container.demux(stream):
        if packet.dts is not None and packet.dts >= end:
            return
        if packet.size:
            yield packet


def _is_upright(packet: "Packet[VideoStream]", stream: VideoStream) -> bool:
    """Whether the key frame in this packet is shown as it is stored."""
    context = stream.codec_context
    frames = [*context.decode(packet), *context.decode(None)]
    return bool(frames) and frames[0].rotation == 0 and stream.sample_aspect_ratio in (None, 0, 1)


def _muxed(packets: "list[Packet[VideoStream]]", stream: VideoStream) -> bytes:
    output = io.BytesIO()
    first = packets[0].pts
    assert first is not None
    # bitexact: no version string and no date in the file.
    with av.open(output, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        copy = container.add_stream_from_template(stream)
        for packet in packets:
            packet.pts = None if packet.pts is None else packet.pts - first
            packet.dts = None if packet.dts is None else packet.dts - first
            packet.stream = copy
            container.mux(packet)
    return output.getvalue()
