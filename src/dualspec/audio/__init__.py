"""Sound and where it comes from: azimuths, head responses, binaural rendering, audio files."""
