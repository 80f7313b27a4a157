"""Read the files of offline Weights & Biases runs back."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path


def wandb_records(path: Path) -> Iterator[bytes]:
    """Read the records of an offline run: LevelDB's log format, in blocks of 32 KiB, after a header of 7 bytes."""
    data, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:  # the rest of a block that no record header fits into
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield parts
            parts = b""


def wandb_keys(path: Path) -> dict[str, set[str]]:
    """Return the keys of an offline run's history and configuration."""
    from wandb.proto import wandb_internal_pb2

    keys: dict[str, set[str]] = {"history": set(), "config": set()}
    for data in wandb_records(path):
        entry = wandb_internal_pb2.Record()
        entry.ParseFromString(data)
        keys["history"] |= {item.key or "/".join(item.nested_key) for item in entry.history.item}
        keys["config"] |= {item.key or item.nested_key[0] for item in entry.config.update}
        keys["config"] |= {item.key or item.nested_key[0] for item in entry.run.config.update}
    return keys
