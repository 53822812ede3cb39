"""Content credentials: signed last, read back by C2PA's own reader, and nothing of what was sent in them."""

from __future__ import annotations

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor

import c2pa
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives import serialization

from service.cli import main
from service.contracts.catalog import load_models
from service.contracts.delivery import DATA_MINING, FORMATS
from service.contracts.errors import BadField, SigningFailed
from service.contracts.pictures import read_picture
from service.contracts.plan import make_plan
from service.contracts.settings import Settings
from tests import tagged
from tests.certificates import PEM, Chain, make_chain
from tests.helpers import opened, png
from worker.delivery import deliver
from worker.models.pool import Pool
from worker.signing import Signer, load_signer

CPU = torch.device("cpu")
ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")


@pytest.fixture(scope="module")
def chain() -> Chain:
    return make_chain()


@pytest.fixture
def signer(chain) -> Signer:
    return Signer(chain.certificates, chain.key, "es256")


def read(data: bytes, content_type: str, root: bytes) -> tuple[str, dict]:
    """What C2PA makes of it, and its one manifest."""
    trust = c2pa.Context.from_dict(
        {"trust": {"user_anchors": root.decode()}, "verify": {"remote_manifest_fetch": False}}
    )
    with c2pa.Reader(content_type, io.BytesIO(data), context=trust) as reader:
        told = json.loads(reader.json())
        assert len(told["manifests"]) == 1
        return reader.get_validation_state(), told["manifests"][told["active_manifest"]]


@pytest.fixture
def run(models_file, photograph):
    models = load_models(models_file)
    loaded = [Pool(models, CPU).get("tiny")]

    def run(signer: Signer | None = None, **fields: str):
        picture = read_picture(tagged.phone(photograph), max_pixels=10**6)
        plan = make_plan({"models": "tiny", "steps": "2", "seed": "5"} | fields, models)
        return picture, deliver(picture, None, None, plan, loaded, CPU, signer=signer)

    return run


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("exif", ["strip-location", "keep", "strip"])
def test_a_signed_file(exif, format, run, signer, chain):
    _, plain = run(format=format, exif=exif)
    picture, signed = run(signer, format=format, exif=exif, sign="true")
    assert (plain.report.signed, signed.report.signed) == (False, True)
    before, after = opened(plain.data), opened(signed.data)
    assert after.tobytes() == before.tobytes()
    assert after.info.get("xmp") == before.info.get("xmp")
    assert after.info["icc_profile"] == before.info["icc_profile"] == tagged.PROFILE
    assert dict(after.getexif()) == dict(before.getexif())
    begins = re.findall(rb"\xff\xd8\xff[\xdb\xe0-\xe2\xee]", signed.data)
    assert len(begins) == (format == "jpeg"), "no thumbnail came with the manifest"
    assert (b"Berlin" in signed.data) is (exif == "keep")

    moved = np.asarray(after.convert("RGB")).astype(int) - np.asarray(picture.pixels).astype(int)
    assert signed.report.linf_255 == np.abs(moved).max()
    if format != "jpeg":
        assert signed.report.linf_255 <= signed.report.epsilon

    state, manifest = read(signed.data, signed.content_type, chain.root)
    assert state == "Trusted"
    assert manifest["claim_generator_info"][0]["name"] == "immunize"
    assert manifest["claim_generator_info"][0]["version"] == signed.report.version
    (actions,) = (each["data"]["actions"] for each in manifest["assertions"] if each["label"] == "c2pa.actions.v2")
    assert [action["action"] for action in actions] == ["c2pa.opened", "c2pa.filtered"]
    assert actions[1]["digitalSourceType"].endswith("/digitalsourcetype/algorithmicallyEnhanced")
    (parent,) = manifest["ingredients"]
    assert parent["relationship"] == "parentOf"
    assert not {"thumbnail", "manifest_data", "active_manifest"} & set(parent)
    assert "thumbnail" not in manifest


@pytest.mark.parametrize("reservation", DATA_MINING)
def test_the_reservation_stands_in_the_manifest_too(reservation, run, signer, chain):
    _, signed = run(signer, sign="true", data_mining=reservation)
    _, manifest = read(signed.data, signed.content_type, chain.root)
    entries = {
        name: entry["use"]
        for each in manifest["assertions"]
        if each["label"] == "cawg.training-mining"
        for name, entry in each["data"]["entries"].items()
    }
    training = {"cawg.ai_training": "notAllowed", "cawg.ai_generative_training": "notAllowed"}
    assert (
        entries
        == {
            "none": {},
            "reserved": training | {"cawg.data_mining": "notAllowed"},
            "reserved-except-search": training | {"cawg.data_mining": "constrained"},
            "reserved-ai-training": training,
        }[reservation]
    )


def test_a_changed_file_is_found_out(run, signer, chain):
    _, signed = run(signer, sign="true", format="png")
    place = signed.data.rindex(b"IDAT") + 100
    changed = signed.data[:place] + bytes([signed.data[place] ^ 1]) + signed.data[place + 1 :]
    assert read(changed, signed.content_type, chain.root)[0] == "Invalid"


