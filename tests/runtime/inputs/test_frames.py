"""The mailbox between a camera and a robot program, and frames from other libraries."""

import threading
import time

import numpy as np
import pytest

from glimpse_runtime import ImageError, LatestFrame, SessionError
from glimpse_runtime.inputs.images import read_image
from glimpse_runtime.pruning.boxes import kept_boxes


def test_the_newest_frame_wins_and_drops_are_counted() -> None:
    box = LatestFrame()
    for number in range(5):
        box.put(np.full((2, 2, 3), number, np.uint8), stamp=float(number))
    frame = box.get()
    assert frame is not None
    assert frame.stamp == 4.0
    assert frame.image[0, 0, 0] == 4  # type: ignore[index]
    assert box.dropped == 4
    assert box.get(timeout=0.01) is None


def test_stamp_is_now_unless_given() -> None:
    box = LatestFrame()
    before = time.monotonic()
    box.put(np.zeros((2, 2, 3), np.uint8), encoding="bgr8")
    frame = box.get()
    assert frame is not None
    assert before <= frame.stamp <= time.monotonic()  # type: ignore[operator]
    assert frame.encoding == "bgr8"


def test_get_waits_for_put_and_close_wakes() -> None:
    box = LatestFrame()
    got: list[object] = []
    threads = [threading.Thread(target=lambda: got.append(box.get(timeout=5)))]
    threads[0].start()
    box.put(np.zeros((2, 2, 3), np.uint8))
    threads[0].join()
    assert got[0] is not None
    threads = [threading.Thread(target=lambda: got.append(box.get()))]
    threads[0].start()
    box.close()
    threads[0].join(5)
    assert got[1] is None
    with pytest.raises(SessionError, match="closed"):
        box.put(np.zeros((2, 2, 3), np.uint8))


def test_many_puts_from_many_threads_lose_no_count() -> None:
    box = LatestFrame()
    taken = 0

    def produce() -> None:
        for _ in range(300):
            box.put(np.zeros((1, 1, 3), np.uint8))

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += box.get(timeout=0.001) is not None
    for thread in threads:
        thread.join()
    taken += box.get(timeout=0) is not None
    assert taken + box.dropped == 1200


class Memory:
    """Shows an array only by one protocol, on a device of choice."""

    def __init__(self, array: np.ndarray, interface: bool, device: int = 1) -> None:
        self._array, self._device = array, device
        if interface:
            self.__array_interface__ = array.__array_interface__
        else:
            self.__class__ = DLPack


class DLPack(Memory):
    def __dlpack__(self, **options: object) -> object:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self._device, 0)


def test_memory_of_other_libraries(photo: np.ndarray) -> None:
    for interface in (True, False):
        assert np.array_equal(np.asarray(read_image(Memory(photo, interface))), photo)  # type: ignore[arg-type]
        flipped = np.asarray(read_image(Memory(photo, interface), "bgr8"))  # type: ignore[arg-type]
        assert np.array_equal(flipped, photo[..., ::-1])
    with pytest.raises(ImageError, match="another device"):
        read_image(Memory(photo, False, device=2))  # type: ignore[arg-type]
    torch = pytest.importorskip("torch")
    assert np.array_equal(np.asarray(read_image(torch.from_numpy(photo))), photo)


def test_kept_regions_as_boxes() -> None:
    keep = np.array([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]], bool)
    assert kept_boxes(keep, (400, 300)) == ((0, 0, 200, 200), (300, 100, 400, 300))
    assert kept_boxes(keep & False, (400, 300)) == ()
    assert kept_boxes(np.array([[1, 0], [0, 1]], bool), (20, 20)) == ((0, 0, 10, 10), (10, 10, 20, 20))
    assert kept_boxes(np.ones((3, 4), bool), (401, 299)) == ((0, 0, 401, 299),)
    tiny = kept_boxes(np.array([[0, 1, 0, 1]], bool), (3, 1))
    assert all(left < right and top < bottom for left, top, right, bottom in tiny)
