"""Published weights into our rooms: the only readers of pickled files."""
