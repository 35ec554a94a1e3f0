"""Where sessions are kept so that they outlive a process."""
