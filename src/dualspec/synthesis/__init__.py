"""Spectra to sound: the vocoders, their training losses, and the last step of the five variants."""
