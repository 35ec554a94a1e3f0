"""Every limit on what a peer may send over SIP, and why it is what it is.

Past a size limit the peer is answered 513 (RFC 3261 section 21.5.7); past a structural one 400.
"""

MAX_DATAGRAM_BYTES = 65_535
"""Receive size on UDP: the 16-bit UDP length field allows no more (INVITEs of 2 to 5 kB arrive in fragments)."""

MAX_MESSAGE_BYTES = 384 * 1024
"""Longest message: rs-metadata may have 256 KiB, and SDP, headers and the other parts fit in the rest."""

MAX_HEAD_BYTES = 64 * 1024
"""Longest start line and headers together: a datagram's worth, ten times the largest seen from any SBC."""

MAX_HEADERS = 256
"""Header lines in one message or body part: a busy SBC sends about 40."""

MAX_LINE_BYTES = 8 * 1024
"""One header line after unfolding: the longest seen (User-to-User, Identity, Geolocation) stay below 2 kB."""

MAX_VIAS = 70
"""Hops a request may have passed: Max-Forwards starts at 70 (RFC 3261 section 8.1.1.6), more is a loop."""

MAX_CONTENT_LENGTH_DIGITS = 10
"""Digits of Content-Length: enough for any number that could matter, too few to be slow to convert."""

MAX_CSEQ = 2**31 - 1
"""RFC 3261 section 8.1.1.5: a sequence number MUST be less than 2**31."""

MESSAGE_SECONDS = 5.0
"""A message begun on a stream must be complete within this time of its first byte: slower is an attack."""

MAX_BODY_PARTS = 16
"""Parts of one message body, containers counted: SDP, metadata, ISUP/GTD and a few more are all that is sent."""

MAX_BODY_DEPTH = 4
"""Multipart inside multipart: RFC 5621 wants nesting understood, real bodies nest once (mixed > alternative)."""

MAX_BOUNDARY_CHARACTERS = 70
"""RFC 2046 section 5.1.1."""

MAX_DELIMITER_LINES = 1024
"""Lines of a multipart body that start like its delimiter: inner boundaries that extend the outer one make a few
dozen; more only cost time."""
