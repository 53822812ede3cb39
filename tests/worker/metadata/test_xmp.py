"""XMP: what stays, what goes, the reservation of data mining, and that no XML does harm."""

from __future__ import annotations

import base64
import re
import time
from xml.etree import ElementTree

import pytest

from tests import tagged
from worker.metadata import xmp
from worker.metadata.found import Unreadable

SIZE = (96, 80)
PREVIEW = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 4
IN_TEXT = base64.b64encode(PREVIEW).decode()
WHOLE = tagged.xmp(PREVIEW, (80, 96))
VOCABULARY = "http://ns.useplus.org/ldf/vocab/"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
MINING = "{http://ns.useplus.org/ldf/xmp/1.0/}DataMining"


def rewritten(data: bytes | None, *, location: bool = False, reservation: str = "none") -> bytes:
    made = xmp.rewrite(data, size=SIZE, location=location, reservation=reservation)
    assert made is not None
    return made


def said(data: bytes) -> dict[str, str]:
    """All properties and what they say, by a reader that is not ours."""
    found = {}
    for element in ElementTree.fromstring(data.decode()).iter():  # noqa: S314
        found |= {name: value for name, value in element.attrib.items() if not name.startswith(RDF)}
        found[element.tag] = (element.text or "").strip()
    return found


def about(properties: str, names: str = "") -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {names}>{properties}</rdf:Description></rdf:RDF></x:xmpmeta>'
    ).encode()


TIFF, EXIF, PHOTOSHOP = ("{http://ns.adobe.com/" + name + "/1.0/}" for name in ("tiff", "exif", "photoshop"))


@pytest.mark.parametrize("location", [False, True])
def test_what_stays_and_what_is_set_right(location):
    found = said(rewritten(WHOLE, location=location))
    assert found["{http://ns.adobe.com/xap/1.0/}Rating"] == "4"
    assert found[PHOTOSHOP + "Credit"] == "A. Müller & Co"
    assert found[RDF + "li"] in {tagged.COPYRIGHT, ""}
    assert tagged.COPYRIGHT.encode() in rewritten(WHOLE, location=location)
    assert (found[TIFF + "Orientation"], found[TIFF + "ImageWidth"], found[EXIF + "PixelYDimension"]) == (
        "1",
        "96",
        "80",
    )
    assert b'xmlns:photoshop="' in rewritten(WHOLE, location=location), "prefixes are those that were sent"


@pytest.mark.parametrize("location", [False, True])
def test_places_go_with_the_location(location):
    made = rewritten(WHOLE, location=location)
    for word in (b"Berlin", b"GPSLatitude", b"GPSLongitude", b"LocationShown"):
        assert (word in made) is location


@pytest.mark.parametrize("location", [False, True])
def test_previews_and_what_is_no_longer_there_always_go(location):
    made = rewritten(WHOLE, location=location)
    for word in (b"/9j/", b"Thumbnails", b"g:image", b"MotionPhoto", b"dc:source"):
        assert word not in made


GPS = {
    "drone": 'xmlns:d="http://www.dji.com/drone-dji/1.0/" d:GpsLongtitude="1" d:RelativeAltitude="2" d:Latitude="3"',
    "point": 'xmlns:w="http://www.w3.org/2003/01/geo/wgs84_pos#" w:lat="52" w:long="13"',
    "city": 'xmlns:p="http://ns.adobe.com/photoshop/1.0/" p:City="B" p:State="B" p:Country="D"',
    "core": 'xmlns:i="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/" i:Location="B" i:CountryCode="DE"',
    "notes": 'xmlns:e="http://ns.adobe.com/exif/1.0/" e:MakerNote="AAAA"',
    "video": 'xmlns:v="http://ns.adobe.com/xmp/1.0/DynamicMedia/" v:shotLocation="B"',
}
NEVER = {
    "thumbnail": f'xmlns:a="urn:a" a:it="{IN_TEXT}"',
    "broken into lines": f'xmlns:a="urn:a" a:it="{" ".join(IN_TEXT[n : n + 7] for n in range(0, len(IN_TEXT), 7))}"',
    "further data": 'xmlns:n="http://ns.adobe.com/xmp/note/" n:HasExtendedXMP="0123"',
    "a manifest elsewhere": 'xmlns:d="http://purl.org/dc/terms/" d:provenance="https://example.com/a.c2pa"',
    "gain map": 'xmlns:h="http://ns.adobe.com/hdr-gain-map/1.0/" h:Version="1.0"',
    "depth": 'xmlns:g="http://ns.google.com/photos/1.0/depthmap/" g:Mime="image/jpeg"',
}
NAMED = 'xmlns:k="urn:k" k:kept="yes"'


@pytest.mark.parametrize("location", [False, True])
@pytest.mark.parametrize(("case", "goes"), [*((c, "places") for c in GPS), *((c, "always") for c in NEVER)])
def test_a_property_that_goes(case, goes, location):
    stays = location and goes == "places"
    made = rewritten(about("", f"{NAMED} {(GPS | NEVER)[case]}"), location=location)
    names = re.findall(r'(?<!xmlns)(:\w+=")', (GPS | NEVER)[case])
    assert names
    assert b'k:kept="yes"' in made
    assert all((name.encode() in made) is stays for name in names)


