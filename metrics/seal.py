"""A checksum inside a JSON object, so that a digit changed in it is noticed when it is read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

SEAL = "seal"
"""The field that holds the checksum, as ``crc32 1b2c3d4e``; what it means stays the same in every schema."""

PREFIX = "crc32 "


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """The object as JSON will give it back, with its checksum as the first field.

    The checksum is the CRC-32 of the object without this field, written as JSON with sorted keys: white space and the
    order of fields do not count, any value does. What JSON has no type for is written as text.
    """
    plain = json.loads(json.dumps({k: v for k, v in content.items() if k != SEAL}, default=str))
    return {SEAL: _checksum(plain), **plain}


def sealed(content: Mapping[str, Any]) -> bool:
    """Whether an object holds a checksum, be it under a name that has been damaged."""
    return SEAL in content or any(isinstance(value, str) and value.startswith(PREFIX) for value in content.values())


def intact(content: Mapping[str, Any]) -> bool:
    """Whether an object read from JSON agrees with the checksum in it; False too where it holds none."""
    return content.get(SEAL) == _checksum({k: v for k, v in content.items() if k != SEAL})


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f"{PREFIX}{zlib.crc32(text.encode()):08x}"
