"""The page and the HTTP service around the pipeline; no logic of its own."""
