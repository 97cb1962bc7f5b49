"""Detectors as files that run without this code: ONNX files and programs of torch.export."""
