"""What a watch gives: the records of the calls of attention that ran inside its block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, overload

from regard import AttentionWeights
from regard.watch import mode
from regard.watch.errors import NoAttentionSeen, NoSuchRecord, near, nothing_seen
from regard.watch.names import matches
from regard.watch.record import Record
from regard.watch.recorder import Recorder

__all__ = ["Seen"]


class Seen:
    """The calls of attention that ran inside ``with regard.watch(...)``, in their order: a sequence of records.

    >>> import torch, regard
    >>> layer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> with regard.watch(layer) as seen:
    ...     output = layer(*[torch.randn(1, 5, 8)] * 3)[0]
    >>> len(seen), seen[0].name, tuple(seen[0].weights.shape)
    (1, '(model)', (1, 2, 5, 5))

    ``seen[3]`` is a record, ``seen[1:3]`` a list of them, ``seen["encoder.layers.0.self_attn"]`` the record of that
    name. A root module that attends itself is called "(model)", a call with no module around it "(no module)".
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._state = "new"
        self._before = 0

    def __enter__(self) -> Seen:
        if self._state != "new":
            raise RuntimeError(
                "this watch is open already" if self._state == "open" else "this watch has ended; make another one"
            )
        self._recorder.start()
        try:
            self._before = mode.listen(self._recorder)
        except BaseException:
            self._recorder.stop()
            raise
        self._state = "open"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        r = self._recorder
        ran = mode.leave(r) > self._before
        self._state = "closed"
        watched = r.model is not None
        r.stop()
        if kind is not None:
            return
        if not r.records:
            raise NoAttentionSeen(
                nothing_seen(
                    by_hand=[*r.by_hand],
                    elsewhere=[*r.elsewhere],
                    patterns=r.patterns or (),
                    ran=ran or r.forwards > 0 or r.heard,
                    called=not watched or r.forwards > 0 or r.heard,
                    filtered=[*r.filtered],
                )
            )
        if r.every > 1 and r.forwards == 0:
            raise RuntimeError(
                f"watch(every={r.every}): no forward of the model was counted, so each call was recorded; forwards are "
                "counted where the model is called: model(...), not model.forward(...) or a part of it"
            )
        if not watched:
            names = [*self.names, *r.filtered]
            for pattern in r.patterns or ():
                if not any(matches(name, pattern) for name in names):
                    raise NoAttentionSeen(f"no attention call seen in modules={pattern!r}{near(pattern, names)}")

    @property
    def names(self) -> list[str]:
        """The name of each record, one a record: a module that called several times is there several times."""
        return [record.name for record in self._recorder.records]

    @property
    def weights(self) -> list[AttentionWeights]:
        """The weights of each record."""
        return [record.weights for record in self._recorder.records]

    @property
    def unseen(self) -> list[str]:
        """Modules that computed a softmax of attention's shape by hand, and called no attention that was seen."""
        recorded = set(self.names)
        return [name for name in self._recorder.by_hand if name not in recorded]

    def calls(self, name: str) -> list[Record]:
        """All records of that name, in the order of the calls."""
        found = [record for record in self._recorder.records if record.name == name]
        if not found:
            raise NoSuchRecord(f"no attention call of {name!r} was recorded{near(name, self.names)}")
        return found

    def joined(self, name: str) -> AttentionWeights:
        """The weights of all steps of a generation as one (..., H, L, S): L queries in all, S the last step's keys.

        A step's row reads what it read then; keys that came later have weight 0. The weights of a prefill and of the
        steps after it are those of one forward over the whole text.

        Args:
            name: the module's.

        Returns:
            One :class:`regard.AttentionWeights`.

        Raises:
            NoSuchRecord: no record has this name.
            ValueError: the keys of a step do not extend those of the step before: a beam search that reorders its
                cache, a cache that rolls or is written in place, or calls that are no generation.
        """
        from regard.watch.joining import join

        return join(name, self.calls(name))

    def page(self, path: str | os.PathLike[str], tokens: Any = None, **options: Any) -> Path:
        """Write a page that shows all heads of all records, each layer by the name of its module.

        Encoder, decoder and cross attention have tabs of their own, as have layers of other lengths. The steps of a
        generation are joined; where the model ran over several texts, each forward has a tab.

        Args:
            path: where to write, whole or not at all.
            tokens: S texts, or a mapping of tabs to those: ``{"encoder": [...], "decoder": [...]}``.
            **options: what else :func:`regard.look` takes: ``query_tokens``, ``title``, ``notes``, ``max_bytes``, ...

        Returns:
            The path written.

        Raises:
            ValueError: path cannot be written, or what :func:`regard.look` refuses.
            RuntimeError: the weights of no record can be had; the message says why.
        """
        from regard.look import page

        return page(self, tokens, path, **options)

    @overload
    def __getitem__(self, index: int | str) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...

    def __getitem__(self, index: int | str | slice) -> Record | list[Record]:
        if not isinstance(index, str):
            return self._recorder.records[index]
        found = self.calls(index)
        if len(found) > 1:
            raise NoSuchRecord(
                f"{index!r} called attention {len(found)} times: seen.calls({index!r}) are its records, and "
                f"seen.joined({index!r}) one map of a generation"
            )
        return found[0]

    def __len__(self) -> int:
        return len(self._recorder.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._recorder.records)

    def __contains__(self, name: object) -> bool:
        return name in self.names if isinstance(name, str) else name in self._recorder.records

    def __repr__(self) -> str:
        from regard.watch.table import text

        return text(self)

    def _repr_html_(self) -> str:
        from regard.watch.table import html

        return html(self)
