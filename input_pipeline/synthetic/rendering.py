"""Renders synthetic items in worker processes; imports no TensorFlow, so workers start fast."""

import concurrent.futures
import itertools
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

from input_pipeline import synthetic
from input_pipeline.images import Box, encode_png
from input_pipeline.parallel import ordered_map

_ITEMS_PER_TASK = 8
_TASKS_PER_WORKER = 4  # rendered ahead, which bounds the memory however many items there are
_LEAST_SEEN = 0.01  # share of the photo that an object of a detector covers
_ITEMS_FOR_A_POOL = 64  # fewer are rendered before workers would have started


class ItemJob(NamedTuple):
    """One item to render; with `objects` every object that is drawn is told."""

    seed: int
    split: str
    number: int
    customers: int
    picture_size: int
    colors: int = 1  # items in a row that are one garment
    objects: bool = False


class RenderedPhoto(NamedTuple):
    """A photo with its labels, small enough to be sent between processes."""

    jpeg: bytes
    mask: bytes
    box: Box
    landmarks: np.ndarray
    size: tuple[int, int]
    domain: str
    view: str
    occluded: bool
    cropped: bool
    item_id: str
    category: str
    clothes_type: int
    attributes: tuple[str, ...]
    objects: tuple[tuple[str, Box, bytes], ...] = ()  # kind, box and mask of each


def render(jobs: Iterable[ItemJob], count: int) -> Iterator[list[RenderedPhoto]]:
    """Yields the photos of each item, in the order of the jobs.

    Args:
      jobs: the items; taken only as fast as results are consumed.
      count: how many jobs there are; few are rendered in this process.
    """
    workers = os.cpu_count() or 1
    if count < _ITEMS_FOR_A_POOL or workers == 1:
        yield from map(render_item, jobs)
        return
    # Not fork: the parent may hold TensorFlow's or JAX's threads.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker) as pool:
        ahead = workers * _TASKS_PER_WORKER
        for items in ordered_map(pool, _render_items, _batched(jobs), ahead):
            yield from items


def render_item(job: ItemJob) -> list[RenderedPhoto]:
    """Renders one item: its shop photo, then its customer photos."""
    item, photos = synthetic.photos_of_item(
        job.seed,
        job.split,
        job.number,
        customers=job.customers,
        picture_size=job.picture_size,
        colors=job.colors,
    )
    return [
        RenderedPhoto(
            jpeg=photo.jpeg,
            mask=encode_png(photo.mask.astype(np.uint8) * 255),
            box=photo.box,
            landmarks=np.asarray(photo.landmarks, np.int32),
            size=photo.mask.shape,
            domain=photo.domain,
            view=photo.view,
            occluded=bool(photo.occluded),
            cropped=bool(photo.cropped),
            item_id=item.item_id,
            category=item.category,
            clothes_type=item.clothes_type,
            attributes=tuple(item.attributes),
            objects=tuple(_objects_of(photo)) if job.objects else (),
        )
        for photo in photos
    ]


def _objects_of(photo: synthetic.Photo) -> Iterator[tuple[str, Box, bytes]]:
    """Yields what is seen of each object; slivers are left out."""
    owner = np.asarray(photo.owner)
    for number, kind in enumerate(photo.objects, start=1):
        mask = owner == number
        if np.count_nonzero(mask) >= _LEAST_SEEN * mask.size:
            x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
            yield kind, (x, y, x + width, y + height), encode_png(mask.astype(np.uint8) * 255)


def _start_worker() -> None:
    cv2.setNumThreads(1)  # the workers share the cores already
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when its parent is killed: the pool's queue alone would not tell it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _render_items(jobs: tuple[ItemJob, ...]) -> list[list[RenderedPhoto]]:
    return [render_item(job) for job in jobs]


def _batched(jobs: Iterable[ItemJob]) -> Iterator[tuple[ItemJob, ...]]:
    jobs = iter(jobs)
    while batch := tuple(itertools.islice(jobs, _ITEMS_PER_TASK)):
        yield batch
