"""Photographs to uint8 crops: sources, the pack, the crop plan, the pipeline."""
