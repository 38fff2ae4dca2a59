"""Log(): the attention of a model while it is trained, every n-th step."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from torch import nn

from regard.watch.log_figures import Tally
from regard.watch.log_journal import Journal, Journalled, check_every, is_main
from regard.watch.log_targets import To
from regard.watch.seen import Seen

__all__ = ["Log"]


class Log(Journalled):
    """Watch the attention of a model on every n-th step of its training, and log what shows that it goes wrong.

    Of each layer and head: the mean entropy of the rows, ``-sum_j A_ij log A_ij`` in nats, which falls towards 0 when
    attention collapses; the largest logit, which grows without bound when training diverges; and the mean weight on the
    first token, the sink. On the steps between nothing is watched and nothing costs.

    >>> import torch, regard
    >>> model = torch.nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
    >>> log = regard.watch.Log(model, every=2)
    >>> for batch in torch.randn(5, 3, 10, 16):  # five steps, of (B, L, d) each
    ...     with log:
    ...         loss = model(batch).square().mean()
    ...     loss.backward()
    >>> log.history.steps
    [0, 2, 4]
    >>> log.history[-1]["self_attn"].entropy.shape
    torch.Size([2])

    One ``with`` is one step, whatever runs inside: the micro-batches of an accumulated gradient belong into one, and
    what is logged is of all of them. Batches that are inside of the block only are logged: an evaluation outside is
    not. Masked and padded keys have weight 0, and rows that may read no key do not count; rows of padding that read
    others do. Of several processes rank 0 writes, and what it writes is of its own part of the batch.

    Papers: entropy collapse, Zhai et al. 2023 (arXiv 2303.06296); the largest logit, Kimi K2 2025 (arXiv 2507.20534);
    sinks, Xiao et al. 2023 (arXiv 2309.17453).

    Args:
        model: as in :func:`regard.watch`; None watches whatever this thread runs in the block.
        every: how many steps from one that is logged to the next; the first one is.
        to: where the figures go. A path that ends in ".csv": one row a step, layer and head, in a file of this log's
            own. A folder or a SummaryWriter: scalars for TensorBoard. A function of (step, figures). A list of these.
            None keeps them in :attr:`history` alone.
        start: the number of the first step. A training that resumes gives it, and continues its CSV file; rows of the
            file from that step on, which are trained again, are replaced.
        modules: patterns of names, as in :func:`regard.watch`: these layers only.
        entropy_below: warn when the mean entropy of a layer falls below this share of log(keys), such as 0.05.
        logit_above: warn when a logit passes this, such as 100.0.

    Attributes:
        step: the number of the next step.
        history: the :class:`regard.watch.History` of the steps logged, on the process that writes.
        alarms: every time that a layer passed a bound; a warning is given once a layer.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: numbers out of their range; a CSV file that holds something else, or another run.
        ImportError: a folder for TensorBoard, which is not installed.
        NoAttentionSeen: from the end of a logged step in which no attention was seen.
        RuntimeError: from there too, a call whose weights cannot be had; a CSV file that somebody else writes to. The
            messages say why.
        OSError: from there too, a file that cannot be written.

    Warns:
        AttentionAlarm: a layer passed a bound; ``warnings.simplefilter("error", regard.watch.AttentionAlarm)`` stops
            the training there.
        UncompiledWarning: the model is compiled, and the steps logged run uncompiled; said once.
    """

    def __init__(
        self,
        model: nn.Module | None,
        *,
        every: int = 100,
        to: To | Sequence[To] | None = None,
        start: int = 0,
        modules: str | Sequence[str] | None = None,
        entropy_below: float | None = None,
        logit_above: float | None = None,
    ) -> None:
        check_every(every)
        if isinstance(start, bool) or not isinstance(start, int):
            raise TypeError(f"start: expected the number of the first step, got {type(start).__name__}")
        if start < 0:
            raise ValueError(f"start is {start}; expected the number of the first step, from 0")
        if model is not None and not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module or None, got {type(model).__name__}")
        self._model, self._modules = model, modules
        self._journal = Journal(to, entropy_below, logit_above)
        if is_main():
            self._journal.begin(start)
        self._watching: Seen | None = None
        self._inside = False
        self.every = every
        self.step = start

    def close(self) -> None:
        """Close the writer for TensorBoard that a folder was given for; it opens again if more steps come."""
        self._journal.close()

    def __enter__(self) -> Log:
        if self._inside:
            raise RuntimeError("this log is inside of a step already: one `with log:` is one step, do not nest them")
        if self.step % self.every == 0:
            # On every rank, although one writes: a compiled model runs uncompiled while it is watched, and what runs
            # on one rank has to run on all.
            watching = self._journal.watching(self._model, self._modules)
            watching.__enter__()
            self._watching = watching
        self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        step, seen = self.step, self._watching
        self.step, self._watching, self._inside = step + 1, None, False
        if seen is None:
            return
        seen.__exit__(kind, error, trace)
        if kind is None:
            tally = Tally()
            tally.add(seen)
            self._journal.write(step, tally, writes=is_main())

    def __repr__(self) -> str:
        return f"Log(every={self.every}), next step {self.step}; {self.history!r}"
