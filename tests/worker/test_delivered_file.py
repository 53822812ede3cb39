"""The file that comes back, as a job makes it: what it says of the picture, its quality, and a report that is true."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from service.contracts.catalog import load_models
from service.contracts.delivery import EXIF_POLICIES, FORMATS
from service.contracts.errors import InputError
from service.contracts.pictures import read_picture
from service.contracts.plan import make_plan
from tests import tagged
from tests.helpers import opened
from worker.delivery import deliver
from worker.immunization import Item, loss
from worker.models.pool import Pool

CPU = torch.device("cpu")
LIMIT = 10**6


@pytest.fixture
def models(models_file):
    return load_models(models_file)


@pytest.fixture
def run(models):
    loaded = [Pool(models, CPU).get("tiny")]

    def run(data: bytes, **fields: str):
        picture = read_picture(data, max_pixels=LIMIT)
        plan = make_plan({"models": "tiny", "steps": "3", "seed": "5"} | fields, models)
        return picture, loaded, deliver(picture, None, None, plan, loaded, CPU)

    return run


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("exif", EXIF_POLICIES)
def test_every_format_under_every_policy(exif, format, run, photograph):
    picture, _, delivery = run(tagged.phone(photograph), format=format, exif=exif, data_mining="reserved")
    file, report = opened(delivery.data), delivery.report
    assert (report.exif, report.data_mining, report.signed) == (exif, "reserved", False)
    assert (report.width, report.height) == file.size == photograph.size
    moved = np.asarray(file.convert("RGB")).astype(int) - np.asarray(picture.pixels).astype(int)
    assert report.linf_255 == np.abs(moved).max() > 0
    if format != "jpeg":
        assert report.linf_255 <= report.epsilon
    assert file.info["icc_profile"] == tagged.PROFILE
    assert delivery.data.count(b"\xff\xd8\xff") == (format == "jpeg")
    assert b"DMI-PROHIBITED" in file.info["xmp"]
    assert file.getexif().get(0x0112) == (None if exif == "strip" else 1)
    assert bool(file.getexif().get_ifd(0x8825)) is (exif == "keep")


@pytest.mark.parametrize("quality", [None, "1", "30", "80", "95", "100"])
def test_a_jpeg_is_what_its_report_says(quality, run, models, photograph):
    fields = {"format": "jpeg"} | ({} if quality is None else {"quality": quality})
    picture, loaded, delivery = run(tagged.phone(photograph), **fields)
    file, report = opened(delivery.data), delivery.report
    asked = int(quality or 95)
    assert report.quality == asked
    assert report.warnings[0].startswith(f"JPEG at quality {asked} moves pixels beyond the budget")
    same = io.BytesIO()
    Image.new("RGB", (8, 8)).save(same, "JPEG", quality=asked)
    assert file.quantization == Image.open(same).quantization
    moved = np.asarray(file).astype(int) - np.asarray(picture.pixels).astype(int)
    assert report.linf_255 == np.abs(moved).max()
    assert report.l2_255 == pytest.approx(np.linalg.norm(moved), abs=1e-3)
    item = Item(picture, make_plan({"models": "tiny"}, models))
    assert report.loss_final == pytest.approx(loss(item, file, loaded, CPU), rel=1e-5)


def test_the_lower_the_quality_the_less_is_left(run, photograph):
    reports = [
        run(tagged.phone(photograph), format="jpeg", quality=quality)[2].report for quality in ("20", "60", "100")
    ]
    assert [report.psnr_db for report in reports] == sorted(report.psnr_db for report in reports)
    assert reports[2].loss_final < reports[0].loss_final


def test_a_lossless_file_has_no_quality_and_no_warning(run, photograph):
    report = run(tagged.phone(photograph))[2].report
    assert (report.quality, report.warnings) == (None, [])


@pytest.mark.parametrize("format", FORMATS)
def test_what_cannot_be_read_is_told_in_the_report(format, run, photograph):
    data = tagged.phone(photograph, exif=b"hello", xmp=b"<!DOCTYPE x><x/>", iptc=b"hello", icc_profile=b"hello")
    report = run(data, format=format)[2].report
    told = [warning.split(":")[0] for warning in report.warnings if not warning.startswith("JPEG")]
    assert told == ["EXIF", "XMP", "IPTC", "ICC profile"]


def test_the_same_seed_gives_the_same_bytes_with_all_that_goes_in(run, photograph):
    fields = {"exif": "keep", "data_mining": "reserved"}
    first, second = (run(tagged.phone(photograph), **fields)[2].data for _ in range(2))
    assert first == second


def test_bytes_of_the_metadata_changed_anywhere(run, photograph):
    """Either the file is refused plainly, or it is delivered, and then it is sound."""
    drawn, whole, delivered = random.Random(0), tagged.phone(photograph), 0
    for turn in range(150):
        data = bytearray(whole)
        for _ in range(drawn.choice((1, 3, 9))):
            data[drawn.randrange(2, 7000)] = drawn.choice((0, 255, drawn.randrange(256)))
        try:
            picture, _, delivery = run(bytes(data), steps="1", format=FORMATS[turn % 3])
        except InputError:
            continue
        delivered += 1
        file = opened(delivery.data)
        file.getexif()
        assert file.size == picture.size == (delivery.report.width, delivery.report.height)
    assert delivered > 75
