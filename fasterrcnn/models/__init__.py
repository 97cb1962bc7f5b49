"""The detector, under torchvision's parameter names."""
