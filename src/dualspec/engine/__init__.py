"""Generation without torch: ONNX Runtime for the networks, NumPy for the rest."""
