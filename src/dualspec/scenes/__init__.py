"""Several sounds, each with its place, time and level, in one mix: what is asked for, and how it is made."""
