"""Read the files of offline Weights & Biases runs back."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def wandb_records(path: Path) -> Iterator[bytes]:
    """Read the records of an offline run: LevelDB's log format, in blocks of 32 KiB, after a header of 7 bytes."""
    data, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:  # the rest of a block that no record header fits into
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        if position + 7 + length > len(data):  # still being written
            return
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield parts
            parts = b""


def wandb_entries(path: Path) -> list[Any]:
    """Return the entries of an offline run that has ended: a process of W&B's own writes them, in its own time."""
    from wandb.proto import wandb_internal_pb2

    for _ in range(300):
        entries = []
        for data in wandb_records(path):
            entries.append(wandb_internal_pb2.Record())
            entries[-1].ParseFromString(data)
        if any(entry.HasField("exit") for entry in entries):
            break
        time.sleep(0.1)
    return entries


def wandb_keys(path: Path) -> dict[str, set[str]]:
    """Return the keys of an offline run's history and configuration."""
    keys: dict[str, set[str]] = {"history": set(), "config": set()}
    for entry in wandb_entries(path):
        keys["history"] |= {item.key or "/".join(item.nested_key) for item in entry.history.item}
        keys["config"] |= {item.key or item.nested_key[0] for item in entry.config.update}
        keys["config"] |= {item.key or item.nested_key[0] for item in entry.run.config.update}
    return keys
