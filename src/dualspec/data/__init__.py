"""Corpora of mono clips: reading, cleaning, splitting and handing out waveforms."""
