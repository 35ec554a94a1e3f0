"""Session descriptions: an ordered-line model (RFC 8866) and the answers a recorder gives (RFC 3264)."""
