"""Faster R-CNN training recipes on torchvision. README.md beside this file explains the code."""
