"""Writing models for deployment: ONNX files, and what Ascend needs to compile and check them."""
