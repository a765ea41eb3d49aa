"""Bytes as a stream of choices, for a coverage-guided fuzzer and for hypothesis alike."""

import json
import math
import struct
from typing import Any

TEXTS = ("", "step", "..", "../x", "/etc/passwd", "a\0b", "none", "nan", "é" * 70, "x" * 300, "__class__")
WHOLE = (0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, 2**63, -(2**63), 10**30, 10**4_000)
REAL = (0.0, -0.0, 0.5, -1.5, 1e-300, 1e300, math.nan, math.inf, -math.inf)
MAX_DEPTH = 3


class Choices:
    """Reads choices off `data`; when it is used up every choice is the first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def empty(self) -> bool:
        return self._at >= len(self._data)

    def take(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        self._at += count
        return found

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def below(self, limit: int) -> int:
        """Return a number in [0, limit), from two bytes."""
        return int.from_bytes(self.take(2), "little") % limit

    def of(self, options: Any) -> Any:
        return options[self.below(len(options))]

    def text(self) -> str:
        return self.of(TEXTS) if self.below(3) else self.take(self.below(12)).decode("utf-8", "replace")

    def value(self, depth: int = 0) -> Any:
        """Return any value that JSON can hold."""
        kind = self.below(6 if depth >= MAX_DEPTH else 8)
        if kind == 0:
            return self.of((None, True, False))
        if kind == 1:
            return self.of(WHOLE)
        if kind == 2:
            return self.of(REAL)
        if kind == 3:
            return struct.unpack("<d", self.take(8).ljust(8, b"\0"))[0]
        if kind in (4, 5):
            return self.text()
        count = self.below(4)
        if kind == 6:
            return [self.value(depth + 1) for _ in range(count)]
        return {self.text(): self.value(depth + 1) for _ in range(count)}

    def changed(self, document: Any) -> Any:
        """Return a copy of a JSON document in which one to three places are other."""
        document = json.loads(json.dumps(document))
        for _ in range(1 + self.below(3)):
            document = self._change(document)
        return document

    def _change(self, node: Any) -> Any:
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        action = self.below(8)
        if not keys or action == 0:
            return self.value()
        key = self.of(keys)
        if action == 1:
            del node[key]
        elif action == 2 and isinstance(node, dict):
            node[self.text()] = node.pop(key)
        elif action == 3 and isinstance(node, dict):
            node[self.text()] = self.value()
        elif action == 3:
            node.insert(key, self.value())
        elif action == 4:
            node[key] = self.value()
        else:
            node[key] = self._change(node[key])
        return node

    def spoilt(self, whole: bytes) -> bytes:
        """Return other bytes: some changed, some cut out, some put in, or none of the old at all."""
        if self.below(8) == 0:
            return self.rest()
        damaged = bytearray(whole)
        while not self.empty:
            place = self.below(len(damaged) + 1)
            action = self.below(4)
            if action == 0:
                del damaged[place:]
            elif action == 1:
                del damaged[place : place + 1 + self.below(16)]
            elif action == 2:
                damaged[place:place] = self.take(1 + self.below(8))
            else:
                damaged[place : place + 1] = self.take(1)
        return bytes(damaged)
