"""Plain folders of images, without a list.

The names of the folders tell all, in any order and depth: `train`, `val` and `test` (training,
valid, validation, testing) are splits, `customer` and `shop` (consumer, query, gallery) domains.
The other folders, joined by "/", name what is in the images:

  SOURCE/[train/]dresses/a.jpg                without domains anywhere a category; each image is an
                                              item of its own and a shop image
  SOURCE/[train/][dresses/]item_7/shop/a.jpg  with domains an item; the folders above it, if any,
  SOURCE/shop/[dresses/]item_7/a.jpg          are its category

Items without domains need a CSV: see `manifest`. Without splits a tenth of the items is val and a
tenth test, by a hash of their names, which stays as it is when images are added.
"""

import os
import re
import unicodedata
import zlib

import pandas as pd
from etils import epath

from input_pipeline import datasets
from input_pipeline.errors import AnnotationError
from input_pipeline.table import mark
from input_pipeline.vocabulary import DOMAINS, SPLITS

_WORDS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_WORDS |= {"consumer": "customer", "query": "customer", "gallery": "shop"}
# Not hidden. HEIC cannot be read, and is not passed over without a word.
_IMAGE = re.compile(r"(?!(?:.*/)?\.).*\.(?:jpe?g|png|webp|gif|bmp|tiff?|p[gp]m|avif|heic)", re.I)


def to_table(source: epath.Path) -> pd.DataFrame:
    """Returns a row for each image, in the order of their names."""
    found, others = find_images(source)
    names = [unicodedata.normalize("NFC", name) for name in found]
    split, domain, folders = zip(*map(parse, names), strict=True)
    rows = pd.DataFrame({"image": names, "path": [os.path.join(source, name) for name in found]})
    rows = rows.assign(source=rows["path"], folders=folders)
    what = "an item" if any(domain) else "a category"
    rows = mark(rows, rows["folders"] == "", "value", f"lies in no folder that names {what}")
    if any(domain):  # the table's checks name the images that lack one, or a split
        above = [folder.rpartition("/")[0] for folder in folders]
        rows = rows.assign(item_id=folders, category=above, domain=domain)
    else:
        rows = rows.assign(item_id=names, category=folders)
    tenth = rows["item_id"].map(lambda item: zlib.crc32(item.encode()) % 10)
    hashed = tenth.map({0: "val", 1: "test"}).fillna("train")
    rows = rows.assign(split=split if any(split) else hashed)
    notes = {f"folder that names {what}": len({*folders} - {""}), "file that is no image": others}
    rows.attrs["notes"] = {note: count for note, count in notes.items() if count}
    return rows.drop(columns="folders")


def fingerprint(source: epath.Path) -> str:
    """Returns a digest of the names and sizes of the images."""
    sizes = {name: os.stat(os.path.join(source, name)).st_size for name in find_images(source)[0]}
    return datasets.fingerprint([], repr(sizes))


def find_images(source: epath.Path) -> tuple[list[str], int]:
    """Returns the names of all images below a folder, in order, and how many other files."""

    def fail(error: OSError) -> None:
        raise AnnotationError([f"{error.filename}: cannot be read: {error}"]) from error

    root, names, seen = os.fspath(source), list[str](), set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=fail):
        if (place := os.stat(folder)[1:3]) in seen:  # by a link
            files = folders[:] = []
        seen.add(place)
        folders.sort()
        names += [os.path.join(folder, name)[len(root) + 1 :] for name in files]
    if wrong := [name for name in names if re.search("[\udc80-\udcff]", name)]:
        raise AnnotationError([f"{source}: a name is not UTF-8: {name!r}" for name in wrong])
    if not (images := sorted(filter(_IMAGE.fullmatch, names))):
        raise AnnotationError([f"{source}: has no image in it"])
    return images, len(names) - len(images)


def parse(image: str) -> tuple[str, str, str]:
    """Returns an image's split and domain, "" where it has none, and its other folders."""
    split, domain, others = "", "", []
    for folder in image.split("/")[:-1]:
        word = _WORDS.get(folder.casefold(), folder.casefold())
        if not split and word in SPLITS:
            split = word
        elif not domain and word in DOMAINS:
            domain = word
        else:
            others.append(folder)
    return split, domain, "/".join(others)
