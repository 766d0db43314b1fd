"""Times of layers and their splits on one device in one setting, kept in a file of the user's cache folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

from platformdirs import user_cache_path

from .._storage.atomic import write_file
from .._storage.file_lock import alone_with
from .._storage.json_text import HASH, content_hash, parsed
from .._storage.reading import decoded, read_small
from ..errors import shown, warn_user
from .layer_latency import LayerTime

_FORMAT, _VERSION = "amct_pytorch.latencies", 1
_KEYS = {"format", "version", "setting", "times", HASH}


class _Unusable(ValueError):
    """A file is no table of this setting; the message says why."""


class LatencyTable:
    """The times that are known in a setting.

    A file that is damaged, or is that of another setting or release, is ignored with a warning and replaced. Where the
    folder cannot be written to, times are kept for this call alone, with a warning.

    Parameters
    ----------
    setting
        All that the times depend on besides the layers, value by name.
    refresh
        Whether to forget the times of earlier calls.
    """

    def __init__(self, setting: Mapping[str, str], *, refresh: bool) -> None:
        self._setting = dict(setting)
        folder = Path(user_cache_path("amct_pytorch", appauthor=False)) / "latency"
        self.place = folder / f"{hashlib.sha256(json.dumps(self._setting, sort_keys=True).encode()).hexdigest()}.json"
        """Its file."""
        self._times: dict[str, LayerTime] = {}
        self._unsaved = False
        if not refresh:
            try:
                self._times = self._read()
            except (_Unusable, OSError) as error:
                warn_user(f"{shown(self.place)} is ignored, and its times are measured again: {error}")

    def get(self, what: str) -> LayerTime | None:
        """The time of a layer and its split; None where it is not known.

        Parameters
        ----------
        what
            Both, and the inputs of the layer, in one text.
        """
        return self._times.get(what)

    def add(self, what: str, time: LayerTime) -> None:
        """Take down a time; `save` writes it."""
        self._times[what] = time
        self._unsaved = True

    def save(self) -> None:
        """Write what was added. What other processes have written meanwhile stays."""
        if not self._unsaved:
            return
        self._unsaved = False
        try:
            self.place.parent.mkdir(parents=True, exist_ok=True)
            with alone_with(self.place):
                try:
                    kept = self._read()
                except _Unusable:
                    kept = {}
                times = {what: dataclasses.astuple(time) for what, time in {**kept, **self._times}.items()}
                content = {"format": _FORMAT, "version": _VERSION, "setting": self._setting, "times": times}
                text = json.dumps({**content, HASH: content_hash(content)}, indent=0)
                write_file(self.place, text, OSError, sync_name=False)
        except OSError as error:
            warn_user(f"the times of layers cannot be kept for later calls: {error}")

    def _read(self) -> dict[str, LayerTime]:
        """The times in the file; none where there is none.

        Raises
        ------
        _Unusable, OSError
            It is no table of this setting, or cannot be read.
        """
        try:
            text = read_small(self.place, "table", kind=_Unusable, content=_Unusable)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        content = parsed(decoded(text, self.place, _Unusable), "it", _Unusable)
        if not isinstance(content, dict) or content.keys() != _KEYS or content["format"] != _FORMAT:
            raise _Unusable("it is no table of latencies")
        if content["version"] != _VERSION:
            raise _Unusable(f"expected version {_VERSION}, found {content['version']!r}")
        if content["setting"] != self._setting:
            raise _Unusable("its times are of another device or setting, or of other versions")
        if content[HASH] != content_hash(content):
            raise _Unusable("its hash is not that of its content: it is damaged")
        try:
            times = {what: LayerTime(*numbers) for what, numbers in content["times"].items()}
            whole = all(0 < time.before < math.inf and 0 < time.share < math.inf for time in times.values())
        except (AttributeError, TypeError):
            whole = False
        if not whole:
            raise _Unusable("it holds something else than times")
        return times
