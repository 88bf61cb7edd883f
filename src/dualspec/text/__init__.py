"""Prompts that say what sounds and from where, and the frozen encoders that turn them into tokens."""