def test_a_manifest_that_was_sent_is_not_handed_on(run, signer, chain, photograph, models_file):
    _, first = run(signer, sign="true", exif="keep")
    models = load_models(models_file)
    plan = make_plan({"models": "tiny", "method": "noise", "exif": "keep"}, models)
    again = read_picture(first.data, max_pixels=10**6)
    loaded = [Pool(models, CPU).get("tiny")]
    for signs in (False, True):
        delivery = deliver(again, None, None, plan.model_copy(update={"sign": signs}), loaded, CPU, signer=signer)
        if signs:
            assert read(delivery.data, delivery.content_type, chain.root)[0] == "Trusted"
        else:
            assert b"c2pa" not in delivery.data


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm(algorithm, photograph):
    chain = make_chain(algorithm)
    signed = Signer(chain.certificates, chain.key, algorithm).sign(
        png(photograph), "image/png", reservation="none", resized=True
    )
    state, manifest = read(signed, "image/png", chain.root)
    assert state == "Trusted"
    assert "c2pa.resized" in json.dumps(manifest)


def test_several_threads_sign_at_once(signer, chain, photograph):
    data = png(photograph)
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: signer.sign(data, "image/png", reservation="none", resized=False), range(16)))
    assert {read(each, "image/png", chain.root)[0] for each in made} == {"Trusted"}


def test_without_a_certificate_it_is_refused(run):
    with pytest.raises(BadField, match=r"sign: this deployment has no certificate to sign with; .*IMMUNIZE_C2PA_KEY"):
        run(sign="true")


def settings(tmp_path, chain: Chain, **changed: object) -> Settings:
    certificates, key = chain.write(tmp_path)
    return Settings(**{"c2pa_certificate": certificates, "c2pa_key": key, **changed})


def test_a_signer_of_settings(tmp_path, chain):
    assert load_signer(Settings()) is None
    assert load_signer(settings(tmp_path, chain)) is not None


def as_(form: serialization.PrivateFormat, encryption: serialization.KeySerializationEncryption, key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(PEM, form, encryption)


PKCS8, OLD = serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL
NOT_FIT = "IMMUNIZE_C2PA_CERTIFICATE: nothing can be signed with it"
WRONG = {
    "no key": (lambda c: c, {"c2pa_key": None}, "IMMUNIZE_C2PA_KEY: set it too"),
    "no file": (lambda c: c, {"c2pa_certificate": "nowhere.pem"}, "IMMUNIZE_C2PA_CERTIFICATE: the file cannot be read"),
    "no key file": (lambda c: c, {"c2pa_key": "nowhere.pem"}, "IMMUNIZE_C2PA_KEY: the file cannot be read"),
    "text": (lambda _: Chain(b"hello", b"hello", b""), {}, NOT_FIT),
    "another's key": (lambda c: Chain(c.certificates, make_chain().key, b""), {}, NOT_FIT),
    "issuer first": (lambda c: Chain(c.root + c.certificates, c.key, b""), {}, NOT_FIT),
    "another algorithm": (lambda c: c, {"c2pa_algorithm": "ps256"}, NOT_FIT),
    "run out": (lambda _: make_chain(days=-3), {}, NOT_FIT),
    "an old form": (lambda c: Chain(c.certificates, as_(OLD, serialization.NoEncryption(), c.key), b""), {}, NOT_FIT),
    "a password": (
        lambda c: Chain(c.certificates, as_(PKCS8, serialization.BestAvailableEncryption(b"x"), c.key), b""),
        {},
        NOT_FIT,
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_with_which_nothing_can_be_signed(case, tmp_path, chain):
    change, changed, told = WRONG[case]
    wrong = change(chain)
    with pytest.raises(BadField, match=told) as caught:
        load_signer(settings(tmp_path, wrong, **changed))
    assert str(tmp_path) not in caught.value.detail
    assert "PRIVATE KEY-----" not in caught.value.detail


def test_a_certificate_that_runs_out_while_a_worker_runs(chain, photograph):
    gone = make_chain(days=-3)
    with pytest.raises(SigningFailed, match="the operator's certificate must be looked after") as caught:
        Signer(gone.certificates, gone.key, "es256").sign(
            png(photograph), "image/png", reservation="none", resized=False
        )
    assert caught.value.status == 500


def test_the_command_signs(tmp_path, chain, photograph, models_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMMUNIZE_MODELS_FILE", str(models_file))
    monkeypatch.setenv("IMMUNIZE_DEVICE", "cpu")
    (tmp_path / "photo.jpg").write_bytes(tagged.phone(photograph))
    options = [
        "image",
        "photo.jpg",
        "-o",
        "out.webp",
        "--model",
        "tiny",
        "--steps",
        "1",
        "--sign",
        "--report",
        "r.json",
    ]
    options += ["--exif", "strip", "--data-mining", "reserved"]
    assert main(options) == 2
    assert capsys.readouterr().err.startswith("immunize: sign: this deployment has no certificate")
    certificates, key = chain.write(tmp_path)
    monkeypatch.setenv("IMMUNIZE_C2PA_CERTIFICATE", str(certificates))
    monkeypatch.setenv("IMMUNIZE_C2PA_KEY", str(key))
    assert main(options) == 0
    assert read((tmp_path / "out.webp").read_bytes(), "image/webp", chain.root)[0] == "Trusted"
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["signed"], report["exif"], report["data_mining"], report["quality"]) == (
        True,
        "strip",
        "reserved",
        None,
    )
