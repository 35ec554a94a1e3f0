"""Capture in processes of their own (MEDIA_WORKERS), so that n cores carry n times the streams.

Theory of operation. The process that speaks SIP opens all sockets and files; each media worker is a bare process with
a capture of its own (`siprec.media.local`), to which duplicates of them are handed. A session lives in one worker.

    recorder -> remote -> crew . ledger  == link, wire, board ==  worker -> siprec.media.local

`remote` is the interface of `siprec.media.capture`; whatever it is told becomes a command to the one thread of `crew`,
so the event loop waits for nobody. That thread notes in `ledger` what each worker has been given, and hands it on over
`link`, in frames that `wire` writes and reads. What changes with every tick is on a `board` of shared memory, so
reading it is local.

When a worker dies, or has to be killed since it does not listen, its successor is given all of its sessions again out
of the ledger: the same part, the next file of the row. Sockets were never closed meanwhile, so packets wait in them,
and nothing is lost but what the dead one had read and not yet written: at most a tick.

When it is the other process that dies, the workers see the end of their links, read all sockets a last time, write
and end, while the keeper starts a successor; so such a death costs no packet at all.
"""
