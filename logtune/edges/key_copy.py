"""A copy of the keys beside the store: under the kill switch it is known who may ask where the store cannot be read.

Key* -> KeyCopy.keep -> store.home/keys.json        KeyCopy.read -> Key*, None where there is no copy

It holds what the store holds of a key, its hash, and is read in no other case: it may not know yet who was revoked.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from logtune.edges.keyring import Key
from logtune.edges.whole_file import write_whole

LOG = logging.getLogger(__name__)
FILE = "keys.json"


class KeyCopy:
    """The copy in a folder; what goes wrong with it harms nothing else."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._kept: Sequence[Key] | None = None  # what this object knows to be there

    def keep(self, keys: Sequence[Key]) -> None:
        """Write these keys down unless they are there; a failure is logged."""
        if self._kept == keys:
            return
        try:
            write_whole(self._path, json.dumps([asdict(key) for key in keys]))
        except OSError as error:
            LOG.warning("the copy of the keys cannot be written, so the kill switch cannot replace a store: %s", error)
            return
        self._kept = keys

    def read(self) -> list[Key] | None:
        """The keys; None: there is no copy, or none that can be read."""
        try:
            return [Key(**fields) for fields in json.loads(self._path.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            LOG.warning("the copy of the keys cannot be read: %s", error)
            return None
