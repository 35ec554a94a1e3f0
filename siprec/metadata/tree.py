"""Hostile XML to a small tree, and a tree back to text.

The parser is expat with a DOCTYPE refused before and again while parsing, so that there are no entities, no
external references and no network by construction; all limits are checked while the parse runs. lxml is not used
because libxml2 keeps every element and attribute name it ever saw in a table of the thread that is never
emptied: 0.23 MB more memory for good with each 256 KiB body of fresh names (measured), where expat gives all back.

Names are kept as written. A prefix that is not declared is no error (vendors inject elements from templates): its
namespace is then empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from siprec.errors import MetadataError

MAX_BODY_BYTES = 256 * 1024
"""The largest RFC 8068 example has 4 KiB; a conference of 200 about 100."""
MAX_DEPTH = 32
"""RFC 7865 needs 4 levels, BroadWorks extension data 6."""
MAX_ELEMENTS = 5_000
"""A call has about 30; a conference of 32 in which each receives all others has 1 300."""
MAX_ATTRIBUTES = 64
"""On one element; the schema has at most 2."""
MAX_NAME = 128
"""Characters of an element or attribute name: names are repeated in paths, so a long one would be multiplied."""
MAX_NAMESPACE = 256
"""Characters of a namespace name: it is repeated in every extension cut out of the document."""

_DOCTYPE = re.compile(r"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)
_DECLARED = re.compile(rb"\A<\?xml[^>]{0,200}?\bencoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_CHARSETS = re.compile(
    r"utf-?8|utf-?16(-?[lb]e)?|(us-)?ascii|iso-?8859-(1[0-6]?|[2-9])|latin-?1|windows-125[0-8]|koi8-[ru]"
    r"|gb2312|gbk|gb18030|big5|euc-(jp|kr)|shift[_-]jis",
    re.IGNORECASE,
)
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)
_TEXT_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})


@dataclass(slots=True)
class Element:
    """An element: `tag` and attribute names as written, `namespace` and `name` resolved. `content` is all of it in
    order, `children` its elements.
    """

    tag: str
    namespace: str
    name: str
    attributes: dict[str, str]
    scope: dict[str, str]
    content: list[Element | str] = field(default_factory=list)
    children: list[Element] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Its own character data, stripped."""
        return "".join(each for each in self.content if isinstance(each, str)).strip()

    def get(self, *names: str) -> str:
        """Value of the first attribute there is of these local names, stripped; "" when there is none."""
        if not self.attributes:
            return ""
        local = {name.rpartition(":")[2]: value for name, value in self.attributes.items()}
        return next((local[name].strip() for name in names if name in local), "")


def parse(body: bytes, charset: str | None = None) -> Element:
    """The root element of `body`. Raises MetadataError for whatever is wrong with it.

    `charset` is the parameter of the MIME type; it beats the XML declaration (RFC 7865 section 5.1). White space
    before the declaration (Google's client) and NUL or white space after the root are forgiven.
    """
    if len(body) > MAX_BODY_BYTES:
        raise MetadataError(f"metadata over {MAX_BODY_BYTES} bytes", status=413)
    text = _decode(body, charset).strip(" \t\r\n\0\ufeff")
    if _DOCTYPE.search(text):
        raise MetadataError("metadata with a DOCTYPE")
    builder = _Builder()
    parser = expat.ParserCreate("UTF-8")
    parser.buffer_text = True
    parser.ordered_attributes = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = builder.doctype
    try:
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        raise MetadataError("metadata is not well-formed XML") from error
    if builder.root is None:
        raise MetadataError("metadata is empty")
    return builder.root


def serialise(element: Element) -> str:
    """`element` as XML text that stands alone: the declarations of all prefixes it uses are on it."""
    needed = {prefix: element.scope[prefix] for prefix in sorted(_prefixes(element)) if prefix in element.scope}
    declared = {f"xmlns:{prefix}" if prefix else "xmlns": uri for prefix, uri in needed.items()}
    return "".join(_write(element, {**declared, **element.attributes}))


