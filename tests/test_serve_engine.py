"""The engine: everyone hears what `generate` gives alone; who leaves, waits too long or fails does so alone."""

from __future__ import annotations

import queue
import threading
import time

import numpy as np
import pytest

from test_lm_model import make_spec, make_text_lm
from twistlm.errors import TwistError
from twistlm.lm.continuation import begin
from twistlm.lm.continuous import Batch
from twistlm.lm.model import UnitLM
from twistlm.lm.sample import generate
from twistlm.lm.warmstart import cold_start, warm_start
from twistlm.serve.engine import Busy, End, Engine, Listener, Piece, Room
from twistlm.types import Units

HOP, BEHIND = 4, 3  # of the voice below: samples a unit, units that it waits for


class Counting:
    """A voice of HOP samples a unit, each its id, that holds the last BEHIND units back."""

    sample_rate = 100 * HOP

    def __init__(self, fail_at: int = 10**9) -> None:
        self.ids: list[int] = []
        self.spoken = 0
        self.fail_at = fail_at

    def push(self, ids: np.ndarray) -> np.ndarray:
        self.ids += ids.tolist()
        if len(self.ids) >= self.fail_at:
            raise RuntimeError("no voice left")
        return self._speak(max(self.spoken, len(self.ids) - BEHIND))

    def finish(self) -> np.ndarray:
        return self._speak(len(self.ids))

    def _speak(self, upto: int) -> np.ndarray:
        new, self.spoken = self.ids[self.spoken : upto], upto
        return np.repeat(np.array(new, np.float32), HOP)


class Ear:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: queue.Queue[Piece | End] = queue.Queue()
        self.ids: list[int] = []
        self.samples: list[float] = []
        self.pieces = 0

    def end(self, seconds: float = 60.0) -> End:
        while isinstance(one := self.told.get(timeout=seconds), Piece):
            self.ids += one.ids.tolist()
            self.samples += one.samples.tolist()
            self.pieces += len(one.samples) > 0
        assert self.told.empty()
        return one


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, UnitLM]:
    text = make_text_lm(tmp_path_factory.mktemp("text"))
    return {"warm": warm_start(text, make_spec(), rows="mean", seed=0), "cold": cold_start(text, make_spec(), seed=1)}


def prompt(lm: UnitLM, ids: list[int]) -> Units:
    return Units(np.array(ids, np.uint16), np.ones(len(ids), np.int32), lm.spec)


def never_ending(lm: UnitLM) -> dict[str, object]:
    return {"temperature": 1.0, "seed": 1, "max_units": 60, "stop_at_end": False}


def test_listeners_that_come_and_go_hear_what_they_would_alone(models: dict[str, UnitLM]) -> None:
    engine = Engine(models, Room(listeners=3, waiting=50))
    engine.start()
    rng = np.random.default_rng(0)
    asked = []
    try:
        for i in range(24):
            name = "warm" if i % 3 else "cold"
            units = prompt(models[name], [i % 30, (i + 7) % 30])
            options = {
                "temperature": float(rng.choice([0.0, 1.0, 3.0])),
                "seed": i,
                "max_units": int(rng.integers(1, 50)),
                "stop_at_end": bool(i % 2),
            }
            ear = Ear()
            listener = engine.submit(name, begin(models[name], units, **options), Counting(), ear.told.put)
            if leaves := i % 6 == 5:
                time.sleep(float(rng.uniform(0, 0.02)))
                engine.cancel(listener)
            asked.append((name, units, options, ear, leaves))
        for name, units, options, ear, leaves in asked:
            end = ear.end()
            alone = generate(models[name], units, **options).ids[len(units) :].tolist()
            assert end.reason == ("done" if ear.ids == alone and end.reason == "done" else "cancelled")
            assert end.reason == "done" or leaves
            if end.reason == "done":
                assert ear.samples == np.repeat(np.array(alone, np.float32), HOP).tolist()
                assert end.units == len(alone) and end.samples == len(ear.samples)
                assert end.first is None if not ear.samples else 0 <= end.first <= end.worked
            else:
                assert ear.ids == alone[: len(ear.ids)]
        assert engine.load == (0, 0)
    finally:
        engine.close()
    assert not engine.alive
    with pytest.raises(Busy, match="stopped"):
        engine.submit("warm", begin(models["warm"], None, **never_ending(models["warm"])), Counting(), print)


