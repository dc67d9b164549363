"""Batches of streamed rows, drawn from a buffer: no two rows share a text or a group.

The sampler draws the rows themselves where others draw their numbers. So whatever deals numbers out to
processes, or skips the batches that a resumed run has seen, does so with rows, before anything is tokenized.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from matryoshka2d.data.batch_sampler import fold
from matryoshka2d.data.row_formats import GROUP, NO_GROUP, text_columns
from matryoshka2d.data.rows import Row
from matryoshka2d.data.shares import turns
from matryoshka2d.data.streams import Stream
from matryoshka2d.errors import UserError

DATASET = "dataset_name"
"""The column by which the trainer finds the loss of a batch of a mixture."""

Key = tuple[bool, str]


class Held(NamedTuple):
    """A row that waits to be drawn, and what no other row of its batch may share with it."""

    row: Row
    keys: frozenset[Key]


class StreamBatchSampler(Sampler[list[Row]]):
    """The batches of a whole run, pass after pass over each stream; every batch is full and of one stream.

    A function of the streams, the shares and the seed: all processes draw the same batches, of which each
    keeps its part, and a resumed run draws those that it has seen once more and leaves them out.

    Parameters
    ----------
    streams
        Name → stream.
    shares
        How large a part of the batches comes from each stream.
    batch_size
        Rows a batch.
    length
        Batches of the run.
    buffer
        Rows of each stream among which a batch is drawn: the more, the better they are mixed.
    seed
        Another seed gives other batches.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from matryoshka2d.data.streams import open_stream
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "qa.csv")
    >>> _ = path.write_text("query,answer\\nwho?,me\\nWHO?,you\\nwhy?,so\\nhow?,thus\\n")
    >>> sampler = StreamBatchSampler({"qa": open_stream(path)}, [1.0], batch_size=2, length=4, buffer=4)
    >>> [len({row["anchor"].lower() for row in batch}) for batch in sampler]
    [2, 2, 2, 2]
    >>> folder.cleanup()
    """

    # What accelerate asks of a sampler of batches.
    drop_last = True

    def __init__(
        self,
        streams: Mapping[str, Stream],
        shares: Sequence[float],
        *,
        batch_size: int,
        length: int,
        buffer: int,
        seed: int = 0,
    ) -> None:
        self.streams = dict(streams)
        self.shares = list(shares)
        self.batch_size = batch_size
        self.length = length
        self.buffer = buffer
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of batches of the run."""
        return self.length

    def __iter__(self) -> Iterator[list[Row]]:
        """Yield the rows of each batch; in a mixture they carry the name of their stream."""
        names = list(self.streams)
        batches = [self._batches(place, name) for place, name in enumerate(names)]
        for place in islice(turns(self.shares), self.length):
            batch = next(batches[place])
            yield batch if len(names) == 1 else [{**row, DATASET: names[place]} for row in batch]

    def _batches(self, place: int, name: str) -> Iterator[list[Row]]:
        stream = self.streams[name]
        # Of each pass, its own chance for the order of the shards and for what is drawn.
        chances = (np.random.default_rng((self.seed, place, number)).spawn(2) for number in count())
        passes = ((stream.one_pass(order), drawing) for order, drawing in chances)
        return endless_batches(passes, self.batch_size, self.buffer, stream.source)


def endless_batches(
    passes: Iterable[tuple[Iterator[Row], np.random.Generator]], batch_size: int, buffer: int, source: str
) -> Iterator[list[Row]]:
    """Yield full batches of distinct rows, pass after pass.

    A batch is drawn from up to `buffer` rows, which then are filled up again. A drawn row that shares a text
    or a group with the batch goes back, and waits for a later one. Where not even a whole buffer fills a
    batch, the rows that come next do if they fit; those that do not are left out. What is left when a pass
    ends is drawn first in the next, so that no row falls a whole pass behind.

    Parameters
    ----------
    passes
        For each pass its rows, and what the draws of that pass are made with.
    batch_size, buffer
        The rows of a batch; the most rows that are held.
    source
        What messages call the data.

    Raises
    ------
    UserError
        If a whole pass fills no batch.
    """
    late: list[Held] = []
    held: list[Held] = []
    for one_pass, chance in passes:
        late, held = late + held, []
        rows = map(_held, one_pass)
        filled = False
        while True:
            held += islice(rows, max(buffer - len(held) - len(late), 0))
            batch = _draw(late, held, batch_size, chance)
            if len(batch) < batch_size:
                batch += _fitting(rows, batch, batch_size - len(batch))
            if len(batch) < batch_size:
                held += batch
                break
            filled = True
            yield [drawn.row for drawn in batch]
        if not filled:
            raise UserError(
                f"{source}: {len(held) + len(late)} rows fill no batch of {batch_size} without a text or "
                f"group that comes twice: lower --batch-size"
                if held or late
                else f"{source} has no rows to train on: look at the split and the limit"
            )


def _draw(late: list[Held], held: list[Held], batch_size: int, rng: np.random.Generator) -> list[Held]:
    """Take the rows of a batch out of those that are held, late ones first; fewer, if no other fits."""
    batch: list[Held] = []
    taken: set[Key] = set()
    for rows in (late, held):
        passed_over: list[Held] = []
        while rows and len(batch) < batch_size:
            place = int(rng.integers(len(rows)))
            rows[place], rows[-1] = rows[-1], rows[place]
            drawn = rows.pop()
            if taken.isdisjoint(drawn.keys):
                batch.append(drawn)
                taken |= drawn.keys
            else:
                passed_over.append(drawn)
        rows += passed_over
    return batch


def _fitting(rows: Iterable[Held], batch: Sequence[Held], missing: int) -> Iterator[Held]:
    """Yield the next rows that fit into a batch, as many as are missing."""
    taken = {key for held in batch for key in held.keys}
    for held in rows:
        if taken.isdisjoint(held.keys):
            taken |= held.keys
            yield held
            missing -= 1
            if not missing:
                return


def _held(row: Row) -> Held:
    texts = {(False, fold(row[name])) for name in text_columns(row, labels=("score",))}
    group = row.get(GROUP, NO_GROUP)
    return Held(row, frozenset(texts if group == NO_GROUP else {*texts, (True, str(group))}))
