"""From photos to uint8 crops: sources, packs, the crop plan, the pipelines."""
