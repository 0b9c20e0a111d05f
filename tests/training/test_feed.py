"""Batches come ahead of the loop, in order, and errors in their place."""

import threading
import time
import types

import jax
import numpy as np
import pytest

from alexnet_jax.data import buffers, records
from alexnet_jax.runtime import profile
from alexnet_jax.runtime.errors import UserError
from alexnet_jax.training import feed


class Stream:
  """Numbers, how many were read, and whether it is closed."""

  def __init__(self, count, error=None):
    self.read, self.closed = 0, False
    self._count, self._error = count, error

  def __iter__(self):
    return self

  def __next__(self):
    if self.read == self._count:
      raise self._error or StopIteration
    self.read += 1
    return {'n': np.int32(self.read - 1)}

  def close(self):
    self.closed = True


def put(batch):
  return jax.device_put(batch['n']), int(batch['n'])


def soon(condition):
  end = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.005)


def test_all_batches_come_in_order_and_then_the_end():
  stream = Stream(7)
  with feed.Feed(stream, put) as batches:
    taken = [(int(array), number) for array, number in batches]
    assert taken == [(n, n) for n in range(7)]
    with pytest.raises(StopIteration):
      next(batches)
  assert stream.closed


def test_two_are_ahead_and_no_more():
  stream = Stream(100)
  with feed.Feed(stream, put) as batches:
    soon(lambda: stream.read == 2)
    time.sleep(0.05)
    assert stream.read == 2
    soon(lambda: batches.ready(0.01))
    assert next(batches)[1] == 0
    soon(lambda: stream.read == 3)
    time.sleep(0.05)
    assert stream.read == 3
  assert stream.closed and stream.read <= 4
  assert not batches._thread.is_alive()


def test_an_error_comes_after_the_batches_before_it():
  stream = Stream(2, UserError('record 2 is damaged'))
  with feed.Feed(stream, put) as batches:
    soon(lambda: stream.read == 2)
    for n in range(2):
      soon(lambda: batches.ready(0.01))
      assert next(batches)[1] == n
    soon(lambda: batches.ready(0.01))
    for _ in range(2):
      with pytest.raises(UserError, match='record 2'):
        next(batches)


def test_not_ready_while_the_stream_reads():
  go = threading.Event()

  def slow():
    go.wait(60)
    yield {'n': np.int32(4)}

  with feed.Feed(slow(), put) as batches:
    assert not batches.ready(0.01)
    go.set()
    soon(lambda: batches.ready(0.01))
    assert next(batches)[1] == 4


def test_waiting_counts_what_is_on_its_way_to_a_device(monkeypatch):
  """A batch that was read, and is put until the clock has been looked at ten
  times, while a step is under way for the first four."""
  looks, go = [], threading.Event()
  clock = types.SimpleNamespace(perf_counter=lambda: float(len(looks)))
  monkeypatch.setattr(profile, 'time', clock)

  def slow(batch):
    go.wait(60)
    return put(batch)

  with feed.Feed(Stream(1), slow) as batches:

    def ready(_):
      looks.append(None)
      if len(looks) >= 10:
        go.set()
        soon(lambda: batches.ready(0.01))
      return batches.ready(0.01)

    def is_ready():
      return len(looks) >= 4

    made = types.SimpleNamespace(
      is_ready=is_ready, block_until_ready=lambda: None
    )
    meter = profile.Meter()
    meter.step(made, 1)
    meter.wait(ready)
    assert next(batches)[1] == 0
  assert meter.read()['time/waiting'] == 0.6


