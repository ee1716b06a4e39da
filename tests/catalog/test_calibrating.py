"""Calibrating a catalog: what is stored, what is refused, and when it is stale."""

import json

import pytest
from etils import epath

from grnet_jax.catalog import calibrating
from grnet_jax.catalog.searching import Catalog
from grnet_jax.errors import InputError
from tests.catalog.shops import index, make_shop, save, small_loaded, write_csv


@pytest.fixture
def catalog(tmp_path):
    folder = epath.Path(tmp_path / "shop")
    index(folder, make_shop(tmp_path / "photos"))
    return folder


def _queries(tmp_path, count):
    rows = []
    for number in range(count):
        save(tmp_path / "asked" / f"{number}.jpg", number % 12, quality=60)
        rows.append((f"{number}.jpg", f"item {number % 12 // 2}" if number % 7 else "elsewhere"))
    return str(write_csv(tmp_path / "asked" / "queries.csv", rows, ("image", "item_id")))


def test_probabilities_come_with_the_catalog_until_it_changes(catalog, tmp_path):
    opened = Catalog(catalog, small_loaded())
    source = _queries(tmp_path, 130)
    told = calibrating.calibrate_catalog(catalog, opened, source, (), 200)
    assert (told.queries, told.rows, told.state) == (111, 12, "fresh")  # 19 are of no known item
    assert "state" not in json.loads((catalog / "calibration.json").read_text())
    opened = Catalog(catalog, small_loaded())
    assert opened.calibration == told
    first = opened.search([tmp_path / "photos" / "5.png"])[0][0]
    assert first.item == "item 2"
    assert (first.probability is not None) == told.shows_probabilities
    save(tmp_path / "photos" / "more.png", 77)
    index(catalog, write_csv(tmp_path / "photos" / "photos.csv", [
        (f"{number}.png", f"item {number // 2}", "a", 1) for number in range(8)
    ]))  # fmt: skip
    assert Catalog(catalog, small_loaded()).calibration.state == "stale"
    manifest = Catalog(catalog, small_loaded()).manifest
    other = manifest.model.model_copy(update={"fingerprint": "another"})
    changed = manifest.model_copy(update={"model": other})
    assert calibrating.read_calibration(catalog, changed) is None


def test_the_catalogs_own_photos_are_refused(catalog):
    opened = Catalog(catalog, small_loaded())
    with pytest.raises(InputError, match="has no customers' photos"):
        calibrating.calibrate_catalog(catalog, opened, opened.manifest.source, (), 200)


def test_too_few_photos_are_refused(catalog, tmp_path):
    opened = Catalog(catalog, small_loaded())
    with pytest.raises(InputError, match="17 customer photos of known items, and 100 or more"):
        calibrating.calibrate_catalog(catalog, opened, _queries(tmp_path, 20), (), 200)
    (catalog / "calibration.json").write_text("{}")
    with pytest.raises(InputError, match="calibrate again"):
        Catalog(catalog, small_loaded())
