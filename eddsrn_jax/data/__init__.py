"""From photos to uint8 crops: sources, the pack, the crop plan, the pipelines."""
