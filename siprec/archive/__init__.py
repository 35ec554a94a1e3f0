"""A recording at rest: its folder, its manifest, its audio files."""
