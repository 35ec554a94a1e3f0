"""Recording metadata: the objects of RFC 7865, their XML, and how updates merge."""