def test_sound_comes_while_units_are_still_being_made(models: dict[str, UnitLM]) -> None:
    engine = Engine(models, Room())
    engine.start()
    ear = Ear()
    engine.submit("warm", begin(models["warm"], None, **never_ending(models["warm"])), Counting(), ear.told.put)
    end = ear.end()
    engine.close()
    assert ear.pieces > 3
    assert end.first is not None and end.first < end.worked


def test_sound_is_spoken_when_little_is_left_to_be_played(
    models: dict[str, UnitLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A player that ran dry plays on from where it was: what it waited is not taken for sound that it still lacks."""
    lm, clock = models["warm"], Clock()
    monkeypatch.setattr("twistlm.serve.engine.time", clock)
    one = Listener("warm", begin(lm, None, **never_ending(lm)), Counting(), lambda _: None, came=0.0)
    serving = Engine(models, Room())

    def spoken(n_units: int) -> bool:
        one.held += [1] * n_units
        if waits := one.waits_for_sound():
            serving._speak(one, last=False)
        return waits

    assert not spoken(1) and spoken(1)  # the first two units: no sound yet, as BEHIND are waited for
    assert spoken(98) and one.samples == 97 * HOP  # 0.97 s of sound
    clock.now += 0.4
    assert not spoken(10)  # 0.57 s are left
    clock.now += 0.1
    assert spoken(0) and one.samples == 107 * HOP
    clock.now += 2  # the player has been dry for a second and more
    assert spoken(100) and one.plays_until == clock.now + 1
    clock.now += 0.4
    assert not spoken(31) and spoken(1)  # as many as are spoken at once


class Clock:
    """Stands where a test puts it."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Gate(Counting):
    """A voice that waits, so that the engine is held."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.reached = threading.Event(), threading.Event()

    def push(self, ids: np.ndarray) -> np.ndarray:
        self.reached.set()
        self.open.wait(30)
        return super().push(ids)


def test_the_queue_is_bounded_and_nobody_waits_for_ever(models: dict[str, UnitLM]) -> None:
    lm = models["warm"]
    engine = Engine(models, Room(listeners=1, waiting=2, wait_seconds=0.05))
    engine.start()
    gate, ears = Gate(), [Ear() for _ in range(3)]
    engine.submit("warm", begin(lm, None, **never_ending(lm)), gate, ears[0].told.put)
    assert gate.reached.wait(30)
    waiting = [engine.submit("warm", begin(lm, None, **never_ending(lm)), Counting(), e.told.put) for e in ears[1:]]
    assert [engine.position(one) for one in waiting] == [0, 1]
    assert engine.load == (1, 2)
    with pytest.raises(Busy, match="1 listeners are being served and 2 wait"):
        engine.submit("warm", begin(lm, None, **never_ending(lm)), Counting(), print)
    time.sleep(0.1)
    gate.open.set()
    assert ears[0].end().reason == "done"
    for ear in ears[1:]:
        end = ear.end()
        assert end.reason == "late" and "in the queue" in end.message and end.units == 0
    engine.close()


def test_who_waits_is_let_go_in_the_midst_of_a_step(models: dict[str, UnitLM]) -> None:
    lm = models["warm"]
    engine = Engine(models, Room(listeners=1, waiting=2, wait_seconds=0.05))
    engine.start()
    gate, ears = Gate(), [Ear() for _ in range(4)]
    engine.submit("warm", begin(lm, None, **never_ending(lm)), gate, ears[0].told.put)
    assert gate.reached.wait(30)
    leaving, _ = [engine.submit("warm", begin(lm, None, **never_ending(lm)), Counting(), e.told.put) for e in ears[1:3]]
    engine.cancel(leaving)
    assert ears[1].end().reason == "cancelled" and engine.load == (1, 1)
    time.sleep(0.1)
    engine.tend()
    end = ears[2].end()
    assert end.reason == "late" and "in the queue" in end.message and 0.1 <= end.waited < 30
    engine.submit("warm", begin(lm, None, **never_ending(lm)), Counting(), ears[3].told.put)  # there is room again
    assert not gate.open.is_set()
    gate.open.set()
    assert ears[0].end().reason == "done"
    engine.close()


def test_the_queue_is_bounded_while_seats_are_free(models: dict[str, UnitLM]) -> None:
    """Seats are taken between two steps: in a long one, as many as there are seats and places may come, no more."""
    lm = models["warm"]
    engine = Engine(models, Room(listeners=3, waiting=1))
    engine.start()
    gate, ears = Gate(), [Ear() for _ in range(4)]
    engine.submit("warm", begin(lm, None, **never_ending(lm)), gate, ears[0].told.put)
    assert gate.reached.wait(30)
    for ear in ears[1:]:
        engine.submit("warm", begin(lm, None, **never_ending(lm)), Counting(), ear.told.put)
    with pytest.raises(Busy, match="1 listeners are being served and 3 wait"):
        engine.submit("warm", begin(lm, None, **never_ending(lm)), Counting(), print)
    gate.open.set()
    assert [ear.end().reason for ear in ears] == ["done"] * 4
    engine.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_cannot_begin_says_so(models: dict[str, UnitLM], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("no device")

    engine = Engine(models, Room())
    monkeypatch.setattr(Batch, "computing", broken)
    with pytest.raises(TwistError, match="could not start"):
        engine.start()
    assert not engine.alive


def test_computing_has_a_limit_of_time(models: dict[str, UnitLM]) -> None:
    lm = models["warm"]
    engine = Engine(models, Room(work_seconds=0.0))
    engine.start()
    ear = Ear()
    engine.submit("warm", begin(lm, None, **never_ending(lm)), Counting(), ear.told.put)
    end = ear.end()
    engine.close()
    assert end.reason == "late" and "of computing" in end.message and end.units < 60


def test_what_fails_ends_alone(models: dict[str, UnitLM]) -> None:
    lm = models["warm"]
    engine = Engine(models, Room())
    engine.start()
    bad, good, cold = Ear(), Ear(), Ear()
    engine.submit("warm", begin(lm, None, **never_ending(lm)), Counting(fail_at=5), bad.told.put)
    engine.submit("warm", begin(lm, None, **never_ending(lm)), Counting(), good.told.put)
    end = bad.end()
    assert end.reason == "failed" and "no voice left" in end.message
    assert good.end().reason == "done"

    def broken(*_a: object, **_k: object) -> None:
        raise RuntimeError("the device is gone")

    hook = lm.model.register_forward_pre_hook(broken)
    bad, other = Ear(), Ear()
    engine.submit("warm", begin(lm, None, **never_ending(lm)), Counting(), bad.told.put)
    engine.submit("cold", begin(models["cold"], None, **never_ending(lm)), Counting(), cold.told.put)
    end = bad.end()
    assert end.reason == "failed" and "the device is gone" in end.message
    assert cold.end().reason == "done"
    hook.remove()
    engine.submit("warm", begin(lm, None, **never_ending(lm)), Counting(), other.told.put)
    assert other.end().reason == "done"  # it goes on
    engine.close()


def test_closing_tells_everyone(models: dict[str, UnitLM]) -> None:
    lm = models["warm"]
    engine = Engine(models, Room(listeners=1))
    engine.start()
    gate, ears = Gate(), [Ear(), Ear()]
    engine.submit("warm", begin(lm, None, **never_ending(lm)), gate, ears[0].told.put)
    assert gate.reached.wait(30)
    engine.submit("warm", begin(lm, None, **never_ending(lm)), Counting(), ears[1].told.put)
    closing = threading.Thread(target=engine.close)
    closing.start()
    gate.open.set()
    closing.join(30)
    assert {ear.end().reason for ear in ears} <= {"failed", "done"}
    assert ears[1].told.empty()
