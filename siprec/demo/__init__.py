"""What `siprec demo` shows: a call, and a call that outlives its server."""
