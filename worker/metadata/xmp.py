"""XMP (ISO 16684-1): which of its properties are delivered, and the reservation of data mining (PLUS LDF).

Entities are never met: a packet with a document type is not read. What is read is small, so that neither its tree nor
the depth of it can grow beyond bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.dom import minidom
from xml.parsers.expat import ExpatError

from worker.metadata.found import Unreadable, text_holds_picture

MAX_BYTES, MAX_TAGS = 2**20, 20_000
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMLNS = "http://www.w3.org/2000/xmlns/"
PLUS = "http://ns.useplus.org/ldf/xmp/1.0/"
PLUS_VOCABULARY = "http://ns.useplus.org/ldf/vocab/"
RESERVATIONS = {
    "reserved": "DMI-PROHIBITED",
    "reserved-except-search": "DMI-PROHIBITED-EXCEPTSEARCHENGINEINDEXING",
    "reserved-ai-training": "DMI-PROHIBITED-AIMLTRAINING",
}
TIFF, EXIF = "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/exif/1.0/"
OLD_FILE = {  # statements about parts of the file that was sent
    ("http://ns.adobe.com/xmp/note/", "HasExtendedXMP"),
    ("http://purl.org/dc/terms/", "provenance"),  # where its own C2PA manifest is
}
PREVIEWS = re.compile(
    r"http://ns\.adobe\.com/(xap/1\.0/g/img|hdr-gain-map)/|http://ns\.apple\.com/HDRGainMap/"
    r"|http://ns\.google\.com/photos/1\.0/(?!panorama/)"
)
PREVIEW_NAMES = re.compile(r"thumbnail|preview", re.IGNORECASE)
PLACES = re.compile(
    r"gps|geo(?:tag|hash|loc|name|pos)|latitude|longt?itude|altitude|location"
    r"|^(?:city|state|country|countrycode|countryname|provincestate|worldregion|lat|long?|alt)$",
    re.IGNORECASE,
)
HIDING = {"MakerNote"}
EMPTY = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"/></x:xmpmeta>'
BEGIN, END = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>', '<?xpacket end="w"?>'


def rewrite(data: bytes | None, *, size: tuple[int, int], location: bool, reservation: str = "none") -> bytes | None:
    """A packet for an upright picture of that size without previews; without `location` also without places.

    reservation: one of RESERVATIONS, or "none", which leaves what there is. None where nothing is left. Raises
    Unreadable.
    """
    try:
        document = minidom.parseString(_text(data) if data else EMPTY)  # noqa: S318 - see above
        (rdf,) = document.getElementsByTagNameNS(RDF, "RDF")
        root = _alone(rdf)
        for element in list(_elements(rdf)):
            _clean(document, element, size, location)
        if reservation != "none":
            _reserve(document, rdf, PLUS_VOCABULARY + RESERVATIONS[reservation])
        for description in _children(rdf):
            if _says_nothing(description):
                _remove(description)
        if not _children(rdf):
            return None
        return f"{BEGIN}{root.toxml()}{END}".encode()
    except (ExpatError, ValueError, RecursionError) as error:
        raise Unreadable from error


def _text(data: bytes) -> str:
    """The packet as text, without what an XML parser would follow. Raises Unreadable."""
    try:
        text = data.decode("utf-8-sig").rstrip("\0")
    except UnicodeDecodeError as error:
        raise Unreadable from error
    text = re.sub(r"^\s*<\?xml\s[^>]*\?>", "", text).strip()
    if len(data) > MAX_BYTES or text.count("<") > MAX_TAGS or "\0" in text or "<!DOCTYPE" in text:
        raise Unreadable
    return text


def _alone(rdf: minidom.Element) -> minidom.Element:
    """Take away all that stands beside or around the properties, but for names; the outermost element."""
    for node in list(rdf.childNodes):
        if not isinstance(node, minidom.Element):
            rdf.removeChild(node)
    inner, outer = rdf, rdf.parentNode
    while isinstance(outer, minidom.Element):
        for node in list(outer.childNodes):
            if node is not inner:
                outer.removeChild(node)
        for attribute in list(outer.attributes.values()):
            if attribute.namespaceURI != XMLNS:
                outer.removeAttributeNode(attribute)
        inner, outer = outer, outer.parentNode
    return inner


def _elements(above: minidom.Element) -> Iterator[minidom.Element]:
    """All below it, the outer ones first."""
    waiting = _children(above)[::-1]
    while waiting:
        element = waiting.pop()
        yield element
        waiting += _children(element)[::-1]


def _children(element: minidom.Element) -> list[minidom.Element]:
    return [node for node in element.childNodes if isinstance(node, minidom.Element)]


def _remove(element: minidom.Element) -> None:
    if element.parentNode is not None:
        element.parentNode.removeChild(element)


def _clean(document: minidom.Document, element: minidom.Element, size: tuple[int, int], location: bool) -> None:
    """Take away, or set right, what the element and its attributes say."""
    for node in list(element.childNodes):
        if not isinstance(node, minidom.Element | minidom.Text):  # comments
            element.removeChild(node)
    text = "".join(node.data for node in element.childNodes if isinstance(node, minidom.Text))
    if _unwanted(element.namespaceURI, element.localName, text, location):
        _remove(element)
        return
    right = _set_right(element.namespaceURI, element.localName, size)
    if right is not None:
        while element.firstChild is not None:
            element.removeChild(element.firstChild)
        element.appendChild(document.createTextNode(right))
    for attribute in list(element.attributes.values()):
        if attribute.namespaceURI in {None, XMLNS, RDF}:
            continue
        if _unwanted(attribute.namespaceURI, attribute.localName, attribute.value, location):
            element.removeAttributeNode(attribute)
        else:
            attribute.value = _set_right(attribute.namespaceURI, attribute.localName, size) or attribute.value


def _unwanted(space: str | None, name: str, text: str, location: bool) -> bool:
    if space == RDF:
        return text_holds_picture(text)
    return (
        (space, name) in OLD_FILE
        or PREVIEWS.match(space or "") is not None
        or PREVIEW_NAMES.search(name) is not None
        or text_holds_picture(text)
        or (not location and (name in HIDING or PLACES.search(name) is not None))
    )


def _set_right(space: str | None, name: str, size: tuple[int, int]) -> str | None:
    """The value that this property must have now, if it is one that changed."""
    return {
        (TIFF, "Orientation"): "1",
        (TIFF, "ImageWidth"): str(size[0]),
        (TIFF, "ImageLength"): str(size[1]),
        (EXIF, "PixelXDimension"): str(size[0]),
        (EXIF, "PixelYDimension"): str(size[1]),
    }.get((space or "", name))


def _reserve(document: minidom.Document, rdf: minidom.Element, value: str) -> None:
    """Say it in a description of its own, in place of what was said before."""
    about = ""
    for element in list(_elements(rdf)):
        if (element.namespaceURI, element.localName) == (PLUS, "DataMining"):
            _remove(element)
        elif element.hasAttributeNS(PLUS, "DataMining"):
            element.removeAttributeNS(PLUS, "DataMining")
        about = about or element.getAttributeNS(RDF, "about")  # all descriptions of a packet are about the same
    description = document.createElementNS(RDF, "rdf:Description")
    description.setAttributeNS(XMLNS, "xmlns:rdf", RDF)
    description.setAttributeNS(XMLNS, "xmlns:plus", PLUS)
    description.setAttributeNS(RDF, "rdf:about", about)
    said = document.createElementNS(PLUS, "plus:DataMining")
    said.appendChild(document.createTextNode(value))
    description.appendChild(said)
    rdf.appendChild(description)


def _says_nothing(description: minidom.Element) -> bool:
    """Whether it is a description without a property."""
    about = {"about", "ID", "nodeID"}
    said = [a for a in description.attributes.values() if a.namespaceURI != XMLNS and a.localName not in about]
    return description.localName == "Description" and not said and not _children(description)
