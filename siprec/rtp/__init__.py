"""RTP in batches: headers, sequence numbers, RTCP, payload formats. Pure, no sockets."""
