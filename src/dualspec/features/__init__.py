"""Waveform to spectra and back: the STFT with its real-channel forms, and the log-mel spectrogram."""