def leaves(element: Element, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, text) of each element without children and (path@name, value) of each attribute below `element`.

    A path is local names with "/" between; an element that is named by an attribute (`<header label="X-Id">`)
    adds that name as one more step.
    """
    label = element.get("label", "name", "pname", "key")[:MAX_NAME].replace("/", "_")
    for name, value in element.attributes.items():
        if not name.startswith("xmlns") and path and value.strip() and value[:MAX_NAME].replace("/", "_") != label:
            yield f"{path}@{name.rpartition(':')[2]}", value.strip()
    here = f"{path}/{label}" if path and label else path
    children = element.children
    for child in children:
        yield from leaves(child, f"{here}/{child.name}" if here else child.name)
    if not children and element.text:
        yield here or element.name, element.text


def is_text(text: str) -> bool:
    """Whether every character of `text` may stand in XML 1.0 (section 2.2)."""
    return not re.search("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text)


class _Builder:
    """Builds the tree as expat reports it, and refuses what is over the limits at once."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._count = 0

    def start(self, tag: str, pairs: list[str]) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS:
            raise MetadataError(f"more than {MAX_ELEMENTS} elements in metadata")
        if len(self._open) >= MAX_DEPTH:
            raise MetadataError(f"metadata nested deeper than {MAX_DEPTH}")
        if len(tag) > MAX_NAME:
            raise MetadataError(_LONG_NAME)
        attributes = _attributes(pairs) if pairs else {}
        scope = self._scope(attributes)
        prefix, _, name = tag.rpartition(":")
        element = Element(tag, scope.get(prefix, ""), name, attributes, scope)
        if self._open:
            self._open[-1].content.append(element)
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def end(self, _tag: str) -> None:
        self._open.pop()

    def data(self, text: str) -> None:
        self._open[-1].content.append(text)

    def doctype(self, *_args: object) -> None:
        raise MetadataError("metadata with a DOCTYPE")

    def _scope(self, attributes: dict[str, str]) -> dict[str, str]:
        outer = self._open[-1].scope if self._open else {}
        if not attributes:
            return outer
        own = {
            "" if name == "xmlns" else name[6:]: uri
            for name, uri in attributes.items()
            if name == "xmlns" or name.startswith("xmlns:")
        }
        if not own:
            return outer
        if any(len(uri) > MAX_NAMESPACE for uri in own.values()):
            raise MetadataError(f"a namespace name over {MAX_NAMESPACE} characters in metadata")
        return {**outer, **own}


_LONG_NAME = f"a name over {MAX_NAME} characters in metadata"


def _attributes(pairs: list[str]) -> dict[str, str]:
    if len(pairs) // 2 > MAX_ATTRIBUTES:
        raise MetadataError(f"more than {MAX_ATTRIBUTES} attributes on an element")
    attributes = dict(zip(pairs[::2], pairs[1::2], strict=True))
    if max(map(len, attributes)) > MAX_NAME:
        raise MetadataError(_LONG_NAME)
    return attributes


def _decode(body: bytes, charset: str | None) -> str:
    """MIME charset, else byte order mark, else declaration, else UTF-8.

    Bytes that are not UTF-8 after all are read as ISO 8859-1: a display name passed on from a legacy switch must
    not cost the rest.
    """
    stripped = body.lstrip(b" \t\r\n")
    declared = _DECLARED.match(stripped)
    marked = next((name for bom, name in _BOMS if stripped.startswith(bom)), None)
    candidates = (charset, marked, declared[1].decode() if declared else None, "utf-8")
    encoding = next(name for name in candidates if name and _CHARSETS.fullmatch(name))
    try:
        return stripped.decode(encoding)
    except UnicodeDecodeError:
        return stripped.decode("latin-1")


def _prefixes(element: Element) -> set[str]:
    """Prefixes used in the subtree; one that is redeclared further down does no harm on top."""
    found = {element.tag.rpartition(":")[0]}
    found |= {name.partition(":")[0] for name in element.attributes if ":" in name}
    for child in element.children:
        found |= _prefixes(child)
    return found - {"xmlns", "xml"}


def _write(element: Element, attributes: dict[str, str]) -> Iterator[str]:
    yield f"<{element.tag}"
    for name, value in attributes.items():
        yield f' {name}="{value.translate(_ESCAPES)}"'
    if not element.content:
        yield "/>"
        return
    yield ">"
    for each in element.content:
        if isinstance(each, str):
            yield each.translate(_TEXT_ESCAPES)
        else:
            yield from _write(each, each.attributes)
    yield f"</{element.tag}>"