PANORAMA = 'xmlns:P="http://ns.google.com/photos/1.0/panorama/" P:ProjectionType="equirectangular"'
SUBJECT = 'xmlns:l="http://ns.adobe.com/lightroom/1.0/" l:weightedFlatSubject="Estate" xmlns:s="urn:s" s:Statement="it"'


@pytest.mark.parametrize("names", [PANORAMA, SUBJECT])
def test_a_property_that_stays(names):
    assert said(rewritten(about("", names))) == said(about("", names))


def test_nothing_is_left_beside_the_properties():
    data = about(f"<a:b xmlns:a='urn:a'>kept<!-- {IN_TEXT} --></a:b>").decode()
    data = data.replace("<rdf:RDF", f"<o:ther xmlns:o='urn:o'>{IN_TEXT}</o:ther><!-- {IN_TEXT} --><rdf:RDF")
    made = rewritten(data.replace("<rdf:Desc", f"{IN_TEXT}<?it {IN_TEXT}?><rdf:Desc").encode())
    assert b"/9j/" not in made
    assert said(made)["{urn:a}b"] == "kept"


@pytest.mark.parametrize("data", [about(""), about("", 'xmlns:t="http://ns.adobe.com/exif/1.0/" t:GPSAltitude="1"')])
def test_a_packet_that_says_nothing_is_none(data):
    assert xmp.rewrite(data, size=SIZE, location=False) is None


WORDS = {
    "reserved": "DMI-PROHIBITED",
    "reserved-except-search": "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING",
    "reserved-ai-training": "DMI-PROHIBITED-AIMLTRAINING",
}
ALLOWED = f'xmlns:plus="http://ns.useplus.org/ldf/xmp/1.0/" plus:DataMining="{VOCABULARY}DMI-ALLOWED"'
AS_ELEMENT = f'<p:DataMining xmlns:p="http://ns.useplus.org/ldf/xmp/1.0/">{VOCABULARY}DMI-ALLOWED</p:DataMining>'
BEFORE = {
    "nothing": None,
    "a whole packet": WHOLE,
    "an attribute": about("", f"{NAMED} {ALLOWED}"),
    "an element": about(AS_ELEMENT, NAMED),
    "a prefix that means another thing": about("", 'xmlns:plus="urn:k" plus:kept="yes"'),
}


@pytest.mark.parametrize("reservation", WORDS)
@pytest.mark.parametrize("before", BEFORE)
def test_data_mining_is_reserved_beside_what_there_is(before, reservation):
    made = rewritten(BEFORE[before], reservation=reservation)
    assert made.count(b"DataMining>") == 2
    assert said(made)[MINING] == VOCABULARY + WORDS[reservation]
    assert MINING not in ElementTree.fromstring(made.decode()).attrib  # noqa: S314
    abouts = {each.get(RDF + "about") for each in ElementTree.fromstring(made.decode()).iter(RDF + "Description")}  # noqa: S314
    assert len(abouts) == 1, "all is said about the same thing"
    if before not in {"nothing", "a whole packet"}:
        assert said(made)["{urn:k}kept"] == "yes"
    assert rewritten(made, reservation=reservation) == made
    assert rewritten(made) == made, "what was reserved stays so"


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
HOSTILE = {
    "empty": b"",
    "no XML": b"hello",
    "not UTF-8": b"\xff\xfe\x00\x01",
    "UTF-16": WHOLE.decode().encode("utf-16"),
    "UTF-16 without a mark": WHOLE.decode().encode("utf-16-le"),
    "cut off": WHOLE[: len(WHOLE) // 2],
    "billion laughs": f'<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]><x>&l11;</x>'.encode(),
    "an entity that is a file": b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><x>&f;</x>',
    "a document type after a comment": b'<!-- x --><!DOCTYPE x SYSTEM "http://127.0.0.1/x.dtd"><x/>',
    "an entity of nobody": about("&nobody;"),
    "too deep": about("<a>" * 9000 + "</a>" * 9000),
    "too many": about("<a/>" * 30_000),
    "too long": about("x" * 2**20),
    "no properties": b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>',
    "two of them": b'<x xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:RDF/><r:RDF/></x>',
    "a name without a space": about("<nobody:x/>"),
    "NUL": about("<a>\0</a>"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_xml_is_left_out(case):
    began = time.monotonic()
    if case == "empty":
        assert xmp.rewrite(b"", size=SIZE, location=True) is None
    else:
        with pytest.raises(Unreadable):
            xmp.rewrite(HOSTILE[case], size=SIZE, location=True)
    assert time.monotonic() - began < 10


def test_much_that_is_just_not_too_much():
    data = about("".join(f"<a:p{n} xmlns:a='urn:a'>{n}</a:p{n}>" for n in range(9900)))
    assert said(rewritten(data)) == said(data)


def test_a_declaration_of_xml_is_no_harm():
    assert rewritten(b'<?xml version="1.0" encoding="cp037"?>\n' + WHOLE) == rewritten(WHOLE)