@pytest.mark.parametrize(
  (
    *('workers', 'cores', 'here', 'platform'),
    *('shared', 'steps', 'expected', 'warned'),
  ),
  [
    (-1, 2, (1, 1), 'cpu', 0, None, (0, 2), ''),
    (-1, 4, (1, 1), 'cpu', 1 << 40, None, (0, 2), ''),
    (-1, 64, (1, 1), 'cpu', 1 << 40, None, (0, 4), ''),
    (-1, 4, (1, 1), 'gpu', 1 << 40, None, (0, 4), ''),
    (-1, 16, (1, 1), 'gpu', 1 << 40, None, (14, 16), ''),
    (-1, 16, (1, 1), 'gpu', 64 << 20, None, (0, 16), '/dev/shm'),
    (-1, 16, (1, 1), 'gpu', 1 << 40, 40, (2, 16), ''),
    (3, 16, (1, 1), 'gpu', 0, 1, (3, 2), ''),
    (0, 16, (1, 1), 'gpu', 1 << 40, None, (0, 2), ''),
    (5, 2, (1, 1), 'cpu', 0, None, (2, 2), ''),
    # A process for each of eight GPUs: of 128 cores all see all, or their own.
    (-1, 128, (8, 8), 'gpu', 1 << 40, None, (14, 16), ''),
    (-1, 16, (8, 1), 'gpu', 1 << 40, None, (14, 16), ''),
    (20, 128, (8, 8), 'gpu', 0, None, (16, 2), ''),
    (5, 2, (4, 4), 'cpu', 0, None, (1, 2), ''),
    # 14 workers hold 14.1 GB: half of a seventh of 256 GB, but not of a tenth.
    (-1, 16, (7, 1), 'gpu', 256 * 10**9, None, (14, 16), ''),
    (-1, 16, (10, 1), 'gpu', 256 * 10**9, None, (0, 16), '/dev/shm'),
    (-1, 1, (1, 1), 'gpu', 1 << 40, None, (0, 1), 'one of the 192 cores'),
    (-1, 8, (8, 8), 'gpu', 1 << 40, None, (0, 1), 'one of the 192 cores'),
    (-1, 1, (1, 1), 'cpu', 1 << 40, None, (0, 2), ''),
  ],
)
def test_readers_fit_the_machine(
  workers, cores, here, platform, shared, steps, expected, warned, monkeypatch
):
  monkeypatch.setattr(feed.distributed, 'processes_here', lambda: here)
  monkeypatch.setattr(
    feed.os, 'sched_getaffinity', lambda _: range(cores), raising=False
  )
  monkeypatch.setattr(feed.os, 'cpu_count', lambda: 192)
  monkeypatch.setattr(feed, '_shared_memory', lambda: shared)
  said = []

  def log(_, text, __, *args):
    said.append(text % args)

  monkeypatch.setattr(feed.logging, 'log_first_n', log)
  device = types.SimpleNamespace(platform=platform)
  mesh = types.SimpleNamespace(devices=np.array([device]))
  found = feed.choose_readers(
    types.SimpleNamespace(workers=workers, prefetch=4),
    types.SimpleNamespace(mesh=mesh),
    types.SimpleNamespace(image_size=256),
    1024,
    steps,
  )
  assert (found['workers'], found['threads']) == expected
  assert len(said) == bool(warned) and warned in ''.join(said)


def test_a_buffer_is_used_again_when_nobody_holds_it():
  array = buffers.take((4, 1024))
  place, part = array.ctypes.data, array[1:3].reshape(-1)
  del array
  other = buffers.take((4, 1024))
  assert other.ctypes.data != place
  del part
  assert buffers.take((4, 1024)).ctypes.data == place


def test_a_device_array_keeps_its_buffer():
  array = buffers.take((4, 4096))
  array[:] = 5
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  kept = jax.make_array_from_callback(array.shape, place, array.__getitem__)
  del array
  for value in range(6, 9):
    buffers.take((4, 4096))[:] = value
  assert (np.asarray(kept) == 5).all()


def example(label: bytes) -> bytes:
  """A record of one pixel, of the label as protobuf writes it."""
  image = b'\n\x05image\x12\x07\n\x05\n\x03abc'
  label = b'\n\x05label\x12' + bytes([len(label)]) + label
  entries = [b'\n' + bytes([len(e)]) + e for e in (label, image)]
  features = b''.join(entries)
  return b'\n' + bytes([len(features)]) + features


@pytest.mark.parametrize(
  ('label', 'number'),
  [
    (b'\x1a\x03\n\x01\x07', 7),
    (b'\x1a\x04\n\x02\xe7\x07', 999),  # of two bytes
    (b'\x1a\x02\x08\x07', 7),  # not packed
    (b'\x1a\x0c\n\x0a' + b'\xff' * 9 + b'\x01', -1),
  ],
)
def test_a_record_is_taken_apart(label, number):
  image, found = records.take_apart(example(label))
  assert (bytes(image), found) == (b'abc', number)


def test_what_is_no_record_is_an_error():
  whole = example(b'\x1a\x03\n\x01\x07')
  for stop in range(len(whole)):
    with pytest.raises(ValueError, match='no example'):
      records.take_apart(whole[:stop])
  with pytest.raises(ValueError, match='no example'):
    records.take_apart(example(b'\x1a\x04\n\x02\x01\x02'))
