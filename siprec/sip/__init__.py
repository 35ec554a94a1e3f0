"""SIP, sans-IO: bytes and `now` in; bytes, events and a deadline out (RFC 3261)."""
